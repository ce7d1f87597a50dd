//! What an official configuration says about data.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::number::python_int;
use super::yaml::OfficialYaml;
use crate::path_map::PathMap;
use crate::token_file::TokenDtype;
use crate::{Error, Result};

/// The data of a run, and what decides which of it a step sees.
#[derive(Debug, Clone, PartialEq)]
pub struct OfficialRun {
    /// Seed of the data order: `data.seed`, or else `seed`.
    pub data_seed: u64,
    /// Epoch that the run begins with.
    pub epoch: u64,
    /// The section `data`.
    pub data: OfficialData,
    /// Tokens of an instance: `model.max_sequence_length`.
    pub sequence_length: usize,
    /// Size of the vocabulary.
    pub vocab_size: u64,
    /// End of a document.
    pub eos_token_id: u64,
    /// Padding.
    pub pad_token_id: u64,
    /// Instances of a step.
    pub global_train_batch_size: usize,
    /// How long the run lasts.
    pub max_duration: Option<MaxDuration>,
    /// Step at which it is stopped before.
    pub stop_at: Option<u64>,
    /// File or name of the tokenizer.
    pub tokenizer: Option<String>,
    /// Where files are now: a field that the original trainer does not have.
    pub path_map: PathMap,
}

/// The section `data` of a configuration.
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the fields are those of the file")]
pub struct OfficialData {
    /// Token files, in order.
    pub paths: Option<Vec<String>>,
    /// Token files by label, used in the order of the labels.
    pub datasets: Option<BTreeMap<String, Vec<String>>>,
    /// Integer type of the files.
    pub memmap_dtype: TokenDtype,
    /// Files that say for each token whether it counts.
    pub label_mask_paths: Option<Vec<String>>,
    /// Where short instances are padded.
    pub pad_direction: PaddingDirection,
    /// Whether an attention mask goes with each batch.
    pub generate_attention_mask: bool,
    /// Whether lengths of documents go with each batch.
    pub generate_doc_lengths: bool,
    /// Whether what fills no batch is left out.
    pub drop_last: bool,
    /// Seed of the order.
    #[serde(deserialize_with = "optional_int")]
    pub seed: Option<i64>,
    /// What instances are kept from counting.
    pub instance_filter: Option<InstanceFilterConfig>,
    /// Python code that makes the dataset; cannot be run here.
    pub custom_dataset: Option<Value>,
    /// Of PyTorch's loader: processes.
    #[serde(deserialize_with = "optional_int")]
    pub num_workers: Option<i64>,
    /// Of PyTorch's loader: page-locked memory.
    pub pin_memory: bool,
    /// Of PyTorch's loader: batches read ahead.
    #[serde(deserialize_with = "optional_int")]
    pub prefetch_factor: Option<i64>,
    /// Of PyTorch's loader: whether its processes stay.
    pub persistent_workers: bool,
    /// Of PyTorch's loader: seconds to wait.
    #[serde(deserialize_with = "optional_int")]
    pub timeout: Option<i64>,
}

/// The side that padding goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaddingDirection {
    /// After the tokens.
    #[default]
    Right,
    /// Before the tokens.
    Left,
}

/// Which instances are kept from counting in the loss: those that repeat a short sequence too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceFilterConfig {
    /// The longest sequence that is looked for.
    pub repetition_max_period: usize,
    /// The shortest.
    pub repetition_min_period: usize,
    /// Repetitions from which on the instance does not count.
    pub repetition_max_count: usize,
}

impl Default for InstanceFilterConfig {
    fn default() -> Self {
        Self { repetition_max_period: 13, repetition_min_period: 1, repetition_max_count: 32 }
    }
}

/// How long a run lasts: `739_328`, `2e12T`, `2ep`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxDuration {
    /// Steps.
    Steps(u64),
    /// Tokens.
    Tokens(u64),
    /// Epochs.
    Epochs(u64),
}

impl fmt::Display for MaxDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(n) => write!(f, "{n} steps"),
            Self::Tokens(n) => write!(f, "{n} tokens"),
            Self::Epochs(n) => write!(f, "{n} epochs"),
        }
    }
}

impl MaxDuration {
    /// Reads the spelling of the configurations.
    pub fn parse(value: &Value) -> Option<Self> {
        let count = |text: &str| {
            python_int(&Value::String(text.to_owned())).and_then(|n| u64::try_from(n).ok())
        };
        if let Value::String(text) = value {
            let text = text.trim();
            if let Some(epochs) = text.strip_suffix("ep") {
                return count(epochs).map(Self::Epochs);
            }
            if let Some(tokens) = text.strip_suffix('T') {
                return count(tokens).map(Self::Tokens);
            }
        }
        python_int(value).and_then(|n| u64::try_from(n).ok()).map(Self::Steps)
    }

    /// Steps, given those of an epoch and the tokens of one.
    pub fn steps(self, steps_per_epoch: u64, tokens_per_step: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Tokens(tokens) => tokens.checked_div(tokens_per_step).unwrap_or(0),
            Self::Epochs(epochs) => epochs.saturating_mul(steps_per_epoch),
        }
    }
}

fn path_map(yaml: &OfficialYaml) -> Result<PathMap> {
    let Some(map) = yaml.get("path_map")? else { return Ok(PathMap::default()) };
    serde_json::from_value(map.clone()).map_err(|error| {
        let expected = "{beginning of a path: its place}";
        yaml.error(&format!("path_map is {map}, expected {expected}: {error}"))
    })
}

