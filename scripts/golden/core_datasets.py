"""Makes tests/golden/data/core_datasets.json: the instances that OLMo-core's datasets make of documents.

Package: ai2-olmo-core 2.4.0 (its own datasets, loaders, source mixture and repetition search), numpy, torch.
Usage: python scripts/golden/core_datasets.py

Packing sorts documents by length with NumPy's argsort, whose order of equals depends on the processor. The vectors are
made with a stable sort in its place; the script checks that the lengths in each instance are those of the plain one.
"""

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from common import record, write_json
from olmo_core.data import DataCollator, NumpyDataLoaderBase
from olmo_core.data.numpy_dataset import (
    InstanceFilterConfig,
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
from olmo_core.data.source_mixture import SourceMixtureConfig, SourceMixtureDatasetConfig, SourceMixtureList
from olmo_core.data.types import LongDocStrategy
from olmo_core.data.utils import find_periodic_sequences, get_document_lengths

SEED = 20241124
EOS, PAD, BOS = 0, 1, 2
IDS = dict(pad_token_id=PAD, eos_token_id=EOS, vocab_size=64)


def documents(rng, n: int, longest: int, bos: bool) -> list[int]:
    tokens = []
    for _ in range(n):
        body = rng.integers(3, 64, size=rng.integers(0, longest)).tolist()
        if rng.random() < 0.2 and len(body) > 4:
            body = (body[:2] * len(body))[: len(body)]
        tokens += ([BOS] if bos else []) + body + [EOS]
    return tokens


def sources(bos: bool) -> tuple[list, list]:
    rng = np.random.Generator(np.random.PCG64(SEED))
    tokens = [documents(rng, n, longest, bos) for n, longest in ((23, 14), (9, 40), (31, 7))]
    tokens[1] += [5, 6, 7]  # a rest without an end
    masks = [(rng.random(len(one)) < 0.7).tolist() for one in tokens]
    return tokens, masks


def plain(item: dict) -> dict:
    out = {"input_ids": item["input_ids"].tolist()}
    if "label_mask" in item:
        out["label_mask"] = [int(x) for x in item["label_mask"]]
    if "instance_mask" in item:
        out["instance_mask"] = bool(item["instance_mask"])
    if "doc_lens" in item:
        out["doc_lens"] = item["doc_lens"].tolist()
    return out


def argsort_stable(array, **kwargs):
    return np.ndarray.argsort(np.asarray(array), kind="stable")


def lengths_per_instance(dataset) -> list:
    return [sorted(x for x in get_document_lengths(dataset[i]["input_ids"], EOS).tolist()) for i in range(len(dataset))]


def cases() -> list:
    out = []
    keep = InstanceFilterConfig(repetition_max_period=3, repetition_min_period=1, repetition_max_count=3)
    kinds = [
        ("fsl", NumpyFSLDataset, {"sequence_length": 8}, {}),
        ("fsl", NumpyFSLDataset, {"sequence_length": 16}, {"mask": True, "filter": True, "doc_lens": True}),
        ("fsl", NumpyFSLDataset, {"sequence_length": 12}, {"bos": True, "doc_lens": True}),
        ("padded", NumpyPaddedFSLDataset, {"sequence_length": 8}, {}),
        ("padded", NumpyPaddedFSLDataset, {"sequence_length": 16}, {"mask": True, "filter": True}),
        ("packed", NumpyPackedFSLDataset, {"sequence_length": 16}, {}),
        ("packed", NumpyPackedFSLDataset, {"sequence_length": 32, "source_group_size": 2}, {"mask": True, "doc_lens": True}),
        ("packed", NumpyPackedFSLDataset, {"sequence_length": 8, "long_doc_strategy": "fragment", "source_group_size": 3}, {"filter": True}),
        ("packed", NumpyPackedFSLDataset, {"sequence_length": 16, "long_doc_strategy": "fragment"}, {"bos": True, "doc_lens": True, "mask": True}),
        ("interleaved", NumpyInterleavedFSLDataset, {"sequence_length": 16, "docs_per_instance": 2, "chunks_per_doc": 4, "seed": 3}, {}),
        ("interleaved", NumpyInterleavedFSLDataset, {"sequence_length": 24, "docs_per_instance": 3, "chunks_per_doc": 2, "seed": 6198}, {"mask": True, "filter": True}),
        ("interleaved", NumpyInterleavedFSLDataset, {"sequence_length": 16, "docs_per_instance": 4, "chunks_per_doc": 8, "seed": 0}, {"bos": True, "exempt": 1}),
    ]
    for name, cls, arguments, extra in kinds:
        tokens, masks = sources(extra.get("bos", False))
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            paths, mask_paths = [], []
            for i, (one, mask) in enumerate(zip(tokens, masks)):
                paths.append(folder / f"{i}.npy")
                np.array(one, dtype=np.uint16).tofile(paths[-1])
                mask_paths.append(folder / f"{i}.mask.npy")
                np.array(mask, dtype=np.bool_).tofile(mask_paths[-1])
            settings = dict(arguments)
            if "long_doc_strategy" in settings:
                settings["long_doc_strategy"] = LongDocStrategy(settings["long_doc_strategy"])
            if extra.get("mask"):
                settings["label_mask_paths"] = mask_paths
            if extra.get("filter"):
                settings["instance_filter_config"] = keep
            if extra.get("doc_lens"):
                settings["generate_doc_lengths"] = True
            if extra.get("bos"):
                settings["bos_token_id"] = BOS
            if "exempt" in extra:
                settings["interleaving_exempt_paths"] = [paths[extra["exempt"]]]

            def make(work: str):
                dataset = cls(*paths, **settings, **IDS)
                dataset.work_dir = folder / work
                dataset.prepare()
                return dataset

            if name == "packed":
                unsorted = lengths_per_instance(make("plain"))
                with mock.patch.object(np, "argsort", argsort_stable):
                    dataset = make("stable")
                assert lengths_per_instance(dataset) == unsorted
            else:
                dataset = make("work")
            items = [plain(dataset[i]) for i in range(len(dataset))]
            out.append({"kind": name, "arguments": arguments, "extra": extra, "items": items})
    return out


def vsl() -> list:
    out = []
    tokens, _ = sources(False)
    curricula = [
        (VSLNaturalCurriculum(), {"name": "natural"}, 1),
        (VSLGrowP2Curriculum(num_cycles=2), {"name": "grow_p2", "num_cycles": 2, "balanced": False}, 2),
        (VSLGrowLinearCurriculum(num_cycles=2, balanced=True), {"name": "grow_linear", "num_cycles": 2, "balanced": True}, 1),
    ]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        paths = []
        for i, one in enumerate(tokens):
            paths.append(folder / f"{i}.npy")
            np.array(one, dtype=np.uint16).tofile(paths[-1])
        for curriculum, name, world_size in curricula:
            dataset = NumpyVSLDataset(*paths, min_sequence_length=2, max_sequence_length=8, curriculum=curriculum, **IDS)
            dataset.work_dir = folder / "work"
            dataset.prepare()
            ranks = []
            for rank in range(world_size):
                loader = NumpyDataLoaderBase.wrap_numpy_dataset(
                    dataset, global_batch_size=16, collator=DataCollator(pad_token_id=PAD), work_dir=folder / "work",
                    seed=7, dp_world_size=world_size, dp_rank=rank,
                )
                loader.reshuffle(epoch=2)
                # The loader's own mapping; iterating fails where a rank's share of tokens fits a longer batch too.
                batches = [loader._batch_index_to_local_instance_indices(batch) for batch in loader.get_global_indices()]
                ranks.append([batch.tolist() for batch in batches])
            out.append(
                {
                    "curriculum": name,
                    "instances_per_bucket": [list(pair) for pair in dataset.instances_per_bucket],
                    "items": [dataset[i]["input_ids"].tolist() for i in range(len(dataset))],
                    "ranks": ranks,
                }
            )
    return out


def mixtures() -> list:
    out = []
    tables = [
        # per source: ratio, repetition, fraction, tokens of files; then tokens, batch, sequence length
        ([(0.5, 1.0, 1.0, [1000, 500]), (0.5, 1.0, 1.0, [2000])], 1200, 64, 16),
        ([(0.7, 1.0, 1.0, [700, 801, 33]), (0.2, 1.0, 0.5, [900, 77]), (0.1, 3.0, 1.0, [50, 31])], 1500, 128, 8),
        ([(0.25, 2.5, 1.0, [128, 257]), (0.75, 1.0, 1.0, [5000, 1])], 3000, 96, 32),
        ([(0.9, 4.0, 0.9, [333, 444]), (0.1, 1.0, 1.0, [1000])], 2500, 40, 10),
        ([(1.0, 1.0, 1.0, [4096])], 4096, 512, 64),
        ([(0.6, 1.0, 1.0, [100]), (0.4, 1.0, 1.0, [4000])], 1000, 64, 16),
    ]
    for sources_, requested, batch, sequence_length in tables:
        with tempfile.TemporaryDirectory() as folder:
            configs, number = [], {}
            for s, (ratio, repetition, fraction, sizes) in enumerate(sources_):
                paths = []
                for f, size in enumerate(sizes):
                    path = str(Path(folder) / f"{s}-{f}.npy")
                    np.arange(size, dtype=np.uint16).tofile(path)
                    number[path] = (s, f)
                    paths.append(path)
                configs.append(
                    SourceMixtureConfig(
                        source_name=f"s{s}", target_ratio=ratio, paths=paths, max_repetition_ratio=repetition, max_source_fraction=fraction
                    )
                )
            config = SourceMixtureDatasetConfig(
                source_list=SourceMixtureList(sources=configs), requested_tokens=requested, global_batch_size=batch,
                render_tables=False, quiet=True,
            )
            case = {"sources": sources_, "requested_tokens": requested, "global_batch_size": batch, "sequence_length": sequence_length}
            try:
                made = config.build(npdtype=np.uint16, sequence_length=sequence_length)
            except Exception as error:
                assert "Insufficient tokens" in str(error)
                out.append(case | {"parts": None})
                continue
            parts = [[*number[item.path], item.tokens] for source in made.sources for item in source.path_tokens]
            dataset = NumpyFSLDatasetMixture(
                *made.to_paths(), path_offset_index=made.to_index(), seed=42, sequence_length=sequence_length, **IDS
            )
            firsts = [int(dataset[i]["input_ids"][0]) for i in range(len(dataset))]
            out.append(case | {"parts": parts, "first_tokens": firsts})
    return out


def repetitions() -> list:
    rng = np.random.Generator(np.random.PCG64(SEED))
    out = []
    for length in (3, 9, 12, 13, 24, 40, 64, 65):
        for _ in range(12):
            tokens = rng.integers(0, 3 if length < 30 else 6, size=length)
            for _ in range(rng.integers(0, 3)):
                period, start = int(rng.integers(1, 6)), int(rng.integers(0, length))
                pattern = rng.integers(0, 6, size=period)
                n = min(length - start, int(rng.integers(1, 8)) * period)
                tokens[start : start + n] = np.resize(pattern, n)
            found = find_periodic_sequences(tokens, max_period=13, min_period=1)
            out.append({"tokens": tokens.tolist(), "found": [[int(x) for x in one] for one in found]})
    return out


def main() -> None:
    tokens = {}
    for bos in (False, True):
        one, masks = sources(bos)
        tokens["bos" if bos else "plain"] = {"tokens": one, "masks": [[int(x) for x in mask] for mask in masks]}
    value = {"sources": tokens, "cases": cases(), "vsl": vsl(), "mixtures": mixtures(), "repetitions": repetitions()}
    record(write_json("data/core_datasets.json", value), __file__, ["ai2-olmo-core", "numpy", "torch"], SEED, "exact")


if __name__ == "__main__":
    main()
