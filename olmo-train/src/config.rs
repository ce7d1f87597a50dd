//! The configuration of a run.
//!
//! Field names are those of OLMo's trainer (`olmo/config.py`) where a field of ours means the same.
//! Unknown fields are refused, so that a misspelt one is never ignored.

use std::path::{Path, PathBuf};

use olmo_data::{Tail, TokenDtype};
use olmo_model::config::FeedForwardConfig;
use olmo_model::{InitConfig, ModelConfig, RouterWeights, presets};
use olmo_optim::{AdamWConfig, GradNormLimit, GroupRules, Schedule};
use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::step::{Activations, Precision};

/// Everything a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// A Hugging Face model folder whose weights are taken instead of initial ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_path: Option<PathBuf>,
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
    /// Learning rate over steps, starting from `optimizer.learning_rate`.
    pub scheduler: Schedule,
    /// Instances in a step.
    pub global_train_batch_size: usize,
    /// Instances in one forward and backward pass; a step adds up as many as it takes.
    pub device_train_microbatch_size: usize,
    /// Steps of the run.
    pub max_duration: u64,
    /// Largest norm of all gradients together; larger ones are scaled down to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
    /// Factor of the squared log of the softmax's denominator in the loss; 0 for none.
    #[serde(default)]
    pub z_loss: f64,
    /// Losses of the routers, in a mixture of experts; OLMoE's where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_losses: Option<RouterLossConfig>,
    /// Number format of the computation.
    #[serde(default)]
    pub precision: Precision,
    /// What is kept for the backward pass.
    #[serde(default)]
    pub activations: Activations,
    /// Steps between checkpoints; one is also made at the end and on interruption.
    pub save_interval: u64,
    /// Checkpoints to keep, the newest; all of them where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_num_checkpoints_to_keep: Option<usize>,
}

/// Token files and how they are cut into instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Raw token files, in order.
    pub paths: Vec<PathBuf>,
    /// Number format of the files.
    #[serde(default)]
    pub memmap_dtype: TokenDtype,
    /// Tokens in an instance.
    pub sequence_length: usize,
    /// Seed of the order, where it is not that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Batches read ahead.
    #[serde(default = "default_prefetch")]
    pub prefetch: usize,
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

/// AdamW and its parameter groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decay of the moving averages of gradients and of their squares.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay, decoupled.
    pub weight_decay: f64,
    /// Whether weights of norms decay too.
    pub decay_norm_and_bias: bool,
    /// Whether the embedding decays too.
    pub decay_embeddings: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        let AdamWConfig { betas, eps, weight_decay } = AdamWConfig::default();
        Self {
            learning_rate: 3e-4,
            betas,
            eps,
            weight_decay,
            decay_norm_and_bias: true,
            decay_embeddings: false,
        }
    }
}

fn default_seed() -> u64 {
    6198
}

fn default_prefetch() -> usize {
    2
}

