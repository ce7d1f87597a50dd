"""A hundred steps of ai2-olmo's own Trainer from a YAML file and token files: loss, gradient norm, rate of each step.

From ai2-olmo 0.6.0 (olmo/train.py `Trainer.fit`) and torch 2.9.0, on the CPU, in float32, in a gloo process group of one.
Warm-up, clipping with a warm-up of its limit, three micro-batches a step, groups of weight decay, z-loss, four epochs.

What is patched, and why:
- nothing in the step. The package has no entry point, so what `scripts/train.py` of the repository does before
  `Trainer.fit` is done here: model, DistributedDataParallel, optimizer, scheduler, loader.
- `Trainer.log_metrics_to_console` is replaced to take the metrics instead of printing them.
- `torch.autocast("cuda")` is what the trainer enters; without CUDA it disables itself, and float32 is what is asked for.
- with `distributed_strategy: ddp` and no unsharded interval nothing is saved, which would ask CUDA for its random state.

The YAML files say `auxiliary_loss_multiplier: 1e-5`; the trainer never reads it and uses 1e-4.

The run `rms` is that of AI2's configuration of 20M parameters, and has evaluators: `eval.<name>` holds what each
`Trainer.eval` says of a metric, one value a measurement, in the steps `eval_steps`. A dataset without an instance has no
metric. Tasks (`type: downstream`) are left out, which need data of the Hub. `eval_batches.<label>` are the instances of
each batch of an evaluator, -1 where a batch has fewer, by their numbers in the concatenated files.

Usage: python scripts/golden/trainer.py
Writes tests/golden/trainer/{olmo,olmo2,rms}.{yaml,safetensors}, tokens.npy and validation-{a,b,c,short}.npy.
"""

import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from olmo.config import EvaluatorType, TrainConfig
from olmo.data import build_train_dataloader
from olmo.eval import build_evaluator
from olmo.model import OLMo
from olmo.optim import build_optimizer, build_scheduler
from olmo.torch_util import seed_all
from olmo.train import Trainer
from torch.nn.parallel import DistributedDataParallel as DDP

from common import GOLDEN, record, write_safetensors
from olmo_step import hf_fields, to_hf

SEED, SEQ, N_INSTANCES, VOCAB = 20240209, 16, 400, 64
STEPS = 100

YAML = """\
run_name: {name}
seed: 6198
dry_run: false

model:
  d_model: 32
  n_heads: 4
  n_layers: 2
  mlp_hidden_size: 96
  alibi: false
  rope: true
  flash_attention: false
  attention_dropout: 0.0
  include_bias: false
  block_type: sequential
  bias_for_layer_norm: false
  activation_type: swiglu
  residual_dropout: 0.0
  embedding_dropout: 0.0
  max_sequence_length: 16
  vocab_size: 64
  embedding_size: 64
  eos_token_id: 0
  pad_token_id: 1
  init_device: cpu
{model}
softmax_auxiliary_loss: true
auxiliary_loss_multiplier: 1e-5

compile: null

optimizer:
  name: adamw
  learning_rate: 1.0e-2
  weight_decay: 0.1
  betas:
  - 0.9
  - 0.95
{optimizer}
scheduler:
{scheduler}
tokenizer:
  identifier: tokenizer.json
  truncate_direction: right

save_folder: ${{path.choose:${{oc.env:NO_SUCH_FOLDER,no_exist}},{folder}}}
save_overwrite: false
save_interval: 1_000
save_num_checkpoints_to_keep: 9
load_path: null

max_duration: {max_duration}
stop_at: 100
global_train_batch_size: 12
device_train_microbatch_size: 4

precision: fp32
distributed_strategy: ddp
ddp:
  grad_sync_mode: batch

max_grad_norm: 1.0
max_grad_norm_ratio: null

speed_monitor:
  window_size: 20

{evaluation}
data:
  pad_direction: right
  num_workers: 0
  drop_last: true
  memmap_dtype: uint16
  timeout: 0
  paths:
  - tokens.npy
"""

NO_EVALUATION = "eval_interval: ${save_interval}\ndevice_eval_batch_size: ${device_train_microbatch_size}\n"
EVALUATION = """\
eval_interval: 40
eval_subset_num_batches: 2
device_eval_batch_size: ${device_train_microbatch_size}
evaluators:
  - label: all-small-ppl-validation
    subset_num_batches: 0
    data:
      num_workers: 0
      drop_last: true
      datasets:
        c4_en-validation:
          - validation-a.npy
        pile-validation:
          - validation-b.npy
          - validation-a.npy
  - label: subset
    subset_num_batches: 3
    device_eval_batch_size: 2
    data:
      num_workers: 0
      drop_last: true
      seed: 7
      datasets:
        subset-a:
          - validation-a.npy
        subset-b:
          - validation-b.npy
  - label: whole
    type: lm
    subset_num_batches: -1
    device_eval_batch_size: 100
    data:
      num_workers: 0
      drop_last: true
      paths:
        - validation-b.npy
  - label: first-two
    data:
      num_workers: 0
      drop_last: true
      memmap_dtype: uint32
      datasets:
        wide:
          - validation-c.npy
        short:
          - validation-short.npy

  - label: piqa
    type: downstream

"""

