"""OLMo 3 and OLMoE by layer and whole: outputs and every gradient, with the losses of a router.

From torch 2.9.0 and transformers 5.23.0 (`models/olmo3/modeling_olmo3.py`, `models/olmoe/modeling_olmoe.py`),
float32, eager attention and experts, one thread; the router losses from ai2-olmo-core 2.4.0
(`nn/moe/loss.py`, granularity `local_batch`). Whole models are computed in float64 and rounded: in float32 the
reference's own gradients are 4e-6 away from that.

`layers/`: as `layers.py` writes them, `y`, `g` and `grad.<name>` for x and every weight. Experts are
named one by one, as in a model's file. `layers/moe_*` also have `load_balancing` and `router_z`, the two
losses before they are divided by tokens, and `grad_losses.<name>`: the gradients of
`(y * g).sum() + LB * load_balancing + Z * router_z`. At least one expert gets no token: its gradients are 0.

`layers/yarn_*`: `positions`, `inv_freq`, `cos`, `sin` of OLMo 3's full layers.

`steps/`: a whole model's weights under Hugging Face names, `tokens` [batch, seq] i64, `logits`, `loss` (mean over
the batch * (seq - 1) shifted labels) and its gradients `grad.<key>`. Of OLMoE also `load_balancing` and `router_z`,
summed over the layers, `loss_losses` = loss + (LB * load_balancing + Z * router_z) / layers / labels, and
`grad_losses.<key>`.

Usage: python scripts/golden/families.py
"""

import contextlib
import json
from unittest import mock

import torch
import torch.nn.functional as F
from olmo_core.nn.moe.loss import MoELoadBalancingLossGranularity, load_balancing_loss, router_z_loss
from transformers import Olmo3Config, Olmo3ForCausalLM, OlmoeConfig, OlmoeForCausalLM
from transformers.models.olmo3 import modeling_olmo3 as olmo3
from transformers.models.olmoe import modeling_olmoe as olmoe

from common import record, write_safetensors
from layers import BATCH, FAR, SEED, SEQ, SHAPE, TENSORS, hidden, positions_and_mask, save, scramble

FULL, SLIDING = "full_attention", "sliding_attention"
PLAIN = {"rope_type": "default"}
# OLMo 3 after its long-context stage, and one with every optional field and no power of two.
RELEASED = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 8192}
ODD = {
    "rope_type": "yarn",
    "factor": 2.5,
    "beta_fast": 4.0,
    "beta_slow": 0.5,
    "original_max_position_embeddings": 64,
    "attention_factor": 1.3,
}
# Longer than one chunk of queries of our attention.
LONG, WINDOW = 140, 37
STEPS = "6e-6 relative to the tensor's largest"
F32 = torch.float32
# Coefficients large enough to be seen beside the main loss.
LB, Z = 0.7, 0.05


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    yarn("yarn_released", 500_000.0, RELEASED, hidden_size=256, num_attention_heads=2, max_position_embeddings=65_536)
    yarn("yarn_odd", 10_000.0, ODD, hidden_size=64, num_attention_heads=2)
    attention("attention_olmo3_window", *olmo3_config(SLIDING), LONG)
    attention("attention_olmo3_yarn", *olmo3_config(FULL), LONG)
    attention("attention_olmoe", *olmoe_config(clip_qkv=0.5), SEQ)
    block("block_olmo3", *olmo3_config(SLIDING), LONG)
    block("block_olmoe", *olmoe_config(), SEQ)
    moe("moe_top1", num_experts=4, num_experts_per_tok=1, idle=3)
    moe("moe_top2_norm", num_experts=8, num_experts_per_tok=2, norm_topk_prob=True, idle=0)
    moe("moe_top8", num_experts=12, num_experts_per_tok=8, idle=5)
    step("olmo3", *olmo3_config(SLIDING, SLIDING, FULL, window=6))
    step("olmoe", *olmoe_config(num_hidden_layers=2, num_experts_per_tok=2))
    step("olmoe-norm", *olmoe_config(num_hidden_layers=2, num_experts_per_tok=3, norm_topk_prob=True, clip_qkv=1.0))


def olmo3_config(*types: str, window: int = WINDOW, theta: float = 10_000.0) -> tuple:
    """A transformers config and the config.json fields it was made from: a layer for each of `types`."""
    rope = {FULL: {**ODD, "rope_theta": theta}, SLIDING: {**PLAIN, "rope_theta": theta}}
    fields = {**SHAPE, "num_hidden_layers": len(types), "rms_norm_eps": 1e-6, "rope_parameters": rope}
    fields |= {"sliding_window": window, "layer_types": list(types)}
    return made(Olmo3Config, "olmo3", fields)


