"""What every golden script shares: where vectors go, and the line each one leaves in MANIFEST.toml.

A script makes vectors from a reference package, never from our own output. Each file it writes is
recorded with the script, the package versions, the seed and the tolerance that the Rust test uses.
Running a script again writes the same bytes.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
MANIFEST = GOLDEN / "MANIFEST.toml"


# Packages whose versions the vectors are of; the rest of requirements.txt is only imported by some of them.
PACKAGES = ["torch", "transformers", "numpy", "safetensors", "tokenizers"]


def check_install() -> None:
    """Ends with a message where something is missing that a script would miss minutes later."""
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", Path(__file__).with_name("requirements.txt").read_text(), re.M))
    expected = {name: pins[name] for name in PACKAGES} | {"ai2-olmo": "0.6.0", "ai2-olmo-core": "2.4.0"}
    for name, version in expected.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not there"
        if found.split("+")[0] != version:
            raise SystemExit(f"{name} is {found}, expected {version}; scripts/golden/README.md says how to install it")
    core_0_1()


def core_0_1() -> None:
    """Puts ai2-olmo-core 0.1.0 before the newer one, for what ai2-olmo imports of it; README.md says how to install it."""
    place = os.environ.get("OLMO_CORE_0_1", f"{sys.prefix}/ai2-olmo-core-0.1.0")
    if not Path(place, "olmo_core").is_dir():
        raise SystemExit(f"{place} has no ai2-olmo-core 0.1.0; scripts/golden/README.md says how to install it")
    sys.path.insert(0, place)


def write_json(relative: str, value) -> Path:
    """Writes `value` as compact, stable JSON under tests/golden."""
    path = GOLDEN / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n")
    return path


def write_safetensors(relative: str, tensors: dict, metadata: dict | None = None) -> Path:
    """Writes a dict of torch tensors under tests/golden; `metadata` maps strings to strings."""
    from safetensors.torch import save

    path = GOLDEN / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save({k: v.detach().contiguous().clone() for k, v in tensors.items()}, metadata=metadata)
    # The library writes metadata in hash order, which changes from run to run: sort the header.
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    return path


def record(path: Path, generator: str, packages: list[str], seed: int | None, tolerance: str) -> None:
    """Adds or replaces the manifest entry of one golden file; entries of files that are gone are dropped."""
    name = path.relative_to(GOLDEN).as_posix()
    versions = ", ".join(f'"{p} {importlib.metadata.version(p)}"' for p in sorted(packages))
    entry = "\n".join(
        [
            f'["{name}"]',
            f'generator = "scripts/golden/{Path(generator).name}"',
            f"versions = [{versions}]",
            *([f"seed = {seed}"] if seed is not None else []),
            f'tolerance = "{tolerance}"',
            f'sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"',
        ]
    )
    with open(MANIFEST, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # scripts may run side by side
        file.seek(0)
        # An entry begins with `["name"]` at the start of a line; nothing else in the file does.
        old = re.findall(r'^\["([^"]+)"\]\n(.*?)(?=^\["|\Z)', file.read(), re.M | re.S)
        entries = {k: f'["{k}"]\n{body.strip()}' for k, body in old if (GOLDEN / k).exists()}
        entries[name] = entry
        file.truncate(0)
        file.write("\n\n".join(entries[k] for k in sorted(entries)) + "\n")
