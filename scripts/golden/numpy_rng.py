"""Makes tests/golden/data/numpy_rng.json: NumPy's seeding, PCG64 stream, shuffles and bounded integers.

Package: numpy 2.4.6, nothing else.
Usage: python scripts/golden/numpy_rng.py
Numbers past 2^53 are written as decimal or hexadecimal strings, since JSON readers round them.
"""

import zlib

import numpy as np
from common import record, write_json

SEEDS = [0, 1, 6198, 6199, 34521, 34522, 2**32, 2**63 + 5]
# Every path of the bounded draw: one value, powers of two and their neighbours, the 32-bit edge, the 64-bit edge.
BOUNDS = [
    (0, 1), (5, 6), (0, 2), (0, 3), (0, 7), (10, 138), (0, 1000), (0, 2**31 + 1), (7, 2**32 - 1),
    (0, 2**32), (3, 2**32 + 3), (0, 2**32 + 1), (1, 2**33 + 12345), (0, 2**63 + 1), (0, 2**64 - 1),
]


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed=seed))


def seed_sequences() -> list:
    cases = [[], [0], [1], [6198], [0, 1], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [2**32 - 1] * 9]
    return [
        {
            "entropy": words,
            "u32": np.random.SeedSequence(words).generate_state(9).tolist(),
            "u64": [str(v) for v in np.random.SeedSequence(words).generate_state(5, np.uint64)],
        }
        for words in cases
    ]


def stream(seed: int) -> dict:
    state = np.random.PCG64(seed).state["state"]
    mixed = generator(seed)
    return {
        "seed": str(seed),
        "state": hex(state["state"]),
        "inc": hex(state["inc"]),
        "raw": [str(v) for v in np.random.PCG64(seed).random_raw(8)],
        "u32": generator(seed).integers(0, 2**32, size=8, dtype=np.uint32).tolist(),
        # A u32, then two u64, then a u32: the second u32 is the high half kept from the first draw.
        "mixed": [
            str(mixed.integers(0, 2**32, dtype=np.uint32)),
            str(mixed.integers(0, 2**64 - 1, endpoint=True, dtype=np.uint64)),
            str(mixed.integers(0, 2**64 - 1, endpoint=True, dtype=np.uint64)),
            str(mixed.integers(0, 2**32, dtype=np.uint32)),
        ],
        "random_bits": [str(np.float64(v).view(np.uint64)) for v in generator(seed).random(6)],
        "permutation": generator(seed).permutation(20).tolist(),
    }


def shuffled(seed: int, n: int) -> dict:
    values = np.arange(n, dtype=np.uint32)
    generator(seed).shuffle(values)
    case = {"seed": str(seed), "n": n, "crc32": zlib.crc32(values.astype("<u4").tobytes())}
    if n <= 16:
        case["values"] = values.tolist()
    return case


def integers(seed: int, low: int, high: int) -> dict:
    drawn = generator(seed).integers(low, high, size=12, dtype=np.uint64)
    one_by_one = generator(seed)
    assert [one_by_one.integers(low, high, dtype=np.uint64) for _ in range(12)] == drawn.tolist()
    if high <= 2**32:
        assert generator(seed).integers(low, high, size=12, dtype=np.uint32).tolist() == drawn.tolist()
    return {"seed": str(seed), "low": str(low), "high": str(high), "values": [str(v) for v in drawn]}


def main() -> None:
    value = {
        "seed_sequences": seed_sequences(),
        "streams": [stream(seed) for seed in SEEDS],
        "shuffles": [shuffled(seed, n) for seed in SEEDS for n in (0, 1, 2, 16, 1000, 100003)],
        "integers": [integers(seed, low, high) for seed in (0, 6198, 2**63 + 5) for low, high in BOUNDS],
        "integers_full": [
            str(v) for v in generator(6198).integers(0, 2**64 - 1, size=4, endpoint=True, dtype=np.uint64)
        ],
    }
    record(write_json("data/numpy_rng.json", value), __file__, ["numpy"], None, "exact")


if __name__ == "__main__":
    main()
