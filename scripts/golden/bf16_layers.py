"""Layers of every family in bfloat16: what each rounds, and where.

From torch 2.9.0 and transformers 5.23.0, `rms_norm_original` from ai2-olmo 0.6.0, weights and activations in bfloat16, eager attention and experts,
one thread on the CPU. Each file of `bf16/` holds the input `x`, the weights (names as in the transformers
module, experts one by one) and the output `y`, stored in float32, which holds every bfloat16 number; of
`bf16/rope_*` instead `q`, `k`, `q_out`, `k_out`, positions counting from 0.

Usage: python scripts/golden/bf16_layers.py
"""

import json

import torch
from olmo.config import ModelConfig
from olmo.model import RMSLayerNorm
from transformers.models.olmo import modeling_olmo as olmo
from transformers.models.olmo2 import modeling_olmo2 as olmo2
from transformers.models.olmo3 import modeling_olmo3 as olmo3
from transformers.models.olmoe import modeling_olmoe as olmoe

from common import record, write_safetensors
from families import FULL, SLIDING, by_expert, olmo3_config, olmoe_config, rotary_and_mask, scramble_all
from layers import BATCH, D_MODEL, HEAD_DIM, N_HEADS, SEED, SEQ, config_of, positions_and_mask

BF16 = torch.bfloat16
PACKAGES = ["torch", "transformers"]


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    with torch.no_grad():
        norm("layer_norm", olmo.OlmoLayerNorm(D_MODEL), 1e-5)
        norm("rms_norm", olmo2.Olmo2RMSNorm(D_MODEL, eps=1e-6), 1e-6)
        norm("rms_norm_before_weight", olmoe.OlmoeRMSNorm(D_MODEL, eps=1e-5), 1e-5)
        configs = {
            "olmo": (olmo, "Olmo", *config_of("olmo", rope_theta=10_000.0, clip_qkv=0.5)),
            "olmo2": (olmo2, "Olmo2", *config_of("olmo2", rope_theta=500_000.0)),
            "olmo3_window": (olmo3, "Olmo3", *olmo3_config(SLIDING, window=5)),
            "olmo3_yarn": (olmo3, "Olmo3", *olmo3_config(FULL)),
            "olmoe": (olmoe, "Olmoe", *olmoe_config(clip_qkv=0.5)),
            "olmoe_norm": (olmoe, "Olmoe", *olmoe_config(num_experts_per_tok=3, norm_topk_prob=True)),
        }
        for name, (module, prefix, config, fields) in configs.items():
            embeddings, mask = rotary(module, prefix, config)
            rope(f"rope_{name}", module, embeddings, fields)
            layer = getattr(module, f"{prefix}Attention")(config, layer_idx=0)
            save(f"attention_{name}", fields, layer, lambda l, x: l(x, position_embeddings=embeddings, attention_mask=mask)[0])
            layer = getattr(module, f"{prefix}DecoderLayer")(config, layer_idx=0)
            save(f"block_{name}", fields, layer, lambda l, x: l(x, attention_mask=mask, position_embeddings=embeddings))
            layer = layer.mlp
            save(f"feed_forward_{name}", fields, layer, lambda l, x: l(x))
        config = ModelConfig(d_model=D_MODEL, layer_norm_eps=1e-6, include_bias=False, bias_for_layer_norm=False)
        norm("rms_norm_original", RMSLayerNorm(config, elementwise_affine=True), 1e-6, ["ai2-olmo", "torch"])


def hidden() -> torch.Tensor:
    return torch.randn(BATCH, SEQ, D_MODEL).to(BF16)


def rotary(module, prefix: str, config) -> tuple:
    """Sine and cosine as the model makes them for a bfloat16 input, and the mask."""
    if prefix in ("Olmo3", "Olmoe"):
        embeddings, mask = rotary_and_mask(config, hidden())
    else:
        positions, mask = positions_and_mask()
        embeddings = getattr(module, f"{prefix}RotaryEmbedding")(config)(hidden(), positions)
    return embeddings, mask.clamp(min=torch.finfo(BF16).min).to(BF16)


def norm(name: str, layer: torch.nn.Module, eps: float, packages: list[str] = PACKAGES) -> None:
    scales = torch.logspace(-3, 3, BATCH * SEQ).reshape(BATCH, SEQ, 1)
    x = (scales * torch.randn(BATCH, SEQ, D_MODEL)).to(BF16)
    save(name, {"eps": eps}, layer, lambda l, x: l(x), x, packages)


def rope(name: str, module, embeddings: tuple, fields: dict) -> None:
    q, k = (torch.randn(BATCH, n, SEQ, HEAD_DIM).to(BF16) for n in (N_HEADS, 2))
    q_out, k_out = module.apply_rotary_pos_emb(q, k, *embeddings)
    write(name, fields, {"q": q, "k": k, "q_out": q_out, "k_out": k_out})


def save(name: str, fields: dict, layer: torch.nn.Module, forward, x: torch.Tensor | None = None, packages: list[str] = PACKAGES) -> None:
    layer = scramble_all(layer).to(BF16)
    ties = []
    for module in layer.modules():
        if isinstance(module, olmoe.OlmoeTopKRouter):
            module.register_forward_hook(lambda router, _, out: ties.append(tied(out[0], router.top_k)))
    for _ in range(20):
        ties.clear()
        inputs = hidden() if x is None else x
        y = forward(layer, inputs)
        if not any(ties):
            break
    assert not any(ties), name
    write(name, fields, {"x": inputs, "y": y, **by_expert(dict(layer.named_parameters()))}, packages)


def tied(logits: torch.Tensor, top_k: int) -> bool:
    """Whether the last expert chosen and the first not chosen are equal: then no choice is right."""
    ordered = logits.sort(dim=-1, descending=True).values
    return bool((ordered[:, top_k - 1] == ordered[:, top_k]).any())


def write(name: str, fields: dict, tensors: dict, packages: list[str] = PACKAGES) -> None:
    assert all(t.dtype == BF16 and torch.isfinite(t).all() for t in tensors.values()), name
    metadata = {"config": json.dumps(fields, sort_keys=True)}
    path = write_safetensors(f"bf16/{name}.safetensors", {k: t.float() for k, t in tensors.items()}, metadata)
    record(path, __file__, packages, SEED, "99.5 % exact, the rest within a bf16 unit of the row's largest; rope_* exact")


if __name__ == "__main__":
    main()
