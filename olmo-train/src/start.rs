//! What a run begins with: its folder, weights, and what it takes of the checkpoint of another run.
//!
//! Weights are taken from a model folder of any form that [`ModelFolder`] opens. The optimizer's state
//! and the progress of the run are taken, each where that is asked for, from a checkpoint of ours or from
//! one of either trainer, sharded or not. Matches `Trainer.restore_checkpoint` and
//! `load_trainer_state_dict` of ai2-olmo 0.6.0 (`olmo/train.py`), with two differences: that trainer forgets
//! the averages of gradient norms where its checkpoint is `local`, and where it is `olmo_core` it makes a
//! step of the optimizer with gradients of zero after the weights are there, which decays them once. Here a
//! run goes on as it would have without the restart.

use std::fs::{File, TryLockError};
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use olmo_data::fingerprint::FINGERPRINT_VERSION;
use olmo_data::{BatchOrder, LoaderState};
use olmo_hub::{Dtype, ModelFolder, SavedData, SavedOptimizer, SavedProgress, Seen};
use olmo_model::config::RopeConfig;
use olmo_model::{ModelConfig, Transformer};
use olmo_optim::{AdaptiveClip, Optimizer, SkipStep};

use crate::checkpoint::{self, DataIdentity, OPTIMIZER_FILE, STATE_FILE, TRAIN_FOLDER, TrainState};
use crate::config::{Compat, TrainConfig};
use crate::error::Error;
use crate::step::clipped_with;

/// Where a run stands before its next step.
#[derive(Debug)]
pub(crate) struct Start {
    /// The f32 master weights.
    pub(crate) model: Transformer,
    /// Steps made.
    pub(crate) global_step: u64,
    /// Tokens seen.
    pub(crate) total_tokens: u64,
    /// Where the data goes on.
    pub(crate) loader: LoaderState,
    /// Averages of gradient norms.
    pub(crate) averages: AdaptiveClip,
    /// What spikes are measured by.
    pub(crate) spikes: Option<SkipStep>,
    /// Where a warmup begins that the schedule does not have, in its units.
    pub(crate) rewarms_from: Option<u64>,
}

impl Start {
    /// The beginning of a run with such weights.
    fn new(model: Transformer) -> Self {
        Self {
            model,
            global_step: 0,
            total_tokens: 0,
            loader: LoaderState::default(),
            averages: AdaptiveClip::new(),
            spikes: None,
            rewarms_from: None,
        }
    }

    /// Where a checkpoint of the run itself stands.
    pub(crate) fn resumed(model: Transformer, state: TrainState) -> Self {
        Self {
            model,
            global_step: state.global_step,
            total_tokens: state.global_train_tokens_seen,
            loader: state.loader,
            averages: AdaptiveClip::from_averages(state.grad_norm_exp_avg),
            spikes: state.spikes,
            rewarms_from: state.warmup_start,
        }
    }
}

/// Begins a run, with initial weights or with what it takes of `load_path`; the optimizer's state
/// goes into `optimizer`.
///
/// # Errors
///
/// [`Error::Config`] where `load_path` has not what is to be taken of it, [`Error::OtherRun`] where it
/// is of other data; [`Error::Damaged`], [`Error::Checkpoint`], [`Error::Hub`] and [`Error::Io`] where a
/// file cannot be read.
pub(crate) fn begin(
    config: &TrainConfig,
    data: &DataIdentity,
    optimizer: &mut dyn Optimizer,
    device: &Device,
) -> Result<Start, Error> {
    let mut start = match &config.load_path {
        None => Start::new(Transformer::init(&config.model, &config.init, config.seed, device)?),
        Some(path) => load(config, path, data, optimizer, device)?,
    };
    // Passed over are batches of the size that they have here; they count as seen by the data alone.
    let size = config.batch_plan().batch_size(start.total_tokens);
    let n_instances = usize::try_from(config.fast_forward_batches).unwrap_or(usize::MAX);
    let n_instances = n_instances.saturating_mul(size);
    let n_tokens = (n_instances as u64).saturating_mul(config.data.sequence_length as u64);
    let LoaderState { n_instances_seen, n_tokens_seen, .. } = &mut start.loader;
    *n_instances_seen = n_instances_seen.saturating_add(n_instances);
    *n_tokens_seen = n_tokens_seen.saturating_add(n_tokens);
    Ok(start)
}

