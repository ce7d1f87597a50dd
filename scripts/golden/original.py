"""Checkpoints that ai2-olmo itself wrote, in each of its forms, with its logits and transformers'.

From torch 2.9.0, ai2-olmo 0.6.0 (`olmo/model.py` OLMo, `olmo/safetensors_util.py`, `hf_olmo`) and
transformers 5.23.0, float32. The forms:

- `*-pt`: `config.yaml` with `model.pt`, as the trainer's unsharded checkpoints. `olmo2-groups-pt` names
  its blocks by groups, as models wrapped for FSDP by block groups do.
- `*-safetensors`: the same weights in `model.safetensors`, whose keys are pickles in base64.
- `*-hf-olmo`: `config.json` of model type `hf_olmo` with `pytorch_model.bin`.

Each folder's `golden.safetensors` holds `tokens` [batch, seq] i64, `logits` of the reloaded ai2-olmo
model, and `logits_transformers` of the same weights renamed for transformers (`olmo_step.to_hf`), where it has
such a model.

Usage: python scripts/golden/original.py
"""

import shutil

import torch
from hf_olmo import OLMoConfig
from hf_olmo.convert_olmo_to_hf import write_model
from olmo.config import TrainConfig
from olmo.model import OLMo
from olmo.safetensors_util import safetensors_file_to_state_dict, state_dict_to_safetensors_file
from transformers import Olmo2Config, Olmo2ForCausalLM, OlmoConfig, OlmoForCausalLM

from common import GOLDEN, record, write_safetensors
from olmo_step import hf_fields, in_transformers, model_config, to_hf

SEED = 20240301
BATCH, SEQ = 2, 12
SHAPE = {"d_model": 16, "n_heads": 4, "mlp_hidden_size": 48, "vocab_size": 60, "embedding_size": 64}


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    checkpoint("olmo-gqa-clip", "olmo", ["pt", "safetensors"], n_kv_heads=2, clip_qkv=1.0)
    checkpoint("olmo-tied", "olmo", ["pt", "hf-olmo"], weight_tying=True)
    checkpoint("olmo2-gqa", "olmo2", ["pt", "safetensors"], n_kv_heads=2)
    checkpoint("olmo2-groups", "olmo2", ["pt"], n_layers=4, block_group_size=2)
    checkpoint("rms-gqa", "rms", ["pt", "safetensors"], n_kv_heads=2)
    checkpoint("rms-tied", "rms", ["hf-olmo"], weight_tying=True)


def checkpoint(name: str, family: str, forms: list[str], **changes) -> None:
    torch.manual_seed(SEED)
    config = model_config(family, **SHAPE, **changes)
    model = OLMo(config)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.2 * noise)
    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ))
    with torch.no_grad():
        logits = model(tokens).logits
    tensors = {"tokens": tokens, "logits": logits}
    if in_transformers(config):
        theirs = transformers_logits(model, tokens)
        print(f"{name}: against transformers {(theirs - logits).abs().max().item():.1e}")
        assert torch.allclose(theirs, logits, atol=1e-5)
        tensors["logits_transformers"] = theirs
    for form in forms:
        folder = GOLDEN / "original" / f"{name}-{form}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        reloaded = write(form, model, folder)
        with torch.no_grad():
            assert torch.equal(reloaded(tokens).logits, logits)
        write_safetensors(f"original/{folder.name}/golden.safetensors", tensors)
        for path in sorted(folder.iterdir()):
            tolerance = "1e-5" if path.name == "golden.safetensors" else "input"
            record(path, __file__, ["ai2-olmo", "torch", "transformers"], SEED, tolerance)


def write(form: str, model: OLMo, folder) -> OLMo:
    """Writes a checkpoint as the package does, and the model that the package reads from it."""
    if form == "hf-olmo":
        OLMoConfig(**model.config.asdict(), use_cache=True).save_pretrained(folder)
        torch.save(model.state_dict(), folder / "model.pt")
        write_model(str(folder), ignore_olmo_compatibility=True)
        weights = torch.load(folder / "pytorch_model.bin")
        weights = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        return load(model, weights)
    TrainConfig(run_name=folder.name, model=model.config).save(folder / "config.yaml")
    if form == "pt":
        torch.save(model.state_dict(), folder / "model.pt")
        return OLMo.from_checkpoint(folder)
    state_dict_to_safetensors_file(model.state_dict(), folder / "model.safetensors")
    return load(model, safetensors_file_to_state_dict(folder / "model.safetensors"))


def load(like: OLMo, weights: dict) -> OLMo:
    model = OLMo(like.config)
    model.load_state_dict(model._make_state_dict_compatible(weights)[0])
    return model.eval()


def transformers_logits(model: OLMo, tokens) -> torch.Tensor:
    config = model.config
    fields = hf_fields(config)
    rope = {"rope_type": "default", "rope_theta": fields.pop("rope_theta")}
    kwargs = {k: v for k, v in fields.items() if k not in ("model_type", "rope_scaling")}
    kinds = {"olmo": (OlmoConfig, OlmoForCausalLM), "olmo2": (Olmo2Config, Olmo2ForCausalLM)}
    make_config, make_model = kinds[fields["model_type"]]
    theirs = make_model(make_config(**kwargs, rope_parameters=rope, pad_token_id=None, eos_token_id=0))
    weights, _ = model._make_state_dict_compatible({n: p.detach() for n, p in model.named_parameters()})
    weights = {regrouped(name, config.block_group_size): tensor for name, tensor in weights.items()}
    missing, unexpected = theirs.load_state_dict(to_hf(config, weights), strict=False)
    assert missing == (["lm_head.weight"] if config.weight_tying else []) and not unexpected
    with torch.no_grad():
        return theirs.eval()(tokens, use_cache=False).logits


def regrouped(name: str, group_size: int) -> str:
    """The name of a tensor whose blocks are not grouped."""
    parts = name.split(".")
    if parts[1] != "block_groups":
        return name
    block = int(parts[2]) * group_size + int(parts[3])
    return ".".join([parts[0], "blocks", str(block), *parts[4:]])


if __name__ == "__main__":
    main()
