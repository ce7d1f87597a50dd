"""Makes tests/golden/data/official_configs.json: what ai2-olmo reads in the official configurations about data.

Package: ai2-olmo 0.6.0 (its own TrainConfig, with OmegaConf).
Usage: python scripts/golden/official_configs.py

The configurations are those of ../shared/data/olmo-configs; where that is not there, the script says so and leaves the
vector as it is. Lists of paths are recorded by their length and SHA-256 of the lines.
"""

import hashlib
import os
import sys

from common import ROOT, record, write_json

CONFIGS = ROOT.parent / "shared" / "data" / "olmo-configs"

if not CONFIGS.exists():
    print("skipped: official_configs.py needs ../shared/data/olmo-configs")
    sys.exit(0)

from olmo.config import TrainConfig  # noqa: E402


def digest(paths) -> dict:
    return {"n": len(paths), "sha256": hashlib.sha256("".join(f"{path}\n" for path in paths).encode()).hexdigest()}


def main() -> None:
    os.environ["CHECKPOINTS_PATH"] = "checkpoints"
    out = {}
    for path in sorted(CONFIGS.glob("*.yaml")):
        if "custom_dataset" in path.read_text():
            continue  # the released package has no such field
        config = TrainConfig.load(path, validate_paths=False)
        data = config.data
        instance_filter = data.instance_filter
        out[path.name] = {
            "paths": digest(data.paths),
            "memmap_dtype": data.memmap_dtype,
            "drop_last": data.drop_last,
            "pad_direction": str(data.pad_direction),
            "num_workers": data.num_workers,
            "seed": data.seed if data.seed is not None else config.seed,
            "epoch": config.epoch or 0,
            "instance_filter": instance_filter and {
                "repetition_max_period": instance_filter.repetition_max_period,
                "repetition_min_period": instance_filter.repetition_min_period,
                "repetition_max_count": instance_filter.repetition_max_count,
            },
            "max_sequence_length": config.model.max_sequence_length,
            "vocab_size": config.model.vocab_size,
            "eos_token_id": config.model.eos_token_id,
            "pad_token_id": config.model.pad_token_id,
            "global_train_batch_size": config.global_train_batch_size,
            "max_duration": str(config.max_duration),
            "stop_at": config.stop_at,
            "tokenizer": config.tokenizer.identifier,
            "device_eval_batch_size": config.device_eval_batch_size,
            "eval_interval": config.eval_interval,
            "wandb_name": config.wandb and config.wandb.name,
            "learning_rate": config.optimizer.learning_rate,
        }
    record(write_json("data/official_configs.json", out), __file__, ["ai2-olmo"], None, "exact")


if __name__ == "__main__":
    main()