fn load(
    config: &TrainConfig,
    path: &Path,
    data: &DataIdentity,
    optimizer: &mut dyn Optimizer,
    device: &Device,
) -> Result<Start, Error> {
    let folder = ModelFolder::open(path)?;
    if without_context(folder.model_config()) != without_context(&config.model) {
        let message = "holds a model of another architecture than `model` describes; only the context and RoPE may be others";
        return Err(unusable(path, message));
    }
    let is_ours = path.join(TRAIN_FOLDER).join(STATE_FILE).is_file();
    if is_ours {
        checkpoint::check(path)?;
    }
    let mut start = Start::new(folder.load(device, Some(Dtype::F32))?);
    if is_ours {
        take_ours(&mut start, config, path, data, optimizer, device)?;
    } else {
        take_saved(&mut start, config, &folder, data, optimizer, device)?;
    }
    if config.reset_optimizer_state && !config.reset_trainer_state {
        start.rewarms_from = Some(config.schedule_place(start.global_step, start.total_tokens));
    }
    Ok(start)
}

/// Takes what is asked for of a checkpoint of another run of ours.
fn take_ours(
    start: &mut Start,
    config: &TrainConfig,
    path: &Path,
    data: &DataIdentity,
    optimizer: &mut dyn Optimizer,
    device: &Device,
) -> Result<(), Error> {
    let train = path.join(TRAIN_FOLDER);
    let state = checkpoint::read_state(&train.join(STATE_FILE))?;
    if !config.reset_optimizer_state {
        checkpoint::read_optimizer(&train.join(OPTIMIZER_FILE), &state, optimizer, device)?;
        start.averages = AdaptiveClip::from_averages(state.grad_norm_exp_avg.clone());
    }
    if config.reset_trainer_state || !config.restore_dataloader {
        return Ok(());
    }
    if let Some(obstacle) = state.data.obstacle(data) {
        let message = format!("{obstacle}; to begin its data anew, give restore_dataloader=false");
        return Err(Error::OtherRun { path: path.to_owned(), message });
    }
    start.global_step = state.global_step;
    start.total_tokens = state.global_train_tokens_seen;
    (start.loader, start.spikes) = (state.loader, state.spikes);
    Ok(())
}

/// Takes what is asked for of a checkpoint of one of the trainers.
fn take_saved(
    start: &mut Start,
    config: &TrainConfig,
    folder: &ModelFolder,
    data: &DataIdentity,
    optimizer: &mut dyn Optimizer,
    device: &Device,
) -> Result<(), Error> {
    let path = folder.path();
    let goes_on = !config.reset_trainer_state && config.restore_dataloader;
    let is_asked_for = goes_on || !config.reset_optimizer_state;
    let progress = (is_asked_for && SavedProgress::is_there(path))
        .then(|| SavedProgress::read(path))
        .transpose()?;
    if !config.reset_optimizer_state {
        if !SavedOptimizer::is_there(path) {
            return Err(unusable(
                path,
                "holds weights and no state of an optimizer: train/optimizer.safetensors, optim.pt, or as the trainers shard it, model_and_optim, optim or rank0.pt; to begin it anew, give reset_optimizer_state=true",
            ));
        }
        let step = progress.as_ref().map_or(0, |progress| progress.global_step);
        start.averages = take_saved_optimizer(config, folder, step, optimizer, device)?;
    }
    if !goes_on {
        return Ok(());
    }
    let Some(progress) = progress else {
        return Err(unusable(
            path,
            "holds weights and no progress of a run: train/state.json, train.pt, train/rank0.pt or rank0.pt; to begin with step 1, give reset_trainer_state=true",
        ));
    };
    let SavedProgress { epoch, global_step, n_tokens_seen, of_epoch, data: saved } = progress;
    let seq = config.data.sequence_length as u64;
    let (n_instances, n_tokens, is_followed, order) = match (of_epoch, config.data.batch_order()) {
        (Seen::Instances(n), order) => {
            (n, n.saturating_mul(seq), order == BatchOrder::Olmo, "data.order: olmo")
        }
        (Seen::Tokens(n), order) => {
            (n / seq.max(1), n, order != BatchOrder::Olmo, "data.order: olmo_core")
        }
    };
    if !is_followed {
        return Err(unusable(
            path,
            &format!(
                "is of a trainer whose order {order} goes on with; to begin the data anew, give restore_dataloader=false"
            ),
        ));
    }
    if let Some(obstacle) = of_other_data(&saved, data, config.data.ignore_fingerprint_mismatch) {
        let message = format!("{obstacle}; to begin the data anew, give restore_dataloader=false");
        return Err(unusable(path, &message));
    }
    (start.global_step, start.total_tokens) = (global_step, n_tokens_seen);
    let n_instances_seen = usize::try_from(n_instances).unwrap_or(usize::MAX);
    start.loader = LoaderState { epoch, n_instances_seen, n_tokens_seen: n_tokens };
    Ok(())
}

