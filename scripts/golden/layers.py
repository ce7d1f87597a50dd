"""Layer vectors: inputs, weights, outputs and gradients of the transformers OLMo and OLMo 2 classes.

From torch 2.9.0 and transformers 5.23.0 (`models/olmo/modeling_olmo.py`,
`models/olmo2/modeling_olmo2.py`), float32, eager attention, one thread.

Each file holds the inputs and weights (names as in the transformers module), the outputs, an
upstream gradient `g` drawn at random, and `grad.<name>`: the gradients of `(output * g).sum()`.

Usage: python scripts/golden/layers.py
"""

import json

import torch
from transformers import Olmo2Config, OlmoConfig
from transformers.models.olmo import modeling_olmo as olmo
from transformers.models.olmo2 import modeling_olmo2 as olmo2

from common import record, write_safetensors

SEED = 20240201
BATCH, SEQ, D_MODEL, N_HEADS, HEAD_DIM = 2, 12, 32, 4, 8
ROWS = "2e-6 relative to the row's largest, plus 1e-6"
# torch's frequencies are 1 / f32(theta^(i/head_dim)), both roundings to float32. One last bit of a frequency
# is 2.4e-4 radians at position 4095, so they must match to the bit for cos and sin to match at all.
ROPE = "inv_freq exact, the rest 1e-6"
TENSORS = "2e-6 relative to the tensor's largest"
FAR = torch.tensor([0, 1, 7, 63, 127, 511, 1000, 1023, 2047, 2048, 3333, 4095])

SHAPE = {
    "hidden_size": D_MODEL,
    "intermediate_size": 80,
    "num_hidden_layers": 1,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "vocab_size": 128,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
}


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    norms()
    for family in ("olmo", "olmo2"):
        for theta in (10_000.0, 500_000.0):
            rope(family, theta)
    rope_angles(10_000.0)
    rope_angles(500_000.0)
    attention("attention_olmo", "olmo", rope_theta=10_000.0)
    attention("attention_olmo_mha", "olmo", rope_theta=10_000.0, num_key_value_heads=4)
    attention("attention_olmo_clip", "olmo", rope_theta=10_000.0, clip_qkv=0.5)
    attention("attention_olmo2", "olmo2", rope_theta=500_000.0)
    attention("attention_olmo2_mha", "olmo2", rope_theta=500_000.0, num_key_value_heads=4)
    mlp()
    block("block_olmo", "olmo", rope_theta=10_000.0, clip_qkv=0.5)
    block("block_olmo2", "olmo2", rope_theta=500_000.0)


def config_of(family: str, **changes) -> tuple:
    """The transformers config and, as plain JSON, the config.json fields it was made from."""
    fields = {"model_type": family, **SHAPE, "rope_scaling": None, **changes}
    if family == "olmo2":
        fields["rms_norm_eps"] = 1e-6
    else:
        fields.setdefault("clip_qkv", None)
    known = {k: v for k, v in fields.items() if k not in ("model_type", "rope_theta", "rope_scaling")}
    rope_parameters = {"rope_type": "default", "rope_theta": fields.get("rope_theta", 10_000.0)}
    config = (OlmoConfig if family == "olmo" else Olmo2Config)(
        **known, rope_parameters=rope_parameters, pad_token_id=None, eos_token_id=0
    )
    config._attn_implementation = "eager"
    return config, fields


def scramble(module: torch.nn.Module, std: float) -> torch.nn.Module:
    """Replaces every weight: matrices by N(0, std^2), norm weights by 1 + 0.2 N(0, 1)."""
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(std * noise if parameter.dim() == 2 else 1 + 0.2 * noise)
    return module


def save(
    name: str, fields: dict, inputs: dict, outputs: dict, weights: dict, extra: dict, tolerance: str, generator: str = __file__
) -> None:
    """Draws the upstream gradients, goes backward and writes one file."""
    leaves = {**inputs, **weights}
    upstream = {("g" if len(outputs) == 1 else f"g.{k}"): torch.randn_like(v) for k, v in outputs.items()}
    total = sum((y * g).sum() for y, g in zip(outputs.values(), upstream.values()))
    gradients = torch.autograd.grad(total, list(leaves.values()))
    tensors = {**leaves, **outputs, **upstream, **extra}
    tensors |= {f"grad.{k}": g for k, g in zip(leaves, gradients)}
    assert all(torch.isfinite(t).all() for t in tensors.values()), name
    path = write_safetensors(f"layers/{name}.safetensors", tensors, {"config": json.dumps(fields, sort_keys=True)})
    record(path, generator, ["torch", "transformers"], SEED, tolerance)


def hidden(scale: float = 1.0, seq: int = SEQ) -> torch.Tensor:
    return (scale * torch.randn(BATCH, seq, D_MODEL)).requires_grad_()


