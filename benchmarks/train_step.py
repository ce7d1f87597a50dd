"""One training step beside PyTorch: the same shapes, one after the other, on this machine.

usage: train_step.py [--size 85M|237M] [--micro-batch N] [--rounds N] [--steps N] [--olmo FILE] [--reference PYTHON] [--out FILE]

Runs `olmo bench train` (built with `cargo build --release -p olmo`) and `peer_train_step.py`, which trains
ai2-olmo's own model with torch's AdamW, alternately and each in a process of its own, and prints a
Markdown table with the ratios of the medians. Times on a shared machine are noisy; ratios of runs made
side by side are less so.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"85M": (512, 8, 8), "237M": (1024, 8, 16)}
COMMON = ["--vocab-size", 50304, "--seq-len", 512]


def run(command):
    out = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    return [(row["tokens_per_second"], row["peak_bytes"] / 1e9) for row in map(json.loads, out.splitlines())]


def ours(args, shape, precision, activations):
    command = [args.olmo, "bench", "train", "--json", *shape, "--steps", args.steps]
    return run([*command, "--precision", precision, "--activations", activations])[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="85M")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--olmo", default=ROOT / "target/release/olmo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reference", default="python3")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out")
    args = parser.parse_args()
    d_model, n_layers, n_heads = SIZES[args.size]
    shape = ["--d-model", d_model, "--n-layers", n_layers, "--n-heads", n_heads, *COMMON, "--micro-batch", args.micro_batch]
    runs = {"ai2-olmo, torch 2.9.0, f32": [], "ai2-olmo, torch 2.9.0, amp bf16": [],
            "olmo, flex, f32, keep": [], "olmo, flex, f32, recompute": [], "olmo, flex, amp bf16, keep": [],
            "olmo, flex, amp bf16, recompute": []}
    for _ in range(args.rounds):
        f32, bf16 = run([args.reference, ROOT / "benchmarks/peer_train_step.py", *shape, "--steps", args.steps, "--threads", 2])
        runs["ai2-olmo, torch 2.9.0, f32"].append(f32)
        runs["ai2-olmo, torch 2.9.0, amp bf16"].append(bf16)
        runs["olmo, flex, f32, keep"].append(ours(args, shape, "fp32", "keep"))
        runs["olmo, flex, f32, recompute"].append(ours(args, shape, "fp32", "recompute"))
        runs["olmo, flex, amp bf16, keep"].append(ours(args, shape, "amp-bf16", "keep"))
        runs["olmo, flex, amp bf16, recompute"].append(ours(args, shape, "amp-bf16", "recompute"))
    median = {name: [statistics.median(values) for values in zip(*rows)] for name, rows in runs.items()}
    base_speed, base_memory = median["ai2-olmo, torch 2.9.0, f32"]
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        f"# One training step, {args.size} parameters, {datetime.date.today()}", "",
        f"d_model {d_model}, {n_layers} layers, {n_heads} heads, vocabulary 50304, sequence 512, micro-batch {args.micro_batch}, AdamW, clip 1.0. {cpu}, 2 cores, "
        f"{platform.system()} {platform.machine()}; commit {commit}; median of {args.rounds} alternating rounds of {args.steps} steps. "
        "Peak is of the process; PyTorch's bf16 runs in the process of its f32, so its peak is no less than that.", "",
        "| | tokens/s | of torch f32 | peak GB | of torch f32 |", "|---|---|---|---|---|",
    ]
    for name, (speed, memory) in median.items():
        lines.append(f"| {name} | {speed:.0f} | {speed / base_speed:.2f} | {memory:.2f} | {memory / base_memory:.2f} |")
    lines += ["", f"Command: `benchmarks/train_step.py --size {args.size} --micro-batch {args.micro_batch} --rounds {args.rounds} --steps {args.steps} --reference PYTHON`, "
              "with torch 2.9.0 and ai2-olmo 0.6.0 in PYTHON's environment (see scripts/golden/README.md)."]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        Path(args.out).write_text(text)


main()