/// Why a run with the data `now` does not see what the run of a trainer's checkpoint would have seen
/// next; none where it does, or where the trainer does not say.
fn of_other_data(saved: &SavedData, now: &DataIdentity, ignores_files: bool) -> Option<String> {
    let SavedData { seed, fingerprint_version, fingerprint } = saved;
    if let Some(seed) = seed.filter(|seed| *seed != now.seed) {
        let given = now.seed;
        return Some(format!(
            "has data in the order of seed {seed}, and this run's is {given}: give data.seed={seed}"
        ));
    }
    // Those of other versions are made of other fields.
    let is_known = fingerprint_version.as_deref() == Some(FINGERPRINT_VERSION);
    match (fingerprint, &now.fingerprint) {
        (Some(then), Some(now)) if is_known && !ignores_files && then != now => Some(format!(
            "has data of the fingerprint {then}, and this run's is {now}: files, their names, sizes or \
             order, data.memmap_dtype, data.dataset, data.vocab_size, data.bos_token_id, eos_token_id or \
             pad_token_id are others; to go on with other data, give data.ignore_fingerprint_mismatch=true"
        )),
        _ => None,
    }
}

/// The optimizer's state of every parameter, and the averages of its gradients' norms.
fn take_saved_optimizer(
    config: &TrainConfig,
    folder: &ModelFolder,
    step: u64,
    optimizer: &mut dyn Optimizer,
    device: &Device,
) -> Result<AdaptiveClip, Error> {
    let original = SavedOptimizer::open(folder)?;
    let (mut tensors, mut steps) = (Vec::new(), Vec::new());
    let mut averages = std::collections::BTreeMap::new();
    for parameter in config.model.parameters() {
        for name in optimizer.state_names() {
            let values = original.values(&parameter, name)?;
            let n = values.len();
            let values: Tensor<1> = Tensor::from_data(TensorData::new(values, [n]), device);
            tensors.push((format!("{}.{name}", parameter.path), values));
        }
        let counted = original.value(&parameter, "step")?;
        steps.push((parameter.path.clone(), counted.map_or(step, |counted| counted as u64)));
        // Of several that are one parameter there, the norm of all of them is there.
        let name = clipped_with(Compat::Olmo, &parameter.path);
        let is_alone = name == parameter.path && !original.is_fused(&parameter)?;
        if (is_alone || config.compat == Compat::Olmo)
            && let Some(average) = original.value(&parameter, "grad_norm_exp_avg")?
        {
            averages.insert(name, average);
        }
    }
    optimizer.load_named(tensors, steps).map_err(|error| Error::Checkpoint {
        path: original.path().to_owned(),
        message: error.to_string(),
    })?;
    Ok(AdaptiveClip::from_averages(averages))
}

/// An architecture but for the length of its context and how positions are told apart, which have no
/// weights, and which a run for longer contexts changes.
fn without_context(model: &ModelConfig) -> ModelConfig {
    let mut model = model.clone();
    model.max_sequence_length = 0;
    model.attention.rope = RopeConfig { theta: 1.0, yarn: None, full_precision: true };
    model
}

fn unusable(path: &Path, message: &str) -> Error {
    Error::Config {
        origin: "load_path".to_owned(),
        message: format!("{} {message}", path.display()),
    }
}

/// Takes a run's folder for this process, until the file is closed, however the process ends.
pub(crate) fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("run.lock");
    let file = File::create(&path).map_err(|source| Error::Io { path, source })?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: folder.to_owned() }),
        // A file system without locks is no reason not to train.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}
