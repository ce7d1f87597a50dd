"""The distribution that ai2-olmo draws each parameter from, per initialisation scheme.

From torch 2.9.0 and ai2-olmo 0.6.0 (`olmo/model.py` reset_parameters, `olmo/initialization.py`): while an
OLMo model is built, `torch.nn.init.normal_`, `trunc_normal_`, `ones_` and `zeros_` are watched; the last
call on a parameter is what stands. Fused parameters are listed once per part.

`std.json` is a list of cases. A case holds `name`, `config` (config.json fields), `init` (`init_fn`,
`init_std`, `init_cutoff_factor`, `emb_init_std`, `scale_emb_init`) and `parameters`: Hugging Face key ->
`{"kind": "normal", "mean", "std"}`, `{"kind": "trunc_normal", "mean", "std", "a", "b"}` (cut at a and b, in
absolute terms) or `{"kind": "ones"}`, and always `shape`.

Usage: python scripts/golden/init_std.py
"""

import torch
from olmo.config import InitFnType
from olmo.model import OLMo

from common import record, write_json
from olmo_step import hf_fields, model_config, to_hf

SHAPES = {
    "olmo": ("olmo", {}),
    "olmo-tied": ("olmo", {"weight_tying": True}),
    "olmo2": ("olmo2", {}),
    "olmo2-gqa": ("olmo2", {"n_kv_heads": 2}),
}
SCHEMES = {
    "mitchell": {"init_fn": "mitchell"},
    "mitchell-cutoff-2": {"init_fn": "mitchell", "init_cutoff_factor": 2.0},
    "mitchell-emb": {"init_fn": "mitchell", "emb_init_std": 0.5},
    "normal": {"init_fn": "normal"},
    "normal-cutoff-3": {"init_fn": "normal", "init_cutoff_factor": 3.0},
    "normal-emb": {"init_fn": "normal", "init_std": 0.03, "init_cutoff_factor": 3.0, "emb_init_std": 1.0},
    "full-megatron": {"init_fn": "full_megatron", "init_std": 0.006},
    "full-megatron-cutoff-2": {"init_fn": "full_megatron", "init_std": 0.006, "init_cutoff_factor": 2.0},
    "full-megatron-scaled": {"init_fn": "full_megatron", "init_std": 0.006, "scale_emb_init": True},
    "full-megatron-emb": {"init_fn": "full_megatron", "emb_init_std": 0.3, "scale_emb_init": True},
}
DEFAULTS = {"init_std": 0.02, "init_cutoff_factor": None, "emb_init_std": None, "scale_emb_init": False}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = []
    for shape, (family, changes) in SHAPES.items():
        for scheme, own in SCHEMES.items():
            init = {**DEFAULTS, **own}
            fields = {**init, "init_fn": InitFnType[init["init_fn"]]}
            config = model_config(family, d_model=64, n_layers=3, mlp_hidden_size=352, **changes, **fields)
            cases.append(
                {
                    "name": f"{shape}/{scheme}",
                    "config": hf_fields(config),
                    "init": init,
                    "parameters": watch(config),
                }
            )
    record(write_json("init/std.json", cases), __file__, ["ai2-olmo", "torch"], None, "1e-12 relative")
    print(f"{len(cases)} cases")


def watch(config) -> dict:
    """Builds the model and returns, per Hugging Face key, the last draw on that parameter."""
    calls = {}
    originals = {name: getattr(torch.nn.init, name) for name in ("normal_", "trunc_normal_", "ones_", "zeros_")}

    def watched(name):
        def call(tensor, *args, **kwargs):
            kind = name.removesuffix("_")
            named = dict(zip(("mean", "std", "a", "b"), args)) | kwargs
            calls[id(tensor)] = {"kind": kind, **named} if "normal" in kind else {"kind": kind}
            return originals[name](tensor, *args, **kwargs)

        return call

    try:
        for name in originals:
            setattr(torch.nn.init, name, watched(name))
        model = OLMo(config)
    finally:
        for name, original in originals.items():
            setattr(torch.nn.init, name, original)
    found = {}
    for name, parameter in model.named_parameters():
        for key, part in to_hf(config, {name: parameter}).items():
            call = {**calls[id(parameter)], "shape": list(part.shape)}
            bound = (call["b"], -call["a"]) if call["kind"] == "trunc_normal" else ()
            assert all(part.abs().max() <= b for b in bound) and call["kind"] != "zeros", key
            found[key] = call
    return found


if __name__ == "__main__":
    main()
