"""Checkpoints that ai2-olmo writes with ai2-olmo-core 0.1.0, as its runs of OLMo 0724 and OLMo 2 did.

From ai2-olmo 0.6.0 (`olmo/checkpoint.py` `OlmoCoreCheckpointer`), ai2-olmo-core 0.1.0
(`olmo_core/distributed/checkpoint.py`, which `core_0_1` of common.py finds) and torch 2.9.0 (gloo, CPU), float32:

- `olmo-core`: two processes, FSDP by blocks, so that tensors are cut anywhere.
- `olmo-core-ddp`: one process, DDP; nothing is cut, and names begin with `module.`.
- `olmo-core-columns`: two processes, matrices as torch's DTensor cut by columns and the rest whole, the model alone. The
  trainer does not write that, but the package can.

Each folder's `golden.safetensors` holds `tokens` [batch, seq] i64 and `logits` of the model that was saved.

Usage: python scripts/golden/sharded_core_0_1.py
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from common import GOLDEN, core_0_1, record
from sharded import SEED, golden, process, scrambled

N_PROCESSES = {"olmo-core": 2, "olmo-core-ddp": 1, "olmo-core-columns": 2}


def save(rank: int, name: str) -> None:
    from olmo.checkpoint import OlmoCoreCheckpointer
    from olmo.config import FSDPWrapStrategy, TrainConfig
    from olmo.model import OLMo
    from olmo_step import model_config
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.nn.parallel import DistributedDataParallel

    shape = {"d_model": 16, "mlp_hidden_size": 48, "vocab_size": 60, "embedding_size": 64, "n_kv_heads": 2}
    config = model_config("olmo2", **shape)
    model = scrambled(OLMo(config))
    if rank == 0:
        golden(name, model, 60)
        Path(name, "golden.safetensors").rename(f"{name}.golden")
        Path(name).rmdir()
    dist.barrier()
    train = TrainConfig(run_name="sharded", model=config, save_overwrite=True)
    checkpointer = OlmoCoreCheckpointer(train)
    if name == "olmo-core-columns":
        save_columns(checkpointer, name, model, rank)
    else:
        policy = model.get_fsdp_wrap_policy(FSDPWrapStrategy.by_block)
        cpu = torch.device("cpu")
        if name == "olmo-core":
            model = FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True, device_id=cpu)
        else:
            model = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        model(torch.zeros(1, 4, dtype=torch.int64)).logits.sum().backward()
        optimizer.step()
        checkpointer.save_checkpoint(name, model, optimizer, {"global_step": 3})
    dist.barrier()
    if rank == 0:
        Path(f"{name}.golden").rename(Path(name, "golden.safetensors"))


def save_columns(checkpointer, name: str, model: torch.nn.Module, rank: int) -> None:
    from olmo_core.distributed.checkpoint import Checkpointer
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    # Its name in the torch that ai2-olmo-core 0.1 was written for.
    Shard._local_shard_size_on_dim = lambda _, *args, **kwargs: Shard._local_shard_size_and_offset(*args)
    mesh = init_device_mesh("cpu", (2,))
    cut = lambda tensor: distribute_tensor(tensor, mesh, [Shard(1)]) if tensor.dim() == 2 else tensor  # noqa: E731
    state = {key: cut(tensor.detach()) for key, tensor in model.named_parameters()}
    Checkpointer().save(f"{name}/model", state)
    if rank == 0:
        checkpointer._save_config(Path(name))


def one(rank: int, name: str, scratch: str) -> None:
    import sharded

    core_0_1()
    sharded.save = lambda rank: save(rank, name)
    process(rank, "save", N_PROCESSES[name], scratch)


def main() -> None:
    scratch = Path(tempfile.mkdtemp())
    for name, n_processes in N_PROCESSES.items():
        mp.spawn(one, args=(name, str(scratch)), nprocs=n_processes)
        target = GOLDEN / "sharded" / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(scratch / name, target)
        for path in sorted(path for path in target.rglob("*") if path.is_file()):
            path.chmod(0o644)
            tolerance = "2e-6 relative" if path.name == "golden.safetensors" else "input"
            record(path, __file__, ["torch", "ai2-olmo", "ai2-olmo-core"], SEED, tolerance)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    core_0_1()
    main()