RUNS = {
    "olmo": {
        "model": "  weight_tying: true\n  layer_norm_type: default\n  layer_norm_with_affine: false\n"
        "  attention_layer_norm: false\n  attention_layer_norm_with_affine: false\n  init_fn: mitchell\n",
        "optimizer": "",
        "scheduler": "  name: cosine_with_warmup\n  t_warmup: 10\n  alpha_f: 0.1\n"
        "  grad_clip_warmup_steps: 20\n  grad_clip_warmup_factor: 2.0\n",
        "max_duration": "4ep",
    },
    "olmo2": {
        "model": "  weight_tying: false\n  layer_norm_type: rms\n  layer_norm_with_affine: true\n  layer_norm_eps: 1e-6\n"
        "  attention_layer_norm: true\n  attention_layer_norm_with_affine: true\n  norm_after: true\n"
        "  rope_theta: 500000\n  clip_qkv: null\n  n_kv_heads: 2\n  init_fn: normal\n  init_std: 0.2\n  init_cutoff_factor: 3\n",
        "optimizer": "  eps: 1e-8\n  decay_norm_and_bias: true\n  decay_embeddings: false\n",
        "scheduler": "  name: linear_with_warmup\n  units: tokens\n  t_warmup: 1920\n  t_max: 2.4e4\n  alpha_f: 0.1\n  warmup_min_lr: 0\n"
        "  grad_clip_warmup_steps: 3840\n  grad_clip_warmup_factor: 2.0\n",
        "max_duration": "24_000T",
    },
    # AI2's `configs/tiny/OLMo-20M.yaml`, shrunk.
    "rms": {
        "model": "  weight_tying: false\n  layer_norm_type: rms\n  layer_norm_with_affine: true\n  layer_norm_eps: 1e-6\n"
        "  attention_layer_norm: false\n  attention_layer_norm_with_affine: false\n  clip_qkv: null\n"
        "  init_fn: normal\n  init_std: 0.02\n  init_cutoff_factor: 3\n",
        "optimizer": "  eps: 1e-8\n  decay_norm_and_bias: true\n  decay_embeddings: true\n  metrics_log_interval: 10\n",
        "scheduler": "  name: cosine_with_warmup\n  t_warmup: 10\n  alpha_f: 0.1\n  warmup_min_lr: 0\n",
        "max_duration": "4ep",
        "evaluation": EVALUATION,
    },
}  # fmt: skip


def tokens(n_instances: int = N_INSTANCES, seed: int = SEED) -> np.ndarray:
    """Sequences in which one of two successors follows a token nine times out of ten."""
    generator = np.random.Generator(np.random.PCG64(seed))
    successors = generator.integers(VOCAB, size=(VOCAB, 2))
    out = np.empty((n_instances, SEQ), dtype="<u2")
    out[:, 0] = generator.integers(VOCAB, size=n_instances)
    for i in range(1, SEQ):
        follow = successors[out[:, i - 1], generator.integers(2, size=n_instances)]
        stray = generator.random(n_instances) < 0.1
        out[:, i] = np.where(stray, generator.integers(VOCAB, size=n_instances), follow)
    return out


def run_yaml(name: str, folder: str, fields: dict) -> str:
    """The configuration of a run that has no evaluation unless its fields say so."""
    return YAML.format(name=name, folder=folder, **{"evaluation": NO_EVALUATION, **fields})


def batches(loader) -> torch.Tensor:
    """The instances of each batch."""
    order = list(loader.batch_sampler)
    return torch.tensor([batch + [-1] * (len(order[0]) - len(batch)) for batch in order])


def build(config: TrainConfig, wrap=DDP, evaluators: tuple = ()) -> tuple[OLMo, Trainer, list[dict]]:
    """What `scripts/train.py` of ai2-olmo's repository does before `Trainer.fit`; metrics of steps go to the list."""
    config.device_train_batch_size = config.global_train_batch_size // dist.get_world_size()
    config.device_train_grad_accum = config.device_train_batch_size // config.device_train_microbatch_size
    seed_all(config.seed)
    model = OLMo(config.model)
    dist_model = wrap(model)
    # Of FSDP the optimizer takes the wrapped model, whose names say so; of DDP what is in it.
    named = dist_model.module if isinstance(dist_model, DDP) else dist_model
    trainer = Trainer(
        cfg=config, epoch=config.epoch, model=model, dist_model=dist_model, optim=build_optimizer(config, named),
        scheduler=build_scheduler(config), train_loader=build_train_dataloader(config), device=torch.device("cpu"),
        evaluators=list(evaluators),
    )  # fmt: skip
    found: list[dict] = []
    # Metrics of steps come with a prefix that names the step, those of an evaluator with its label.
    trainer.log_metrics_to_console = lambda prefix, metrics: found.append(metrics) if "step=" in prefix else None
    return model, trainer, found


