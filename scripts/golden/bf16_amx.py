"""Logits in bfloat16 of the models of `hf_models.py`, on a processor with AMX.

From torch 2.9.0 and transformers 5.23.0, eager attention and experts, one thread. With AMX, torch multiplies
bfloat16 in tiles, which adds in another order than its vectors do, on which `logits_bf16` of `hf/*/golden.safetensors`
is computed. A sum near the middle between two numbers then goes the other way, and where a model is sensitive what
follows is far off. `bf16/logits_amx.safetensors` has for each model its logits, stored in float32, for `tokens` of
its `golden.safetensors`.

Usage: python scripts/golden/bf16_amx.py     leaves the file as it is on a processor without AMX
"""

import os
from pathlib import Path

# `make.sh` keeps the other scripts from using it.
os.environ.pop("ONEDNN_MAX_CPU_ISA", None)

import torch
from safetensors.torch import load_file

from common import GOLDEN, record, write_safetensors
from hf_models import MODELS, load


def main() -> None:
    if "amx_bf16" not in Path("/proc/cpuinfo").read_text():
        print("this processor has no AMX: bf16/logits_amx.safetensors is left as it is")
        return
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tensors = {}
    for name in MODELS:
        golden = load_file(GOLDEN / "hf" / name / "golden.safetensors")
        with torch.no_grad():
            logits = load(GOLDEN / "hf" / name, torch.bfloat16)(golden["tokens"], use_cache=False).logits.float()
        print(f"{name}: {(logits == golden['logits_bf16']).float().mean():.5f} as without AMX")
        tensors[name] = logits
    path = write_safetensors("bf16/logits_amx.safetensors", tensors)
    record(path, __file__, ["torch", "transformers"], None, "99.5 % exact, 99.9 % within 2 bf16 units")


if __name__ == "__main__":
    main()
