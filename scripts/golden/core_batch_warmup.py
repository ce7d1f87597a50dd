"""A batch that grows in a run: which instances each step has, and its learning rate, as OLMo-core's trainer makes it.

From ai2-olmo-core 2.4.0: its own `BatchSizeSchedulerCallback`, `NumpyFSLDataLoader`, schedulers and `Trainer._iter_batches`;
of `Trainer._fit_epoch` the bookkeeping is repeated here and the model is left out.

Usage: python scripts/golden/core_batch_warmup.py
Writes tests/golden/data/core_batch_warmup.json.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import record, write_json
from olmo_core.data import DataCollator, NumpyFSLDataLoader
from olmo_core.data.numpy_dataset import NumpyFSLDataset
from olmo_core.optim import scheduler as core
from olmo_core.train.callbacks import BatchSizeSchedulerCallback
from olmo_core.train.common import Duration
from olmo_core.train.train_module import TransformerTrainModule
from olmo_core.train.trainer import Trainer

SEQ, LR = 4, 1e-3

# Sizes are instances, marks tokens or steps, the end is in tokens.
CASES = [
    # A mark every so many tokens, as the 65B plan has it.
    dict(n=200, batch_sizes=[2, 4, 8, 16], schedule=[0, 48, 96, 200], units="tokens", end=720, lr="linear"),
    # In steps; the first mark must wait until the batches before it are as many as the factor divides.
    dict(n=200, batch_sizes=[2, 6, 12], schedule=[0, 4, 9], units="steps", end=760, lr="cosine"),
    # While a mark waits the next is reached, so that a size is passed over.
    dict(n=120, batch_sizes=[1, 8, 16], schedule=[0, 5, 7], units="steps", end=440, lr="constant"),
    # A mark that no whole number of batches meets.
    dict(n=150, batch_sizes=[3, 9, 18], schedule=[0, 50, 151], units="tokens", end=560, lr="linear"),
]


def scheduler(name: str, end: int) -> core.Scheduler:
    units = core.SchedulerUnits.tokens
    return {
        "constant": lambda: core.ConstantScheduler(),
        "linear": lambda: core.LinearWithWarmup(units=units, warmup=40, alpha_f=0.1),
        "cosine": lambda: core.CosWithWarmup(units=units, warmup=100, alpha_f=0.1),
    }[name]()


def run(case: dict) -> dict:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        path = folder / "part-0-00000.npy"
        (np.arange(case["n"] * SEQ) % 60000).astype(np.uint16).tofile(path)
        dataset = NumpyFSLDataset(
            str(path), sequence_length=SEQ, pad_token_id=1, eos_token_id=0, vocab_size=65536, dtype=np.uint16
        )
        dataset.work_dir = folder
        loader = NumpyFSLDataLoader.wrap_numpy_dataset(
            dataset, global_batch_size=case["batch_sizes"][0] * SEQ, collator=DataCollator(pad_token_id=1),
            work_dir=folder, seed=7,
        )  # fmt: skip
        module = object.__new__(TransformerTrainModule)
        module.optim = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=LR)
        module.scheduler = scheduler(case["lr"], case["end"])
        trainer = object.__new__(Trainer)
        metrics = []
        trainer.__dict__.update(
            global_step=0, global_train_tokens_seen=0, epoch=1, max_duration=Duration.tokens(case["end"]), data_loader=loader,
            train_module=module, record_metric=lambda name, value: metrics.append(value),
        )  # fmt: skip
        unit = Duration.tokens if case["units"] == "tokens" else Duration.steps
        callback = BatchSizeSchedulerCallback(
            batch_sizes=[size * SEQ for size in case["batch_sizes"]], schedule=[unit(at) for at in case["schedule"]]
        )
        trainer.callbacks = {"batch_size": callback}
        callback._trainer = trainer
        loader.reshuffle(1)
        callback.post_attach()
        steps = []
        for batch in trainer._iter_batches():
            trainer.global_step += 1
            trainer.global_train_tokens_seen += loader.global_num_tokens_in_batch(batch)
            group = module.optim.param_groups[0]
            lr = module.scheduler.set_lr(group, trainer)
            callback.post_step()
            steps.append({"indices": batch["index"].tolist(), "lr": lr, "tokens": trainer.global_train_tokens_seen, "batch": metrics[-1]})
            if trainer.global_train_tokens_seen >= case["end"]:
                break
        sizes = [len(step["indices"]) for step in steps]
        print(case["batch_sizes"], case["schedule"], sizes)
        return case | {"steps": steps}


def main() -> None:
    cases = {"sequence_length": SEQ, "learning_rate": LR, "seed": 7, "cases": [run(case) for case in CASES]}
    path = write_json("data/core_batch_warmup.json", cases)
    record(path, __file__, ["ai2-olmo-core", "numpy"], None, "instances exact; learning rates 1e-12 relative")


if __name__ == "__main__":
    main()
