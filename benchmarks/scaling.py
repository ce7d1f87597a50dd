"""How the cost of a training step grows with sequence length, batch, depth and vocabulary.

usage: scaling.py [--olmo FILE] [--steps N] [--device NAME] [--out FILE]

Runs `olmo bench train` (built with `cargo build --release -p olmo`), each shape in a process of its own, and
prints a Markdown table for each quantity: time and peak memory of a step, and both over those of the row before,
which doubled. A step's time should grow with the operations that OLMo counts for it, which the last column gives;
its memory with what is kept of each token.
"""

import argparse
import datetime
import json
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = {"d-model": 256, "n-layers": 4, "n-heads": 4, "vocab-size": 8192, "seq-len": 256, "micro-batch": 4}
DOUBLED = {
    "seq-len": [128, 256, 512, 1024, 2048],
    "micro-batch": [1, 2, 4, 8, 16],
    "n-layers": [1, 2, 4, 8, 16],
    "vocab-size": [4096, 8192, 16384, 32768, 65536],
}


def step(args, shape):
    options = [text for name, value in shape.items() for text in (f"--{name}", str(value))]
    command = [args.olmo, "bench", "train", "--json", "--device", args.device, "--steps", str(args.steps), *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def operations(shape):
    """Floating-point operations of a step, as OLMo counts them: 6 a parameter and token, and attention's."""
    d, layers, t = shape["d-model"], shape["n-layers"], shape["seq-len"]
    embedding = shape["vocab-size"] * d
    block = 4 * d * d + 3 * d * (4 * d)
    parameters = 2 * embedding + layers * block
    per_token = 2 * (parameters - embedding) + 4 * parameters + 12 * layers * d * t
    return per_token * t * shape["micro-batch"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--olmo", default=str(ROOT / "target/release/olmo"))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="flex")
    parser.add_argument("--out")
    args = parser.parse_args()
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    base = ", ".join(f"{name} {value}" for name, value in BASE.items())
    lines = [f"# Growth of a training step's cost, {datetime.date.today()}", "",
             f"`{args.device}`, f32, activations kept; {base} but for what doubles. {cpu}, {platform.system()} "
             f"{platform.machine()}; commit {commit}; mean of {args.steps} steps. The peak includes weights, gradients and AdamW's state.", ""]
    for name, values in DOUBLED.items():
        lines += [f"## {name}", "", f"| {name} | s a step | times | operations times | peak MB | times |", "|---|---|---|---|---|---|"]
        before = None
        for value in values:
            shape = {**BASE, name: value}
            report = step(args, shape)
            now = (report["seconds_per_step"], operations(shape), report["peak_bytes"] / 1e6)
            seconds, n, peak = [f"{a / b:.2f}" for a, b in zip(now, before)] if before else ("", "", "")
            lines.append(f"| {value} | {now[0]:.3f} | {seconds} | {n} | {now[2]:.0f} | {peak} |")
            print(lines[-1], flush=True)
            before = now
        lines.append("")
    lines.append("Command: `benchmarks/scaling.py`.")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        Path(args.out).write_text(text)


main()
