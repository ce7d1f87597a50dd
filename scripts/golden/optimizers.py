"""Vectors for olmo-optim beyond AdamW: LionW, skipped steps, Muon, adaptive clipping.

From ai2-olmo 0.6.0 (olmo/optim.py: LionW, clip_grads_and_collect_metrics), ai2-olmo-core 2.4.0 (SkipStepAdamW) and
torch 2.9.0 (torch.optim.Muon; OLMo-core has none in that version).

What is patched: torch's Muon orthogonalises in bfloat16; `Tensor.bfloat16` is replaced by a cast to float32 while it
steps, because ours works in float32. The run `bf16` is as torch has it.

Usage: python scripts/golden/optimizers.py
Writes tests/golden/optim/{lion,skip_step,muon,adaptive_clip}.safetensors; settings are in the files' metadata.
"""

import json
import math
from unittest import mock

import torch
from torch import nn

from common import record, write_safetensors
from olmo.config import SchedulerConfig, TrainConfig
from olmo.optim import AdamW, LionW, build_scheduler
from olmo_core.optim import SkipStepAdamW

SEED = 40


def lion() -> None:
    """30 steps over gradients of many magnitudes, with zeros; weights and momentum at each."""
    generator = torch.Generator().manual_seed(SEED)
    n_steps, size = 30, 33
    grads = torch.randn(n_steps, size, generator=generator) * 10 ** torch.randint(-6, 3, (n_steps, size), generator=generator).float()
    grads[:, 0] = 0.0
    grads[::3, 1] = 0.0
    start = torch.randn(size, generator=generator)
    lrs = [1e-3 * math.cos(step / 20) for step in range(n_steps)]
    settings = {"betas": [0.9, 0.95], "weight_decay": 0.1, "lr": lrs}
    p = nn.Parameter(start.clone())
    optimizer = LionW([p], lr=lrs[0], betas=(0.9, 0.95), weight_decay=0.1)
    weights, momenta = [], []
    for lr, grad in zip(lrs, grads):
        p.grad = grad.clone()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        weights.append(p.detach().clone())
        momenta.append(optimizer.state[p]["exp_avg"].clone())
    tensors = {"start": start, "grads": grads, "weights": torch.stack(weights), "exp_avg": torch.stack(momenta)}
    path = write_safetensors("optim/lion.safetensors", tensors, {"settings": json.dumps(settings, sort_keys=True)})
    record(path, __file__, ["ai2-olmo", "torch"], SEED, "1e-6 of the largest")


def skip_step() -> None:
    """120 steps with spikes of loss and of norm, an interval of 32 and of 128; weights after each tenth step.

    `loss_only` is told no norms, as where gradients are not clipped; `uncounted` has the mistake that
    step_increment_bugfix=False brings back.
    """
    generator = torch.Generator().manual_seed(SEED + 1)
    n_steps, size = 120, 17
    grads = torch.randn(n_steps, size, generator=generator) * 0.1
    losses = 4.0 - torch.linspace(0, 1, n_steps) + 0.05 * torch.randn(n_steps, generator=generator)
    for step in (5, 20, 40, 70, 71, 100):
        losses[step] += 2.0
    for step in (30, 70, 90, 110):
        grads[step] *= 30
    norms = torch.stack([torch.linalg.vector_norm(g) for g in grads])
    start = torch.randn(size, generator=generator)
    tensors = {"start": start, "grads": grads, "losses": losses, "norms": norms}
    runs = {"short": (32, 4, True, True), "default": (128, 6, True, True), "loss_only": (32, 4, False, True), "uncounted": (32, 4, True, False)}
    for name, (length, sigma, is_clipped, bugfix) in runs.items():
        p = nn.Parameter(start.clone())
        optimizer = SkipStepAdamW(
            [p], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, rolling_interval_length=length, sigma_factor=sigma,
            step_increment_bugfix=bugfix,
        )
        skipped, weights = [], []
        for step in range(n_steps):
            p.grad = grads[step].clone()
            optimizer.latest_loss = losses[step]
            if is_clipped:
                optimizer.latest_grad_norm = norms[step]
            optimizer.step()
            skipped.append(optimizer.step_skipped.item())
            if step % 10 == 9:
                weights.append(p.detach().clone())
        tensors |= {f"{name}.skipped": torch.tensor(skipped), f"{name}.weights": torch.stack(weights)}
        tensors[f"{name}.step"] = optimizer.state[p]["step"].clone().reshape(1)
        print(f"skip_step {name}: skipped {int(sum(skipped))} of {n_steps}")
    settings = {
        name: {"rule": {"rolling_interval_length": n, "sigma_factor": s}, "is_clipped": clipped, "step_increment_bugfix": bugfix}
        for name, (n, s, clipped, bugfix) in runs.items()
    }
    path = write_safetensors("optim/skip_step.safetensors", tensors, {"settings": json.dumps(settings, sort_keys=True)})
    record(path, __file__, ["ai2-olmo-core", "torch"], SEED + 1, "same steps; weights 1e-6 of the largest")


