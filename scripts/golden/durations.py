"""Makes tests/golden/optim/durations.json: the last step of runs of a length in tokens that go on with another batch.

From ai2-olmo 0.6.0 (olmo/train.py, `Trainer.max_steps`) and ai2-olmo-core 2.4.0 (olmo_core/train/trainer.py,
`Trainer._get_max_steps`), each asked as it stands for a trainer of which nothing but what they read is there.

Usage: python scripts/golden/durations.py
"""

from types import SimpleNamespace

from common import record, write_json
from olmo.train import Trainer as OlmoTrainer
from olmo_core.train import Duration
from olmo_core.train import Trainer as CoreTrainer


def cases() -> list:
    out = []
    for tokens, step, seen, batch in [
        (10_000, 0, 0, 512),
        (10_000, 5, 5 * 512, 512),
        (10_000, 5, 5 * 512, 1024),
        (10_000, 7, 7 * 512, 96),
        (10_240, 20, 10_240, 512),
        (10_240, 20, 10_241, 512),
        (5_000_000_000_000, 597_046, 597_046 * 4_194_304, 4_194_304),
        (7_000_000_000_000, 597_046, 597_046 * 4_194_304, 8_388_608),
    ]:
        common = {"global_step": step, "global_train_tokens_seen": seen, "tokens_per_batch": batch}
        olmo = OlmoTrainer.max_steps.fget(SimpleNamespace(cfg=SimpleNamespace(max_duration=f"{tokens}T"), **common))
        core = CoreTrainer._get_max_steps(SimpleNamespace(**common), Duration.tokens(tokens))
        out.append({"tokens": tokens, "step": step, "seen": seen, "batch": batch, "olmo": olmo, "core": core})
    return out


if __name__ == "__main__":
    record(write_json("optim/durations.json", cases()), __file__, ["ai2-olmo", "ai2-olmo-core"], None, "exact")
