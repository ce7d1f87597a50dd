//! What each part of an official configuration is in our terms.

use std::path::Path;

use olmo_data::official::{MaxDuration, OfficialRun, PaddingDirection};
use olmo_hub::HfConfig;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::error::Error;

type Config = Map<String, Value>;

/// Sets a field where there is something to set.
fn set(config: &mut Config, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        config.insert(name.to_owned(), value.into());
    }
}

pub(super) fn run(fields: &mut Fields<'_>, config: &mut Config) {
    let name = fields.text("run_name").unwrap_or_else(|| "run".to_owned());
    let folder = fields.text("save_folder").unwrap_or_else(|| format!("runs/{name}"));
    config.insert("run_name".to_owned(), name.into());
    config.insert("save_folder".to_owned(), folder.into());
    set(config, "seed", fields.count("seed"));
    if fields.flag("dry_run") == Some(true) {
        fields.problem("dry_run is true: give `--dry-run` to the command instead".to_owned());
    }
    if let Some(tokenizer) = fields.text("tokenizer.identifier") {
        if Path::new(&tokenizer).exists() {
            config.insert("tokenizer".to_owned(), tokenizer.into());
        } else {
            fields.note(
                "tokenizer.identifier",
                "there is no such file, so checkpoints get no tokenizer; training needs none",
            );
        }
    }
}

/// The architecture, initial weights, and ids.
pub(super) fn model(
    fields: &mut Fields<'_>,
    config: &mut Config,
    path: &Path,
) -> Result<(), Error> {
    let Some(Value::Object(model)) = fields.get("model") else {
        fields.problem("model is missing, expected the fields of the architecture".to_owned());
        return Ok(());
    };
    for name in ["attention_dropout", "residual_dropout", "embedding_dropout"] {
        let dropout = fields.float(&format!("model.{name}")).unwrap_or(0.1);
        if dropout != 0.0 {
            fields.problem(format!(
                "model.{name} is {dropout}, which is also the original's default; there is no dropout here, set it to 0"
            ));
        }
    }
    init(fields, config);
    let hf = HfConfig::from_original(model, path)?;
    let architecture = serde_json::to_value(&hf.model).map_err(|error| Error::Config {
        origin: path.display().to_string(),
        message: format!("model: {error}"),
    })?;
    config.insert("model".to_owned(), architecture);
    set(config, "eos_token_id", hf.special.eos_token_id.first().copied());
    set(config, "pad_token_id", hf.special.pad_token_id);
    Ok(())
}

fn init(fields: &mut Fields<'_>, config: &mut Config) {
    let name = fields.text("model.init_fn").unwrap_or_else(|| "normal".to_owned());
    let std = fields.float("model.init_std").unwrap_or(0.02);
    let cutoff = fields.float("model.init_cutoff_factor");
    let embedding_std = fields.float("model.emb_init_std");
    let scale = fields.flag("model.scale_emb_init").unwrap_or(false);
    let mut init = json!({"name": name, "cutoff": cutoff, "embedding_std": embedding_std});
    match name.as_str() {
        "normal" => init["std"] = std.into(),
        "mitchell" => {}
        "full_megatron" => {
            init["std"] = std.into();
            init["scale_embedding"] = scale.into();
        }
        _ => fields.problem(format!(
            "model.init_fn is {name}, expected normal, mitchell or full_megatron, which the original can make"
        )),
    }
    config.insert("init".to_owned(), init);
}

