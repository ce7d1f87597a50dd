"""Vectors for olmo-optim: AdamW, gradient clipping, parameter groups, learning-rate schedules.

From torch 2.9.0 (torch.optim.AdamW, torch.nn.utils.clip_grad_norm_) and ai2-olmo 0.6.0
(olmo/optim.py: get_param_groups, build_scheduler, BoltOnWarmupScheduler, Scheduler.get_max_grad_norm).

Usage: python scripts/golden/optim.py
Writes tests/golden/optim/{adamw.safetensors,adamw.json,clip.safetensors,clip.json,groups.json,schedules.json}.
"""

import torch
from torch import nn

from common import record, write_json, write_safetensors
from olmo import LayerNormBase
from olmo.config import ModelConfig, OptimizerConfig, SchedulerConfig, TrainConfig
from olmo.model import OLMo
from olmo.optim import BoltOnWarmupScheduler, build_scheduler, get_param_groups

SEED = 20
N_STEPS = 50
SIZES = {"one": 1, "seven": 7, "odd": 33, "wide": 257}
SNAPSHOTS = (1, 2, 10, 50)


def gradients() -> dict[str, torch.Tensor]:
    """[N_STEPS, size] for each tensor: normal, with elements from 1e-20 to 1e8, and zeros of every kind."""
    generator = torch.Generator().manual_seed(SEED)
    grads = {}
    for name, size in SIZES.items():
        g = torch.randn(N_STEPS, size, generator=generator)
        exponent = torch.randint(-4, 3, (N_STEPS, size), generator=generator).float()
        g = g * 10**exponent
        if size > 1:
            g[:, 0] = 0.0  # never a gradient
            g[:, 1] *= 1e-20  # its square underflows
            g[:, 2] *= 1e8
            g[::3, 3] = 0.0  # now and then a gradient
            g[10:, 4] = 0.0  # a gradient that dies
        grads[name] = g
    return grads


def adamw() -> None:
    """Three runs of 50 steps over the same gradients; weights and moments after some of them."""
    generator = torch.Generator().manual_seed(SEED + 1)
    weights = {name: torch.randn(size, generator=generator) for name, size in SIZES.items()}
    grads = gradients()
    runs = {
        "plain": {"lr": [4e-4] * N_STEPS, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "max_norm": None},
        "no_decay": {"lr": [3e-4] * N_STEPS, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.0, "max_norm": None},
        # A moving rate, a small beta1 (torch's `lerp` has another formula from weight 0.5 up) and clipping.
        "clipped": {
            "lr": [1e-3 * (step + 1) / N_STEPS for step in range(N_STEPS)],
            "betas": [0.4, 0.999],
            "eps": 1e-8,
            "weight_decay": 0.1,
            "max_norm": 1.0,
        },
    }
    tensors = {f"weight.{n}": w for n, w in weights.items()} | {f"grad.{n}": g for n, g in grads.items()}
    for run_name, run in runs.items():
        params = {n: nn.Parameter(w.clone()) for n, w in weights.items()}
        optimizer = torch.optim.AdamW(
            params.values(), lr=run["lr"][0], betas=tuple(run["betas"]), eps=run["eps"],
            weight_decay=run["weight_decay"], foreach=False, fused=False,
        )
        run["grad_norm"] = []
        for step in range(1, N_STEPS + 1):
            for name, p in params.items():
                p.grad = grads[name][step - 1].clone()
            if run["max_norm"] is not None:
                norm = torch.nn.utils.clip_grad_norm_(params.values(), run["max_norm"], foreach=False)
                run["grad_norm"].append(norm.item())
            for group in optimizer.param_groups:
                group["lr"] = run["lr"][step - 1]
            optimizer.step()
            if step in SNAPSHOTS:
                for name, p in params.items():
                    state = optimizer.state[p]
                    assert state["step"].item() == step
                    prefix = f"{run_name}.{step}.{name}"
                    tensors[f"{prefix}.weight"] = p.detach().clone()
                    tensors[f"{prefix}.exp_avg"] = state["exp_avg"].clone()
                    tensors[f"{prefix}.exp_avg_sq"] = state["exp_avg_sq"].clone()
    tolerance = "weight 5e-7, exp_avg_sq 8e-7 relative; exp_avg 6e-7 of the average |grad|"
    record(write_safetensors("optim/adamw.safetensors", tensors), __file__, ["torch"], SEED, tolerance)
    value = {"n_steps": N_STEPS, "snapshots": SNAPSHOTS, "tensors": sorted(SIZES), "runs": runs}
    record(write_json("optim/adamw.json", value), __file__, ["torch"], SEED, "settings")


