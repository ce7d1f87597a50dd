"""Whose rounding it is where a run here and one of ai2-olmo's trainer drift apart: the same run in double precision.

Makes the OLMo 2 run of scripts/golden/trainer.py with another deviation of initial weights three times with ai2-olmo 0.6.0:
in single precision, in double precision from the same weights, and in single precision from weights that differ by one part
in ten million; and once with `olmo train`. Prints for each when its losses and norms pass 1e-6, 1e-5, … beside the double.

What is patched for double precision: once the model is there, torch.float32 is torch.float64, so that the casts of norms,
RoPE and loss to single precision are casts to double.

Usage: python scripts/check/double_precision.py OLMO [STD]      (OLMO: the built command; STD: 0.02)
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))

import torch
import torch.distributed as dist
import trainer
from safetensors.torch import load_file, save_file

KINDS = ["single", "double", "perturbed"]


def reference(kind: str, std: str, folder: Path) -> None:
    """One run of the trainer, in a process of its own."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29599", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    dist.init_process_group("gloo")
    trainer.tokens().tofile(folder / "tokens.npy")
    fields = dict(trainer.RUNS["olmo2"])
    fields["model"] = fields["model"].replace("init_std: 0.2", f"init_std: {std}")
    path = folder / "olmo2.yaml"
    path.write_text(trainer.YAML.format(name="olmo2", folder="/", **fields))
    make = trainer.OLMo

    def model(config):
        made = make(config)
        if kind == "double":
            made = made.double()
            torch.float32 = torch.float = torch.float64
            torch.Tensor.float = torch.Tensor.double
            torch.set_default_dtype(torch.float64)
        if kind == "perturbed":
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for p in made.parameters():
                    p.mul_(1 + (torch.rand(p.shape, generator=generator) - 0.5) * 2e-7)
        return made

    trainer.OLMo = model
    with tempfile.TemporaryDirectory() as save_folder:
        out = trainer.train(path, folder / "tokens.npy", save_folder)
    tensors = {k: v.detach().contiguous().clone() for k, v in out["tensors"].items()}
    save_file(tensors, folder / f"{kind}.safetensors")
    (folder / "config.json").write_text(out["metadata"]["config"])


def ours(command: str, folder: Path) -> dict:
    start = folder / "start"
    start.mkdir()
    weights = load_file(folder / "single.safetensors")
    save_file({k[8:]: v for k, v in weights.items() if k.startswith("initial.")}, start / "model.safetensors")
    (start / "config.json").write_text((folder / "config.json").read_text())
    subprocess.run(
        [command, "train", folder / "olmo2.yaml", f"data.paths=[{folder}/tokens.npy]", f"save_folder={folder}/run", "compat=olmo",
         f"load_path={start}", "reset_optimizer_state=true", "reset_trainer_state=true"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    lines = [json.loads(line) for line in open(folder / "run" / "metrics.jsonl")]
    column = lambda name: torch.tensor([line[name] for line in lines], dtype=torch.float64)  # noqa: E731
    return {"loss": column("train/CrossEntropyLoss"), "grad_norm": column("optim/total_grad_norm")}


def main() -> None:
    if sys.argv[1] in KINDS:
        return reference(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    command, std = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "0.02"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for kind in KINDS:
            subprocess.run([sys.executable, __file__, kind, std, folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        runs = {kind: load_file(folder / f"{kind}.safetensors") for kind in KINDS} | {"olmo train": ours(command, folder)}
    exact = runs.pop("double")
    for quantity in ["loss", "grad_norm"]:
        for name, run in runs.items():
            off = (run[quantity] - exact[quantity]).abs() / exact[quantity].abs()
            passed = [(off > limit).nonzero()[:1].flatten().tolist() for limit in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)]
            steps = ", ".join(str(at[0] + 1) if at else "never" for at in passed)
            print(f"{quantity:9} {name:10} median of 15 steps {off[:15].median():.1e}; passes 1e-6 … 1e-2 in step {steps}")


if __name__ == "__main__":
    main()