def positions_and_mask(seq: int = SEQ) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions 0.. and the additive causal mask of transformers' eager attention."""
    positions = torch.arange(seq).expand(BATCH, seq)
    mask = torch.full((seq, seq), torch.finfo(torch.float32).min).triu(1)
    return positions, mask[None, None]


def norms() -> None:
    # Rows from 1e-3 to 1e3 make eps matter in some and not in others; one row is constant, one has a mean.
    scales = torch.logspace(-3, 3, BATCH * SEQ).reshape(BATCH, SEQ, 1)
    x = scales * torch.randn(BATCH, SEQ, D_MODEL)
    x[0, 3] = 1.5
    x[1, 2] = torch.randn(D_MODEL) + 5.0

    leaf = x.clone().requires_grad_()
    layer = olmo.OlmoLayerNorm(D_MODEL)
    save("layer_norm", {"eps": 1e-5}, {"x": leaf}, {"y": layer(leaf)}, {}, {}, ROWS)

    leaf = x.clone().requires_grad_()
    layer = scramble(olmo2.Olmo2RMSNorm(D_MODEL, eps=1e-6), 0.0)
    weights = dict(layer.named_parameters())
    save("rms_norm", {"eps": 1e-6}, {"x": leaf}, {"y": layer(leaf)}, weights, {}, ROWS)


def rope(family: str, theta: float) -> None:
    config, fields = config_of(family, rope_theta=theta)
    module = olmo if family == "olmo" else olmo2
    layer = (olmo.OlmoRotaryEmbedding if family == "olmo" else olmo2.Olmo2RotaryEmbedding)(config)
    positions = torch.stack([torch.arange(SEQ), FAR])
    q = torch.randn(BATCH, N_HEADS, SEQ, HEAD_DIM).requires_grad_()
    k = torch.randn(BATCH, 2, SEQ, HEAD_DIM).requires_grad_()
    cos, sin = layer(q, positions)
    q_out, k_out = module.apply_rotary_pos_emb(q, k, cos, sin)
    extra = {"positions": positions, "inv_freq": layer.inv_freq, "cos": cos, "sin": sin}
    outputs = {"q_out": q_out, "k_out": k_out}
    save(f"rope_{family}_{int(theta)}", fields, {"q": q, "k": k}, outputs, {}, extra, ROPE)


def rope_angles(theta: float) -> None:
    """Frequencies, cosines and sines at the released models' head size."""
    config, fields = config_of("olmo2", rope_theta=theta, hidden_size=256, num_attention_heads=2)
    layer = olmo2.Olmo2RotaryEmbedding(config)
    cos, sin = layer(torch.zeros(1), FAR[None])
    tensors = {"positions": FAR[None], "inv_freq": layer.inv_freq, "cos": cos, "sin": sin}
    metadata = {"config": json.dumps(fields, sort_keys=True)}
    path = write_safetensors(f"layers/rope_angles_{int(theta)}.safetensors", tensors, metadata)
    record(path, __file__, ["torch", "transformers"], None, ROPE)


def attention(name: str, family: str, **changes) -> None:
    config, fields = config_of(family, **changes)
    module = olmo if family == "olmo" else olmo2
    layer = (olmo.OlmoAttention if family == "olmo" else olmo2.Olmo2Attention)(config, layer_idx=0)
    scramble(layer, 0.15)
    rotary = (olmo.OlmoRotaryEmbedding if family == "olmo" else olmo2.Olmo2RotaryEmbedding)(config)
    x = hidden()
    positions, mask = positions_and_mask()
    y, _ = layer(x, position_embeddings=rotary(x, positions), attention_mask=mask)
    if fields.get("clip_qkv"):
        clipped = (layer.q_proj(x).abs() > fields["clip_qkv"]).float().mean()
        assert 0.1 < clipped < 0.8, clipped
    save(name, fields, {"x": x}, {"y": y}, dict(layer.named_parameters()), {"positions": positions}, TENSORS)


def mlp() -> None:
    config, fields = config_of("olmo2", rope_theta=500_000.0)
    layer = scramble(olmo2.Olmo2MLP(config), 0.15)
    x = hidden(2.0)
    save("mlp", fields, {"x": x}, {"y": layer(x)}, dict(layer.named_parameters()), {}, TENSORS)


def block(name: str, family: str, **changes) -> None:
    config, fields = config_of(family, **changes)
    layer = (olmo.OlmoDecoderLayer if family == "olmo" else olmo2.Olmo2DecoderLayer)(config, layer_idx=0)
    scramble(layer, 0.15)
    rotary = (olmo.OlmoRotaryEmbedding if family == "olmo" else olmo2.Olmo2RotaryEmbedding)(config)
    x = hidden()
    positions, mask = positions_and_mask()
    y = layer(x, attention_mask=mask, position_ids=positions, position_embeddings=rotary(x, positions))
    save(name, fields, {"x": x}, {"y": y}, dict(layer.named_parameters()), {"positions": positions}, TENSORS)


if __name__ == "__main__":
    main()
