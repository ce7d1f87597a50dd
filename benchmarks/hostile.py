"""Folders made to harm, given to `olmo verify` and `olmo convert`: what is said, in what time and memory.

usage: hostile.py OLMO    the command; needs Python and GNU time, and prints a table for Markdown
"""

import base64
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile

GOLDEN = pathlib.Path(__file__).parent.parent / "tests" / "golden"
HF, PT, NAMES = "hf/olmo2", "original/olmo2-gqa-pt", "original/olmo2-gqa-safetensors"


class System:
    def __reduce__(self):
        return os.system, ("touch ran",)


def header(entries, n_bytes=None):
    text = json.dumps(entries).encode()
    return (len(text) if n_bytes is None else n_bytes).to_bytes(8, "little") + text


def entry(begin, end):
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


def archive(path, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as out:
        for name, bytes_ in content.items():
            with out.open(name, "w", force_zip64=True) as member:
                for part in bytes_:
                    member.write(part)


def sparse(path, begin, n_bytes):
    path.write_bytes(begin)
    os.truncate(path, n_bytes)


def link(dir):
    (dir / "model.safetensors").unlink()
    (dir / "model.safetensors").symlink_to("/etc/passwd")


def index(dir):
    (dir / "model.safetensors").unlink()
    text = json.dumps({"weight_map": {"model.norm.weight": "../../../../etc/passwd"}})
    (dir / "model.safetensors.index.json").write_text(text)


def tensors(content):
    return lambda dir: (dir / "model.safetensors").write_bytes(content)


ZEROS = [bytes(1 << 20)] * (10 << 10)
NAME = base64.b64encode(pickle.dumps(System(), 2)).decode()
CASES = {
    "a pickle that calls `os.system`, in `model.pt`": (
        PT, lambda d: archive(d / "model.pt", {"model/data.pkl": [pickle.dumps(System(), 2)]})),
    "the same in the name of a tensor": (NAMES, tensors(header({NAME: entry(0, 1)}) + b"x")),
    "a safetensors header of 1 TB": (HF, tensors((1 << 40).to_bytes(8, "little") + b"{}")),
    "the same in a file that is as long": (
        HF, lambda d: sparse(d / "model.safetensors", (1 << 40).to_bytes(8, "little"), 1 << 41)),
    "16 MB of header, 200 000 tensors at one place": (
        HF, tensors(header({str(i): entry(0, 2) for i in range(200_000)}) + b"xx")),
    "offsets that overlap": (HF, tensors(header({"a": entry(0, 2), "b": entry(1, 3)}) + b"xxx")),
    "an index that leaves the folder": (HF, index),
    "a link to `/etc/passwd`": (HF, link),
    "a zip bomb, 10 GB deflated to 10 MB": (
        PT, lambda d: archive(d / "model.pt", {"model/data.pkl": ZEROS}, zipfile.ZIP_DEFLATED)),
    "4 MB of pickle that opens lists without end": (
        PT, lambda d: archive(d / "model.pt", {"model/data.pkl": [b"\x80\x02" + b"]" * 4_000_000]})),
    "a `config.json` of 1 TB": (HF, lambda d: sparse(d / "config.json", b"{", 1 << 40)),
}


def run(command):
    timed = ["/usr/bin/time", "-f", "%e %M", *map(str, command)]
    done = subprocess.run(timed, capture_output=True, text=True)
    *lines, cost = (done.stdout + done.stderr).strip().splitlines()
    seconds, kib = cost.split()
    if not lines[-1].startswith("Command exited"):
        sys.exit(f"{command} was not refused: {lines}")
    said = lines[1] if lines[0].endswith(":") else lines[0]
    return done.returncode, float(seconds), int(kib) * 1024 / 1e6, said


olmo = sys.argv[1]
print("| folder with | verify: exit, seconds, MB | convert: exit, seconds, MB |\n|---|---|---|")
said = []
for name, (golden, harm) in CASES.items():
    with tempfile.TemporaryDirectory() as scratch:
        dir = pathlib.Path(scratch) / "model"
        shutil.copytree(GOLDEN / golden, dir)
        harm(dir)
        cells = []
        for command in ["verify", dir], ["convert", dir, dir.parent / "out", "--to", "hf"]:
            code, seconds, megabytes, message = run([olmo, *command])
            cells.append(f"{code}, {seconds:.2f}, {megabytes:.1f}")
        if (dir.parent / "out").exists() or pathlib.Path("ran").exists():
            sys.exit(f"{name}: something was written")
        said.append(f"- {name}: {message.strip().replace(str(dir) + '/', '')[:200]}")
        print(f"| {name} | {' | '.join(cells)} |")
print("\nWhat `olmo convert` says:\n\n" + "\n".join(said))
