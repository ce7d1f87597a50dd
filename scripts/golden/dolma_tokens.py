"""Makes tests/golden/data/dolma_tokens.json: a small tokenizer, its encodings, and Dolma's token files of a few documents.

Where ../shared/data is beside the checkout, makes tests/golden/data/dolma_real.json too: checksums of Dolma's token
files of real documents with the released tokenizers.

Packages: dolma 1.2.1 with the tokenizers 0.19.1 that it pins, numpy. They do not agree with the other scripts'
packages, so give this one an environment of its own; without Dolma it says so and leaves the vectors as they are.
Usage: python scripts/golden/dolma_tokens.py

Dolma runs with one process, a ring of one file and a local shuffle of one document, which leaves documents in the
order of their files. The files themselves are shuffled; their order is read back from the output.
"""

import csv
import gzip
import io
import json
import random
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from common import ROOT, record, write_json

try:
    from dolma.tokenizer import tokenize_in_parallel
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
except ImportError:
    print("skipped: dolma_tokens.py needs dolma 1.2.1, in an environment of its own")
    sys.exit(0)

SPECIAL = ["<|endoftext|>", "<|padding|>"]
VOCAB_SIZE = 420

SENTENCES = [
    "The river runs north past the mill, and the mill turns with the river.",
    "In 1998 the mill had 4 wheels; in 2004 it had 12, and it's still turning!",
    "Übermorgen fährt der Zug um 7:45 nach Zürich — hoffentlich pünktlich.",
    "河水向北流过磨坊。磨坊随着河水转动。",
    "def turn(wheel):\n    return wheel + 1  # one step\n",
    "She said: \"turn, turn\", and they'd turned, hadn't they?  😀😀",
]

TEXTS = [
    "", " ", "The mill", "  two  spaces ", "naïve café", "磨坊 river", "😀👍🏽", "a\tb\r\nc\n\n\nd", "1234567890",
    "<|endoftext|>", "end<|endoftext|>\n<|padding|>x", "\u0000\u001f\u200b\ufffd", "they'd've hadn't WON'T",
]


def row(**fields) -> str:
    return json.dumps(fields, ensure_ascii=False)


REAL_TOKENIZERS = [
    ("allenai_gpt-neox-olmo-dolma-v1_5.json", 50279, "uint16"),
    ("allenai_dolma2.json", 100257, "uint32"),
]
REAL_DOCUMENTS = [
    "dolma/data/provided/documents/000.json.gz",
    "dolma/data/multiple_files/cc_en_head-0091.jsonl.gz",
]

FILES = {
    "a.jsonl": "\n".join(
        [row(id=f"a-{i}", text=text, source="mill", added="2024-01-01") for i, text in enumerate(SENTENCES)]
    )
    + "\n",
    "b.jsonl": "\n".join(
        [
            row(id='quoted "id", with a comma', text="  \n padded text \x1c\x1f\u3000"),
            row(id="blank", text=" \n\t "),
            row(id="empty", text=""),
            '{"id": "broken", "text": "no end',
            row(id="no text"),
            row(id="null", text=None),
            row(id="ends itself", text="over<|endoftext|>"),
            row(id="", text="within <|endoftext|> it"),
            row(id="line\nbreak", text="last"),
        ]
    ),
    "c.jsonl": row(id="long", text=" ".join(SENTENCES)) + "\n" + row(id="short", text="x") + "\n",
}


def trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def encodings(tokenizer: Tokenizer) -> list:
    cases = []
    for text in TEXTS + SENTENCES:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append(
            {
                "text": text,
                "ids": ids,
                "skipped": tokenizer.decode(ids, skip_special_tokens=True),
                "kept": tokenizer.decode(ids, skip_special_tokens=False),
            }
        )
    return cases


def run_dolma(sources: list[str], folder: str, tokenizer_path: Path, eos: int, max_tokens: int, dtype: str) -> Path:
    """Dolma's `tokens` command without any shuffling inside a file; returns the folder of its output."""
    # Dolma shuffles the files before it applies its own seed.
    random.seed(3920)
    tokenize_in_parallel(
        sources=sources,
        destination=f"{folder}/tokens",
        metadata_dir=f"{folder}/metadata",
        num_writers=1,
        local_shuffle=1,
        ring_size=1,
        tokenizer_name_or_path=str(tokenizer_path),
        eos_token_id=eos,
        pad_token_id=1,
        max_size=max_tokens,
        dtype=dtype,
        debug=True,
    )
    return Path(folder) / "tokens"


def bounds_of(path: Path) -> str:
    return gzip.decompress(path.with_suffix("").with_suffix(".csv.gz").read_bytes()).decode()


def dolma_tokens(tokenizer_path: Path, eos: int, max_tokens: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        documents = Path(folder) / "documents"
        documents.mkdir()
        for name, content in FILES.items():
            (documents / name).write_text(content, encoding="utf-8", newline="")
        out = run_dolma([f"{documents}/{name}" for name in FILES], folder, tokenizer_path, eos, max_tokens, "uint16")
        order, parts = [], []
        for path in sorted(out.glob("*.npy")):
            bounds = bounds_of(path)
            for fields in csv.reader(io.StringIO(bounds, newline="")):
                name = Path(fields[3]).name
                if name not in order:
                    order.append(name)
            parts.append(
                {
                    "name": path.name,
                    "tokens": np.fromfile(path, dtype="<u2").tolist(),
                    "bounds": bounds.replace(f"{documents}/", "{folder}/"),
                }
            )
        return {"max_tokens": max_tokens, "order": order, "parts": parts}


def real_tokens(data: Path) -> list:
    """Checksums of the tokens, and of the bounds with each file's name in place of its path."""
    cases = []
    for tokenizer, eos, dtype in REAL_TOKENIZERS:
        for name in REAL_DOCUMENTS:
            with tempfile.TemporaryDirectory() as folder:
                tokenizer_path = data / "tokenizers" / tokenizer
                out = run_dolma([str(data / name)], folder, tokenizer_path, eos, 10**6, dtype)
                tokens = (out / "part-0-00000.npy").read_bytes()
                bounds = bounds_of(out / "part-0-00000.npy").replace(str(data / name), Path(name).name)
                cases.append(
                    {
                        "tokenizer": tokenizer,
                        "documents": name,
                        "dtype": dtype,
                        "n_tokens": len(tokens) // np.dtype(dtype).itemsize,
                        "tokens_crc32": zlib.crc32(tokens),
                        "bounds_crc32": zlib.crc32(bounds.encode()),
                    }
                )
    return cases


def main() -> None:
    data = ROOT.parent / "shared" / "data"
    if data.exists():
        record(write_json("data/dolma_real.json", real_tokens(data)), __file__, ["dolma", "numpy", "tokenizers"], None, "exact")
    tokenizer = trained()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(str(path))
        value = {
            "tokenizer": json.loads(path.read_text()),
            "training": {"texts": SENTENCES, "vocab_size": VOCAB_SIZE, "special_tokens": SPECIAL},
            "encodings": encodings(tokenizer),
            "files": FILES,
            # The second limit makes several parts, and is above the longest document: Dolma never ends otherwise.
            "runs": [dolma_tokens(path, tokenizer.token_to_id(SPECIAL[0]), limit) for limit in (100_000, 130)],
        }
    record(write_json("data/dolma_tokens.json", value), __file__, ["dolma", "numpy", "tokenizers"], None, "exact")


if __name__ == "__main__":
    main()
