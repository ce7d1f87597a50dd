"""Small complete Hugging Face model folders, each with logits and a greedy continuation.

From torch 2.9.0 and transformers 5.23.0: `save_pretrained` writes the folder, `from_pretrained` reads
it back in float32 with eager attention, and what that model computes goes to `golden.safetensors`:
`tokens` [batch, seq] i64, `logits` [batch, seq, vocab] f32, `greedy` [batch, 64] i64 (the tokens that
follow `tokens`, each from a full forward without a cache, end-of-text not stopping it) and
`greedy_margin` [batch, 64] f32 (largest logit minus the second largest, so that no tie decides). Of
OLMoE also `router_margin` [] f32: the least distance, in any layer and for any token of `tokens`, from
the probability of the last expert chosen to that of the first one not chosen.

`logits_bf16` is what the same folder computes when it is read in bfloat16: weights and activations in
bf16, eager attention and experts, on the CPU. It is stored in f32, which holds every bf16 number.

The form variants hold the weights of the model they are named after: sharded, bf16, f16, with packed
experts, and with the config.json that transformers 4 wrote (`rope_theta`, `rope_scaling`, `torch_dtype`
at the top). The others have what transformers 5 writes (`rope_parameters`, `dtype`).

Usage: python scripts/golden/hf_models.py [NAME...]     all folders, or those named
"""

import json
import shutil
import sys

import torch
from transformers import (
    AutoModelForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    OlmoConfig,
    OlmoeConfig,
    OlmoeForCausalLM,
    OlmoForCausalLM,
)

from common import GOLDEN, record, write_safetensors

