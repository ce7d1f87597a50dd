"""Beam search by ai2-olmo's own `OLMo.generate`: tokens and scores.

From torch 2.9.0 and ai2-olmo 0.6.0 (`olmo/model.py` OLMo.generate, `olmo/beam_search.py`) in float32, of small random
models whose end-of-text token, 0, is likely enough that beams end at different lengths. float64 must find the same
tokens, so that no near tie decides. Writes beams/<model>.safetensors, the weights under Hugging Face names, and
beams/cases.json: per case the model, `prompts`, the settings, and per prompt the beams in order of score, each with
its tokens up to the first end of text, which is included, and its score.

Usage: python scripts/golden/beams.py
"""

import copy
import json
import warnings

import torch
from olmo.beam_search import LengthNormalizedSequenceLogProbabilityScorer
from olmo.model import OLMo

from common import record, write_json, write_safetensors
from olmo_step import hf_fields, model_config, to_hf

SEED = 20240612
MODELS = {"olmo": ("olmo", {}), "olmo2-gqa": ("olmo2", {"n_kv_heads": 2})}
# beam_size, per_node_beam_size, max_steps, min_steps, length_penalty (None: the sum of log-probabilities)
SETTINGS = [
    (1, None, 12, None, None),
    (2, None, 12, None, None),
    (4, None, 12, None, None),
    (4, 2, 12, None, None),
    (4, 1, 9, None, 1.0),
    (5, None, 12, 6, None),
    (5, None, 12, 6, 1.0),
    (8, 3, 20, None, 0.6),
    (3, None, 1, None, 1.0),
    (3, None, 12, 12, 2.0),
    (16, None, 12, None, 1.0),
]
END = 0


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("ignore", RuntimeWarning)
    cases, lengths = [], set()
    for name, (family, changes) in MODELS.items():
        model = build(family, changes)
        weights = to_hf(model.config, {n: p.detach() for n, p in model.named_parameters()})
        metadata = {"config": json.dumps(hf_fields(model.config), sort_keys=True)}
        record(write_safetensors(f"beams/{name}.safetensors", weights, metadata), __file__, ["ai2-olmo", "torch"], SEED, "input")
        double = copy.deepcopy(model).double()
        prompts = torch.randint(3, model.config.vocab_size, (3, 7), generator=torch.Generator().manual_seed(SEED))
        for beam_size, per_node, max_steps, min_steps, penalty in SETTINGS:
            settings = {"beam_size": beam_size, "per_node_beam_size": per_node, "max_steps": max_steps, "min_steps": min_steps}
            found, again = (search(m, prompts, settings, penalty) for m in (model, double))
            assert [[b["tokens"] for b in row] for row in found] == [[b["tokens"] for b in row] for row in again], (name, settings)
            lengths |= {len(beam["tokens"]) for row in found for beam in row}
            cases.append({"model": name, "prompts": prompts.tolist(), **settings, "length_penalty": penalty, "beams": found})
    print(f"{len(cases)} cases, lengths {sorted(lengths)}")
    record(write_json("beams/cases.json", cases), __file__, ["ai2-olmo", "torch"], SEED, "same tokens, scores relative 5e-6")


def build(family: str, changes: dict) -> OLMo:
    torch.manual_seed(SEED)
    model = OLMo(model_config(family, vocab_size=64, embedding_size=64, **changes)).eval()
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.3 * noise)
        # The end in the direction of what is usually there: sometimes likely, sometimes not.
        model.transformer.ff_out.weight[END] *= 1.6
    return model


def search(model: OLMo, prompts: torch.Tensor, settings: dict, penalty: float | None) -> list:
    scorer = None if penalty is None else LengthNormalizedSequenceLogProbabilityScorer(penalty)
    out = model.generate(prompts, final_sequence_scorer=scorer, **settings)
    cut = lambda tokens: tokens[: tokens.index(END) + 1] if END in tokens else tokens
    rows = zip(out.token_ids.tolist(), out.scores.tolist())
    return [[{"tokens": cut(t), "score": s} for t, s in zip(tokens, scores)] for tokens, scores in rows]


if __name__ == "__main__":
    main()