def clip() -> None:
    """Total norms, coefficients and clipped gradients of several sets of gradients."""
    generator = torch.Generator().manual_seed(SEED + 2)

    def draw(scale: float, *sizes: int) -> list[torch.Tensor]:
        return [torch.randn(s, generator=generator) * scale for s in sizes]

    sets = {
        "below": draw(1e-3, 5, 17, 100),
        "above": draw(1.0, 5, 17, 1000),
        "tiny": draw(1e-9, 3, 4),
        "huge": draw(1e12, 9, 2),
        "zero": [torch.zeros(4), torch.zeros(1)],
        "one_element": [torch.tensor([-3.0])],
        "mixed_scales": draw(1e-6, 2000) + draw(1e3, 3) + draw(1.0, 257),
    }
    tensors, cases = {}, []
    for name, grads in sets.items():
        tensors |= {f"{name}.{i}": g.clone() for i, g in enumerate(grads)}
        for max_norm in (1.0, 0.1, 10.0):
            params = [nn.Parameter(torch.zeros_like(g)) for g in grads]
            for p, g in zip(params, grads):
                p.grad = g.clone()
            total = torch.nn.utils.clip_grad_norm_(params, max_norm, foreach=False)
            coefficient = torch.clamp(max_norm / (total + 1e-6), max=1.0)
            for p, g in zip(params, grads):
                assert torch.equal(p.grad, g * coefficient)
            cases.append(
                {"name": name, "n_tensors": len(grads), "max_norm": max_norm, "total": total.item(),
                 "coefficient": coefficient.item()}
            )  # fmt: skip
    tolerance = "total 3e-7 relative; coefficient of a given total exact"
    record(write_safetensors("optim/clip.safetensors", tensors), __file__, ["torch"], SEED, tolerance)
    record(write_json("optim/clip.json", cases), __file__, ["torch"], SEED, tolerance)


TINY = {
    "d_model": 16, "n_heads": 2, "n_layers": 11, "mlp_hidden_size": 64, "vocab_size": 64, "embedding_size": 64,
    "max_sequence_length": 16, "activation_type": "swiglu", "rope": True, "include_bias": False, "init_device": "meta",
}  # fmt: skip
MODELS = {
    "olmo_1b": {"layer_norm_type": "default", "layer_norm_with_affine": False, "weight_tying": True},
    "olmo_7b": {"layer_norm_type": "default", "layer_norm_with_affine": False, "weight_tying": False},
    "olmo2": {
        "layer_norm_type": "rms", "layer_norm_with_affine": True, "weight_tying": False, "norm_after": True,
        "attention_layer_norm": True, "attention_layer_norm_with_affine": True, "bias_for_layer_norm": False,
    },
    "with_bias": {
        "layer_norm_type": "default", "layer_norm_with_affine": True, "weight_tying": False, "include_bias": True,
        "bias_for_layer_norm": True,
    },
}  # fmt: skip
PARTS = {
    "wte.weight": ["embeddings.weight"],
    "ln_f.weight": ["lm_head.norm.weight"],
    "ff_out.weight": ["lm_head.w_out.weight"],
}
BLOCK_PARTS = {
    "att_proj.weight": ["attention.w_q.weight", "attention.w_k.weight", "attention.w_v.weight"],
    "attn_out.weight": ["attention.w_out.weight"],
    "q_norm.weight": ["attention.q_norm.weight"],
    "k_norm.weight": ["attention.k_norm.weight"],
    "attn_norm.weight": ["attention_norm.weight"],
    "ff_norm.weight": ["feed_forward_norm.weight"],
    "ff_proj.weight": ["feed_forward.w3.weight", "feed_forward.w1.weight"],
    "ff_out.weight": ["feed_forward.w2.weight"],
}


def core_names(name: str) -> list[str]:
    """OLMo-core's names for one parameter of the original model: one, or those fused into it."""
    parts = name.removeprefix("transformer.").split(".")
    if parts[0] == "blocks":
        return [f"blocks.{parts[1]}.{core}" for core in BLOCK_PARTS[".".join(parts[2:])]]
    return PARTS[".".join(parts)]


def kind(model: OLMo, name: str) -> str:
    """What a parameter is, by its module's class."""
    module = model.get_submodule(name.rpartition(".")[0])
    if name.endswith("bias"):
        return "bias"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Embedding):
        return "embedding"
    assert isinstance(module, (LayerNormBase, nn.LayerNorm)), name
    return "norm"


def groups() -> None:
    """The groups of get_param_groups for tiny models of each family, in both naming schemes."""
    cases = []
    for model_name, differences in MODELS.items():
        model = OLMo(ModelConfig(**(TINY | differences)), init_params=False)
        params = [[name, kind(model, name)] for name, _ in model.named_parameters()]
        for decay_norm_and_bias in (False, True):
            for decay_embeddings in (False, True):
                optimizer = OptimizerConfig(
                    weight_decay=0.1, decay_norm_and_bias=decay_norm_and_bias, decay_embeddings=decay_embeddings
                )
                found = get_param_groups(TrainConfig(optimizer=optimizer), model)
                case = {
                    "model": model_name,
                    "decay_norm_and_bias": decay_norm_and_bias,
                    "decay_embeddings": decay_embeddings,
                    "params": params,
                    "groups": [
                        {"weight_decay": g.get("weight_decay", 0.1), "paths": g["param_names"]} for g in found
                    ],
                }
                if model_name != "with_bias":
                    case["core_params"] = [[core, k] for name, k in params for core in core_names(name)]
                    case["core_groups"] = [
                        sorted(core for name in g["param_names"] for core in core_names(name)) for g in found
                    ]
                cases.append(case)
    record(write_json("optim/groups.json", cases), __file__, ["ai2-olmo", "torch"], None, "exact")


