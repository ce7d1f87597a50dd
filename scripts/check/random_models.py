"""Random models of all four families: logits, greedy texts and logits in bf16 beside transformers.

Each seed draws a shape that the golden models need not have: sizes that are no multiples of anything, grouped heads,
windows on all layers but every n-th, YaRN, tied embeddings, clipping, experts of which one to all are chosen; one to three
rows, from one token to past the window, past YaRN's original context and past a chunk of attention.

- f32: the largest difference of `olmo logits` over the largest logit. The weights are held once as they are
  saved, in f32, f16 or bf16, which transformers reads in f32.
- bf16: the largest difference from the reference in f32, over that of the reference in bf16: who rounds as it does is as
  far off as it is. How many logits are within two units of the reference's says little here: a sum whose rounding falls
  the other way changes all that comes after it, and of such models the reference without oneDNN has 0.76 to 1 within two units
  of the reference with it.
- greedy: `olmo generate` of prompts of unequal length in one batch and over the cache, until a step of
  the reference's has its two largest logits within 1e-4 of each other, relative to the largest.

A mixture of experts chooses otherwise where two probabilities are nearly one; such a row says so, and counts as a tie.

Usage: python scripts/check/random_models.py OLMO [N] [FIRST_SEED]     50 seeds from 0 by default
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import Olmo2Config, Olmo3Config, OlmoConfig, OlmoeConfig

F32, BF16, TIE, ROUTER_TIE = 1e-5, 1.5, 1e-4, 1e-5
CONFIGS = {"olmo": OlmoConfig, "olmo2": Olmo2Config, "olmo3": Olmo3Config, "olmoe": OlmoeConfig}
SLIDING, FULL = "sliding_attention", "full_attention"
N_GREEDY = 16


def main() -> None:
    olmo, n, first = sys.argv[1], int((sys.argv[2:] or [50])[0]), int((sys.argv[3:] or [0])[0])
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    worst, over, ties, failed = 0.0, [], 0, []
    for seed in range(first, first + n):
        family, apart, bf16, tie, greedy, shape = check(olmo, seed)
        ties += tie
        if not tie:
            worst = max(worst, apart)
            over.append(bf16)
            if not (apart <= F32 and bf16 <= BF16 and greedy):
                failed.append(seed)
        note = f"FAILED {shape}" if seed in failed else "near tie of experts" if tie else ""
        print(f"{seed} {family} {apart:.1e} {bf16:.2f} {'same' if greedy else 'other'} {note}", flush=True)
    print(f"{n} models, {ties} with a near tie of experts; f32 within {worst:.1e}, bf16 off by {max(over, default=0):.2f} of the reference's at most")
    if failed:
        sys.exit(f"failed: seeds {failed}")


def check(olmo: str, seed: int) -> tuple:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    family = draw.choice(list(CONFIGS))
    shape = draw_shape(draw, family)
    rows = draw.randint(1, 3)
    length = draw.choice([1, 2, draw.randint(3, 40), draw.randint(3, 40), draw.randint(41, 300)])
    tokens = torch.randint(shape["vocab_size"], (rows, length))
    saved = draw.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    with tempfile.TemporaryDirectory() as folder:
        made(family, shape).to(saved).save_pretrained(folder)
        model, half = read(family, folder, torch.float32), read(family, folder, torch.bfloat16)
        reference, tie = logits(model, tokens)
        found = ours(olmo, folder, tokens, "f32")
        apart = float((found - reference).abs().max() / reference.abs().max())
        # Rounding to bf16 decides between experts at every turn: of those only f32 is compared.
        bf16 = 0.0
        if family != "olmoe":
            off = [(x - reference).abs().max() for x in (ours(olmo, folder, tokens, "bf16"), logits(half, tokens)[0])]
            bf16 = float(off[0] / off[1])
        lengths = [draw.randint(1, length) for _ in range(rows)]
        prompts = [row[:n].tolist() for row, n in zip(tokens, lengths)]
        greedy = all(agrees(*pair) for pair in zip(generated(olmo, folder, prompts), (continued(model, p) for p in prompts)))
    return family, apart, bf16, tie, greedy, {**shape, "rows": rows, "length": length, "saved": str(saved)}


def draw_shape(draw: random.Random, family: str) -> dict:
    kv_heads, group, half_head = draw.randint(1, 4), draw.randint(1, 4), draw.choice([4, 5, 8, 12, 16, 32])
    heads = kv_heads * group
    layers = draw.randint(1, 5)
    shape = {
        "vocab_size": draw.randint(17, 400),
        "hidden_size": heads * 2 * half_head,
        "intermediate_size": draw.randint(3, 200),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": draw.random() < 0.3,
        "max_position_embeddings": 512,
    }
    plain = {"rope_type": "default", "rope_theta": draw.choice([10_000.0, 500_000.0, 1234.5])}
    if family == "olmo3":
        full = dict(plain)
        if draw.random() < 0.6:
            full |= {"rope_type": "yarn", "factor": draw.choice([8.0, 2.0, 3.3]), "beta_fast": draw.choice([32.0, 5.0])}
            full |= {"beta_slow": 1.0, "original_max_position_embeddings": draw.choice([16, 64, 100])}
        shape["rope_parameters"] = {FULL: full, SLIDING: plain}
        shape["sliding_window"] = draw.choice([1, 2, draw.randint(3, 60)])
        full_every = draw.randint(1, layers + 1)
        shape["layer_types"] = [SLIDING if (layer + 1) % full_every else FULL for layer in range(layers)]
    else:
        shape["rope_parameters"] = plain
    if family in ("olmo", "olmoe") and draw.random() < 0.4:
        shape["clip_qkv"] = draw.choice([0.3, 1.0, 8.0])
    if family == "olmoe":
        shape["num_experts"] = draw.randint(1, 20)
        shape["num_experts_per_tok"] = draw.randint(1, min(8, shape["num_experts"]))
        shape["norm_topk_prob"] = draw.random() < 0.5
    if family != "olmo":
        shape["rms_norm_eps"] = draw.choice([1e-5, 1e-6])
    return shape


def made(family: str, shape: dict) -> torch.nn.Module:
    config = CONFIGS[family](**shape, pad_token_id=None, bos_token_id=None, eos_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            spread = noise / parameter.shape[-1] ** 0.5
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else spread)
    return model


def read(family: str, folder: str, dtype: torch.dtype) -> torch.nn.Module:
    """As its users read it: cast by `to` instead, even the frequencies of RoPE would be rounded."""
    config = CONFIGS[family].from_pretrained(folder)
    config._attn_implementation = config._experts_implementation = "eager"
    return transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype).eval()


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """The logits, and whether any token's last expert is nearly as likely as the first one not chosen."""
    if model.config.model_type != "olmoe":
        return model(tokens, use_cache=False).logits.float(), False
    output = model(tokens, use_cache=False, output_router_logits=True)
    k, tie = model.config.num_experts_per_tok, False
    for router in output.router_logits if k < model.config.num_experts else []:
        chances = torch.softmax(router.float(), -1).sort(-1, descending=True).values
        tie |= bool((chances[:, k - 1] - chances[:, k]).min() < ROUTER_TIE)
    return output.logits.float(), tie


