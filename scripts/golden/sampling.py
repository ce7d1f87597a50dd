"""What transformers' logits processors leave of a distribution, for many settings.

From torch 2.9.0 and transformers 5.23.0: the list of processors that `generate` itself builds
(`_get_logits_processor`), so the order is theirs too, applied to random logits after a random text with
repeated tokens. Writes sampling/filters.json: `logits` [case group][vocab] and `tokens` [case group][n], and
`cases`, each with the settings, the index of its group, and the tokens left with their probabilities.

Usage: python scripts/golden/sampling.py
"""

import itertools

import torch
from transformers import GenerationConfig, OlmoConfig, OlmoForCausalLM

from common import record, write_json

SEED, N_GROUPS, VOCAB, N_TOKENS = 20240611, 3, 61, 24
# None leaves a setting out.
TEMPERATURES = [0.4, 1.0, 1.7]
TOP_KS = [None, 1, 7, 100]
TOP_PS = [None, 0.05, 0.6, 0.95, 1.0]
MIN_PS = [None, 0.02, 0.3, 1.0]
PENALTIES = [None, 1.3, 0.8]


def main() -> None:
    generator = torch.Generator().manual_seed(SEED)
    logits = [3 * torch.randn(VOCAB, generator=generator) for _ in range(N_GROUPS)]
    tokens = [torch.randint(0, VOCAB, (N_TOKENS,), generator=generator) for _ in range(N_GROUPS)]
    model = OlmoForCausalLM(OlmoConfig(vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
    cases = []
    settings = itertools.product(TEMPERATURES, TOP_KS, TOP_PS, MIN_PS, PENALTIES)
    for i, (temperature, top_k, top_p, min_p, penalty) in enumerate(settings):
        group = i % N_GROUPS
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": penalty}
        given = {k: v for k, v in given.items() if v is not None}
        probabilities = distribution(model, tokens[group], logits[group], given)
        left = [[int(id), probabilities[id].item()] for id in probabilities.nonzero().flatten()]
        cases.append({"settings": given, "group": group, "left": left})
    sizes = [len(case["left"]) for case in cases]
    print(f"{len(cases)} cases, {min(sizes)} to {max(sizes)} tokens left, {len(set(sizes))} different numbers")
    value = {"logits": [row.tolist() for row in logits], "tokens": [row.tolist() for row in tokens], "cases": cases}
    path = write_json("sampling/filters.json", value)
    record(path, __file__, ["torch", "transformers"], SEED, "same tokens, probabilities relative 3e-6")


def distribution(model, tokens, logits, given: dict) -> torch.Tensor:
    # transformers has a top-k of 50 by default.
    config = GenerationConfig(do_sample=True, **{"top_k": 0, **given})
    processors = model._get_logits_processor(config, input_ids_seq_length=len(tokens), prefix_allowed_tokens_fn=None, logits_processor=[])
    return processors(tokens[None], logits[None].clone())[0].softmax(-1)


if __name__ == "__main__":
    main()
