"""Learning rates of OLMo-core's schedulers at every step, under the names and fields that olmo-optim gives them.

From ai2-olmo-core 2.4.0 (olmo_core/optim/scheduler.py). That version has no power schedule.

Usage: python scripts/golden/core_schedules.py
Writes tests/golden/optim/core_schedules.json.
"""

from common import record, write_json
from olmo_core.optim import scheduler as core

EVERY = list(range(1, 101))


def warmup(kwargs: dict) -> dict:
    """`warmup` or `warmup_fraction` as our `t_warmup`, and likewise the decay."""
    ours = {}
    for theirs, name in [("warmup", "t_warmup"), ("decay", "t_decay")]:
        if kwargs.get(theirs) is not None:
            ours[name] = kwargs[theirs]
        elif kwargs.get(f"{theirs}_fraction") is not None:
            ours[name] = {"fraction": kwargs[f"{theirs}_fraction"]}
    return ours


# Class, our name, and the fields whose default in our schedule is another.
CLASSES = {
    core.ConstantScheduler: ("constant", []),
    core.ConstantWithWarmup: ("constant_with_warmup", ["warmup_min_lr"]),
    core.WSD: ("wsd", []),
    core.WSDS: ("wsds", []),
    core.LinearWithWarmup: ("linear_with_warmup", ["warmup_min_lr"]),
    core.InvSqrtWithWarmup: ("inverse_sqrt_with_warmup", ["warmup_min_lr", "alpha_f"]),
    core.CosWithWarmup: ("cosine_with_warmup", ["warmup_min_lr"]),
    core.HalfCosWithWarmup: ("half_cosine_with_warmup", []),
    core.CosWithWarmupAndLinearDecay: ("cosine_then_linear", []),
}


def ours(scheduler: core.Scheduler, kwargs: dict) -> dict:
    """The settings of our schedule: what was given, and what ours does not default to."""
    name, fields = CLASSES[type(scheduler)]
    plain = {k: v for k, v in kwargs.items() if not k.startswith(("warmup", "decay")) or k.endswith("min_lr")}
    return {"name": name, **plain, **{f: getattr(scheduler, f) for f in fields}, **warmup(kwargs)}


def main() -> None:
    settings = [(core.ConstantScheduler, {})]
    settings += [(core.ConstantWithWarmup, kw) for kw in ({"warmup": 20}, {"warmup_fraction": 0.13, "warmup_min_lr": 1e-5})]
    for cls in (core.LinearWithWarmup, core.CosWithWarmup, core.HalfCosWithWarmup):
        settings += [
            (cls, {"warmup": 20}),
            (cls, {"warmup": 0, "alpha_f": 0.0}),
            (cls, {"warmup_fraction": 0.05, "t_max": 70, "alpha_f": 0.2, "warmup_min_lr": 1e-6}),
            (cls, {"warmup": 9, "t_max": 150}),
        ]
    settings += [
        (core.InvSqrtWithWarmup, {"warmup": 20}),
        (core.InvSqrtWithWarmup, {"warmup_fraction": 0.07, "alpha_f": 0.0, "warmup_min_lr": 2e-5}),
        (core.WSD, {"warmup": 15}),
        (core.WSD, {"warmup_fraction": 0.025, "decay_fraction": 0.305, "decay_min_lr": 1e-5, "warmup_min_lr": 1e-6}),
        (core.WSD, {"warmup": 5, "decay": 95, "decay_fraction": None}),
        (core.WSD, {"warmup": 60, "decay": 50, "decay_fraction": None}),
        (core.CosWithWarmupAndLinearDecay, {"warmup": 10}),
        (core.CosWithWarmupAndLinearDecay, {"warmup": 10, "t_max": 200, "decay": 33, "decay_fraction": None, "decay_min_lr": 1e-6}),
        (core.CosWithWarmupAndLinearDecay, {"warmup_fraction": 0.1, "alpha_f": 0.3, "decay_fraction": 0.5}),
        (core.WSDS, {"period_lengths": [40, 20, 30], "warmup": 8, "decay": 10}),
        (core.WSDS, {"period_lengths": [50, 25], "warmup_fraction": 0.1, "decay_fraction": 0.3, "decay_min_lr": 1e-5, "warmup_min_lr": 1e-6}),
        (core.WSDS, {"period_lengths": [30, 30], "warmup": 20, "decay": 10}),
    ]  # fmt: skip
    cases = []

    def add(scheduler: core.Scheduler, schedule: dict, initial_lr: float, max_steps: int, steps: list[int]) -> None:
        rates = [scheduler.get_lr(initial_lr, step, max_steps) for step in steps]
        cases.append({"schedule": schedule, "initial_lr": initial_lr, "max_steps": max_steps, "steps": steps, "rates": rates})

    for cls, kwargs in settings:
        scheduler = cls(**kwargs)
        kwargs = {k: v for k, v in kwargs.items() if v is not None}
        add(scheduler, ours(scheduler, kwargs), 4e-4, 100, EVERY)

    # One after another.
    def join(parts: list, lengths: list[int], initial_lr: float, max_steps: int, steps: list[int]) -> None:
        schedulers = [cls(**kwargs) for cls, kwargs in parts]
        schedule = {
            "name": "sequential", "schedulers_max": lengths,
            "schedulers": [ours(s, kwargs) for s, (_, kwargs) in zip(schedulers, parts)],
        }  # fmt: skip
        add(core.SequentialScheduler(schedulers=schedulers, schedulers_max=list(lengths)), schedule, initial_lr, max_steps, steps)

    join([(core.CosWithWarmup, {"warmup": 2}), (core.HalfCosWithWarmup, {"warmup": 0})], [59], 3e-4, 100, EVERY)
    join(
        [(core.ConstantWithWarmup, {"warmup": 10}), (core.LinearWithWarmup, {"warmup": 0}), (core.InvSqrtWithWarmup, {"warmup": 5})],
        [40, 30], 6e-4, 100, EVERY,
    )  # fmt: skip
    # In tokens, 4M a step.
    batch = 1024 * 4096
    tokens = [batch * k for k in (1, 2, 100, 1999, 2000, 2001, 5000, 100_000, 477_000, 928_646, 1_192_092)]
    scheduler = core.CosWithWarmup(warmup=8388608000, units=core.SchedulerUnits.tokens)
    kwargs = {"warmup": 8388608000}
    add(scheduler, ours(scheduler, kwargs), 3e-4, 5_000_000_000_000, tokens)
    record(write_json("optim/core_schedules.json", cases), __file__, ["ai2-olmo-core"], None, "1e-12 relative")


if __name__ == "__main__":
    main()