def muon() -> None:
    """10 steps of a wide, a tall and a square matrix, in three settings."""
    generator = torch.Generator().manual_seed(SEED + 2)
    n_steps, shapes = 10, {"wide": (6, 17), "tall": (20, 5), "square": (8, 8)}
    start = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    grads = {n: torch.randn(n_steps, *s, generator=generator) * 0.1 for n, s in shapes.items()}
    runs = {
        "plain": {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
        "nesterov": {"nesterov": True, "adjust_lr_fn": "original"},
        "bf16": {"nesterov": True, "adjust_lr_fn": "original"},
    }
    tensors = {f"start.{n}": w for n, w in start.items()} | {f"grads.{n}": g for n, g in grads.items()}
    for name, run in runs.items():
        params = {n: nn.Parameter(w.clone()) for n, w in start.items()}
        optimizer = torch.optim.Muon(params.values(), lr=0.02, weight_decay=0.1, momentum=0.95, **run)
        for step in range(n_steps):
            for n, p in params.items():
                p.grad = grads[n][step].clone()
            if name == "bf16":
                optimizer.step()
            else:
                # A copy: the iteration divides what it gets in place.
                with mock.patch.object(torch.Tensor, "bfloat16", lambda self: self.float().clone()):
                    optimizer.step()
        tensors |= {f"{name}.{n}": p.detach().clone() for n, p in params.items()}
        if name != "bf16":
            tensors |= {f"{name}.momentum.{n}": optimizer.state[p]["momentum_buffer"].clone() for n, p in params.items()}
    path = write_safetensors("optim/muon.safetensors", tensors, {"settings": json.dumps(runs, sort_keys=True)})
    record(path, __file__, ["torch"], SEED + 2, "2e-5 of the largest; bf16 2e-2 of the way")


def adaptive_clip() -> None:
    """50 steps of three parameters with bursts: coefficients, averages, and clipped norms, in the trainer's order."""
    generator = torch.Generator().manual_seed(SEED + 3)
    n_steps, sizes = 50, [5, 40, 300]
    params = [nn.Parameter(torch.randn(s, generator=generator)) for s in sizes]
    group = {
        "params": params, "param_names": [f"p{i}" for i in range(len(params))], "sharded": False,
        "max_grad_norm": None, "max_grad_norm_ratio": 1.5,
    }  # fmt: skip
    optimizer = AdamW([group], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    scheduler = build_scheduler(TrainConfig(), SchedulerConfig(grad_clip_warmup_steps=10, grad_clip_warmup_factor=2.0))
    norms, coefficients, averages, ratios = [], [], [], []
    for step in range(1, n_steps + 1):
        for p in params:
            scale = 20.0 if torch.rand(1, generator=generator).item() < 0.15 else 1.0
            p.grad = torch.randn(p.shape, generator=generator) * scale
        before = [torch.linalg.vector_norm(p.grad) for p in params]
        ratios.append(optimizer.param_groups[0]["max_grad_norm_ratio"])
        optimizer.clip_grads_and_collect_metrics(step, collect_param_metrics=True, device=torch.device("cpu"))
        after = [torch.linalg.vector_norm(p.grad) for p in params]
        optimizer.param_groups[0]["max_grad_norm_ratio"] = scheduler.get_max_grad_norm(1.5, step, n_steps)
        optimizer.step()
        norms.append(torch.stack(before))
        coefficients.append(torch.stack(after) / torch.stack(before))
        averages.append(torch.stack([optimizer.state[p].get("grad_norm_exp_avg", torch.tensor(0.0)).clone() for p in params]))
    tensors = {"norms": torch.stack(norms), "coefficients": torch.stack(coefficients), "averages": torch.stack(averages)}
    tensors["ratios"] = torch.tensor(ratios)
    path = write_safetensors("optim/adaptive_clip.safetensors", tensors)
    record(path, __file__, ["ai2-olmo", "torch"], SEED + 3, "1e-6 relative")


if __name__ == "__main__":
    torch.set_num_threads(1)
    lion()
    skip_step()
    muon()
    adaptive_clip()