def olmoe_config(**changes) -> tuple:
    fields = {**SHAPE, "intermediate_size": 24, "rms_norm_eps": 1e-5, "rope_parameters": {**PLAIN, "rope_theta": 10_000.0}}
    fields |= {"num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": False, "clip_qkv": None, **changes}
    return made(OlmoeConfig, "olmoe", fields)


def made(config_class, model_type: str, fields: dict) -> tuple:
    fields = json.loads(json.dumps(fields))
    config = config_class(**fields, pad_token_id=None, eos_token_id=0)
    config._attn_implementation = config._experts_implementation = "eager"
    return config, {"model_type": model_type, **fields}


def yarn(name: str, theta: float, parameters: dict, **changes) -> None:
    rope = {FULL: {**parameters, "rope_theta": theta}, SLIDING: {**PLAIN, "rope_theta": theta}}
    fields = {**SHAPE, "rms_norm_eps": 1e-6, "rope_parameters": rope, "sliding_window": WINDOW, "layer_types": [FULL], **changes}
    config, fields = made(Olmo3Config, "olmo3", fields)
    layer = olmo3.Olmo3RotaryEmbedding(config)
    positions = torch.cat([FAR, torch.tensor([8191, 8192, 40_000, 65_535])])
    cos, sin = layer(torch.zeros(1), positions[None], FULL)
    tensors = {"positions": positions[None], "inv_freq": layer.full_attention_inv_freq, "cos": cos, "sin": sin}
    path = write_safetensors(f"layers/{name}.safetensors", tensors, {"config": json.dumps(fields, sort_keys=True)})
    record(path, __file__, ["torch", "transformers"], None, "inv_freq exact, cos and sin 1.2e-7")


def rotary_and_mask(config, x: torch.Tensor) -> tuple:
    positions, mask = positions_and_mask(x.shape[1])
    if config.model_type == "olmoe":
        return olmoe.OlmoeRotaryEmbedding(config)(x, positions), mask
    if config.layer_types[0] == SLIDING:
        # A query sees itself and the WINDOW - 1 before it.
        mask = mask + torch.full(mask.shape, torch.finfo(torch.float32).min).tril(-config.sliding_window)
        mask = mask.clamp(min=torch.finfo(torch.float32).min)
    return olmo3.Olmo3RotaryEmbedding(config)(x, positions, config.layer_types[0]), mask


def attention(name: str, config, fields: dict, seq: int) -> None:
    layer = {"olmo3": olmo3.Olmo3Attention, "olmoe": olmoe.OlmoeAttention}[config.model_type](config, layer_idx=0)
    scramble(layer, 0.15)
    x = hidden(seq=seq)
    embeddings, mask = rotary_and_mask(config, x)
    y, _ = layer(x, position_embeddings=embeddings, attention_mask=mask)
    save(name, fields, {"x": x}, {"y": y}, dict(layer.named_parameters()), {}, TENSORS, __file__)


def block(name: str, config, fields: dict, seq: int) -> None:
    layer = {"olmo3": olmo3.Olmo3DecoderLayer, "olmoe": olmoe.OlmoeDecoderLayer}[config.model_type](config, layer_idx=0)
    scramble_all(layer)
    x = hidden(seq=seq)
    embeddings, mask = rotary_and_mask(config, x)
    y = layer(x, attention_mask=mask, position_embeddings=embeddings)
    g = torch.randn_like(y)
    write("layers", name, fields, layer, {"x": x, "y": y, "g": g}, {"grad": (y * g).sum()}, x)