impl TrainConfig {
    /// Reads a YAML file, with `overrides` of the form `key.path=value` applied on top; values are
    /// YAML too.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for anything that is not a sound configuration, naming the field.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Self::parse(&text, overrides, &path.display().to_string())
    }

    /// As [`read`](Self::read), from text; `origin` names it in errors.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn parse(text: &str, overrides: &[String], origin: &str) -> Result<Self, Error> {
        let wrong = |message: String| Error::Config { origin: origin.to_owned(), message };
        let mut value: Value =
            serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
        for text in overrides {
            apply_override(&mut value, text).map_err(&wrong)?;
        }
        let config: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            wrong(if path == "." { inner.to_string() } else { format!("{path}: {inner}") })
        })?;
        config.validate().map_err(wrong)?;
        Ok(config)
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

    /// Tokens in one step.
    pub fn tokens_per_step(&self) -> u64 {
        self.global_train_batch_size as u64 * self.data.sequence_length as u64
    }

    /// Seed of the data order.
    pub fn data_seed(&self) -> u64 {
        self.data.seed.unwrap_or(self.seed)
    }

    pub(crate) fn loader(&self) -> olmo_data::DataLoaderConfig {
        olmo_data::DataLoaderConfig {
            global_batch_size: self.global_train_batch_size,
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

    pub(crate) fn adamw(&self) -> AdamWConfig {
        let OptimizerConfig { betas, eps, weight_decay, .. } = self.optimizer;
        AdamWConfig { betas, eps, weight_decay }
    }

    pub(crate) fn group_rules(&self) -> GroupRules {
        let OptimizerConfig { decay_norm_and_bias, decay_embeddings, .. } = self.optimizer;
        GroupRules { decay_norm_and_bias, decay_embeddings }
    }

    pub(crate) fn grad_norm_limit(&self) -> Option<GradNormLimit> {
        self.max_grad_norm.map(|max_norm| GradNormLimit {
            max_norm,
            warmup_steps: None,
            warmup_factor: None,
        })
    }

    /// Everything that can be known to be wrong without opening a file, in one message.
    fn validate(&self) -> Result<(), String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, problem: String| {
            if !ok {
                problems.push(problem);
            }
        };
        let (global, micro) = (self.global_train_batch_size, self.device_train_microbatch_size);
        check(global > 0, "global_train_batch_size is 0, expected at least 1".to_owned());
        check(micro > 0, "device_train_microbatch_size is 0, expected at least 1".to_owned());
        check(
            micro == 0 || global.is_multiple_of(micro),
            format!(
                "global_train_batch_size is {global}, expected a multiple of device_train_microbatch_size = {micro}"
            ),
        );
        check(self.max_duration > 0, "max_duration is 0, expected at least 1 step".to_owned());
        check(self.save_interval > 0, "save_interval is 0, expected at least 1 step".to_owned());
        check(
            self.save_num_checkpoints_to_keep != Some(0),
            "save_num_checkpoints_to_keep is 0, expected at least 1".to_owned(),
        );
        let seq = self.data.sequence_length;
        check(seq >= 2, format!("data.sequence_length is {seq}, expected at least 2"));
        check(!self.data.paths.is_empty(), "data.paths is empty, expected token files".to_owned());
        let z = self.z_loss;
        check(z.is_finite() && z >= 0.0, format!("z_loss is {z}, expected a number of at least 0"));
        if let Some(RouterLossConfig { lb_loss_weight, z_loss_weight }) = self.router_losses {
            let weights = [("lb_loss_weight", lb_loss_weight), ("z_loss_weight", z_loss_weight)];
            for (name, weight) in weights {
                check(
                    weight.is_finite() && weight >= 0.0,
                    format!("router_losses.{name} is {weight}, expected a number of at least 0"),
                );
            }
            check(
                matches!(self.model.feed_forward, FeedForwardConfig::Experts { .. }),
                "router_losses is there, expected only with a model of experts".to_owned(),
            );
        }
        let lr = self.optimizer.learning_rate;
        check(
            lr.is_finite() && lr > 0.0,
            format!("optimizer.learning_rate is {lr}, expected a positive number"),
        );
        if let Err(error) = self.model.validate() {
            problems.push(error.to_string());
        } else if seq > self.model.max_sequence_length {
            problems.push(format!(
                "data.sequence_length is {seq}, expected at most model.max_sequence_length = {}",
                self.model.max_sequence_length
            ));
        }
        problems.extend(self.adamw().validate().err().map(|e| e.to_string()));
        problems.extend(self.scheduler.validate(lr).err().map(|e| e.to_string()));
        problems
            .extend(self.grad_norm_limit().and_then(|l| l.validate().err()).map(|e| e.to_string()));
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n  ")) }
    }
}

/// Reads an architecture, a preset's fields replaced by those given beside its name.
fn model_config<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<ModelConfig, D::Error> {
    let mut given = Value::deserialize(deserializer)?;
    let Some(preset) = given.as_object_mut().and_then(|map| map.remove("preset")) else {
        return serde_json::from_value(given).map_err(D::Error::custom);
    };
    let name = preset.as_str().unwrap_or_default();
    let preset = presets::by_name(name).ok_or_else(|| {
        let known: Vec<_> = presets::all().map(|(name, _)| name).collect();
        D::Error::custom(format!("{preset} is no preset; there are {}", known.join(", ")))
    })?;
    let mut whole = serde_json::to_value(preset).map_err(D::Error::custom)?;
    merge(&mut whole, given);
    serde_json::from_value(whole).map_err(D::Error::custom)
}

