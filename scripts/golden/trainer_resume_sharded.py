"""Ten steps of ai2-olmo's own Trainer on two processes, and its checkpoint after five of them in each sharded form.

From ai2-olmo 0.6.0 (olmo/train.py, olmo/checkpoint.py), ai2-olmo-core 0.1.0 (`olmo_core`, which `core_0_1` of common.py
finds) and torch 2.9.0 (gloo, CPU, FSDP by blocks), in float32. Adaptive clipping is on, whose averages are part of the
optimizer's state. `loss`, `grad_norm` and `lr` of steps.json are of the run that goes on undisturbed; `loss_again` and
`grad_norm_again` are of the last five steps by another trainer, which loads the checkpoint. They are the same in
`torch_new` and `torch_legacy`. In `local` the trainer forgets the averages as it loads, which it calls a hack; in
`olmo_core` loading makes a step of the optimizer with gradients of zero after the weights are there, which decays them.

What is patched is what trainer.py, trainer_resume.py and sharded.py patch, and: `_ShardParamInfo`, `ShardedTensor` and
their like may be unpickled, and writers name their files the same each time.
Of the trainer's state only numbers are read here; the folders of checkpoints in it are those of a temporary folder.

Usage: python scripts/golden/trainer_resume_sharded.py
Writes tests/golden/trainer_resume/sharded-{torch_new,torch_legacy,local,olmo_core}/.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from common import GOLDEN, core_0_1, record, write_json

FORMS = ["torch_new", "torch_legacy", "local", "olmo_core"]
FIRST, MORE, N_PROCESSES = 5, 5, 2
OVERRIDES = [
    "model.d_model=16", "model.mlp_hidden_size=32", "model.n_heads=2", "model.n_kv_heads=1", "model.n_layers=1",
    "distributed_strategy=fsdp", "fsdp.wrapping_strategy=by_block", "fsdp.precision=pure", "ddp=null",
    "device_train_microbatch_size=3", "max_grad_norm=null", "max_grad_norm_ratio=1.02",
    # Loading `torch_new` sets the limit back to where its warm-up ends, for one step.
    "scheduler.grad_clip_warmup_steps=null", "scheduler.grad_clip_warmup_factor=null",
]  # fmt: skip


def run(path: Path, folder: str, form: str, overrides: list[str], load_path: str | None) -> list[dict]:
    from olmo.config import FSDPWrapStrategy, TrainConfig
    from torch.distributed.fsdp import FullyShardedDataParallel
    from trainer import build

    given = [f"save_folder={folder}", f"sharded_checkpointer={form}", *OVERRIDES, *overrides]
    config = TrainConfig.load(path, given, validate_paths=False)
    shard = lambda model: FullyShardedDataParallel(  # noqa: E731
        model, auto_wrap_policy=model.get_fsdp_wrap_policy(FSDPWrapStrategy.by_block), use_orig_params=True,
        device_id=torch.device("cpu"),
    )  # fmt: skip
    _, trainer, found = build(config, shard)
    with trainer:
        if load_path is not None:
            trainer.restore_sharded_checkpoint(load_path)
        trainer.fit()
    return found


def process(rank: int, folder: str, form: str, token_file: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29585", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(N_PROCESSES), "LOCAL_WORLD_SIZE": str(N_PROCESSES), "FS_LOCAL_RANK": str(rank)}
    os.environ |= {"NUM_NODES": "1", "OLMO_SHARED_FS": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    torch.set_num_threads(1)
    core_0_1()
    import olmo.checkpoint as checkpoint
    import torch.distributed.checkpoint.filesystem as filesystem

    filesystem._generate_uuid = lambda: "00000000-0000-0000-0000-000000000000"
    handles = lambda _, module: [module._handle] if module._handle is not None else []  # noqa: E731
    checkpoint.LocalShardedCheckpointer._fsdp_handles = handles
    # What torch asks of a reader since 2.3.
    checkpoint.RemoteFileSystemReader.reset = lambda self, checkpoint_id=None: None
    checkpoint.RemoteFileSystemReader.validate_checkpoint_id = lambda self, checkpoint_id: True
    checkpoint.RemoteFileSystemReader.__abstractmethods__ = frozenset()
    torch.cuda.get_rng_state = lambda *_: torch.random.get_rng_state()
    torch.cuda.set_rng_state = lambda *_: None
    dist.init_process_group("gloo", rank=rank, world_size=N_PROCESSES)
    path = Path(folder) / "run.yaml"
    data = [f"data.paths=[{token_file}]"]
    data += [f"stop_at={FIRST + MORE}"]
    saving = [f"save_interval={FIRST}", "save_num_checkpoints_to_keep=-1"]
    metrics = run(path, f"{folder}/first", form, data + saving, None)
    again = run(path, f"{folder}/second", form, data, f"{folder}/first/step{FIRST}")
    if rank == 0:
        torch.save((metrics, again), f"{folder}/metrics.pt")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    from trainer import RUNS, run_yaml

    token_file = GOLDEN / "trainer" / "tokens.npy"
    for form in FORMS:
        kept = GOLDEN / "trainer_resume" / f"sharded-{form}"
        shutil.rmtree(kept, ignore_errors=True)
        # The same folder each time, for its name is in the files.
        folder = f"{tempfile.gettempdir()}/olmo-trainer-resume-sharded"
        os.mkdir(folder)
        try:
            (Path(folder) / "run.yaml").write_text(run_yaml(form, folder, RUNS["olmo2"]))
            mp.spawn(process, args=(folder, form, str(token_file)), nprocs=N_PROCESSES)
            shutil.copytree(f"{folder}/first/step{FIRST}", kept)
            metrics, again = torch.load(f"{folder}/metrics.pt", weights_only=False)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        packages = ["ai2-olmo", "torch", *(["ai2-olmo-core"] if form == "olmo_core" else [])]
        text = (kept / "config.yaml").read_bytes()
        # Places on this machine have no meaning elsewhere.
        text = text.replace(folder.encode(), b"/tmp/run").replace(str(token_file).encode(), b"tokens.npy")
        (kept / "config.yaml").write_bytes(text)
        names = {"loss": "train/CrossEntropyLoss", "grad_norm": "optim/total_grad_norm", "lr": "optim/learning_rate_group0"}
        steps = {key: [step[metric] for step in metrics] for key, metric in names.items()}
        steps |= {f"{key}_again": [step[names[key]] for step in again] for key in ["loss", "grad_norm"]}
        print(form, {key: [f"{value:.5g}" for value in values] for key, values in steps.items()})
        write_json(f"trainer_resume/{kept.name}/steps.json", steps)
        for file in sorted(file for file in kept.rglob("*") if file.is_file()):
            file.chmod(0o644)
            is_steps = file.name == "steps.json"
            record(file, __file__, packages, 6198, "loss 1e-6, norm 1e-5, rate 1e-12 relative" if is_steps else "input")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    core_0_1()
    main()
