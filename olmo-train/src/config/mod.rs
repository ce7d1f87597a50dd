//! The configuration of a run.
//!
//! Field names are those of OLMo's trainer (`olmo/config.py`) where a field of ours means the same.
//! Unknown fields are refused, so that a misspelt one is never ignored.

mod batches;
mod checks;
mod form;
mod length;
mod optimizer;
mod pace;
mod paths;
mod read;
mod scheduler;
mod unknown;

use std::path::{Path, PathBuf};

use olmo_data::Tail;
use olmo_model::config::FeedForwardConfig;
use olmo_model::{InitConfig, ModelConfig, RouterWeights};
use olmo_optim::BatchWarmup;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{OnDamage, SaveRules};
use crate::data_config::DataConfig;
use crate::energy::EnergyConfig;
use crate::error::Error;
use crate::evaluation::EvaluatorConfig;
use crate::faults::FaultConfig;
use crate::official::{self, Note};
use crate::publish::PushConfig;
use crate::step::{Activations, Precision};
use read::model_config;

pub(crate) use read::apply_override;

pub use length::RunLength;
pub use optimizer::{OptimizerConfig, OptimizerName};
pub use pace::{Compat, Position};
pub use scheduler::{ScheduleUnits, SchedulerConfig};

/// Everything a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "each is a field of the configuration of its own")]
pub struct TrainConfig {
    /// Name of the run, for people.
    pub run_name: String,
    /// Folder of the run: checkpoints, metrics and the resolved configuration.
    pub save_folder: PathBuf,
    /// Seed of initial weights, and of the data order unless `data.seed` is given.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The architecture: all its fields, or `preset: NAME` and the fields that differ from it.
    #[serde(deserialize_with = "model_config")]
    pub model: ModelConfig,
    /// Initial weights, where there is no checkpoint to begin with.
    #[serde(default)]
    pub init: InitConfig,
    /// A model folder of any form whose weights are taken instead of initial ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_path: Option<PathBuf>,
    /// Whether the optimizer begins anew, and does not go on with the state in `load_path`.
    #[serde(default = "default_true")]
    pub reset_optimizer_state: bool,
    /// Whether the run begins with step 1, and does not go on where that of `load_path` was.
    #[serde(default = "default_true")]
    pub reset_trainer_state: bool,
    /// Whether the data goes on too, with a run that goes on; where not, steps are counted anew.
    #[serde(default = "default_true")]
    pub restore_dataloader: bool,
    /// Batches that are passed over where the run begins.
    #[serde(default)]
    pub fast_forward_batches: u64,
    /// Token files and how they are cut.
    pub data: DataConfig,
    /// The tokenizer, copied into each checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Id of the end-of-text token, written to each checkpoint's `config.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<u32>,
    /// Id of the padding token, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<u32>,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Learning rate over steps or tokens, starting from `optimizer.learning_rate`.
    pub scheduler: SchedulerConfig,
    /// Instances in a step; in the first where there is a `batch_size_warmup`.
    pub global_train_batch_size: usize,
    /// How the batch grows in the course of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size_warmup: Option<BatchWarmup>,
    /// Instances in one forward and backward pass; a step adds up as many as it takes.
    pub device_train_microbatch_size: usize,
    /// Steps of the run, which schedules go by. May be written in tokens, `2e12T`, or epochs, `2ep`.
    pub max_duration: RunLength,
    /// Step at which the run stops, without being shorter for its schedules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at: Option<u64>,
    /// Steps after which this start of the run stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<u64>,
    /// The run stops where, after the warmup, the loss is this many times the least since it was
    /// started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping_factor: Option<f64>,
    /// Largest norm of all gradients together; larger ones are scaled down to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
    /// Largest norm of each gradient, as a multiple of its moving average. Where it is given,
    /// `max_grad_norm` is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_grad_norm_ratio: Option<f64>,
    /// Factor of the squared log of the softmax's denominator in the loss; 0 for none.
    #[serde(default)]
    pub z_loss: f64,
    /// Whose mistakes are made too.
    #[serde(default)]
    pub compat: Compat,
    /// Losses of the routers, in a mixture of experts; OLMoE's where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_losses: Option<RouterLossConfig>,
    /// Number format of the computation.
    #[serde(default)]
    pub precision: Precision,
    /// What blocks keep for the backward pass: `keep`, `recompute`, `{recompute_every: 2}`,
    /// `{keep_every: 3}`, `{keep_last: 8}` or, in bytes for a micro-batch, `{budget: 8e9}`.
    #[serde(default)]
    pub activations: Activations,
    /// Steps between checkpoints that stay; one is also made at the end.
    pub save_interval: u64,
    /// Steps between checkpoints that only stay until the next one; one made on interruption is of
    /// that kind too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_interval_ephemeral: Option<u64>,
    /// Checkpoints to keep, the newest, ephemeral ones not counted; all of them where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_num_checkpoints_to_keep: Option<usize>,
    /// Whether training goes on while a checkpoint is written.
    #[serde(default = "default_true")]
    pub save_async: bool,
    /// What is done where the newest checkpoint is damaged.
    #[serde(default)]
    pub on_damaged_checkpoint: OnDamage,
    /// Where each checkpoint that stays is sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushConfig>,
    /// What is done about steps whose loss or gradients are no number, or a spike.
    #[serde(default)]
    pub faults: FaultConfig,
    /// Steps between measurements by the evaluators; one is also made at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_interval: Option<u64>,
    /// Whether a run that goes on from a checkpoint is measured before its next step.
    #[serde(default)]
    pub eval_on_load: bool,
    /// Sets that the model is measured on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evaluators: Vec<EvaluatorConfig>,
    /// Whether TensorBoard's event files are written beside `metrics.jsonl`, in `tensorboard/`.
    #[serde(default)]
    pub tensorboard: bool,
    /// FLOPs per second of the device at most, which MFU is measured by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_peak_flops: Option<f64>,
    /// What energy is reckoned by.
    #[serde(default)]
    pub energy: EnergyConfig,
}

