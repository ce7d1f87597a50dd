"""One forward and backward pass of ai2-olmo's own model: logits, loss and every gradient.

From torch 2.9.0 and ai2-olmo 0.6.0 (`olmo/model.py` OLMo, `olmo/train.py` cross_entropy_loss), float32;
transformers 5.23.0 loads the same weights and must agree, which checks the key map.

Each file holds the weights under Hugging Face names, or under OLMo-core's where transformers has no such model, `tokens` [batch, seq] i64, `logits`, `loss` (mean
over the batch * (seq - 1) shifted labels), `loss_sum`, and `grad.<key>`: the gradients of `loss`.
Also the same with a label mask: `labels` [batch, seq - 1] i64 with -100 where ignored, `loss_masked`
(mean over the labels that are left) and `loss_masked_sum`. In `olmo2.safetensors` also the z-loss
1e-4 * mean(logsumexp^2): `z_loss`, `loss_z` = loss + z_loss, and its gradients `grad_z.<key>`. Where
transformers has no such model also `logits_bf16`, those of ai2-olmo's model with weights and activations in
bfloat16, stored in float32.

Usage: python scripts/golden/olmo_step.py
"""

import json
import re

import torch
import torch.nn.functional as F
from hf_olmo import OLMoConfig
from olmo.config import ActivationType, InitFnType, LayerNormType, ModelConfig
from olmo.model import OLMo
from olmo.train import cross_entropy_loss
from transformers import Olmo2Config, Olmo2ForCausalLM, OlmoConfig, OlmoForCausalLM

from common import record, write_safetensors

SEED = 20240203
BATCH, SEQ = 2, 16

# Fields of ModelConfig that turn the block into OLMo's or OLMo 2's; the rest is shape.
FAMILIES = {
    "olmo": {
        "layer_norm_type": LayerNormType.default,
        "layer_norm_with_affine": False,
        "layer_norm_eps": 1e-5,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": False,
        "norm_after": False,
        "rope_theta": 10_000,
    },
    "olmo2": {
        "layer_norm_type": LayerNormType.rms,
        "layer_norm_with_affine": True,
        "layer_norm_eps": 1e-6,
        "attention_layer_norm": True,
        "attention_layer_norm_with_affine": True,
        "norm_after": True,
        "rope_theta": 500_000,
    },
    # Which transformers has no model type for: AI2's of 20M and 150M parameters, and neighbours of it.
    "rms": {
        "layer_norm_type": LayerNormType.rms,
        "layer_norm_with_affine": True,
        "layer_norm_eps": 1e-6,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": False,
        "norm_after": False,
        "rope_theta": 10_000,
    },
}


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    step("olmo", "olmo", weight_tying=False)
    step("olmo-tied-gqa-clip", "olmo", weight_tying=True, n_kv_heads=2, clip_qkv=1.0)
    step("olmo2", "olmo2", weight_tying=False, z_loss=True)
    step("olmo2-gqa", "olmo2", weight_tying=False, n_kv_heads=2)
    step("rms", "rms")
    step("rms-tied-gqa-clip", "rms", weight_tying=True, n_kv_heads=2, clip_qkv=1.0)
    step("rms-qk", "rms", attention_layer_norm=True, attention_layer_norm_with_affine=True, layer_norm_eps=1e-5)
    step("rms-after", "rms", norm_after=True, rope_theta=500_000)
    step("layer-qk", "olmo", attention_layer_norm=True, layer_norm_eps=1e-6)


def model_config(family: str, **changes) -> ModelConfig:
    """A tiny ai2-olmo config without dropout, bias or fused kernels."""
    fields = {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "mlp_hidden_size": 96,  # both halves of SwiGLU: an intermediate size of 48
        "vocab_size": 96,
        "embedding_size": 96,
        "max_sequence_length": 64,
        "activation_type": ActivationType.swiglu,
        "rope": True,
        "rope_full_precision": True,
        "flash_attention": False,
        "include_bias": False,
        "bias_for_layer_norm": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "weight_tying": False,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "init_device": "cpu",
        "init_fn": InitFnType.normal,
        **FAMILIES[family],
        **changes,
    }
    return ModelConfig(**fields)


def in_transformers(config: ModelConfig) -> bool:
    """Whether a model type of transformers has such blocks."""
    kind = (config.layer_norm_type, config.attention_layer_norm, config.norm_after)
    olmo = kind == (LayerNormType.default, False, False) and config.layer_norm_eps == 1e-5
    return olmo or kind == (LayerNormType.rms, True, True)


def hf_fields(config: ModelConfig) -> dict:
    """The config.json fields that describe the same model."""
    if not in_transformers(config):
        return json.loads(OLMoConfig(**config.asdict()).to_json_string(use_diff=False))
    olmo2 = config.norm_after
    fields = {
        "model_type": "olmo2" if olmo2 else "olmo",
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_hidden_size // 2,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads or config.n_heads,
        "hidden_act": "silu",
        "vocab_size": config.embedding_size,
        "max_position_embeddings": config.max_sequence_length,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.weight_tying,
        "rope_theta": float(config.rope_theta),
        "rope_scaling": None,
    }
    return fields | ({"rms_norm_eps": config.layer_norm_eps} if olmo2 else {"clip_qkv": config.clip_qkv})