def schedules() -> None:
    """Learning rates of every scheduler class at every step, also beyond its end, and in tokens."""
    warmed = ["cosine_with_warmup", "linear_with_warmup", "cosine_linear_envelope"]
    settings = []  # (config, initial_lr, max_steps, steps)
    every = list(range(0, 131))
    for name in warmed:
        settings += [
            ({"name": name, "t_warmup": 20, "alpha_f": 0.1}, 4e-4, 100, every),
            ({"name": name, "t_warmup": 7, "alpha_f": 0.0, "t_max": 61, "warmup_min_lr": 0.0}, 3e-4, 100, every),
            ({"name": name, "t_warmup": 13, "alpha_f": 0.37, "t_max": 200, "warmup_min_lr": 1e-5}, 6e-4, 100, every),
            ({"name": name, "t_warmup": 0, "alpha_f": 0.0}, 7.4487e-5, 90, every),
            ({"name": name, "t_warmup": 40, "alpha_f": 0.1, "t_max": 40}, 1e-3, 100, every),
        ]
    inverse_sqrt = "inverse_sqrt_with_warmup"
    settings += [
        ({"name": "max_scheduler", "t_warmup": 20, "alpha_f": 0.1}, 4e-4, 100, every),
        ({"name": "max_scheduler", "t_warmup": 3, "alpha_f": 0.5, "t_max": 60, "warmup_min_lr": 0.0}, 3e-4, 100, every),
        ({"name": inverse_sqrt, "t_warmup": 20}, 4e-4, 100, every),
        ({"name": inverse_sqrt, "t_warmup": 3, "warmup_min_lr": 0.0}, 3e-4, 100, every),
        ({"name": "constant"}, 4e-4, 100, every),
        ({"name": "constant_with_warmup", "t_warmup": 20}, 4e-4, 100, every),
        ({"name": "constant_with_warmup", "t_warmup": 11, "warmup_min_lr": 1e-6}, 4e-4, 100, every),
    ]
    # In tokens: OLMo 2 7B (4M tokens a step) over its 5T schedule, and beyond it.
    batch = 1024 * 4096
    tokens = [batch * k for k in (1, 2, 100, 1999, 2000, 2001, 5000, 100_000, 477_000, 928_646, 1_192_092, 1_192_093)]
    config = {"name": "cosine_with_warmup", "t_warmup": 8388608000, "t_max": 5_000_000_000_000, "alpha_f": 0.1, "warmup_min_lr": 0.0}
    settings.append((config, 3e-4, 3_900_000_000_000, tokens))

    cases = []
    for config, initial_lr, max_steps, steps in settings:
        scheduler = build_scheduler(TrainConfig(), SchedulerConfig(**config))
        rates = [scheduler.get_lr(initial_lr, step, max_steps) for step in steps]
        case = {"schedule": config, "initial_lr": initial_lr, "max_steps": max_steps, "rates": rates}
        cases.append(case | ({"steps": steps} if steps is not every else {"n_steps": len(every)}))
        if config["name"] in ("linear_with_warmup", "cosine_with_warmup") and steps is every:
            bolt_on = BoltOnWarmupScheduler.wrap(scheduler, 30, 45)
            rates = [bolt_on.get_lr(initial_lr, step, max_steps) for step in steps]
            wrapped = {"name": "bolt_on_warmup", "inner": config, "warmup_start": 30, "warmup_end": 45}
            cases.append(
                {"schedule": wrapped, "initial_lr": initial_lr, "max_steps": max_steps, "rates": rates,
                 "n_steps": len(every)}
            )  # fmt: skip
    scheduler = build_scheduler(
        TrainConfig(), SchedulerConfig(grad_clip_warmup_steps=30, grad_clip_warmup_factor=10.0)
    )
    limits = [scheduler.get_max_grad_norm(1.0, step, 100) for step in every]
    value = {"cases": cases, "grad_clip": {"steps": 30, "factor": 10.0, "max_norm": 1.0, "limits": limits}}
    record(write_json("optim/schedules.json", value), __file__, ["ai2-olmo"], None, "1e-12 relative")


if __name__ == "__main__":
    torch.set_num_threads(1)
    adamw()
    clip()
    groups()
    schedules()