BATCH, SEQ, N_GREEDY = 2, 20, 64
MIN_MARGIN = 3e-3
MIN_ROUTER_MARGIN = 1e-4
GOLDEN_TOLERANCE = "1e-5 on logits, greedy exact; logits_bf16 99.5 % exact, 99.9 % within 2 bf16 units"

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}
ODD = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 131}
EXPERTS = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
YARN = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0}
# Neither the released factor nor a power of two, and every optional field given.
ODD_YARN = {"rope_type": "yarn", "factor": 2.5, "beta_fast": 4.0, "beta_slow": 0.5, "attention_factor": 1.3}
SLIDING, FULL = "sliding_attention", "full_attention"
# Per model: family, RoPE theta, seed (picked so that the greedy continuation wanders and nothing nearly ties), shape.
MODELS = {
    "olmo-tied": ("olmo", 10_000.0, 4, {**SMALL, "vocab_size": 192, "tie_word_embeddings": True}),
    "olmo-gqa-clip": ("olmo", 10_000.0, 1, {**SMALL, "num_key_value_heads": 2, "clip_qkv": 1.0}),
    "olmo-odd": ("olmo", 10_000.0, 2, ODD),
    "olmo2": ("olmo2", 10_000.0, 3, SMALL),
    "olmo2-gqa": ("olmo2", 500_000.0, 27, {**SMALL, "num_hidden_layers": 3, "num_key_value_heads": 2}),
    "olmo2-tied-odd": ("olmo2", 500_000.0, 100, {**ODD, "tie_word_embeddings": True}),
    # Windows shorter than the prompt, on three of four layers.
    "olmo3": ("olmo3", 500_000.0, 1, {**SMALL, "num_hidden_layers": 4, "sliding_window": 8}),
    # Grouped heads; the prompt is longer than YaRN's original context of 16, the continuation far longer.
    "olmo3-gqa-yarn": (
        "olmo3",
        500_000.0,
        1,
        {**SMALL, "num_hidden_layers": 5, "num_key_value_heads": 2, "sliding_window": 6, "yarn": {**YARN, "original_max_position_embeddings": 16}},
    ),
    # A prompt longer than one chunk of attention, full attention every other layer, the last windowed.
    "olmo3-long-odd": (
        "olmo3",
        10_000.0,
        196,
        {
            **ODD,
            "num_hidden_layers": 3,
            "tie_word_embeddings": True,
            "sliding_window": 37,
            "layer_types": [SLIDING, FULL, SLIDING],
            "max_position_embeddings": 320,
            "yarn": {**ODD_YARN, "original_max_position_embeddings": 128},
            "seq": 150,
        },
    ),
    "olmoe-top1": ("olmoe", 10_000.0, 1, {**EXPERTS, "num_experts": 4, "num_experts_per_tok": 1}),
    "olmoe-top2-gqa-norm": (
        "olmoe",
        10_000.0,
        1,
        {**EXPERTS, "num_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 2, "norm_topk_prob": True},
    ),
    "olmoe-top8-clip": ("olmoe", 500_000.0, 83, {**EXPERTS, "num_experts": 16, "num_experts_per_tok": 8, "clip_qkv": 1.0}),
    "olmoe-top8-norm": (
        "olmoe",
        10_000.0,
        152,
        {**EXPERTS, "num_experts": 12, "num_experts_per_tok": 8, "num_key_value_heads": 1, "norm_topk_prob": True},
    ),
}
CLASSES = {
    "olmo": (OlmoConfig, OlmoForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "olmo3": (Olmo3Config, Olmo3ForCausalLM),
    "olmoe": (OlmoeConfig, OlmoeForCausalLM),
}
# Per form variant: the model it holds, what it is cast to, and how it is saved.
FORMS = {
    "olmo2-gqa-sharded": ("olmo2-gqa", None, {"max_shard_size": "40KB"}),
    "olmo2-gqa-bf16": ("olmo2-gqa", torch.bfloat16, {}),
    "olmo2-gqa-f16": ("olmo2-gqa", torch.float16, {}),
    "olmo2-gqa-old-config": ("olmo2-gqa", None, {"old_config": True}),
    "olmo-gqa-clip-old-config": ("olmo-gqa-clip", None, {"old_config": True}),
    "olmo3-gqa-yarn-old-config": ("olmo3-gqa-yarn", None, {"old_config": True}),
    "olmoe-top2-gqa-norm-packed": ("olmoe-top2-gqa-norm", None, {"save_original_format": False}),
}


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    names = sys.argv[1:] or [*MODELS, *FORMS]
    if not sys.argv[1:]:
        shutil.rmtree(GOLDEN / "hf", ignore_errors=True)
    for name in names:
        of, dtype, saved = FORMS.get(name, (name, None, {}))
        shutil.rmtree(GOLDEN / "hf" / name, ignore_errors=True)
        publish(name, build(of).to(dtype or torch.float32), MODELS[of], **saved)


def build(name: str) -> torch.nn.Module:
    """The model with weights that a mistake cannot hide in: no two norms or rows alike."""
    family, theta, seed, shape = MODELS[name]
    torch.manual_seed(seed)
    make_config, make_model = CLASSES[family]
    plain = {"rope_type": "default", "rope_theta": theta}
    full = {**shape["yarn"], "rope_theta": theta} if "yarn" in shape else plain
    config = make_config(
        rope_parameters={FULL: full, SLIDING: plain} if family == "olmo3" else plain,
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=2,
        **({} if family == "olmo" else {"rms_norm_eps": 1e-5 if family == "olmoe" else 1e-6}),
        **{"max_position_embeddings": 128, **{k: v for k, v in shape.items() if k not in ("yarn", "seq")}},
    )
    model = make_model(config).eval()
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


def publish(name: str, model: torch.nn.Module, row: tuple, old_config: bool = False, **saved) -> None:
    _, _, seed, shape = row
    folder = GOLDEN / "hf" / name
    model.save_pretrained(folder, **{"max_shard_size": "5GB", **saved})
    if old_config:
        rewrite_config(folder / "config.json")
    read = load(folder, torch.float32)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor.float(), read.state_dict()[key]), key

    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, read.config.vocab_size, (BATCH, shape.get("seq", SEQ)), generator=generator)
    tokens[0, 0], tokens[1, -1] = 0, read.config.vocab_size - 1
    with torch.no_grad():
        logits = read(tokens, use_cache=False).logits
        greedy, margin = continuation(read, tokens)
        logits_bf16 = load(folder, torch.bfloat16)(tokens, use_cache=False).logits.float()
    spread, distinct = logits.std().item(), [len(set(row.tolist())) for row in greedy]
    apart = (logits_bf16 - logits).abs().max() / logits.abs().max()
    print(f"{name}: logits std {spread:.2f}, smallest margin {margin.min():.4f}, distinct tokens {distinct}, bf16 {apart:.1e}")
    assert spread > 1 and margin.min() > MIN_MARGIN and min(distinct) >= 12, name
    tensors = {"tokens": tokens, "logits": logits, "greedy": greedy, "greedy_margin": margin, "logits_bf16": logits_bf16}
    if read.config.model_type == "olmoe":
        tensors["router_margin"] = router_margin(read, tokens)
        print(f"{name}: smallest router margin {tensors['router_margin']:.1e}")
        assert tensors["router_margin"] > MIN_ROUTER_MARGIN, name
    write_safetensors(f"hf/{name}/golden.safetensors", tensors)
    for path in sorted(folder.iterdir()):
        path.chmod(0o644)
        tolerance = GOLDEN_TOLERANCE if path.name == "golden.safetensors" else "input"
        record(path, __file__, ["torch", "transformers"], seed, tolerance)


def load(folder, dtype: torch.dtype) -> torch.nn.Module:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    if model.config.model_type == "olmoe":
        model.set_experts_implementation("eager")
    return model.eval()


def router_margin(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        layers = model(tokens, use_cache=False, output_router_logits=True).router_logits
    top_k, n_experts = model.config.num_experts_per_tok, model.config.num_experts
    margins = []
    for logits in layers:
        top = logits.softmax(dim=-1).sort(dim=-1, descending=True).values
        margins.append((top[:, top_k - 1] - top[:, top_k]).min())
    assert top_k < n_experts
    return torch.stack(margins).min()


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
    scaling = None
    if config["model_type"] == "olmo3":
        config.pop("layer_types")
        scaling, rope = rope[FULL], rope[SLIDING]
        scaling.pop("rope_theta")
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": scaling, "torch_dtype": config.pop("dtype")}
    config["transformers_version"] = "4.47.0"
    if config["model_type"] == "olmo":
        config["pretraining_tp"] = 1
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
