#!/usr/bin/env bash
# Makes every golden vector again: scripts/golden/make.sh [PYTHON]
set -euo pipefail

python=${1:-python3}
cd "$(dirname "$0")"
# The number of threads, the vector width and AMX change the order of summation, and with it the last bits.
export ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 PYTHONDONTWRITEBYTECODE=1 CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 WANDB_MODE=disabled
"$python" -c 'import common; common.check_install()'
for script in *.py; do
    [ "$script" = common.py ] && continue
    echo "== $script"
    "$python" "$script"
done