impl OfficialRun {
    /// Takes the fields about data from a file.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where a field is of the wrong kind, `data` has an unknown one, or both or
    /// none of `data.paths` and `data.datasets` are there.
    pub fn from_yaml(yaml: &OfficialYaml) -> Result<Self> {
        let data = yaml.get("data")?.unwrap_or_else(|| Value::Object(serde_json::Map::default()));
        let data: OfficialData = serde_path_to_error::deserialize(data)
            .map_err(|error| yaml.error(&format!("data.{}: {}", error.path(), error.inner())))?;
        let n_kinds = usize::from(data.paths.is_some())
            + usize::from(data.datasets.is_some())
            + usize::from(data.custom_dataset.is_some());
        if n_kinds != 1 {
            return Err(yaml.error("data needs one of paths, datasets and custom_dataset"));
        }
        let count = |path, default| Ok::<_, Error>(yaml.get_count(path)?.unwrap_or(default));
        let max_duration = match yaml.get("max_duration")? {
            None => None,
            Some(value) => Some(MaxDuration::parse(&value).ok_or_else(|| {
                yaml.error(&format!(
                    "max_duration is {value}, expected steps (739_328), tokens (2e12T) or epochs (2ep)"
                ))
            })?),
        };
        let data_seed = match data.seed {
            None => count("seed", 6198)?,
            Some(seed) => u64::try_from(seed)
                .map_err(|_| yaml.error(&format!("data.seed is {seed}, expected 0 or more")))?,
        };
        Ok(Self {
            data_seed,
            epoch: count("epoch", 0)?,
            sequence_length: count("model.max_sequence_length", 1024)? as usize,
            vocab_size: count("model.vocab_size", 50257)?,
            eos_token_id: count("model.eos_token_id", 50256)?,
            pad_token_id: count("model.pad_token_id", 50256)?,
            global_train_batch_size: count("global_train_batch_size", 512)? as usize,
            max_duration,
            stop_at: yaml.get_count("stop_at")?,
            tokenizer: yaml.get_text("tokenizer.identifier")?,
            path_map: path_map(yaml)?,
            data,
        })
    }

    /// The token files in the order of the run.
    ///
    /// # Errors
    ///
    /// [`Error::CustomDataset`] where the data is made by Python code.
    pub fn paths(&self) -> Result<Vec<String>> {
        match (&self.data.paths, &self.data.datasets) {
            (Some(paths), _) => Ok(paths.clone()),
            (None, Some(datasets)) => Ok(datasets.values().flatten().cloned().collect()),
            (None, None) => Err(Error::CustomDataset),
        }
    }
}

fn optional_int<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None => Ok(None),
        Some(value) => python_int(&value)
            .map(Some)
            .ok_or_else(|| D::Error::custom(format!("{value} is no whole number"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(text: &str) -> Result<OfficialRun> {
        OfficialRun::from_yaml(&OfficialYaml::parse(text, "run.yaml").unwrap())
    }

    #[test]
    fn durations_are_steps_tokens_or_epochs() {
        let parse = |value| MaxDuration::parse(&value);
        assert_eq!(parse(json!("739_328")), Some(MaxDuration::Steps(739_328)));
        assert_eq!(parse(json!(515)), Some(MaxDuration::Steps(515)));
        assert_eq!(parse(json!("2e12T")), Some(MaxDuration::Tokens(2_000_000_000_000)));
        assert_eq!(parse(json!("2ep")), Some(MaxDuration::Epochs(2)));
        assert_eq!(parse(json!("soon")), None);
        assert_eq!(MaxDuration::Tokens(100).steps(9, 30), 3);
        assert_eq!(MaxDuration::Epochs(2).steps(9, 30), 18);
    }

    #[test]
    fn datasets_come_in_the_order_of_their_labels() {
        let run = run("seed: 1\ndata: {seed: 7, datasets: {b: [x], a: [y, z]}}\n").unwrap();
        assert_eq!(run.paths().unwrap(), ["y", "z", "x"]);
        assert_eq!((run.data_seed, run.global_train_batch_size), (7, 512));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, part) in [
            ("data: {paths: [a], drop_lst: true}", "drop_lst"),
            ("data: {paths: [a], datasets: {b: [c]}}", "one of paths"),
            ("data: {paths: 3}", "data.paths"),
            ("data: {paths: [a], seed: x}", "data.seed"),
            ("data: {paths: [a], memmap_dtype: int8}", "memmap_dtype"),
            ("model: {max_sequence_length: -1}\ndata: {paths: [a]}", "max_sequence_length"),
            ("max_duration: soon\ndata: {paths: [a]}", "max_duration"),
            ("seed: 1", "data needs"),
        ] {
            let message = run(text).unwrap_err().to_string();
            assert!(message.starts_with("run.yaml: ") && message.contains(part), "{message}");
        }
        let custom = run("data: {custom_dataset: {name: module.Class}}").unwrap();
        assert!(matches!(custom.paths(), Err(Error::CustomDataset)));
        assert!(OfficialYaml::parse("- a\n", "x").is_err());
        assert!(OfficialYaml::parse("a: [", "x").is_err());
    }
}
