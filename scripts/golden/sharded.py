"""Checkpoints in the sharded forms of both trainers, written by themselves on one and two processes.

From torch 2.9.0 (gloo, CPU), ai2-olmo-core 2.4.0 (`train/checkpoint.py`, `distributed/checkpoint`) and ai2-olmo
0.6.0 (`olmo/checkpoint.py`), float32. The folders, after the class that writes them:

- `core-fsdp`: OLMo-core's Checkpointer, two processes, FSDP 2, with the optimizer's state.
- `core-tp`: the same by tensor parallelism, so that some matrices are cut by columns; no optimizer.
- `core-single`: one process, windows and YaRN on full layers; no optimizer.
- `torch-new`, `torch-legacy`, `local`: ai2-olmo's TorchNewStyleShardedCheckpointer,
  TorchLegacyShardedCheckpointer and LocalShardedCheckpointer, two processes, FSDP by blocks. The last refuses
  torch 2.3 and newer for want of a check of FSDP's internals; the handle that it asks for is still there, and
  `local` below is written by its own code with that handle.
- `torch-new-rms`: the first of them, of a model that transformers has no type for.

Each folder's `golden.safetensors` holds `tokens` [batch, seq] i64 and `logits` of the model that was saved.
`core_configs.json` holds the configurations of released models as OLMo-core writes them.

Usage: python scripts/golden/sharded.py
"""

import json
import os
import random
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from common import GOLDEN, record, write_json, write_safetensors

warnings.filterwarnings("ignore")
SEED = 20241124
BATCH, SEQ = 2, 12
PORT = 29531


def main() -> None:
    scratch = Path(tempfile.mkdtemp())
    for name in ("core_fsdp", "core_tp", "core_single", "ai2_olmo", "ai2_olmo_rms"):
        n_processes = 1 if name == "core_single" else 2
        arguments = (name, n_processes, str(scratch))
        mp.spawn(process, args=arguments, nprocs=n_processes)
    for folder in sorted(path for path in scratch.iterdir() if path.is_dir()):
        target = GOLDEN / "sharded" / folder.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
        packages = ["torch", "ai2-olmo-core" if folder.name.startswith("core") else "ai2-olmo"]
        for path in sorted(path for path in target.rglob("*") if path.is_file()):
            path.chmod(0o644)
            record(path, __file__, packages, SEED, "2e-6 relative" if path.name == "golden.safetensors" else "input")
    shutil.rmtree(scratch)
    record(write_json("sharded/core_configs.json", core_configs()), __file__, ["ai2-olmo-core"], None, "exact")


def process(rank: int, name: str, n_processes: int, scratch: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(n_processes), "LOCAL_WORLD_SIZE": str(n_processes), "FS_LOCAL_RANK": str(rank)}
    os.environ |= {"NUM_NODES": "1", "OLMO_SHARED_FS": "1"}
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Some forms note the path that they are saved to: a relative one is the same wherever this runs.
    os.chdir(scratch)
    dist.init_process_group("gloo", rank=rank, world_size=n_processes)
    globals()[name](rank)
    dist.barrier()
    dist.destroy_process_group()


