#!/usr/bin/env bash
# Every figure of a GPU in this project: parity with the references, training steps and their MFU, prompts
# and decoding, beside PyTorch on the same card. Writes one dated file, benchmarks/DATE-gpu-CARD.md.
#
# The machine with the card needs neither Rust nor internet. Build where they are, then copy this
# checkout (tests/golden and benchmarks/ are enough) and the two programs over:
#
#   cargo build --release -p olmo --features cuda             # target/release/olmo
#   cargo test --release -p olmo-tests --features cuda --no-run   # target/release/deps/checks-HASH
#
# usage: benchmarks/gpu.sh [--device cuda] [--olmo FILE] [--checks FILE] [--python PYTHON] [--peak-tflops N]
#                          [--model DIR] [--out FILE] [--small]
#   --device       as `olmo --device`; cuda is the default
#   --olmo         the command, target/release/olmo where not given
#   --checks       the tests of olmo-tests, the newest target/release/deps/checks-* where not given
#   --python       a Python with torch and ai2-olmo that sees the card; PyTorch is left out where not given
#   --model        a model folder, to time prompts and decoding on; left out where not given
#   --peak-tflops  dense bf16 operations of the card, 10^12 a second, as its maker states; known for some cards
#   --small        a model of under two million parameters: to try this script on any device
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

device=cuda olmo=target/release/olmo checks= python= peak= model= out= small=
while [ $# -gt 0 ]; do
    case $1 in
        --small) small=yes; shift; continue ;;
        --device | --olmo | --checks | --python | --peak-tflops | --model | --out) ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "gpu.sh: $1 is no option; --help lists them" >&2; exit 2 ;;
    esac
    [ $# -ge 2 ] || { echo "gpu.sh: $1 needs a value" >&2; exit 2; }
    case $1 in
        --device) device=$2 ;; --olmo) olmo=$2 ;; --checks) checks=$2 ;; --python) python=$2 ;;
        --peak-tflops) peak=$2 ;; --model) model=$2 ;; --out) out=$2 ;;
    esac
    shift 2
done
[ -n "$checks" ] || checks=$(ls -t target/release/deps/checks-* 2>/dev/null | grep -v '\.d$' | head -1 || true)
for program in "$olmo" "$checks"; do
    [ -x "$program" ] || { echo "gpu.sh: ${program:-the tests} cannot be run; the head of $0 says how to build it" >&2; exit 2; }
done

report=$(mktemp)
trap 'rm -f "$report"' EXIT
say() { printf '%s\n' "$@" | tee -a "$report"; }

# Runs a test of parity and prints what it measured; its failure is told and does not stop the rest.
failed=
parity() {
    local log status=0
    log=$(OLMO_ROOT=$root OLMO_TEST_DEVICE=$1 "$checks" --nocapture --test-threads 1 parity 2>&1) || status=$?
    say '```'
    say "$(grep -oE "\b$1: .*|^test result.*|.*panicked at.*" <<<"$log" | cut -c1-160)"
    say '```' ''
    [ $status = 0 ] || failed="$failed parity:$1"
}

# One row of the table of training steps: name, options.
train() {
    local name=$1 json; shift
    if json=$("$olmo" bench train --json ${peak:+--peak-tflops "$peak"} "$@" 2>"$report.err"); then
        row "$name" "$json"
    else
        failed="$failed train:$name"
        say "| $name | failed: $(tail -1 "$report.err" | cut -c1-120) | | | |"
    fi
    rm -f "$report.err"
}

# Fields of one JSON object of numbers, without a JSON tool.
field() { grep -oE "\"$1\": *[0-9.eE+-]+" <<<"$2" | head -1 | sed 's/.*: *//'; }
row() {
    local name=$1 json=$2
    say "$(awk -v name="$name" -v speed="$(field tokens_per_second "$json")" -v flops="$(field gflops "$json")" \
        -v mfu="$(field mfu "$json")" -v loss="$(field loss "$json")" 'BEGIN {
            printf "| %s | %.0f | %.1f | %s | %.3f |", name, speed, flops / 1000, mfu == "" ? "" : sprintf("%.1f %%", 100 * mfu), loss }')"
}

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
say "# On a GPU, $(date +%F)" "" "Commit $commit, $("$olmo" --version), $(uname -sm), glibc $(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)." ""
say "## Without a card: the CPU's own parity, so that what differs below is the card" ""
parity flex