pub(super) fn data(
    fields: &mut Fields<'_>,
    config: &mut Config,
    run: &OfficialRun,
) -> Result<(), Error> {
    fields.take("data");
    if run.epoch > 0 {
        fields.problem(format!(
            "epoch is {}, expected 0: a run here begins with its first epoch and goes on by itself",
            run.epoch
        ));
    }
    fields.take("epoch");
    let data = &run.data;
    if data.generate_attention_mask {
        fields.note("data.generate_attention_mask", "no instance has padding");
    }
    if data.pad_direction != PaddingDirection::Right {
        fields.note("data.pad_direction", "no instance has padding");
    }
    if !data.drop_last {
        fields.problem(
            "data.drop_last is false, which is also the original's default, and its trainer fails at a batch that is not full; set it to true".to_owned(),
        );
    }
    let of_loader = [
        ("data.num_workers", data.num_workers.is_some()),
        ("data.pin_memory", data.pin_memory),
        ("data.prefetch_factor", data.prefetch_factor.is_some()),
        ("data.persistent_workers", data.persistent_workers),
        ("data.timeout", data.timeout.is_some()),
    ];
    for (field, _) in of_loader.iter().filter(|(_, given)| *given) {
        fields.note(field, "it is of PyTorch's loader; ours reads ahead in one thread");
    }
    let mut ours = json!({
        "paths": run.paths()?,
        "memmap_dtype": data.memmap_dtype,
        "sequence_length": run.sequence_length,
        "seed": run.data_seed,
    });
    if let Some(paths) = &data.label_mask_paths {
        ours["label_mask_paths"] = json!(paths);
    }
    if let Some(filter) = &data.instance_filter {
        ours["instance_filter"] = json!(filter);
    }
    if data.generate_doc_lengths {
        ours["generate_doc_lengths"] = true.into();
    }
    config.insert("data".to_owned(), ours);
    Ok(())
}

pub(super) fn optimizer(fields: &mut Fields<'_>, config: &mut Config) {
    let name = match fields.text("optimizer.name").as_deref() {
        // The name before it was renamed, and the original's default.
        Some("decoupled_lionw" | "lionw") | None => "lionw".to_owned(),
        Some(name) => name.to_owned(),
    };
    if !["adamw", "lionw"].contains(&name.as_str()) {
        fields.problem(format!("optimizer.name is {name}, expected adamw or lionw"));
    }
    if fields.flag("optimizer.selective_updates") == Some(true) {
        fields.problem(
            "optimizer.selective_updates is true: updates of elements without a gradient cannot be left out here".to_owned(),
        );
    }
    let betas: Vec<f64> = match fields.get("optimizer.betas") {
        Some(Value::Array(betas)) => {
            betas.iter().filter_map(olmo_data::official::python_float).collect()
        }
        _ => vec![0.9, 0.95],
    };
    let mut optimizer = json!({
        "name": name,
        "learning_rate": fields.float("optimizer.learning_rate").unwrap_or(1e-4),
        "weight_decay": fields.float("optimizer.weight_decay").unwrap_or(0.01),
        "betas": betas,
        "eps": fields.float("optimizer.eps").unwrap_or(1e-5),
        "decay_norm_and_bias": fields.flag("optimizer.decay_norm_and_bias").unwrap_or(false),
        "decay_embeddings": fields.flag("optimizer.decay_embeddings").unwrap_or(false),
    });
    metrics_of_parameters(fields, &mut optimizer);
    config.insert("optimizer".to_owned(), optimizer);
}

/// The original has metrics of each parameter where it sends them to W&B, not more often than it does.
fn metrics_of_parameters(fields: &mut Fields<'_>, optimizer: &mut Value) {
    let interval = fields.count("optimizer.metrics_log_interval");
    let updates = fields.flag("optimizer.record_update_metrics") == Some(true);
    if !fields.says_something("wandb") {
        fields.take("wandb");
        for (field, _) in [
            ("optimizer.metrics_log_interval", interval.is_some()),
            ("optimizer.record_update_metrics", updates),
        ]
        .iter()
        .filter(|(_, given)| *given)
        {
            fields.note(
                field,
                "wandb is not configured, without which the original has no such metrics",
            );
        }
        return;
    }
    fields.note(
        "wandb",
        "metrics go to metrics.jsonl and, with `tensorboard: true`, to event files; of its fields log_interval is followed",
    );
    let sent = fields.count("wandb.log_interval").unwrap_or(1);
    optimizer["metrics_log_interval"] = interval.map_or(sent, |interval| interval.max(sent)).into();
    optimizer["record_update_metrics"] = updates.into();
}

