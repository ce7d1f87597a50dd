"""Five steps of ai2-olmo's own Trainer, its checkpoint, and five steps more: what a run here goes on from.

From ai2-olmo 0.6.0 (olmo/train.py, olmo/checkpoint.py `FullCheckpointer`) and torch 2.9.0, on the CPU, in float32, in a
gloo process group of one, with `distributed_strategy: ddp`, so that the checkpoint is `model.pt`, `optim.pt`, `train.pt`.
Adaptive clipping is on, whose averages are part of the optimizer's state, and gradients are clipped in some steps. Every
fourth step of AdamW has metrics of each parameter, which the trainer makes only where `wandb` is configured; W&B is not run.

What is patched is what trainer.py patches, and `torch.cuda.get_rng_state`, which needs a card, gives the CPU's state;
and `torch.load` reads pickles of any kind, as it did when the trainer was written.
Of `train.pt` only numbers are read here; the folders of checkpoints in it are those of a temporary folder.

Usage: python scripts/golden/trainer_resume.py
Writes tests/golden/trainer_resume/{adamw,lionw}/.
"""

import os
import shutil
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from olmo.config import TrainConfig

from common import GOLDEN, record, write_json
from trainer import RUNS, build, run_yaml

FIRST, MORE = 5, 5
FIELDS = {
    "adamw": RUNS["olmo2"],
    "lionw": RUNS["olmo"] | {"optimizer": "", "max_duration": "4ep"},
}
OVERRIDES = ["model.d_model=16", "model.mlp_hidden_size=32", "model.n_heads=2"]
OF_RUN = {
    "adamw": [
        "max_grad_norm=null", "max_grad_norm_ratio=1.02", "model.n_kv_heads=1",
        "wandb.log_interval=3", "optimizer.metrics_log_interval=4", "optimizer.record_update_metrics=true",
    ],
    "lionw": ["optimizer.name=lionw", "optimizer.learning_rate=1e-3"],
}  # fmt: skip


def run(path: Path, folder: str, overrides: list[str], load_path: str | None) -> list[dict]:
    config = TrainConfig.load(path, [f"save_folder={folder}", *overrides], validate_paths=False)
    _, trainer, found = build(config)
    with trainer:
        if load_path is not None:
            trainer.restore_unsharded_checkpoint(load_path)
        trainer.fit()
    return found


def main() -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29583", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    torch.cuda.get_rng_state = lambda *_: torch.random.get_rng_state()
    torch.cuda.set_rng_state = lambda *_: None
    dist.init_process_group("gloo")
    token_file = GOLDEN / "trainer" / "tokens.npy"
    for name, fields in FIELDS.items():
        kept = GOLDEN / "trainer_resume" / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        # The same folder each time, for its name is in the files.
        folder = f"{tempfile.gettempdir()}/olmo-trainer-resume"
        try:
            os.mkdir(folder)
            path = Path(folder) / "run.yaml"
            path.write_text(run_yaml(name, folder, fields))
            overrides = [f"data.paths=[{token_file}]", *OVERRIDES, *OF_RUN[name]]
            saving = ["save_interval_unsharded=5", "save_num_unsharded_checkpoints_to_keep=-1", f"stop_at={FIRST}"]
            before = run(path, f"{folder}/first", overrides + saving, None)
            checkpoint = f"{folder}/first/step{FIRST}-unsharded"
            after = run(path, f"{folder}/second", overrides + [f"stop_at={FIRST + MORE}"], checkpoint)
            for file in ["config.yaml", "model.pt", "optim.pt", "train.pt"]:
                shutil.copy(f"{checkpoint}/{file}", kept / file)
                text = (kept / file).read_bytes()
                if file == "config.yaml":
                    # Places on this machine have no meaning elsewhere.
                    text = text.replace(folder.encode(), b"/tmp/run").replace(str(token_file).encode(), b"tokens.npy")
                    (kept / file).write_bytes(text)
                record(kept / file, __file__, ["ai2-olmo", "torch"], 6198, "input")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        names = {"loss": "train/CrossEntropyLoss", "grad_norm": "optim/total_grad_norm", "lr": "optim/learning_rate_group0"}
        steps = {key: [metrics[metric] for metrics in before + after] for key, metric in names.items()}
        # Steps 4 and 8 have metrics of each parameter, the latter after the restart.
        parameters = [{k: v for k, v in metrics.items() if k.startswith("optim/")} for metrics in before + after]
        print(name, [len(metrics) for metrics in parameters])
        steps["parameters"] = parameters[7] if len(parameters[7]) > 9 else {}
        print(name, {key: [f"{value:.5g}" for value in values] for key, values in steps.items() if key != "parameters"})
        written = write_json(f"trainer_resume/{name}/steps.json", steps)
        record(written, __file__, ["ai2-olmo", "torch"], 6198, "loss 1e-6, norm 1e-5, rate 1e-12, metrics of parameters 1e-5 relative")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
