"""Small complete Hugging Face model folders, each with logits and a greedy continuation.

From torch 2.9.0 and transformers 5.23.0: `save_pretrained` writes the folder, `from_pretrained` reads
it back in float32 with eager attention, and what that model computes goes to `golden.safetensors`:
`tokens` [batch, seq] i64, `logits` [batch, seq, vocab] f32, `greedy` [batch, 64] i64 (the tokens that
follow `tokens`, each from a full forward without a cache, end-of-text not stopping it) and
`greedy_margin` [batch, 64] f32 (largest logit minus the second largest, so that no tie decides).

The form variants hold the weights of the model they are named after: sharded, bf16, f16, and with the
config.json that transformers 4 wrote (`rope_theta`, `rope_scaling`, `torch_dtype` at the top). The
others have what transformers 5 writes (`rope_parameters`, `dtype`).

Usage: python scripts/golden/hf_models.py
"""

import json
import shutil

import torch
from transformers import AutoModelForCausalLM, Olmo2Config, Olmo2ForCausalLM, OlmoConfig, OlmoForCausalLM

from common import GOLDEN, record, write_safetensors

BATCH, SEQ, N_GREEDY = 2, 20, 64
MIN_MARGIN = 3e-3

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}
ODD = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 131}
# Per model: family, RoPE theta, seed (picked so that the greedy continuation wanders and nothing nearly ties), shape.
MODELS = {
    "olmo-tied": ("olmo", 10_000.0, 4, {**SMALL, "vocab_size": 192, "tie_word_embeddings": True}),
    "olmo-gqa-clip": ("olmo", 10_000.0, 1, {**SMALL, "num_key_value_heads": 2, "clip_qkv": 1.0}),
    "olmo-odd": ("olmo", 10_000.0, 2, ODD),
    "olmo2": ("olmo2", 10_000.0, 3, SMALL),
    "olmo2-gqa": ("olmo2", 500_000.0, 27, {**SMALL, "num_hidden_layers": 3, "num_key_value_heads": 2}),
    "olmo2-tied-odd": ("olmo2", 500_000.0, 100, {**ODD, "tie_word_embeddings": True}),
}


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    shutil.rmtree(GOLDEN / "hf", ignore_errors=True)
    for name, (_, _, seed, _) in MODELS.items():
        publish(name, build(name), seed)
    seed = MODELS["olmo2-gqa"][2]
    publish("olmo2-gqa-sharded", build("olmo2-gqa"), seed, max_shard_size="40KB")
    publish("olmo2-gqa-bf16", build("olmo2-gqa").to(torch.bfloat16), seed)
    publish("olmo2-gqa-f16", build("olmo2-gqa").to(torch.float16), seed)
    publish("olmo2-gqa-old-config", build("olmo2-gqa"), seed, old_config=True)
    publish("olmo-gqa-clip-old-config", build("olmo-gqa-clip"), MODELS["olmo-gqa-clip"][2], old_config=True)


def build(name: str) -> torch.nn.Module:
    """The model with weights that a mistake cannot hide in: no two norms or rows alike."""
    family, theta, seed, shape = MODELS[name]
    torch.manual_seed(seed)
    config = (OlmoConfig if family == "olmo" else Olmo2Config)(
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=2,
        **({"rms_norm_eps": 1e-6} if family == "olmo2" else {}),
        **shape,
    )
    model = (OlmoForCausalLM if family == "olmo" else Olmo2ForCausalLM)(config).eval()
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            noise = torch.randn_like(parameter)
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * noise)
            elif "embed_tokens" in key or "lm_head" in key:
                parameter.copy_(0.4 * noise)
            else:
                parameter.copy_(0.3 * noise)
    return model


def publish(name: str, model: torch.nn.Module, seed: int, max_shard_size: str = "5GB", old_config: bool = False) -> None:
    folder = GOLDEN / "hf" / name
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if old_config:
        rewrite_config(folder / "config.json")
    read, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    read.eval()
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor.float(), read.state_dict()[key]), key

    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, read.config.vocab_size, (BATCH, SEQ), generator=generator)
    tokens[0, 0], tokens[1, -1] = 0, read.config.vocab_size - 1
    with torch.no_grad():
        logits = read(tokens, use_cache=False).logits
        greedy, margin = continuation(read, tokens)
    spread, distinct = logits.std().item(), [len(set(row.tolist())) for row in greedy]
    print(f"{name}: logits std {spread:.2f}, smallest margin {margin.min():.4f}, distinct tokens {distinct}")
    assert spread > 1 and margin.min() > MIN_MARGIN and min(distinct) >= 12, name
    tensors = {"tokens": tokens, "logits": logits, "greedy": greedy, "greedy_margin": margin}
    write_safetensors(f"hf/{name}/golden.safetensors", tensors)
    for path in sorted(folder.iterdir()):
        path.chmod(0o644)
        tolerance = "1e-5 on logits, greedy exact" if path.name == "golden.safetensors" else "input"
        record(path, __file__, ["torch", "transformers"], seed, tolerance)


def continuation(model: torch.nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    margins = []
    for _ in range(N_GREEDY):
        top = model(tokens, use_cache=False).logits[:, -1].topk(2, dim=-1)
        margins.append(top.values[:, 0] - top.values[:, 1])
        tokens = torch.cat([tokens, top.indices[:, :1]], dim=1)
    return tokens[:, -N_GREEDY:], torch.stack(margins, dim=1)


def rewrite_config(path) -> None:
    """Rewrites config.json to the fields that transformers 4 wrote for the released checkpoints."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": config.pop("dtype")}
    config["transformers_version"] = "4.47.0"
    if config["model_type"] == "olmo":
        config["pretraining_tp"] = 1
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