/// Replaces the values of `into` by those of `from`, map by map.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Sets the value at a dotted path; missing maps on the way are made.
fn apply_override(value: &mut Value, text: &str) -> Result<(), String> {
    let (path, new) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no override, expected key.path=value"))?;
    let new: Value = serde_saphyr::from_str(new)
        .map_err(|error| format!("the value of {path} is no YAML: {error}"))?;
    let mut at = value;
    for key in path.split('.') {
        at = match at {
            Value::Object(map) => {
                map.entry(key).or_insert_with(|| Value::Object(serde_json::Map::new()))
            }
            Value::Array(items) => {
                let n = items.len();
                key.parse::<usize>()
                    .ok()
                    .and_then(|i| items.get_mut(i))
                    .ok_or_else(|| format!("{path}: {key:?} is no index below {n}"))?
            }
            _ => return Err(format!("{path}: there is nothing inside a plain value")),
        };
    }
    *at = new;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
run_name: test
save_folder: runs/test
model: {preset: olmo2_1b, n_layers: 2, attention: {n_heads: 4, n_kv_heads: 2, head_dim: 8}}
data: {paths: [a.npy, b.npy], sequence_length: 64}
scheduler: {name: linear_with_warmup, t_warmup: 5, alpha_f: 0.1}
global_train_batch_size: 8
device_train_microbatch_size: 4
max_duration: 20
save_interval: 10
";

    fn parse(overrides: &[&str]) -> Result<TrainConfig, Error> {
        let overrides: Vec<_> = overrides.iter().map(ToString::to_string).collect();
        TrainConfig::parse(YAML, &overrides, "test.yaml")
    }

    #[test]
    fn a_preset_is_changed_by_the_fields_beside_it() {
        let config = parse(&[]).expect("sound");
        assert_eq!((config.model.n_layers, config.model.d_model), (2, 2048));
        assert_eq!((config.model.attention.n_kv_heads, config.model.attention.qk_norm), (2, true));
        assert_eq!(config.tokens_per_step(), 512);
    }

    #[test]
    fn the_resolved_configuration_reads_back_as_itself() {
        let config = parse(&["max_grad_norm=1.0", "data.seed=7"]).expect("sound");
        let yaml = config.to_yaml().expect("plain data");
        assert_eq!(TrainConfig::parse(&yaml, &[], "again").expect("our own"), config);
    }

    #[test]
    fn overrides_reach_into_maps_and_lists() {
        let config = parse(&["data.paths.1=c.npy", "optimizer.betas=[0.8, 0.9]"]).expect("sound");
        assert_eq!(config.data.paths, [PathBuf::from("a.npy"), PathBuf::from("c.npy")]);
        assert!(config.optimizer.betas.iter().zip([0.8, 0.9]).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn routers_have_the_published_losses_unless_others_are_given() {
        let weights = |overrides: &[&str]| {
            let weights = parse(overrides).expect("sound").router_weights();
            [weights.load_balancing, weights.z].map(|weight| weight.to_string())
        };
        let moe = "model={preset: olmoe_1b_7b, n_layers: 2}";
        assert_eq!(weights(&[moe]), ["0.01", "0.001"]);
        assert_eq!(weights(&[moe, "router_losses.z_loss_weight=0"]), ["0.01", "0"]);
        assert_eq!(weights(&[]), ["0", "0"]);
        let error = parse(&["router_losses.z_loss_weight=0"]).expect_err("no routers").to_string();
        assert!(error.contains("only with a model of experts"), "{error}");
        let error = parse(&[moe, "router_losses.lb_loss_weight=-1"]).expect_err("below 0");
        assert!(error.to_string().contains("router_losses.lb_loss_weight is -1"), "{error}");
    }

    #[test]
    fn mistakes_are_named() {
        let message = |overrides: &[&str]| parse(overrides).expect_err("wrong").to_string();
        assert!(message(&["max_durations=3"]).contains("max_durations"));
        assert!(message(&["model.preset=olmo_8b"]).contains("olmo_7b"));
        assert!(message(&["device_train_microbatch_size=3"]).contains("multiple of"));
        assert!(message(&["data.sequence_length=9999"]).contains("max_sequence_length"));
        assert!(message(&["max_duration"]).contains("key.path=value"));
        assert!(message(&["data.paths.5=x"]).contains("below 2"));
        let both = message(&["save_interval=0", "z_loss=-1"]);
        assert!(both.contains("save_interval") && both.contains("z_loss"), "{both}");
    }
}