def train(path: Path, token_file: Path, folder: str) -> dict:
    config = TrainConfig.load(path, [f"data.paths=[{token_file}]", f"save_folder={folder}"], validate_paths=False)
    config.evaluators = [evaluator for evaluator in config.evaluators if evaluator.type == EvaluatorType.lm]
    for evaluator in config.evaluators:
        data = evaluator.data
        if data.datasets:
            data.datasets = {label: [str(path.parent / name) for name in names] for label, names in data.datasets.items()}
        else:
            data.paths = [str(path.parent / name) for name in data.paths]
    evaluators = [build_evaluator(config, evaluator, None, torch.device("cpu")) for evaluator in config.evaluators]
    scores: list[dict] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, trainer, found = build(config, evaluators=tuple(evaluators))
        evaluate = trainer.eval
        trainer.eval = lambda: scores.append({"step": trainer.global_step, **evaluate()}) or scores[-1]
        hf = lambda: to_hf(config.model, {n: p.detach().clone() for n, p in model.named_parameters()})  # noqa: E731
        tensors = {f"initial.{k}": v for k, v in hf().items()}
        tensors |= {f"eval_batches.{evaluator.label}": batches(evaluator.eval_loader) for evaluator in evaluators}
        with trainer:
            trainer.fit()
    assert len(found) == STEPS == trainer.global_step
    names = {
        "loss": "train/CrossEntropyLoss", "z_loss": "train/ZLoss", "grad_norm": "optim/total_grad_norm",
        "lr": "optim/learning_rate_group0",
    }  # fmt: skip
    tensors |= {k: torch.tensor([m[name] for m in found], dtype=torch.float64) for k, name in names.items()}
    tensors |= {f"final.{k}": v for k, v in hf().items()}
    if evaluators:
        steps = torch.tensor([score.pop("step") for score in scores])
        tensors |= {"eval_steps": steps} | {name.replace("eval/", "eval."): torch.tensor([score[name] for score in scores], dtype=torch.float64) for name in scores[0]}
    metadata = {"config": json.dumps(hf_fields(config.model), sort_keys=True)}
    limit = config.max_grad_norm
    clipped = int((tensors["grad_norm"] > limit).sum())
    print(f"{path.name}: loss {tensors['loss'][0]:.3f} -> {tensors['loss'][-5:].mean():.3f}, norm above {limit} in {clipped} of {STEPS}")
    print(torch.quantile(tensors["grad_norm"], torch.tensor([0, 0.1, 0.25, 0.5, 0.75, 1], dtype=torch.float64)))
    return {"tensors": tensors, "metadata": metadata}


def main() -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29581", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    folder = GOLDEN / "trainer"
    folder.mkdir(exist_ok=True)
    token_file = folder / "tokens.npy"
    tokens().tofile(token_file)
    record(token_file, __file__, ["ai2-olmo"], SEED, "input")
    for i, n_instances in enumerate((9, 14)):
        validation = folder / f"validation-{'ab'[i]}.npy"
        # What is left of a file after its last instance is not measured.
        np.append(tokens(n_instances, SEED + 1 + i), np.arange(5, dtype="<u2")).tofile(validation)
        record(validation, __file__, ["ai2-olmo"], SEED + 1 + i, "input")
    for name, values in (("c", tokens(11, SEED + 3)), ("short", np.arange(SEQ - 1))):
        validation = folder / f"validation-{name}.npy"
        values.astype("<u4").tofile(validation)
        record(validation, __file__, ["ai2-olmo"], SEED + 3 if name == "c" else None, "input")
    dist.init_process_group("gloo")
    for name, fields in RUNS.items():
        path = folder / f"{name}.yaml"
        path.write_text(run_yaml(name, "/", fields))
        record(path, __file__, ["ai2-olmo"], None, "input")
        with tempfile.TemporaryDirectory() as save_folder:
            out = train(path, token_file, save_folder)
        written = write_safetensors(f"trainer/{name}.safetensors", out["tensors"], out["metadata"])
        record(written, __file__, ["ai2-olmo", "torch"], 6198, "each step: loss 1e-6, norm 1e-5, rate 1e-12 relative; evaluators 1e-6; weights 1e-4")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
