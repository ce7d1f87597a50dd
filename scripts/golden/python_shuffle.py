"""Makes tests/golden/data/python_shuffle.json: orders of files as OLMo-core's `source_permutation_seed` puts them.

From Python's `random` and ai2-olmo-core 2.4.0 (olmo_core/data/numpy_dataset.py, `_resolve_paths_metadata` of its packed
dataset's configuration), asked for the paths of as many files.

Usage: python scripts/golden/python_shuffle.py
"""

import random

from common import record, write_json
from olmo_core.data import NumpyPackedFSLDatasetConfig, TokenizerConfig


def paths(n: int, seed: int) -> list[int]:
    config = NumpyPackedFSLDatasetConfig(
        paths=[str(i) for i in range(n)], tokenizer=TokenizerConfig.dolma2(), sequence_length=8, source_permutation_seed=seed
    )
    resolved, _, _ = config._resolve_paths_metadata(allow_mix=False)
    return [int(path) for path in resolved]


def cases() -> list:
    out = []
    for n, seed in [(0, 1), (1, 123), (2, 0), (5, 123), (8, 123), (64, 34521), (257, 2**32 - 1), (100, 2**32), (33, 2**63 + 5)]:
        order = paths(n, seed)
        out.append({"n": n, "seed": str(seed), "order": order})
    # More words than the generator has, many times over: the beginning.
    order = list(range(70_000))
    random.Random(123).shuffle(order)
    out.append({"n": 70_000, "seed": "123", "order": order[:8]})
    return out


if __name__ == "__main__":
    record(write_json("data/python_shuffle.json", cases()), __file__, ["ai2-olmo-core"], None, "exact")
