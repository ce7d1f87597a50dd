"""Makes tests/golden/data/core_order.json: the order in which OLMo-core sees its instances, and dataset fingerprints.

Package: ai2-olmo-core 2.4.0 (its own datasets and data loaders), numpy.
Usage: python scripts/golden/core_order.py

Each case of `orders` makes a real NumpyFSLDataset over files whose tokens count up, and a real NumpyFSLDataLoader for
every rank. The loader is iterated for `n_first` batches, its state is saved, and a loader with other settings (`then`:
number of ranks, batch size) goes on from that state to the end of the epoch, as after a restart; then an epoch more.
Recorded are the global indices, the name of their file, and the indices of each batch of each rank.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import record, write_json
from olmo_core.data import DataCollator, NumpyFSLDataLoader
from olmo_core.data.numpy_dataset import (
    NumpyFSLDataset,
    NumpyFSLDatasetMixture,
    NumpyInterleavedFSLDataset,
    NumpyPackedFSLDataset,
    NumpyPaddedFSLDataset,
    NumpyVSLDataset,
    VSLGrowLinearCurriculum,
    VSLGrowP2Curriculum,
    VSLNaturalCurriculum,
)
from olmo_core.data.types import LongDocStrategy

IDS = dict(pad_token_id=1, eos_token_id=0, vocab_size=32)


def write_files(folder: Path, lengths: list[int], dtype=np.uint16) -> list[str]:
    paths, first = [], 0
    for i, length in enumerate(lengths):
        paths.append(str(folder / f"part-{i}-00000.npy"))
        np.arange(first, first + length).astype(dtype).tofile(paths[-1])
        first += length
    return paths


def loader(dataset, case: dict, rank: int, work_dir: Path) -> NumpyFSLDataLoader:
    settings = case["now"]
    made = NumpyFSLDataLoader.wrap_numpy_dataset(
        dataset,
        global_batch_size=settings["global_batch_size"],
        collator=DataCollator(pad_token_id=1),
        work_dir=work_dir,
        seed=case["seed"],
        dp_world_size=settings["world_size"],
        dp_rank=rank,
        shuffle=case["shuffle"],
    )
    return made


def batches(data_loader, limit: int | None = None) -> list:
    taken = []
    for batch in data_loader:
        taken.append({"index": batch["index"].tolist(), "first_tokens": batch["input_ids"][:, 0].tolist()})
        if limit is not None and len(taken) == limit:
            break
    return taken


def run(case: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        paths = write_files(folder, case["lengths"])
        dataset = NumpyFSLDataset(
            *paths,
            sequence_length=case["sequence_length"],
            max_target_sequence_length=case["max_target_sequence_length"],
            **IDS,
        )
        out = {"case": case, "n_instances": len(dataset), "fingerprint": dataset.fingerprint}
        first, states, files = [], [], []
        for rank in range(case["first"]["world_size"]):
            one = loader(dataset, case | {"now": case["first"]}, rank, folder)
            one.reshuffle(epoch=case["epoch"])
            files.append((one._global_indices_file.name, np.array(one.get_global_indices()).tolist()))
            first.append(batches(one, case["n_first"]) if case["n_first"] else [])
            states.append(one.state_dict())
        assert all(file == files[0] for file in files)
        assert all(state == states[0] for state in states)
        out |= {"file": files[0][0], "global_indices": files[0][1], "first": first}
        out["state"] = {k: states[0][k] for k in ("batches_processed", "tokens_processed", "seed", "epoch")}
        then, after = [], []
        for rank in range(case["then"]["world_size"]):
            other = loader(dataset, case | {"now": case["then"]}, rank, folder)
            other.load_state_dict(states[0])
            other.reshuffle(epoch=case["epoch"])
            then.append(batches(other))
            other.reset()
            other.reshuffle()
            after.append(batches(other))
        return out | {"then": then, "next_epoch": after}


def orders() -> list:
    cases = []
    shapes = [
        # lengths, sequence length, longest, batch in instances first and then, ranks first and then, batches first
        ([40, 7, 33, 64], 4, None, (4, 4), (1, 1), 3),
        ([40, 7, 33, 64], 4, None, (4, 4), (2, 4), 3),
        ([40, 7, 33, 64], 4, None, (8, 4), (4, 2), 2),
        ([40, 7, 33, 64], 4, None, (4, 8), (2, 1), 5),
        ([101], 3, None, (6, 6), (3, 2), 1),
        ([101], 3, None, (5, 5), (5, 1), 0),
        ([40, 7, 33, 64], 4, 8, (4, 4), (2, 1), 3),
        ([40, 7, 33, 64], 4, 16, (4, 2), (1, 2), 2),
        ([300], 2, 4, (10, 10), (2, 5), 4),
        ([300, 299], 8, 8, (8, 8), (8, 2), 2),
        ([64, 64, 64], 16, None, (3, 3), (1, 3), 1),
        ([64, 64, 64], 16, 32, (6, 3), (2, 3), 1),
        ([1024], 1, None, (64, 128), (16, 8), 7),
        ([4096, 512, 1], 32, None, (12, 12), (6, 4), 9),
    ]
    for i, (lengths, sequence_length, longest, sizes, ranks, n_first) in enumerate(shapes):
        cases.append(
            {
                "lengths": lengths,
                "sequence_length": sequence_length,
                "max_target_sequence_length": longest,
                "seed": (0, 6198, 34521)[i % 3],
                "epoch": (1, 2, 7)[i % 3],
                "shuffle": i != 4,
                "n_first": n_first,
                "first": {"global_batch_size": sizes[0] * sequence_length, "world_size": ranks[0]},
                "then": {"global_batch_size": sizes[1] * sequence_length, "world_size": ranks[1]},
            }
        )
    return [run(case) for case in cases]


def fingerprints() -> list:
    """Datasets of every class; the constructor alone is called, since fingerprints need only names and sizes."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        short = write_files(folder, [8, 16, 24])
        (folder / "wide").mkdir()
        wide = write_files(folder / "wide", [32, 64], np.uint32)
        p2, linear = VSLGrowP2Curriculum(num_cycles=4, balanced=True), VSLGrowLinearCurriculum()
        index = {(path, i): 4 * (i + 1) for i, path in enumerate(short)}
        u32 = dict(dtype=np.uint32)
        datasets = [
            ({"class": "fsl"}, NumpyFSLDataset(*short, sequence_length=4, **IDS)),
            ({"class": "fsl", "max": 8}, NumpyFSLDataset(*short, sequence_length=4, max_target_sequence_length=8, **IDS)),
            ({"class": "fsl", "bos": 2}, NumpyFSLDataset(*wide, sequence_length=4, bos_token_id=2, **IDS, **u32)),
            ({"class": "fsl", "max": 8, "bos": 0}, NumpyFSLDataset(*wide, sequence_length=8, max_target_sequence_length=8, bos_token_id=0, **IDS, **u32)),
            ({"class": "mixture"}, NumpyFSLDatasetMixture(*short, path_offset_index=index, seed=3, sequence_length=4, **IDS)),
            ({"class": "padded", "sequence_length": 8}, NumpyPaddedFSLDataset(*short, sequence_length=8, **IDS)),
            ({"class": "packed", "sequence_length": 8}, NumpyPackedFSLDataset(*short, sequence_length=8, **IDS)),
            (
                {"class": "packed", "sequence_length": 16, "fragment": True, "group": 2, "bos": 2},
                NumpyPackedFSLDataset(
                    *wide, sequence_length=16, long_doc_strategy=LongDocStrategy.fragment, source_group_size=2, bos_token_id=2, **IDS, **u32
                ),
            ),
            (
                {"class": "interleaved", "sequence_length": 8, "docs": 2, "seed": 5},
                NumpyInterleavedFSLDataset(*short, sequence_length=8, docs_per_instance=2, chunks_per_doc=4, seed=5, **IDS),
            ),
            (
                {"class": "interleaved", "sequence_length": 8, "docs": 4, "seed": 0, "exempt": ["exempt/a.npy", "it's/b.npy"]},
                NumpyInterleavedFSLDataset(
                    *short, sequence_length=8, docs_per_instance=4, chunks_per_doc=2, seed=0,
                    interleaving_exempt_paths=["exempt/a.npy", "it's/b.npy"], **IDS
                ),
            ),
            ({"class": "vsl", "min": 2, "max": 8, "curriculum": {"name": "natural"}}, NumpyVSLDataset(*short, min_sequence_length=2, max_sequence_length=8, curriculum=VSLNaturalCurriculum(), **IDS)),
            (
                {"class": "vsl", "min": 4, "max": 16, "curriculum": {"name": "grow_p2", "num_cycles": 4, "balanced": True}},
                NumpyVSLDataset(*wide, min_sequence_length=4, max_sequence_length=16, curriculum=p2, **IDS, **u32),
            ),
            (
                {"class": "vsl", "min": 4, "max": 8, "curriculum": {"name": "grow_linear", "num_cycles": 8, "balanced": False}},
                NumpyVSLDataset(*short, min_sequence_length=4, max_sequence_length=8, curriculum=linear, **IDS),
            ),
        ]
        return [
            {
                **settings,
                "dtype": dataset.dtype.__name__,
                "files": [[Path(path).name, size] for path, size in zip(dataset.paths, dataset.file_sizes)],
                "fingerprint": dataset.fingerprint,
            }
            for settings, dataset in datasets
        ]


