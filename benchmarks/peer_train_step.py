"""Training steps of PyTorch: ai2-olmo's own model with torch's AdamW, shapes and output as `olmo bench train`.

usage: peer_train_step.py [--d-model N --n-layers N --n-heads N --vocab-size N | --preset olmo2_1b] [--seq-len N]
                          [--micro-batch N] [--steps N] [--device cpu|cuda] [--peak-tflops N]

Needs torch 2.9.0 and ai2-olmo 0.6.0 (scripts/golden/README.md). Prints one line of JSON for f32 and one for
automatic mixed precision in bf16; a step is forward, backward, clipping and AdamW, and the first is not timed.
The peak is of the process on a CPU, where bf16 comes second and so shows no less than f32, and of the
allocator on a card, counted for each precision.
"""

import argparse
import gc
import json
import resource
import time

import torch
from olmo.config import ModelConfig
from olmo.model import OLMo

# Where an option has no meaning for PyTorch, it is there so that one list of options serves both.
PRESETS = {
    "olmo2_1b": dict(
        d_model=2048, n_heads=16, n_layers=16, mlp_hidden_size=16384, vocab_size=100352, embedding_size=100352,
        layer_norm_type="rms", layer_norm_with_affine=True, attention_layer_norm=True, norm_after=True,
        layer_norm_eps=1e-6, rope_theta=500000,
    ),
}


def config(args):
    shape = dict(
        d_model=args.d_model, n_heads=args.n_heads, n_layers=args.n_layers, mlp_ratio=8, vocab_size=args.vocab_size,
        embedding_size=args.vocab_size, layer_norm_type="default", layer_norm_with_affine=False,
        attention_layer_norm=False,
    )
    if args.preset:
        shape = PRESETS[args.preset]
    return ModelConfig(
        **shape, init_device=args.device, rope=True, activation_type="swiglu", include_bias=False, block_type="sequential",
        weight_tying=False, attention_dropout=0.0, residual_dropout=0.0, embedding_dropout=0.0,
        max_sequence_length=args.seq_len,
    )


def measure(args, amp):
    on_card = args.device != "cpu"
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    model = OLMo(config(args))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=on_card)
    vocab_size = model.config.vocab_size
    tokens = torch.randint(0, vocab_size, (args.micro_batch, args.seq_len), device=args.device)

    def step():
        with torch.autocast(args.device, enabled=amp, dtype=torch.bfloat16):
            logits = model(tokens).logits
        logits = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    step()
    start = time.time()
    for _ in range(args.steps):
        loss = step()
    seconds = (time.time() - start) / args.steps
    n = sum(p.numel() for p in model.parameters())
    n_tokens = args.micro_batch * args.seq_len
    peak = torch.cuda.max_memory_allocated() if on_card else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = dict(
        peer="ai2-olmo on PyTorch " + torch.__version__, precision="amp-bf16" if amp else "fp32", params=n,
        tokens_per_second=n_tokens / seconds, seconds_per_step=seconds, gflops=6 * n * n_tokens / seconds / 1e9,
        peak_bytes=peak, loss=loss,
    )
    if args.peak_tflops:
        flops = model.num_fwd_flops + model.num_bck_flops
        report["mfu"] = n_tokens / seconds * flops / (args.peak_tflops * 1e12)
    print(json.dumps(report), flush=True)
    del model, optimizer
    gc.collect()


def main():
    parser = argparse.ArgumentParser()
    for name, default in [("d-model", 512), ("n-layers", 8), ("n-heads", 8), ("vocab-size", 50304), ("seq-len", 512),
                          ("micro-batch", 4), ("steps", 4)]:
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--activations", help="as of `olmo bench train`; PyTorch keeps all")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    for amp in (False, True):
        try:
            measure(args, amp)
        except torch.OutOfMemoryError as error:
            print(json.dumps(dict(precision="amp-bf16" if amp else "fp32", error=str(error)[:100])), flush=True)


main()