pub(super) fn scheduler(fields: &mut Fields<'_>, config: &mut Config) {
    let name = fields.text("scheduler.name").unwrap_or_else(|| "cosine_with_warmup".to_owned());
    let t_warmup = fields.count("scheduler.t_warmup").unwrap_or(100);
    let t_max = fields.count("scheduler.t_max");
    let alpha_f = fields.float("scheduler.alpha_f").unwrap_or(0.1);
    let warmup_min_lr = fields.float("scheduler.warmup_min_lr");
    let mut scheduler = json!({"name": name});
    let has_warmup = name != "constant";
    let decays =
        !["constant", "constant_with_warmup", "inverse_sqrt_with_warmup"].contains(&name.as_str());
    if has_warmup {
        scheduler["t_warmup"] = t_warmup.into();
        scheduler["warmup_min_lr"] = json!(warmup_min_lr);
    }
    if decays {
        scheduler["t_max"] = json!(t_max);
        scheduler["alpha_f"] = alpha_f.into();
    }
    scheduler["units"] =
        fields.text("scheduler.units").unwrap_or_else(|| "steps".to_owned()).into();
    scheduler["grad_clip_warmup_steps"] = json!(fields.count("scheduler.grad_clip_warmup_steps"));
    scheduler["grad_clip_warmup_factor"] = json!(fields.float("scheduler.grad_clip_warmup_factor"));
    config.insert("scheduler".to_owned(), scheduler);
}

/// Batch sizes, and how long the run is.
pub(super) fn lengths(fields: &mut Fields<'_>, config: &mut Config) {
    let global = fields.count("global_train_batch_size").unwrap_or(512);
    // A batch that is smaller than a micro-batch is one.
    let micro = fields.count("device_train_microbatch_size").unwrap_or(16).min(global);
    config.insert("global_train_batch_size".to_owned(), global.into());
    config.insert("device_train_microbatch_size".to_owned(), micro.into());
    let duration = fields.get("max_duration").unwrap_or_else(|| 10_000.into());
    // As it is written for tokens and epochs, whose number of steps depends on the data.
    let duration = match MaxDuration::parse(&duration) {
        Some(MaxDuration::Steps(steps)) => steps.into(),
        _ => duration,
    };
    config.insert("max_duration".to_owned(), duration);
    set(config, "stop_at", fields.count("stop_at"));
    set(config, "stop_after", fields.count("stop_after"));
    set(config, "early_stopping_factor", fields.float("early_stopping_factor"));
    if fields.get("time_limit").is_some() {
        fields.note("time_limit", "a run is stopped by SIGTERM, which saves, or by `stop_after`");
    }
}

pub(super) fn loss_and_precision(fields: &mut Fields<'_>, config: &mut Config) {
    let multiplier = fields.float("auxiliary_loss_multiplier").unwrap_or(1e-4);
    if fields.flag("softmax_auxiliary_loss") == Some(true) {
        config.insert("z_loss".to_owned(), multiplier.into());
    }
    set(config, "max_grad_norm", fields.float("max_grad_norm"));
    set(config, "max_grad_norm_ratio", fields.float("max_grad_norm_ratio"));
    let precision = fields.text("precision");
    match precision.as_deref() {
        Some(name @ ("fp32" | "amp_bf16")) => {
            config.insert("precision".to_owned(), name.into());
        }
        other => fields.problem(format!(
            "precision is {}, expected fp32 or amp_bf16",
            other.unwrap_or("not given")
        )),
    }
    if fields.text("fsdp.precision").as_deref() == Some("pure")
        && precision.as_deref() == Some("amp_bf16")
    {
        fields.problem(
            "fsdp.precision is pure, which holds weights and sums gradients in bf16: a weight loses every update smaller than about a 250th of it; expected mixed".to_owned(),
        );
    }
    match fields.get("activation_checkpointing") {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true)) => set(config, "activations", Some("recompute")),
        Some(strategy) => {
            let activations = match strategy.as_str() {
                Some("whole_layer") => json!("recompute"),
                Some("one_in_two") => json!({"recompute_every": 2}),
                Some("one_in_three") => json!({"recompute_every": 3}),
                Some("one_in_four") => json!({"recompute_every": 4}),
                Some("one_in_eight") => json!({"recompute_every": 8}),
                Some("two_in_three") => json!({"keep_every": 3}),
                Some("three_in_four") => json!({"keep_every": 4}),
                Some("fine_grained") => {
                    fields.note(
                        "activation_checkpointing",
                        "blocks are computed again whole or not at all: all are here, which changes memory and time and no result",
                    );
                    json!("recompute")
                }
                _ => {
                    fields.problem(format!(
                        "activation_checkpointing is {strategy}, expected whole_layer, one_in_two, one_in_three, one_in_four, one_in_eight, two_in_three, three_in_four or fine_grained"
                    ));
                    return;
                }
            };
            set(config, "activations", Some(activations));
        }
    }
}