def scrambled(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that are the same in every process, and no norm all ones."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.2 * noise)
    return model


def golden(name: str, model: torch.nn.Module, vocab_size: int) -> None:
    """Tokens and logits of a model that is whole."""
    tokens = torch.randint(0, vocab_size, (BATCH, SEQ), generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        found = model.eval()(tokens)
    logits = getattr(found, "logits", found)
    path = write_safetensors(f"sharded/{name}/golden.safetensors", {"tokens": tokens, "logits": logits})
    Path(name).mkdir(exist_ok=True)
    path.rename(Path(name) / path.name)


# OLMo-core


def core_config(**changes):
    from olmo_core.nn.transformer import TransformerConfig

    shape = {"d_model": 16, "vocab_size": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_size_multiple_of": 8}
    family = {"qk_norm": True, "rope_theta": 500_000, "block_name": "reordered_norm", "layer_norm_eps": 1e-6}
    return TransformerConfig.llama_like(**shape | family | changes)


def core_save(name: str, config, rank: int, *, optimizer: bool, **parallel) -> None:
    """Saves a model as OLMo-core's trainer does, with the configuration that its callback leaves."""
    import olmo_core.distributed.checkpoint.filesystem as filesystem
    from olmo_core.data import TokenizerConfig
    from olmo_core.optim import AdamWConfig
    from olmo_core.train.checkpoint import Checkpointer
    from olmo_core.train.train_module import TransformerTrainModuleConfig

    filesystem.generate_uuid = lambda: "00000000-0000-0000-0000-000000000000"
    module_config = TransformerTrainModuleConfig(
        optim=AdamWConfig(), rank_microbatch_size=64, max_sequence_length=32, **parallel
    )
    model = scrambled(config.build(init_device="cpu"))
    whole = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    module = module_config.build(model, device=torch.device("cpu"))
    # Building the module initialises the model anew.
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(module.model, dict(whole), options=StateDictOptions(full_state_dict=True))
    if not optimizer:
        state = module.state_dict_to_save
        module.state_dict_to_save = lambda: {"model": state()["model"]}
    # One thread, so that tensors come in the same order every time.
    checkpointer = Checkpointer(work_dir=Path("work"), save_overwrite=True, save_thread_count=1)
    checkpointer.save(name, module, {"global_step": 3})
    dist.barrier()
    if rank == 0:
        tokenizer = TokenizerConfig(vocab_size=60, eos_token_id=0, pad_token_id=1)
        dataset = {"sequence_length": 32, "tokenizer": tokenizer.as_config_dict()}
        experiment = {
            "run_name": name,
            "model": config.as_config_dict(),
            "dataset": dataset,
            "train_module": module_config.as_config_dict(),
            "init_seed": SEED,
        }
        (Path(name) / "config.json").write_text(json.dumps(experiment))
        shutil.rmtree("work", ignore_errors=True)
        model = config.build(init_device="cpu")
        model.load_state_dict(whole)
        golden(name, model, 60)


def core_fsdp(rank: int) -> None:
    from olmo_core.distributed.parallel import DataParallelType
    from olmo_core.train.train_module.transformer.config import TransformerDataParallelConfig

    parallel = TransformerDataParallelConfig(name=DataParallelType.fsdp)
    core_save("core-fsdp", core_config(), rank, optimizer=True, dp_config=parallel)


def core_tp(rank: int) -> None:
    from olmo_core.distributed.parallel import DataParallelType
    from olmo_core.train.train_module.transformer.config import (
        TransformerDataParallelConfig,
        TransformerTensorParallelConfig,
    )

    rows = TransformerDataParallelConfig(name=DataParallelType.fsdp)
    columns = TransformerTensorParallelConfig(degree=2)
    core_save("core-tp", core_config(), rank, optimizer=False, dp_config=rows, tp_config=columns)


def core_single(rank: int) -> None:
    core_save("core-single", windowed(core_config(n_layers=4), 5), rank, optimizer=False)


def windowed(config, size: int):
    """A model of OLMo 3's kind."""
    from olmo_core.nn.attention import SlidingWindowAttentionConfig
    from olmo_core.nn.rope import YaRNRoPEScalingConfig

    config.block.attention.sliding_window = SlidingWindowAttentionConfig(
        pattern=[size, size, size, -1], force_full_attention_on_first_layer=False
    )
    return config.with_rope_scaling(YaRNRoPEScalingConfig(factor=4, old_context_len=16))


def core_configs() -> dict:
    from olmo_core.nn.rope import YaRNRoPEScalingConfig
    from olmo_core.nn.transformer import TransformerConfig

    of = {"olmo2_1b": "olmo2_1B_v2"} | {f"olmo2_{size}b": f"olmo2_{size}B" for size in (7, 13, 32)}
    of |= {f"olmo3_{size}b": f"olmo3_{size}B" for size in (7, 32)}
    found = {name: getattr(TransformerConfig, method)(vocab_size=100_352) for name, method in of.items()}
    for size in (7, 32):
        found[f"olmo3_{size}b_long"] = found[f"olmo3_{size}b"].with_rope_scaling(YaRNRoPEScalingConfig())
    return {name: config.as_config_dict() for name, config in found.items()}


# ai2-olmo


def ai2_olmo(rank: int) -> None:
    ai2_olmo_save(rank, "olmo2", ("torch-new", "torch-legacy", "local"))


def ai2_olmo_rms(rank: int) -> None:
    ai2_olmo_save(rank, "rms", ("torch-new-rms",))


def ai2_olmo_save(rank: int, family: str, names: tuple[str, ...]) -> None:
    import olmo.checkpoint as checkpoint
    import torch.distributed.checkpoint.filesystem as filesystem
    from olmo.config import FSDPWrapStrategy, TrainConfig
    from olmo.model import OLMo
    from torch.distributed.fsdp import FullyShardedDataParallel

    from olmo_step import model_config

    shape = {"d_model": 16, "mlp_hidden_size": 48, "vocab_size": 60, "embedding_size": 64, "n_kv_heads": 2}
    config = model_config(family, **shape)
    filesystem._generate_uuid = lambda: "00000000-0000-0000-0000-000000000000"
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    model = scrambled(OLMo(config))
    if rank == 0:
        for name in names:
            golden(name, model, 60)
    sharded = FullyShardedDataParallel(
        model,
        auto_wrap_policy=model.get_fsdp_wrap_policy(FSDPWrapStrategy.by_block),
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    train = TrainConfig(run_name="sharded", model=config, save_overwrite=True)
    handles = lambda _, module: [module._handle] if module._handle is not None else []
    checkpoint.LocalShardedCheckpointer._fsdp_handles = handles
    # As `Trainer.trainer_state_dict` has it; the legacy form keeps it in the same pickle as the model.
    rng = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.random.get_rng_state()}
    trainer_state = {"global_step": 3, "checkpoints": [Path("step1")], "rng": rng}
    kinds = {
        "torch-new": checkpoint.TorchNewStyleShardedCheckpointer,
        "torch-legacy": checkpoint.TorchLegacyShardedCheckpointer,
        "local": checkpoint.LocalShardedCheckpointer,
        "torch-new-rms": checkpoint.TorchNewStyleShardedCheckpointer,
    }
    for name in names:
        optimizer = torch.optim.SGD(sharded.parameters(), lr=0.0, momentum=0.9 if name == "torch-new" else 0.0)
        sharded(torch.zeros(1, 4, dtype=torch.int64)).logits.sum().backward()
        optimizer.step()
        saved = Path(name)
        if rank == 0 and saved.exists():
            (saved / "golden.safetensors").rename(f"{name}.golden")
        dist.barrier()
        kinds[name](train).save_checkpoint(saved, sharded, optimizer, trainer_state)
        dist.barrier()
        if rank == 0:
            Path(f"{name}.golden").rename(saved / "golden.safetensors")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
