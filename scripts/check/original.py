"""The other way round: what `olmo convert` writes loads in ai2-olmo and in transformers.

For each golden checkpoint of ai2-olmo: to Hugging Face's form, which must give transformers the
logits of ai2-olmo's model; from there back to `model.pt`, to the safetensors file with pickled names
and to `hf_olmo`, each of which must load in ai2-olmo with every tensor as it was, and the same logits.
Models that transformers has no type for go by the names of OLMo-core instead; nothing of `hf_olmo` but
its configuration is asked, since its class does not load in transformers 5.
The sharded checkpoints of both trainers go to Hugging Face's form, or to ai2-olmo's where transformers has no type for
them, with the logits of the trainers' models.

Needs the packages of scripts/golden/requirements.txt and a built `olmo`.

Usage: python scripts/check/original.py [OLMO]     (by default target/debug/olmo)
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from hf_olmo import OLMoConfig, OLMoForCausalLM
from olmo.config import ModelConfig
from olmo.model import OLMo
from olmo.safetensors_util import safetensors_file_to_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
NOT_OF_TRANSFORMERS = ["torch-new-rms"]


def main() -> None:
    olmo = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/debug/olmo")
    torch.set_num_threads(1)
    for source in sorted((ROOT / "tests/golden/original").iterdir()):
        with tempfile.TemporaryDirectory() as scratch:
            check(olmo, source, Path(scratch))
    for source in sorted(path for path in (ROOT / "tests/golden/sharded").iterdir() if path.is_dir()):
        with tempfile.TemporaryDirectory() as scratch:
            check_sharded(olmo, source, Path(scratch))


def check_sharded(olmo: str, source: Path, scratch: Path) -> None:
    golden = load_file(source / "golden.safetensors")
    tokens, expected = golden["tokens"], golden["logits"]
    form = "olmo" if source.name in NOT_OF_TRANSFORMERS else "hf"
    out = scratch / form
    subprocess.run([olmo, "convert", source, out, "--to", form], check=True, stdout=subprocess.DEVNULL)
    if form == "hf":
        print(f"{source.name}: transformers within {transformers_apart(out, tokens, expected):.1e}")
        return
    with torch.no_grad():
        apart = (OLMo.from_checkpoint(out).eval()(tokens).logits - expected).abs().max().item()
    assert apart < 1e-5, apart
    print(f"{source.name}: ai2-olmo within {apart:.1e}")


def check(olmo: str, source: Path, scratch: Path) -> None:
    golden = load_file(source / "golden.safetensors")
    tokens, expected = golden["tokens"], golden["logits"]

    def convert(start: Path, form: str) -> Path:
        out = scratch / form
        subprocess.run([olmo, "convert", start, out, "--to", form], check=True, stdout=subprocess.DEVNULL)
        return out

    if "logits_transformers" in golden:
        hf = convert(source, "hf")
        theirs = f"transformers within {transformers_apart(hf, tokens, expected):.1e}"
    else:
        hf, theirs = convert(source, "core"), "not of transformers"

    original = original_weights(source)
    models = {"olmo": OLMo.from_checkpoint(convert(hf, "olmo"))}
    form = convert(hf, "olmo-safetensors")
    models["olmo-safetensors"] = loaded(form, safetensors_file_to_state_dict(form / "model.safetensors"))
    hf_olmo = convert(hf, "hf-olmo")
    wrapper = OLMoForCausalLM(OLMoConfig.from_pretrained(hf_olmo)).eval()
    wrapper.load_state_dict(load_file(hf_olmo / "model.safetensors"))
    models["hf-olmo"] = wrapper.model
    # Of this machine: another processor adds in another order, and differs in the last bits.
    reference = OLMo(models["olmo"].config)
    reference.load_state_dict(original)
    with torch.no_grad():
        here = reference.eval()(tokens).logits
    assert (here - expected).abs().max() < 1e-5
    for form, model in models.items():
        weights = dict(model.named_parameters())
        assert weights.keys() == original.keys(), (form, weights.keys() ^ original.keys())
        for name, tensor in original.items():
            assert torch.equal(tensor, weights[name]), (form, name)
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, here), form
    print(f"{source.name}: {theirs}; {', '.join(models)}: every tensor and logit the same")


def transformers_apart(hf: Path, tokens, expected) -> float:
    """How far transformers' logits of a folder are from those expected."""
    theirs, loading = AutoModelForCausalLM.from_pretrained(hf, output_loading_info=True)
    tied = theirs.config.tie_word_embeddings
    assert not loading["unexpected_keys"] and not loading["missing_keys"] or tied, loading
    with torch.no_grad():
        apart = (theirs.eval()(tokens).logits - expected).abs().max().item()
    assert apart < 1e-5, apart
    return apart


def loaded(config: Path, weights: dict) -> OLMo:
    model_config = ModelConfig.load(config / "config.yaml", key="model")
    model_config.init_device = "cpu"
    model = OLMo(model_config)
    model.load_state_dict(weights)
    return model.eval()


def original_weights(source: Path) -> dict:
    """The weights that ai2-olmo wrote, by names without groups."""
    if (source / "model.pt").exists():
        weights = torch.load(source / "model.pt")
    elif (source / "pytorch_model.bin").exists():
        weights = torch.load(source / "pytorch_model.bin")
    else:
        weights = safetensors_file_to_state_dict(source / "model.safetensors")
    names = {name: name.removeprefix("model.") for name in weights}
    grouped = [name for name in names.values() if ".block_groups.0." in name]
    size = len({name.split(".")[3] for name in grouped}) or 1
    out = {}
    for name, plain in names.items():
        parts = plain.split(".")
        if parts[1] == "block_groups":
            block = int(parts[2]) * size + int(parts[3])
            plain = ".".join([parts[0], "blocks", str(block), *parts[4:]])
        out[plain] = weights[name]
    return out


if __name__ == "__main__":
    main()
