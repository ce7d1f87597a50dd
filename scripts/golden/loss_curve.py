"""Fifty training steps of ai2-olmo: its model, parameter groups, AdamW, clipping and schedules.

From torch 2.9.0 and ai2-olmo 0.6.0, float32, one thread. A step does what `Trainer.train_step` does, in
its order: backward of the summed micro-batches, `optim.clip_grads_and_collect_metrics`, then the rate
`scheduler.get_lr(initial_lr, k, max_steps)` for k = 1, 2, ..., then `optim.step()`. Groups, optimizer and
schedule come from `build_optimizer` and `build_scheduler` on a TrainConfig. One deliberate difference:
the loss of a batch is the sum of its cross entropies over the number of its labels, batch * (seq - 1),
where that trainer divides by batch * seq.

Each file holds `initial.<key>` and `final.<key>` (weights under Hugging Face names), `tokens`
[steps, batch, seq] i32, and per step `loss` f32, `grad_norm` f32 (before clipping) and `lr` f64. Metadata:
`config` (config.json fields) and `recipe` (optimizer, schedule, clipping, micro-batches).

Usage: python scripts/golden/loss_curve.py
"""

import json

import torch
from olmo.config import (
    OptimizerConfig,
    OptimizerType,
    SchedulerConfig,
    SchedulerType,
    SchedulerUnits,
    TrainConfig,
)
from olmo.model import OLMo
from olmo.optim import build_optimizer, build_scheduler
from olmo.train import cross_entropy_loss

from common import record, write_safetensors
from olmo_step import hf_fields, model_config, to_hf

SEED = 20240204
STEPS, SEQ = 50, 16
COMMON = {
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "betas": [0.9, 0.95],
    "t_warmup": 10,
    "t_max": STEPS,
    "max_steps": STEPS,
    "lr": 1e-2,
    "alpha_f": 0.1,
    "max_grad_norm": 1.0,
}

# Name: model family, changes to its config, recipe. Batches and initial weights are of a size at which
# float32 and float64 runs stay within 1e-5 of each other, and at which clipping acts on some steps only.
CURVES = {
    "olmo": (
        "olmo",
        {"weight_tying": True, "n_kv_heads": 2, "clip_qkv": 0.3},
        {
            "scheduler": "linear_with_warmup",
            "warmup_min_lr": None,
            "eps": 1e-5,
            "decay_norm_and_bias": False,
            "decay_embeddings": False,
            "batch_size": 8,
            "micro_batch_size": 8,
        },
    ),
    "olmo2": (
        "olmo2",
        {"init_std": 0.2, "init_cutoff_factor": 3.0},
        {
            "scheduler": "linear_with_warmup",
            "warmup_min_lr": 0.0,
            "eps": 1e-8,
            "decay_norm_and_bias": False,
            "decay_embeddings": True,
            "batch_size": 12,
            "micro_batch_size": 6,
        },
    ),
    "olmo2-cosine": (
        "olmo2",
        {"init_std": 0.2, "init_cutoff_factor": 3.0, "n_kv_heads": 2},
        {
            "scheduler": "cosine_with_warmup",
            "warmup_min_lr": 0.0,
            "eps": 1e-8,
            "decay_norm_and_bias": True,
            "decay_embeddings": False,
            "batch_size": 12,
            "micro_batch_size": 12,
        },
    ),
}


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for index, (name, (family, changes, own)) in enumerate(CURVES.items()):
        recipe = {**COMMON, **own}
        config = model_config(family, **changes)
        tensors = train(config, recipe, SEED + index)
        metadata = {"config": json.dumps(hf_fields(config), sort_keys=True), "recipe": json.dumps(recipe, sort_keys=True)}
        path = write_safetensors(f"curve/{name}.safetensors", tensors, metadata)
        record(path, __file__, ["ai2-olmo", "torch"], SEED + index, "1e-5")
        clipped = int((tensors["grad_norm"] > recipe["max_grad_norm"]).sum())
        loss = tensors["loss"]
        print(f"{name}: loss {loss[0]:.3f} -> {loss[-5:].mean():.3f}, clipped in {clipped} of {STEPS} steps")
        assert loss[-5:].mean() < loss[0] - 1 and 5 <= clipped <= STEPS - 5, name


