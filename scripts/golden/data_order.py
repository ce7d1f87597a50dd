"""Makes tests/golden/data/data_order.json: the order in which OLMo's trainer sees its instances.

Package: ai2-olmo 0.6.0 (its own IterableDataset and MemMapDataset), torch's DataLoader, numpy.
Usage: python scripts/golden/data_order.py

Each case runs the real IterableDataset for every rank, through torch's DataLoader in the main process. Cases with
`workers` also run it as that many loader workers would, with `torch.utils.data.get_worker_info` answering for each
worker and whole batches taken from them in turn, and must give the same order: the script fails if not.
"""

import itertools
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import torch.utils.data
from common import record, write_json
from olmo.data.iterable_dataset import IterableDataset
from olmo.data.memmap_dataset import MemMapDataset
from olmo.util import roundrobin


class Numbers:
    """A dataset whose instances are their own indices."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int):
        return torch.tensor([index])


def dataset(case: dict, rank: int) -> IterableDataset:
    return IterableDataset(
        Numbers(case["n_instances"]),
        case["global_batch_size"],
        seed=case["seed"],
        epoch=case["epoch"],
        start_index=case["start_index"],
        max_examples=case["max_examples"],
        shuffle=case["shuffle"],
        drop_last=case["drop_last"],
        world_size=case["world_size"],
        rank=rank,
        fs_local_rank=rank,
        work_dir=None,
    )


def batches(case: dict, rank: int) -> list:
    """The batches of one rank as the trainer's loader gives them, without workers."""
    loader = torch.utils.data.DataLoader(
        dataset(case, rank),
        batch_size=case["global_batch_size"] // case["world_size"],
        drop_last=case["drop_last"],
        num_workers=0,
    )
    return [batch["index"].tolist() for batch in loader]


def batches_of_workers(case: dict, rank: int, n_workers: int) -> list:
    """The same through loader workers: each gathers batches of its own, and they are taken in turn."""
    size = case["global_batch_size"] // case["world_size"]
    per_worker = []
    for worker in range(n_workers):
        info = SimpleNamespace(id=worker, num_workers=n_workers)
        with mock.patch.object(torch.utils.data, "get_worker_info", lambda: info):
            indices = [item["index"] for item in dataset(case, rank)]
        per_worker.append([indices[i : i + size] for i in range(0, len(indices), size)])
    taken = list(roundrobin(*per_worker))
    return [batch for batch in taken if len(batch) == size]


def run(case: dict) -> dict:
    world_size = case["world_size"]
    of_ranks = [batches(case, rank) for rank in range(world_size)]
    iterated = [[item["index"] for item in dataset(case, rank)] for rank in range(world_size)]
    for n_workers in (1, 2, 3, 5):
        for rank in range(world_size):
            size = case["global_batch_size"] // world_size
            whole = [batch for batch in of_ranks[rank] if len(batch) == size]
            assert batches_of_workers(case, rank, n_workers) == whole, (case, rank, n_workers)
    return {
        **case,
        "global": dataset(case, 0).get_global_indices().tolist(),
        "ranks": iterated,
        # Of the last rank: where the start is no multiple of the ranks, the first ones get more.
        "batch_sizes": [len(batch) for batch in of_ranks[-1]],
    }


def orders() -> list:
    grid = itertools.product((0, 6198), (0, 1, 5), (1, 2, 3, 4, 8), (False, True))
    cases = []
    for i, (seed, epoch, world_size, drop_last) in enumerate(grid):
        batch = 24 if i % 3 else world_size
        # Sizes that the ranks divide, that they do not, and that are smaller than their number.
        n = (53, 48, 5, 101)[i % 4]
        cases.append(
            {
                "seed": seed,
                "epoch": epoch,
                "world_size": world_size,
                "drop_last": drop_last,
                "n_instances": n,
                "global_batch_size": batch,
                "start_index": (0, batch, 2 * batch)[i % 3],
                "max_examples": None if i % 5 else 3 * batch,
                "shuffle": i % 11 != 10,
            }
        )
    # A start that no batch begins at, as after a change of the batch size, and an end before the start.
    base = dict(cases[-1], shuffle=True, n_instances=101, world_size=4, global_batch_size=8)
    cases.append(dict(base, start_index=13, max_examples=None, drop_last=True))
    cases.append(dict(base, start_index=40, max_examples=16, drop_last=True))
    return [run(case) for case in cases]


def cuts() -> dict:
    """Where MemMapDataset cuts its files, with a token count that is the position in all files."""
    lengths = [10, 3, 0, 17, 8, 4]
    with tempfile.TemporaryDirectory() as folder:
        paths, first = [], 0
        for i, length in enumerate(lengths):
            paths.append(Path(folder) / f"{i}.npy")
            np.arange(first, first + length, dtype=np.uint16).tofile(paths[-1])
            first += length
        cases = []
        for chunk_size in (1, 4, 5, 8, 17):
            data = MemMapDataset(*paths, chunk_size=chunk_size, memmap_dtype=np.uint16)
            cases.append({"seq_len": chunk_size, "instances": [data[i]["input_ids"].tolist() for i in range(len(data))]})
    return {"lengths": lengths, "cases": cases}


def main() -> None:
    path = write_json("data/data_order.json", {"orders": orders(), "cuts": cuts()})
    record(path, __file__, ["ai2-olmo", "numpy", "torch"], None, "exact")


if __name__ == "__main__":
    main()
