"""Twenty steps of OLMo-core's own Trainer on two processes, and its checkpoints before them and in the middle.

From ai2-olmo-core 2.4.0 (`train/trainer.py` with its train module, data loader, checkpointer and configuration saver) and
torch 2.9.0 (gloo, CPU, FSDP 2), in float32. `olmo2` is a model of OLMo 2's kind under AdamW and a cosine, `olmo3` one of
OLMo 3's kind, with windows, under SkipStepAdamW and WSD; both with z-loss, clipping, accumulation over micro-batches and
a data order that begins its second epoch on the way. steps.json has what the trainer's own metrics say of each step.
`filtered` is `olmo2` with an instance filter and every fifth instance one token again and again, on one process, since
each divides by what it counts itself; its first checkpoint is that of `olmo2`.

Initial weights are drawn larger than the trainer would: what it draws makes runs this small amplify rounding.
What is patched: writers name their files the same each time, and warnings are not shown.

Usage: python scripts/golden/core_trainer.py [RUN…]
Writes tests/golden/core_trainer/{olmo2,olmo3,filtered}/.
"""

import os
import random
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
from common import GOLDEN, record, write_json

warnings.filterwarnings("ignore")
SEED, SEQ, STEPS = 6198, 16, 20
# What SkipStepAdamW remembers of earlier losses is in no checkpoint, so its run is followed from the first step.
SAVED = {"olmo2": [0, 9], "olmo3": [0], "filtered": []}
PROCESSES = {"olmo2": 2, "olmo3": 2, "filtered": 1}
BATCH, MICRO_BATCH = 8, 2
TOKENS = GOLDEN / "trainer" / "tokens.npy"
N_INSTANCES = 100
NAMES = {
    "loss": "train/CE loss",
    "z_loss": "train/Z loss",
    "grad_norm": "optim/total grad norm",
    "lr": "optim/LR (group 0)",
    "skipped": "optim/step skipped",
}


def optimizer(name: str):
    from olmo_core.optim import AdamWConfig, CosWithWarmup, OptimGroupOverride, SkipStepAdamWConfig, WSD

    groups = [OptimGroupOverride(params=["embeddings.weight"], opts={"weight_decay": 0.0})]
    common = {"lr": 5e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "group_overrides": groups}
    if name != "olmo3":
        return AdamWConfig(**common), CosWithWarmup(warmup=5, alpha_f=0.1)
    skip = SkipStepAdamWConfig(**common, rolling_interval_length=8, sigma_factor=1)
    return skip, WSD(warmup=4, decay=6, decay_fraction=None, warmup_min_lr=1e-4, decay_min_lr=1e-3)