/// Checkpoints that stay are the original's unsharded ones where it makes them; its sharded ones,
/// which are for restarts, then stay until the next.
pub(super) fn saving(fields: &mut Fields<'_>, config: &mut Config) {
    let sharded = fields.count("save_interval").or_else(|| {
        // Given as null it means none, missing it means 1000.
        (!fields.is_given("save_interval")).then_some(1000)
    });
    let unsharded = fields.count("save_interval_unsharded");
    let ephemeral = fields.count("save_interval_ephemeral");
    let keep_sharded = keep(fields, "save_num_checkpoints_to_keep");
    let keep_unsharded = keep(fields, "save_num_unsharded_checkpoints_to_keep");
    let sharded = sharded.filter(|_| keep_sharded != Some(0));
    let unsharded = unsharded.filter(|_| keep_unsharded != Some(0));
    let (stay, n_kept, restart) = match (unsharded, sharded) {
        (Some(unsharded), sharded) => (unsharded, keep_unsharded, sharded.or(ephemeral)),
        (None, Some(sharded)) => (sharded, keep_sharded, ephemeral),
        (None, None) => {
            fields.problem(
                "neither save_interval nor save_interval_unsharded makes a checkpoint that is kept"
                    .to_owned(),
            );
            return;
        }
    };
    let restart = restart.map(|interval| ephemeral.map_or(interval, |e| e.min(interval)));
    config.insert("save_interval".to_owned(), stay.into());
    set(config, "save_interval_ephemeral", restart.filter(|interval| *interval < stay));
    set(config, "save_num_checkpoints_to_keep", n_kept);
}

/// How many are kept; `None` for all.
fn keep(fields: &mut Fields<'_>, path: &str) -> Option<u64> {
    let value = fields.get(path)?;
    let Some(number) = olmo_data::official::python_int(&value) else {
        fields.problem(format!("{path} is {value}, expected a whole number, -1 for all"));
        return None;
    };
    u64::try_from(number).ok()
}

/// What is taken of a checkpoint: all of it, unless it says otherwise.
pub(super) fn loading(fields: &mut Fields<'_>, config: &mut Config) {
    let path = fields.text("load_path");
    let resets_optimizer = fields.flag("reset_optimizer_state").unwrap_or(false);
    let resets_trainer = fields.flag("reset_trainer_state").unwrap_or(false);
    let restores_loader = fields.flag("restore_dataloader").unwrap_or(true);
    let fast_forward = fields.count("fast_forward_batches").unwrap_or(0);
    let Some(path) = path else {
        let idle = [
            ("reset_optimizer_state", resets_optimizer),
            ("reset_trainer_state", resets_trainer),
            ("restore_dataloader", !restores_loader),
            ("fast_forward_batches", fast_forward > 0),
        ];
        for (field, _) in idle.iter().filter(|(_, given)| *given) {
            fields.note(field, "nothing is loaded: load_path is null");
        }
        return;
    };
    if path.contains("://") {
        fields.problem(format!(
            "load_path is {path}, expected a folder here: bring the checkpoint, config.yaml with model.pt, optim.pt and train.pt, and give load_path=FOLDER"
        ));
    }
    if resets_trainer && fast_forward > 0 {
        fields.note("fast_forward_batches", "reset_trainer_state is true");
    }
    config.insert("load_path".to_owned(), path.into());
    config.insert("reset_optimizer_state".to_owned(), resets_optimizer.into());
    config.insert("reset_trainer_state".to_owned(), resets_trainer.into());
    config.insert("restore_dataloader".to_owned(), restores_loader.into());
    if !resets_trainer {
        config.insert("fast_forward_batches".to_owned(), fast_forward.into());
    }
}