listing=$("$olmo" devices)
name=$(awk -v name="${device%%:*}" '{ found = $1; sub(/:.*/, "", found) } found == name && !/no device found|not compiled in/ { sub(/^[^ ]+ +/, ""); print; exit }' <<<"$listing")
if [ -z "$name" ]; then
    echo "$listing" >&2
    echo "gpu.sh: there is no device ${device}; what needs none is done${failed:+, but failed:$failed}." >&2
    exit 1
fi
card=$name
if command -v nvidia-smi >/dev/null && [ "${device%%:*}" = cuda ]; then
    card=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
    name="$(nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader | head -1)"
fi
if [ -z "$peak" ]; then
    # Dense bf16, from the makers' data sheets.
    case $card in
        *H100*PCIe*) peak=756 ;; *H100* | *H200*) peak=989 ;; *A100*) peak=312 ;; *L40S*) peak=362 ;; *4090*) peak=165 ;; *MI250*) peak=362 ;; *MI300X*) peak=1307 ;;
    esac
fi
say "## $name" ""
say "Parity. Products of f32 may go through TF32 on tensor cores, whose 10 bits of fraction allow differences of 5e-3 of the largest logit and 2e-2 of the largest gradient; elsewhere the CPU's tolerances hold." ""
parity "${device%%:*}"

if [ -n "$small" ]; then
    shapes=("under 2M: --d-model 64 --n-layers 2 --n-heads 2 --vocab-size 8192 --seq-len 64 --micro-batch 2 --steps 2")
else
    shapes=("85M: --d-model 512 --n-layers 8 --n-heads 8 --seq-len 2048 --micro-batch 16 --steps 10"
        "OLMo 2 1B: --preset olmo2_1b --seq-len 4096 --micro-batch 2 --steps 10"
        "OLMo 2 1B, larger batch: --preset olmo2_1b --seq-len 4096 --micro-batch 8 --steps 5 --activations recompute")
fi
torch_device=cuda
[ "$device" = flex ] && torch_device=cpu
say "Training steps: forward, backward, clipping, AdamW. MFU is of ${peak:-an unknown number of} TFLOP/s." ""
say "| | tokens/s | TFLOP/s | MFU | loss |" "|---|---|---|---|---|"
for shape in "${shapes[@]}"; do
    IFS=' ' read -ra options <<<"${shape#*: }"
    for precision in amp-bf16 fp32; do
        train "olmo, ${shape%%: *}, $precision" "${options[@]}" --precision $precision --device "$device"
    done
    if [ -n "$python" ]; then
        while read -r json; do
            row "ai2-olmo on PyTorch, ${shape%%: *}, $(grep -oE 'amp-bf16|fp32' <<<"$json")" "$json"
        done < <("$python" benchmarks/peer_train_step.py "${options[@]}" --device "$torch_device" ${peak:+--peak-tflops "$peak"} || true)
    fi
done
say ""
[ -n "$python" ] || say "PyTorch was not timed: no --python was given." ""

if [ -n "$model" ]; then
    say "Prompts of 512 tokens and decoding after 128, of \`$(basename "$model")\`, batch 1." "" "| | tokens/s |" "|---|---|"
    for verb in prefill decode; do
        for dtype in f32 bf16; do
            if json=$("$olmo" bench $verb --model "$model" --dtype $dtype --device "$device" --json); then
                say "$(printf "| %s, %s | %.1f |" $verb $dtype "$(field tokens_per_second "$json")")"
            else
                failed="$failed $verb:$dtype"
            fi
        done
    done
    say ""
fi

card_name=$(tr -cs 'A-Za-z0-9\n' '-' <<<"$card" | tr 'A-Z' 'a-z' | sed 's/^-//;s/-$//' | cut -c1-40)
out=${out:-benchmarks/$(date +%F)-gpu-$card_name.md}
cp "$report" "$out.tmp" && mv "$out.tmp" "$out"
echo "written to $out" >&2
[ -z "$failed" ] || { echo "gpu.sh: failed:$failed" >&2; exit 1; }