def process(rank: int, name: str, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29587", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    n = PROCESSES[name]
    os.environ |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "FS_LOCAL_RANK": str(rank)}
    os.environ |= {"NUM_NODES": "1", "OLMO_SHARED_FS": "1"}
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.chdir(folder)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=n)
    found = run(name)
    if rank == 0:
        torch.save(found, "found.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def run(name: str) -> list[dict]:
    import olmo_core.distributed.checkpoint.filesystem as filesystem
    from olmo_core.data import TokenizerConfig
    from olmo_core.distributed.parallel import DataParallelType
    from olmo_core.train import Duration, TrainerConfig
    from olmo_core.train.callbacks import Callback, CheckpointerCallback, ConfigSaverCallback
    from olmo_core.train.checkpoint import CheckpointerConfig
    from olmo_core.train.train_module import TransformerTrainModuleConfig
    from olmo_core.train.train_module.transformer.config import TransformerDataParallelConfig
    from sharded import core_config, scrambled, windowed
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    filesystem.generate_uuid = lambda: "00000000-0000-0000-0000-000000000000"
    steps = []

    class Recorder(Callback):
        def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
            if step > 0:
                steps.append({key: metrics.get(metric) for key, metric in NAMES.items()})

    # Their states are in the checkpoints.
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    config = core_config(n_layers=1) if name != "olmo3" else windowed(core_config(n_layers=2), 5)
    optim, scheduler = optimizer(name)
    module_config = TransformerTrainModuleConfig(
        optim=optim, scheduler=scheduler, rank_microbatch_size=MICRO_BATCH * SEQ, max_sequence_length=SEQ,
        max_grad_norm=0.5, z_loss_multiplier=1e-3,
        dp_config=TransformerDataParallelConfig(name=DataParallelType.fsdp) if PROCESSES[name] > 1 else None,
    )  # fmt: skip
    model = scrambled(config.build(init_device="cpu"))
    whole = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    module = module_config.build(model, device=torch.device("cpu"))
    set_model_state_dict(module.model, dict(whole), options=StateDictOptions(full_state_dict=True))

    trainer_config = TrainerConfig(
        save_folder=name, work_dir="work", max_duration=Duration.steps(STEPS), metrics_collect_interval=1,
        checkpointer=CheckpointerConfig(save_thread_count=1), save_overwrite=True,
    )  # fmt: skip
    trainer_config.add_callback("checkpointer", CheckpointerCallback(save_interval=9, save_async=False))
    trainer_config.add_callback("config_saver", ConfigSaverCallback())
    trainer_config.add_callback("recorder", Recorder())
    trainer = trainer_config.build(module, loader(name))
    tokenizer = TokenizerConfig(vocab_size=60, eos_token_id=0, pad_token_id=1).as_config_dict()
    trainer.callbacks["config_saver"].config = {
        "run_name": name, "model": config.as_config_dict(), "dataset": {"sequence_length": SEQ, "tokenizer": tokenizer},
        "train_module": module_config.as_config_dict(), "init_seed": SEED,
    }  # fmt: skip
    trainer.fit()
    return steps


def loader(name: str):
    from olmo_core.data import DataCollator, NumpyDataLoaderBase
    from olmo_core.data.numpy_dataset import InstanceFilterConfig, NumpyFSLDataset

    keep = InstanceFilterConfig(repetition_max_period=3, repetition_min_period=1, repetition_max_count=6)
    dataset = NumpyFSLDataset(
        "tokens.npy", sequence_length=SEQ, pad_token_id=1, eos_token_id=0, vocab_size=60, dtype=np.uint16,
        instance_filter_config=keep if name == "filtered" else None,
    )  # fmt: skip
    rank = torch.distributed.get_rank()
    return NumpyDataLoaderBase.wrap_numpy_dataset(
        dataset, global_batch_size=BATCH * SEQ, collator=DataCollator(pad_token_id=1), work_dir=Path("work"),
        seed=SEED, dp_world_size=PROCESSES[name], dp_rank=rank, fs_local_rank=rank,
    )  # fmt: skip


def main() -> None:
    for name in sys.argv[1:] or SAVED:
        kept = GOLDEN / "core_trainer" / name
        shutil.rmtree(kept, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            tokens = np.fromfile(TOKENS, dtype="<u2")[: N_INSTANCES * SEQ].reshape(N_INSTANCES, SEQ)
            if name == "filtered":
                tokens[::5] = tokens[::5, :1]
            tokens.tofile(Path(folder) / "tokens.npy")
            mp.spawn(process, args=(name, folder), nprocs=PROCESSES[name])
            steps = torch.load(Path(folder) / "found.pt", weights_only=False)
            for step in SAVED[name]:
                shutil.copytree(Path(folder) / name / f"step{step}", kept / f"step{step}")
        columns = {key: [step[key] for step in steps] for key in NAMES if steps[0][key] is not None}
        print(name, columns)
        write_json(f"core_trainer/{name}/steps.json", columns)
        for file in sorted(file for file in kept.rglob("*") if file.is_file()):
            file.chmod(0o644)
            is_steps = file.name == "steps.json"
            tolerance = "loss 3e-7, norm 2e-6, rate 1e-7 relative" if is_steps else "input"
            record(file, __file__, ["ai2-olmo-core", "torch"], SEED, tolerance)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