def to_hf(config: ModelConfig, tensors: dict) -> dict:
    """Renames ai2-olmo's parameters (or their gradients) to Hugging Face keys, splitting the fused ones.

    Where transformers has no such model, the keys are OLMo-core's.
    """
    kv_rows = config.d_model // config.n_heads * (config.n_kv_heads or config.n_heads)
    norms = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
    norms |= {"attn_norm": "post_attention_layernorm", "ff_norm": "post_feedforward_layernorm"}
    top = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
    out = {}
    for name, tensor in tensors.items():
        parts = name.removeprefix("transformer.").removesuffix(".weight").split(".")
        if parts[0] != "blocks":
            out[f"{top[parts[0]]}.weight"] = tensor
            continue
        layer, part = f"model.layers.{parts[1]}", parts[2]
        if part == "att_proj":
            for key, rows in zip("qkv", tensor.split([config.d_model, kv_rows, kv_rows], dim=0)):
                out[f"{layer}.self_attn.{key}_proj.weight"] = rows
        elif part == "ff_proj":
            for key, rows in zip(("up", "gate"), tensor.chunk(2, dim=0)):
                out[f"{layer}.mlp.{key}_proj.weight"] = rows
        else:
            names = {"attn_out": "self_attn.o_proj", "ff_out": "mlp.down_proj", **norms}
            out[f"{layer}.{names[part]}.weight"] = tensor
    return out if in_transformers(config) else {core_name(key): tensor for key, tensor in out.items()}


def core_name(key: str) -> str:
    names = {"lm_head": "lm_head.w_out", "model.embed_tokens": "embeddings", "model.norm": "lm_head.norm"}
    names |= {"model.layers": "blocks", "self_attn.o_proj": "attention.w_out", "self_attn": "attention", "mlp": "feed_forward"}
    names |= {"q_proj": "w_q", "k_proj": "w_k", "v_proj": "w_v", "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    names |= {"post_attention_layernorm": "attention_norm", "post_feedforward_layernorm": "feed_forward_norm"}
    for theirs, ours in names.items():
        key = re.sub(rf"(^|(?<=\.)){re.escape(theirs)}(?=\.)", ours, key, count=1)
    return key


def gradients(model: OLMo) -> dict:
    taken = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return to_hf(model.config, taken)


def step(name: str, family: str, z_loss: bool = False, **changes) -> None:
    torch.manual_seed(SEED)
    config = model_config(family, **changes)
    model = OLMo(config)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.2 * noise)
    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ))
    labels = tokens[:, 1:].masked_fill(torch.rand(BATCH, SEQ - 1) < 0.4, -100)

    logits = model(tokens).logits
    # As the trainer calls it: every position but the last, against the tokens shifted by one.
    scores = logits[:, :-1].reshape(-1, logits.size(-1))
    targets = tokens[:, 1:].reshape(-1)
    loss, z = cross_entropy_loss(scores, targets, compute_z_loss=True)
    masked = {r: cross_entropy_loss(scores, labels.reshape(-1), reduction=r)[0] for r in ("mean", "sum")}

    weights = to_hf(config, {n: p.detach() for n, p in model.named_parameters()})
    tensors = {**weights, "tokens": tokens, "logits": logits, "loss": loss, "labels": labels}
    tensors["loss_sum"] = cross_entropy_loss(scores, targets, reduction="sum")[0]
    tensors |= {"loss_masked": masked["mean"], "loss_masked_sum": masked["sum"]}
    loss.backward(retain_graph=z_loss)
    grads = gradients(model)
    if z_loss:
        (loss + z).backward()
        tensors |= {"z_loss": z, "loss_z": loss + z}
        tensors |= {f"grad_z.{k}": g for k, g in gradients(model).items()}
    if in_transformers(config):
        check(config, weights, tokens, logits, loss, grads)
    else:
        with torch.no_grad():
            tensors["logits_bf16"] = model.to(torch.bfloat16)(tokens).logits.float()
    tensors |= {f"grad.{k}": g for k, g in grads.items()}
    metadata = {"config": json.dumps(hf_fields(config), sort_keys=True)}
    path = write_safetensors(f"olmo/{name}.safetensors", tensors, metadata)
    record(path, __file__, ["ai2-olmo", "torch", "transformers"], SEED, "1e-5")


def check(config: ModelConfig, weights: dict, tokens, logits, loss, grads: dict) -> None:
    """Loads the renamed weights into transformers: logits, loss and gradients must agree."""
    fields = hf_fields(config)
    theta = fields.pop("rope_theta")
    drop = ("model_type", "rope_scaling")
    kwargs = {k: v for k, v in fields.items() if k not in drop} | {"pad_token_id": None, "eos_token_id": 0}
    kwargs["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    kinds = {"olmo": (OlmoConfig, OlmoForCausalLM), "olmo2": (Olmo2Config, Olmo2ForCausalLM)}
    make_config, make_model = kinds[fields["model_type"]]
    other_config = make_config(**kwargs)
    other_config._attn_implementation = "eager"
    other = make_model(other_config)
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert missing == (["lm_head.weight"] if config.weight_tying else []) and not unexpected, (missing, unexpected)
    other_logits = other(tokens, use_cache=False).logits
    other_loss = F.cross_entropy(other_logits[:, :-1].reshape(-1, config.vocab_size), tokens[:, 1:].reshape(-1))
    other_loss.backward()
    found = {k: p.grad for k, p in other.named_parameters()}
    worst = max((found[k] - g).abs().max().item() for k, g in grads.items())
    apart = (other_logits - logits).abs().max().item()
    print(f"against transformers: logits {apart:.1e}, loss {abs(other_loss - loss).item():.1e}, gradients {worst:.1e}")
    assert found.keys() == grads.keys() and apart < 1e-5 and worst < 1e-5


if __name__ == "__main__":
    main()
