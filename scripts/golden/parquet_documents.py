"""Makes tests/golden/parquet/: documents as JSONL, and as Parquet files of every encoding and compression that writers use.

Package: pyarrow 26.0.1.
Usage: python scripts/golden/parquet_documents.py

`documents.jsonl` and the files of `same` in `cases.json` hold the same documents. `bad_rows.parquet` has rows that are no
documents between others. The files of `refused` have no column of texts; those that are damaged are made by the test.
"""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
from common import GOLDEN, record, write_json

SEED = 20261124
FOLDER = GOLDEN / "parquet"
WORDS = "the river runs north past a mill and turns with wheel Zürich 磨坊 😀 in 1998".split()


def documents() -> list[dict]:
    rng = random.Random(SEED)
    rows = []
    for i in range(150):
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(0, 30)))
        rows.append({"id": i * 7 + 1, "text": text, "source": rng.choice(["mill", "town", None])})
    rows[3]["text"], rows[4]["text"] = rows[2]["text"], " \n padded\t"
    return rows


def table(rows: list[dict], text=pa.string(), ids=pa.string()) -> pa.Table:
    """The columns that are read, with others around them that are not."""
    as_id = str if ids in (pa.string(), pa.large_string()) else int
    return pa.table(
        {
            "added": pa.array([f"2024-01-{i % 28 + 1:02}" for i in range(len(rows))]),
            "text": pa.array([row["text"] for row in rows], pa.string()).cast(text),
            "metadata": pa.array([{"text": "not this", "tags": ["a"] * (i % 3)} for i in range(len(rows))]),
            "id": pa.array([as_id(row["id"]) for row in rows], ids),
            "source": pa.array([row["source"] for row in rows], pa.string()),
        }
    )


def main() -> None:
    rows = documents()
    FOLDER.mkdir(parents=True, exist_ok=True)
    packages = ["pyarrow"]
    lines = FOLDER / "documents.jsonl"
    lines.write_text("".join(json.dumps(row | {"id": str(row["id"])}, ensure_ascii=False) + "\n" for row in rows))
    record(lines, __file__, packages, SEED, "input")

    def write(name: str, value: pa.Table, **options) -> str:
        pq.write_table(value, FOLDER / name, **options)
        record(FOLDER / name, __file__, packages, SEED, "input")
        return name

    plain = dict(use_dictionary=False)
    required = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("id", pa.int32(), nullable=False)])
    bare = pa.table({"text": [row["text"] for row in rows], "id": pa.array([row["id"] for row in rows], pa.int32())}, required)
    same = [
        write("dictionary.snappy.parquet", table(rows), compression="snappy"),
        write("plain.zstd.parquet", table(rows, pa.large_string(), pa.int64()), compression="zstd", row_group_size=40, **plain),
        write("plain.gzip.parquet", table(rows, pa.binary(), pa.uint64()), compression="gzip", data_page_size=512, **plain),
        write("pages_v2.lz4.parquet", table(rows), compression="lz4", data_page_version="2.0", row_group_size=64),
        write("delta_length.parquet", table(rows), compression="none", column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY"}, **plain),
        write("delta.zstd.parquet", table(rows), compression="zstd", column_encoding={"text": "DELTA_BYTE_ARRAY"}, **plain),
        write("required.parquet", bare, compression="snappy", write_statistics=False),
    ]
    texts = [b"good", None, b"\xff\xfe", b"", b"good too"]
    bad = pa.table({"text": pa.array(texts, pa.binary()), "id": ["a", "b", "c", None, "e"]})
    write("bad_rows.parquet", bad, compression="none")
    refused = {
        write("no_text.parquet", pa.table({"body": ["x"]}), compression="none"): "there is no column text, only body",
        write("list.parquet", pa.table({"text": [["x"]]}), compression="none"): "there is no column text",
        write("number.parquet", pa.table({"text": [1.5]}), compression="none"): "column text is of type DOUBLE, expected a string",
        write("date.parquet", pa.table({"text": ["x"], "id": pa.array([1], pa.date32())}), compression="none"): "column id is of type DATE",
    }
    empty = write("empty.parquet", table([]), compression="none")
    value = {"same": same, "refused": refused, "empty": empty}
    record(write_json("parquet/cases.json", value), __file__, packages, SEED, "exact")


if __name__ == "__main__":
    main()