def curricula() -> list:
    out = []
    tables = [
        ([(8, 100), (16, 50), (32, 40), (64, 20)], 64),
        ([(2, 1000), (4, 300), (8, 77)], 16),
        ([(256, 64), (512, 64), (1024, 32), (2048, 16), (4096, 16)], 8192),
    ]
    for table, batch in tables:
        dataset = type("Sizes", (), {"instances_per_bucket": tuple(table)})()
        for curriculum, name in [
            (VSLNaturalCurriculum(), {"name": "natural"}),
            (VSLGrowP2Curriculum(num_cycles=2), {"name": "grow_p2", "num_cycles": 2, "balanced": False}),
            (VSLGrowP2Curriculum(num_cycles=3, balanced=True), {"name": "grow_p2", "num_cycles": 3, "balanced": True}),
            (VSLGrowLinearCurriculum(num_cycles=2), {"name": "grow_linear", "num_cycles": 2, "balanced": False}),
            (VSLGrowLinearCurriculum(num_cycles=4, balanced=True), {"name": "grow_linear", "num_cycles": 4, "balanced": True}),
        ]:
            buckets = curriculum.batches_per_bucket(dataset, batch)
            try:
                indices = curriculum.get_batch_indices(buckets, 6199).tolist()
            except (AssertionError, ValueError):
                indices = None
            out.append(
                {
                    "curriculum": name,
                    "repr": str(curriculum),
                    "short_str": curriculum.short_str,
                    "instances": table,
                    "global_batch_size": batch,
                    "batches": buckets,
                    "indices": indices,
                }
            )
    return out


def main() -> None:
    torch.manual_seed(0)
    value = {"ids": IDS, "orders": orders(), "fingerprints": fingerprints(), "curricula": curricula()}
    record(write_json("data/core_order.json", value), __file__, ["ai2-olmo-core", "numpy"], None, "exact")


if __name__ == "__main__":
    main()