def train(config, recipe: dict, seed: int, dtype: torch.dtype = torch.float32) -> dict:
    torch.manual_seed(seed)
    model = OLMo(config).to(dtype)
    batches = markov_tokens(recipe["batch_size"], config.vocab_size, torch.Generator().manual_seed(seed))
    train_config = TrainConfig(
        model=config,
        optimizer=OptimizerConfig(
            name=OptimizerType[recipe["optimizer"]],
            learning_rate=recipe["lr"],
            weight_decay=recipe["weight_decay"],
            betas=tuple(recipe["betas"]),
            eps=recipe["eps"],
            decay_norm_and_bias=recipe["decay_norm_and_bias"],
            decay_embeddings=recipe["decay_embeddings"],
        ),
        scheduler=SchedulerConfig(
            name=SchedulerType[recipe["scheduler"]],
            units=SchedulerUnits.steps,
            t_warmup=recipe["t_warmup"],
            t_max=recipe["t_max"],
            alpha_f=recipe["alpha_f"],
            warmup_min_lr=recipe["warmup_min_lr"],
        ),
        max_grad_norm=recipe["max_grad_norm"],
    )
    optim, scheduler = build_optimizer(train_config, model), build_scheduler(train_config)
    tensors = {f"initial.{k}": v.clone() for k, v in weights(model).items()}
    losses, norms, rates = [], [], []
    for k in range(1, STEPS + 1):
        optim.zero_grad(set_to_none=True)
        losses.append(backward(model, batches[k - 1], recipe["micro_batch_size"]))
        metrics = optim.clip_grads_and_collect_metrics(k, collect_param_metrics=False, device=torch.device("cpu"))
        norms.append(metrics["total_grad_norm"])
        for group in optim.param_groups:
            group["lr"] = scheduler.get_lr(recipe["lr"], k, recipe["max_steps"])
        rates.append(group["lr"])
        optim.step()
    tensors |= {f"final.{k}": v for k, v in weights(model).items()}
    tensors |= {"tokens": batches.to(torch.int32), "loss": torch.stack(losses)}
    return tensors | {"grad_norm": torch.stack(norms), "lr": torch.tensor(rates, dtype=torch.float64)}


def backward(model: OLMo, tokens: torch.Tensor, micro_batch_size: int) -> torch.Tensor:
    """Adds the gradients of the batch's mean loss, micro-batch by micro-batch; returns that loss."""
    n_labels = tokens[:, 1:].numel()
    total = torch.tensor(0.0, dtype=next(model.parameters()).dtype)
    for micro_batch in tokens.split(micro_batch_size):
        logits = model(micro_batch).logits[:, :-1]
        summed, _ = cross_entropy_loss(logits.reshape(-1, logits.size(-1)), micro_batch[:, 1:].reshape(-1), reduction="sum")
        loss = summed / n_labels
        loss.backward()
        total += loss.detach()
    return total


def weights(model: OLMo) -> dict:
    return to_hf(model.config, {n: p.detach() for n, p in model.named_parameters()})


def markov_tokens(batch_size: int, vocab_size: int, generator: torch.Generator) -> torch.Tensor:
    """Sequences in which one of two successors follows a token nine times out of ten."""
    successors = torch.randint(vocab_size, (vocab_size, 2), generator=generator)
    shape = (STEPS, batch_size)
    tokens = [torch.randint(vocab_size, shape, generator=generator)]
    for _ in range(SEQ - 1):
        follow = successors[tokens[-1], torch.randint(2, shape, generator=generator)]
        stray = torch.rand(shape, generator=generator) < 0.1
        tokens.append(torch.where(stray, torch.randint(vocab_size, shape, generator=generator), follow))
    return torch.stack(tokens, dim=-1)


if __name__ == "__main__":
    main()