/// What routers add to the loss, named as in OLMo-core; each is of the mean over tokens and layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterLossConfig {
    /// Factor of the load-balancing loss; 0 for none.
    pub lb_loss_weight: f64,
    /// Factor of the z-loss; 0 for none.
    pub z_loss_weight: f64,
}

impl Default for RouterLossConfig {
    /// Those that OLMoE was trained with.
    fn default() -> Self {
        Self { lb_loss_weight: 0.01, z_loss_weight: 0.001 }
    }
}

fn default_seed() -> u64 {
    6198
}

fn default_true() -> bool {
    true
}

impl TrainConfig {
    /// Reads a YAML file, ours or the original trainer's, with `overrides` of the form
    /// `key.path=value` applied on top; values are YAML too.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for anything that is not a sound configuration, naming the field.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, Error> {
        Ok(Self::read_noting(path, overrides)?.0)
    }

    /// As [`read`](Self::read), with what of an official configuration has no effect.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_noting(path: &Path, overrides: &[String]) -> Result<(Self, Vec<Note>), Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Self::parse_noting(&text, overrides, &path.display().to_string())
    }

    /// As [`read`](Self::read), from text; `origin` names it in errors.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn parse(text: &str, overrides: &[String], origin: &str) -> Result<Self, Error> {
        Ok(Self::parse_noting(text, overrides, origin)?.0)
    }

    fn parse_noting(
        text: &str,
        overrides: &[String],
        origin: &str,
    ) -> Result<(Self, Vec<Note>), Error> {
        let wrong = |message: String| Error::Config { origin: origin.to_owned(), message };
        let mut value = read::yaml(text).map_err(&wrong)?;
        for text in overrides {
            apply_override(&mut value, text).map_err(&wrong)?;
        }
        let mut notes = Vec::new();
        if official::is_official(&value) {
            let translation = official::translate(value, Path::new(origin))?;
            (value, notes) = (translation.config, translation.notes);
        }
        paths::map_paths(&mut value).map_err(&wrong)?;
        read::resolve_marks(&mut value).map_err(&wrong)?;
        read::resolve_duration(&mut value).map_err(&wrong)?;
        let mut config: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let inner = unknown::with_hint(&error.into_inner().to_string());
            wrong(if path == "." { inner } else { format!("{path}: {inner}") })
        })?;
        config.resolve_spikes();
        config.validate().map_err(wrong)?;
        Ok((config, notes))
    }

    /// `skip_step_adamw` is Adam with a rule for spikes, OLMo-core's where none is given.
    fn resolve_spikes(&mut self) {
        if self.optimizer.name == OptimizerName::SkipStepAdamw {
            self.faults.spike.get_or_insert_default();
        }
    }

    /// The configuration as YAML, every field given.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where a value has no YAML form.
    pub fn to_yaml(&self) -> Result<String, Error> {
        serde_saphyr::to_string(self).map_err(|error| Error::Config {
            origin: "the resolved configuration".to_owned(),
            message: error.to_string(),
        })
    }

    /// Seed of the data order.
    pub fn data_seed(&self) -> u64 {
        self.data.seed.unwrap_or(self.seed)
    }

    /// Settings of the run's loader, for one rank.
    pub fn loader(&self) -> olmo_data::DataLoaderConfig {
        olmo_data::DataLoaderConfig {
            global_batch_size: self.global_train_batch_size,
            order: self.data.batch_order(),
            seed: self.data_seed(),
            tail: Tail::Drop,
            prefetch: self.data.prefetch,
            ..Default::default()
        }
    }

    /// Factors of the routers' losses; zero for a model without routers.
    pub fn router_weights(&self) -> RouterWeights {
        match self.model.feed_forward {
            FeedForwardConfig::Swiglu { .. } => RouterWeights::default(),
            FeedForwardConfig::Experts { .. } => {
                let RouterLossConfig { lb_loss_weight, z_loss_weight } =
                    self.router_losses.unwrap_or_default();
                RouterWeights { load_balancing: lb_loss_weight, z: z_loss_weight }
            }
        }
    }

    pub(crate) fn save_rules(&self) -> SaveRules {
        SaveRules {
            interval: self.save_interval,
            ephemeral_interval: self.save_interval_ephemeral,
            keep: self.save_num_checkpoints_to_keep,
        }
    }
}

#[cfg(test)]
mod tests;
