"""Tokens per second of `olmo data tokenize` and of Dolma's `tokens`, in turn, on the same files and cores.

Usage: python benchmarks/tokenizing.py DOLMA_PYTHON OLMO TOKENIZER.json EOS_ID DTYPE DOCUMENTS.jsonl…

DOLMA_PYTHON is a Python that has dolma 1.2.1, OLMO the command. Dolma runs with as many processes as there are cores,
each over its share of the files; ours with its threads. Wall time of the whole process, the best of two runs each.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = """
import sys
from dolma.tokenizer import tokenize_in_parallel
tokenizer, eos, dtype, cores, out, *sources = sys.argv[1:]
tokenize_in_parallel(
    sources=sources, destination=out, metadata_dir=out + "-metadata", num_writers=int(cores), local_shuffle=1000,
    ring_size=4, tokenizer_name_or_path=tokenizer, eos_token_id=int(eos), pad_token_id=1, dtype=dtype,
    debug=False,
)
"""


def main() -> None:
    python, olmo, tokenizer, eos, dtype, *documents = sys.argv[1:]
    cores = os.cpu_count()
    best, tokens = {}, {}
    for _ in range(2):
        for name in ("dolma", "olmo"):
            with tempfile.TemporaryDirectory() as folder:
                out = f"{folder}/tokens"
                if name == "dolma":
                    command = [python, "-c", RUN, tokenizer, eos, dtype, str(cores), out, *documents]
                else:
                    command = [olmo, "data", "tokenize", *documents, "--tokenizer", tokenizer, "--out", out, "--by-file"]
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                seconds = time.perf_counter() - start
                size = sum(path.stat().st_size for path in Path(out).rglob("*.npy"))
                tokens[name] = size // {"uint16": 2, "uint32": 4}[dtype]
                best[name] = min(best.get(name, seconds), seconds)
                shutil.rmtree(out)
    n_bytes = sum(os.path.getsize(path) for path in documents)
    for name, seconds in best.items():
        print(f"{name}: {tokens[name]} tokens in {seconds:.2f} s, {n_bytes / seconds / 1e6:.1f} MB of JSONL a second")
    print(f"ratio {best['dolma'] / best['olmo']:.2f}")


if __name__ == "__main__":
    main()
