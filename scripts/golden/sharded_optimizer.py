"""A sharded checkpoint of OLMo-core with an optimizer that has made steps, and what its state is as a whole.

From ai2-olmo-core 2.4.0 (its own Checkpointer, train module, data loader and random states) and torch 2.9.0: two processes,
FSDP 2, AdamW after three steps on random gradients; the trainer's state is put together as `Trainer.state_dict` does.

Usage: python scripts/golden/sharded_optimizer.py
Writes tests/golden/sharded_optimizer/.
"""

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import GOLDEN, record, write_safetensors

SEED, SEQ = 6198, 32


def core_trained(rank: int) -> None:
    import olmo_core.distributed.checkpoint.filesystem as filesystem
    from olmo_core.data import DataCollator, NumpyFSLDataLoader
    from olmo_core.data.numpy_dataset import NumpyFSLDataset
    from olmo_core.distributed.parallel import DataParallelType
    from olmo_core.optim import AdamWConfig
    from olmo_core.train.checkpoint import Checkpointer
    from olmo_core.train.train_module import TransformerTrainModuleConfig
    from olmo_core.train.train_module.transformer.config import TransformerDataParallelConfig
    from olmo_core.train.utils import EnvRngStates
    from sharded import core_config

    filesystem.generate_uuid = lambda: "00000000-0000-0000-0000-000000000000"
    config = core_config(n_layers=1)
    # Their states are in the checkpoint.
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    module = TransformerTrainModuleConfig(
        optim=AdamWConfig(), rank_microbatch_size=64, max_sequence_length=SEQ,
        dp_config=TransformerDataParallelConfig(name=DataParallelType.fsdp),
    ).build(config.build(init_device="cpu"), device=torch.device("cpu"))  # fmt: skip
    for step in range(3):
        for i, p in enumerate(module.model.parameters()):
            whole = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i))
            p.grad = torch.distributed.tensor.distribute_tensor(whole, p.device_mesh, p.placements)
        module.optim.step()
    tokens = Path("tokens.npy")
    if rank == 0:
        np.zeros(50 * SEQ, dtype="<u2").tofile(tokens)
    dist.barrier()
    dataset = NumpyFSLDataset(str(tokens), sequence_length=SEQ, pad_token_id=1, eos_token_id=0, vocab_size=60, dtype=np.uint16)
    loader = NumpyFSLDataLoader.wrap_numpy_dataset(
        dataset, global_batch_size=4 * SEQ, collator=DataCollator(pad_token_id=1), work_dir=Path(f"work-{rank}"), seed=SEED,
        dp_world_size=2, dp_rank=rank,
    )  # fmt: skip
    loader.reshuffle(2)
    for _ in zip(range(3), loader):
        pass
    state = {
        "global_step": 15, "global_train_tokens_seen": 15 * 4 * SEQ, "max_steps": 20, "data_loader": loader.state_dict(), "epoch": 2,
        "world_size": 2, "rng": EnvRngStates.current_state().as_dict(), "callbacks": {},
    }  # fmt: skip
    Checkpointer(work_dir=Path("work"), save_overwrite=True, save_thread_count=1).save("core", module, state)
    expected = {}
    for name, p in module.model.named_parameters():
        for key, value in module.optim.state[p].items():
            value = value.full_tensor() if hasattr(value, "full_tensor") else value
            expected[f"{name}.{key}"] = value.float()
    if rank == 0:
        (Path("core") / "config.json").write_text(
            json.dumps({"model": config.as_config_dict(), "dataset": {"sequence_length": SEQ, "tokenizer": tokenizer()}})
        )
        torch.save(expected, "expected.pt")
    dist.barrier()


def tokenizer() -> dict:
    from olmo_core.data import TokenizerConfig

    return TokenizerConfig(vocab_size=60, eos_token_id=0, pad_token_id=1).as_config_dict()


def process(rank: int, scratch: str) -> None:
    import sharded

    sharded.core_trained = core_trained
    sharded.process(rank, "core_trained", 2, scratch)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        mp.spawn(process, args=(scratch,), nprocs=2)
        target = GOLDEN / "sharded_optimizer"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(Path(scratch) / "core", target)
        write_safetensors("sharded_optimizer/expected.safetensors", torch.load(Path(scratch) / "expected.pt"))
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        path.chmod(0o644)
        record(path, __file__, ["torch", "ai2-olmo-core"], SEED, "exact" if path.suffix == ".safetensors" else "input")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