def scramble_all(module: torch.nn.Module, std: float = 0.15) -> torch.nn.Module:
    """As `scramble`, with experts packed in three dimensions too, and a router that decides."""
    scramble(module, std)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "experts." in name:
                parameter.copy_(std * torch.randn_like(parameter))
            elif name.endswith("gate.weight"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return module


def moe(name: str, idle: int, **changes) -> None:
    config, fields = olmoe_config(**changes)
    layer = scramble_all(olmoe.OlmoeSparseMoeBlock(config))
    x = (hidden() + 0.5).detach().requires_grad_()
    with torch.no_grad():
        layer.gate.weight[idle] = -3.0  # and x has a mean, so that nobody goes there
    y = layer(x)
    logits, _, chosen = layer.gate(x)
    assert (chosen != idle).all() and len(set(chosen.flatten().tolist())) == config.num_experts - 1, name
    lb, z = router_losses(logits.reshape(BATCH, SEQ, -1), chosen, config)
    g = torch.randn_like(y)
    roots = {"grad": (y * g).sum(), "grad_losses": (y * g).sum() + LB * lb + Z * z}
    write("layers", name, fields, layer, {"x": x, "y": y, "g": g, "load_balancing": lb, "router_z": z}, roots, x)


def router_losses(logits: torch.Tensor, chosen: torch.Tensor, config) -> tuple[torch.Tensor, torch.Tensor]:
    """OLMo-core's two losses with a divisor of one, which leaves sums over tokens."""
    batch, _, n_experts = logits.shape
    counts = F.one_hot(chosen.reshape(batch, -1), n_experts).sum(dim=1)
    lb = load_balancing_loss(
        num_experts=n_experts,
        top_k=config.num_experts_per_tok,
        expert_scores=logits.float().softmax(dim=-1),
        batch_size_per_expert=counts.sum(dim=0),
        batched_batch_size_per_expert=counts,
        granularity=MoELoadBalancingLossGranularity.local_batch,
        loss_div_factor=1.0,
    )
    return lb, router_z_loss(expert_logits=logits.float(), loss_div_factor=1.0)


@contextlib.contextmanager
def in_double():
    """The models' casts to float32 are to float64."""
    names = {"float32": torch.float64, "float": torch.float64}
    with mock.patch.multiple(torch, **names), mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield


def step(name: str, config, fields: dict) -> None:
    model = {"olmo3": Olmo3ForCausalLM, "olmoe": OlmoeForCausalLM}[config.model_type](config).eval()
    scramble_all(model, 0.2)
    tokens = torch.randint(0, config.vocab_size, (BATCH, 16))
    with in_double():
        tensors, roots = step_values(model.double(), tokens, config)
        write("steps", name, fields, model, {"tokens": tokens, **tensors}, roots)


def step_values(model: torch.nn.Module, tokens: torch.Tensor, config) -> tuple[dict, dict]:
    out = model(tokens, use_cache=False, **({"output_router_logits": True} if config.model_type == "olmoe" else {}))
    labels = tokens[:, 1:].reshape(-1)
    loss = F.cross_entropy(out.logits[:, :-1].reshape(-1, config.vocab_size), labels)
    tensors, roots = {"logits": out.logits, "loss": loss}, {"grad": loss}
    if config.model_type == "olmoe":
        lb = z = torch.zeros((), dtype=torch.float64)
        for logits in out.router_logits:
            chosen = logits.softmax(dim=-1).topk(config.num_experts_per_tok).indices
            more_lb, more_z = router_losses(logits.reshape(BATCH, 16, -1), chosen, config)
            lb, z = lb + more_lb, z + more_z
        whole = loss + (LB * lb + Z * z) / config.num_hidden_layers / labels.numel()
        tensors |= {"load_balancing": lb, "router_z": z, "loss_losses": whole}
        roots["grad_losses"] = whole
    return tensors, roots


def write(folder: str, name: str, fields: dict, module: torch.nn.Module, tensors: dict, roots: dict, x=None) -> None:
    """Weights, `tensors`, and the gradients of each root, experts one by one."""
    leaves = dict(module.named_parameters()) | ({} if x is None else {"x": x})
    tensors = {**by_expert(dict(module.named_parameters())), **tensors}
    for prefix, root in roots.items():
        gradients = torch.autograd.grad(root, list(leaves.values()), retain_graph=True)
        tensors |= {f"{prefix}.{k}": g for k, g in by_expert(dict(zip(leaves, gradients))).items()}
    assert all(torch.isfinite(t).all() for t in tensors.values()), name
    tensors = {name: t.to(F32) if t.is_floating_point() else t for name, t in tensors.items()}
    packages = ["torch", "transformers"] + (["ai2-olmo-core"] if len(roots) > 1 else [])
    path = write_safetensors(f"{folder}/{name}.safetensors", tensors, {"config": json.dumps(fields, sort_keys=True)})
    record(path, __file__, packages, SEED, TENSORS if folder == "layers" else STEPS)


def by_expert(tensors: dict) -> dict:
    """The packed experts under the names that `save_pretrained` gives them."""
    out = {}
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for expert, rows in enumerate(tensor):
                gate, up = rows.chunk(2, dim=0)
                stem = name.replace("gate_up_proj", str(expert))
                out |= {f"{stem}.gate_proj.weight": gate, f"{stem}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            for expert, rows in enumerate(tensor):
                out[name.replace("down_proj", f"{expert}.down_proj.weight")] = rows
        else:
            out[name] = tensor
    return out


if __name__ == "__main__":
    main()
