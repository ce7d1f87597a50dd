//! YAML to values: overrides, presets and what differs from them.

use std::path::PathBuf;

use olmo_data::official::MaxDuration;
use olmo_data::{TokenDataset, TokenDtype};
use olmo_model::{ModelConfig, presets};
use olmo_optim::{BatchPlan, BatchWarmup, Extent};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;

use super::length::RunLength;
use crate::data_config::DatasetConfig;

/// The values of a YAML file. As in the original's reader, `y`, `n`, `on` and `off` are texts.
pub(super) fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// Reads an architecture, a preset's fields replaced by those given beside its name.
pub(super) fn model_config<'de, D: serde::Deserializer<'de>>(
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
pub(crate) fn apply_override(value: &mut Value, text: &str) -> Result<(), String> {
    let (path, new) = text
        .split_once('=')
        .filter(|(path, _)| path.split('.').all(|key| !key.is_empty()))
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

/// Turns marks of a growing batch that are parts of the run, `{fraction: 0.1}`, into tokens or steps.
pub(super) fn resolve_marks(value: &mut Value) -> Result<(), String> {
    let duration = value.get("max_duration").and_then(MaxDuration::parse);
    let Some(warmup) = value.get_mut("batch_size_warmup").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let in_steps = warmup.get("units").and_then(Value::as_str) == Some("steps");
    let length = match duration {
        Some(MaxDuration::Steps(steps)) if in_steps => Some(steps),
        Some(MaxDuration::Tokens(tokens)) if !in_steps => Some(tokens),
        _ => None,
    };
    let fields =
        warmup.iter_mut().filter(|(name, _)| ["schedule", "every"].contains(&name.as_str()));
    let marks = fields.flat_map(|(_, value)| match value {
        Value::Array(marks) => marks.iter_mut().collect(),
        mark => vec![mark],
    });
    for mark in marks.filter(|mark| mark.is_object()) {
        let extent: Extent = serde_json::from_value(mark.clone())
            .map_err(|error| format!("batch_size_warmup: {error}"))?;
        let length = length.ok_or_else(|| {
            let units = if in_steps { "steps" } else { "tokens" };
            format!("batch_size_warmup has {mark}, expected max_duration in {units} with it, as its units are")
        })?;
        *mark = extent.of(length).into();
    }
    Ok(())
}

/// Turns a `max_duration` of tokens or epochs into steps: the last step is the one with which the
/// tokens are reached. A schedule in tokens that has no end of its own gets that of the run, exactly.
pub(super) fn resolve_duration(value: &mut Value) -> Result<(), String> {
    let Some(text @ (Value::String(_) | Value::Object(_))) = value.get("max_duration") else {
        return Ok(());
    };
    let duration = MaxDuration::parse(text).ok_or_else(|| {
        format!("max_duration is {text}, expected steps (739_328), tokens (2e12T) or epochs (2ep)")
    })?;
    let count = |value: Option<&Value>, name: &str| {
        let count = value.and_then(Value::as_u64).filter(|count| *count > 0);
        count.ok_or_else(|| format!("max_duration is {text}, which needs a whole number as {name}"))
    };
    let batch = || count(value.get("global_train_batch_size"), "global_train_batch_size");
    let warmup = value.get("batch_size_warmup").filter(|warmup| !warmup.is_null());
    let steps = match duration {
        MaxDuration::Steps(steps) => steps,
        MaxDuration::Tokens(tokens) => {
            let seq = count(value.pointer("/data/sequence_length"), "data.sequence_length")?;
            steps_for(tokens, batch()?, seq, warmup)?
        }
        MaxDuration::Epochs(_) if warmup.is_some() => {
            return Err(format!(
                "max_duration is {text}, expected steps or tokens with batch_size_warmup"
            ));
        }
        MaxDuration::Epochs(epochs) => epochs.saturating_mul(n_instances(value)? / batch()?),
    };
    if let (MaxDuration::Tokens(tokens), Some(scheduler)) =
        (duration, value.get_mut("scheduler").and_then(Value::as_object_mut))
    {
        end_with_the_run(scheduler, tokens);
    }
    value["max_duration"] = match duration {
        MaxDuration::Tokens(tokens) => RunLength::resolved(steps, tokens),
        _ => steps.into(),
    };
    Ok(())
}

/// Steps of a run of so many tokens whose batch may grow.
fn steps_for(tokens: u64, batch: u64, seq: u64, warmup: Option<&Value>) -> Result<u64, String> {
    let warmup: Option<BatchWarmup> = warmup
        .map(|warmup| serde_json::from_value(warmup.clone()))
        .transpose()
        .map_err(|error| format!("batch_size_warmup: {error}"))?;
    let batch = usize::try_from(batch).unwrap_or(usize::MAX);
    if let Some(warmup) = &warmup {
        warmup.validate(batch).map_err(|error| error.to_string())?;
    }
    let seq = usize::try_from(seq).unwrap_or(usize::MAX);
    Ok(BatchPlan::new(batch, seq, warmup.as_ref()).steps_for(tokens))
}

fn end_with_the_run(scheduler: &mut serde_json::Map<String, Value>, tokens: u64) {
    let is_in_tokens = scheduler.get("units").and_then(Value::as_str) == Some("tokens");
    let may_end_elsewhere = scheduler.get("name").and_then(Value::as_str).is_some_and(|schedule| {
        ["cosine", "linear", "half_cosine", "max_"].iter().any(|name| schedule.starts_with(name))
    });
    if is_in_tokens && may_end_elsewhere && scheduler.get("t_max").is_none_or(Value::is_null) {
        scheduler.insert("t_max".to_owned(), tokens.into());
    }
}

/// Instances of the token files, which must be there for a duration in epochs.
fn n_instances(value: &Value) -> Result<u64, String> {
    #[derive(Deserialize)]
    struct Files {
        paths: Vec<PathBuf>,
        #[serde(default)]
        memmap_dtype: TokenDtype,
        sequence_length: usize,
        #[serde(default)]
        dataset: DatasetConfig,
    }
    let mut data = value.get("data").cloned().unwrap_or_default();
    let dataset = data.pointer("/dataset/name").and_then(Value::as_str);
    if let Some(dataset) = dataset.filter(|name| *name != "fsl") {
        return Err(format!(
            "max_duration is in epochs, whose steps are not known before {dataset} is made; expected steps or tokens"
        ));
    }
    if let Some(fields) = data.as_object_mut() {
        fields.retain(|name, _| {
            ["paths", "memmap_dtype", "sequence_length", "dataset"].contains(&name.as_str())
        });
    }
    let Files { paths, memmap_dtype, sequence_length, dataset: made } =
        serde_json::from_value(data).map_err(|error| format!("data: {error}"))?;
    let opened = TokenDataset::open(&paths, memmap_dtype, sequence_length);
    // Of each file as much is used as that length divides.
    let opened = match made {
        DatasetConfig::Fsl { max_target_sequence_length: Some(max) } => {
            opened.and_then(|dataset| dataset.with_max_target_sequence_length(max))
        }
        _ => opened,
    };
    let dataset = opened.map_err(|error| {
        format!(
            "max_duration is in epochs, which needs the data: {error}; say where its files are \
                 with path_map or data.paths, or give max_duration in steps or in tokens (2e12T)"
        )
    })?;
    Ok(dataset.len() as u64)
}