def ours(olmo: str, folder: str, tokens: torch.Tensor, dtype: str) -> torch.Tensor:
    path, out = Path(folder, "tokens.json"), Path(folder, "found.st")
    path.write_text(json.dumps(tokens.tolist()))
    run(olmo, "logits", "--model", folder, "--tokens", path, "--dtype", dtype, "--out", out)
    found = load_file(out)["logits"]
    out.unlink()
    return found


def generated(olmo: str, folder: str, prompts: list[list[int]]) -> list[list[int]]:
    path = Path(folder, "prompts.json")
    path.write_text(json.dumps(prompts))
    arguments = ["--tokens", path, "--batch-size", len(prompts), "--max-new-tokens", N_GREEDY, "--ignore-eos", "--json"]
    return json.loads(run(olmo, "generate", "--model", folder, *arguments))["tokens"]


def continued(model: torch.nn.Module, prompt: list[int]) -> list[int]:
    """What follows by full forwards without a cache, as far as nothing nearly ties."""
    tokens, sure = list(prompt), []
    for _ in range(N_GREEDY):
        values, tie = logits(model, torch.tensor([tokens]))
        best = values[0, -1].topk(2)
        if tie or best.values[0] - best.values[1] < TIE * values[0, -1].abs().max():
            return sure
        tokens.append(int(best.indices[0]))
        sure.append(tokens[-1])
    return sure


def agrees(found: list[int], sure: list[int]) -> bool:
    return len(found) == N_GREEDY and found[: len(sure)] == sure


def run(*command) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
