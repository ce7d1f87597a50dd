//! The evaluators of an official configuration: those of `type: lm` are measured, tasks are not.

use std::collections::{BTreeMap, BTreeSet};

use olmo_data::official::{OfficialData, PaddingDirection, python_int};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::Fields;

/// An evaluator, with the defaults of the original.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Evaluator {
    label: String,
    #[serde(rename = "type", default)]
    kind: Kind,
    #[serde(default)]
    data: OfficialData,
    #[serde(default)]
    device_eval_batch_size: Option<Value>,
    #[serde(default)]
    subset_num_batches: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    #[default]
    Lm,
    Downstream,
}

/// What all evaluators have in common.
struct Defaults {
    batch_size: u64,
    n_batches: i64,
    /// Of the run, if not of its data: evaluators have a seed of their own.
    seed: Option<u64>,
}

pub(super) fn evaluators(fields: &mut Fields<'_>, config: &mut Map<String, Value>) {
    let defaults = Defaults {
        batch_size: fields.count("device_eval_batch_size").unwrap_or(16),
        n_batches: number(fields, "eval_subset_num_batches").unwrap_or(-1),
        seed: fields.count("seed"),
    };
    let interval = fields.count("eval_interval").unwrap_or(1000);
    let on_load = fields.flag("eval_on_load").unwrap_or(false);
    let (mut of_tokens, mut tasks) = (Vec::new(), Vec::new());
    for (i, evaluator) in read(fields) {
        match evaluator.kind {
            Kind::Lm => of_tokens.extend(translated(fields, i, evaluator, &defaults)),
            Kind::Downstream => tasks.push(evaluator.label),
        }
    }
    if !tasks.is_empty() {
        let reason = format!(
            "tasks (type: downstream) are not measured while training, of which their data are not part of a configuration: {}",
            tasks.join(", ")
        );
        fields.note("evaluators", &reason);
    }
    if of_tokens.is_empty() {
        for field in
            ["eval_interval", "eval_on_load", "eval_subset_num_batches", "device_eval_batch_size"]
        {
            if fields.says_something(field) {
                fields.note(field, "there are no evaluators of type: lm");
            }
        }
        return;
    }
    config.insert("eval_interval".to_owned(), interval.into());
    config.insert("eval_on_load".to_owned(), on_load.into());
    config.insert("evaluators".to_owned(), of_tokens.into());
}

/// The evaluators by their places in the list; what is none is a problem.
fn read(fields: &mut Fields<'_>) -> Vec<(usize, Evaluator)> {
    let list = match fields.get("evaluators") {
        None => return Vec::new(),
        Some(Value::Array(list)) => list,
        Some(other) => {
            fields.problem(format!("evaluators is {other}, expected a list"));
            return Vec::new();
        }
    };
    let mut evaluators = Vec::new();
    for (i, value) in list.into_iter().enumerate() {
        match serde_path_to_error::deserialize::<_, Evaluator>(value) {
            Ok(evaluator) => evaluators.push((i, evaluator)),
            Err(error) => {
                let path = error.path().to_string();
                let path = if path == "." { String::new() } else { format!(".{path}") };
                fields.problem(format!("evaluators.{i}{path}: {}", error.inner()));
            }
        }
    }
    evaluators
}

/// An evaluator of token files in our terms.
fn translated(
    fields: &mut Fields<'_>,
    i: usize,
    evaluator: Evaluator,
    defaults: &Defaults,
) -> Option<Value> {
    let Evaluator { label, data, .. } = evaluator;
    let place = format!("evaluators.{i} ({label})");
    // An empty list or section is none, as for the original.
    let paths = data.paths.clone().filter(|paths| !paths.is_empty());
    let datasets = data.datasets.clone().filter(|datasets| !datasets.is_empty());
    let datasets = match (paths, datasets) {
        (Some(paths), None) => BTreeMap::from([(label.clone(), paths)]),
        (None, Some(datasets)) => datasets,
        _ => {
            fields.problem(format!("{place}: data needs one of paths and datasets"));
            return None;
        }
    };
    refuse(fields, &place, &data);
    note(fields, &data);
    let batch_size =
        integer(fields, &place, "device_eval_batch_size", evaluator.device_eval_batch_size);
    let n_batches = integer(fields, &place, "subset_num_batches", evaluator.subset_num_batches);
    // Zero stands for the default there, as null does.
    let batch_size = match batch_size.map(u64::try_from) {
        None | Some(Ok(0)) => defaults.batch_size,
        Some(Ok(size)) => size,
        Some(Err(_)) => {
            fields.problem(format!(
                "{place}: device_eval_batch_size is below 0, expected at least 1"
            ));
            return None;
        }
    };
    // What is not above zero stands for all batches.
    let n_batches = n_batches.unwrap_or(defaults.n_batches);
    let n_batches = u64::try_from(n_batches).ok().filter(|n| *n > 0);
    let mut ours = json!({
        "label": label,
        "datasets": datasets,
        "memmap_dtype": data.memmap_dtype,
        "device_eval_batch_size": batch_size,
        "subset_num_batches": n_batches,
    });
    match data.seed.map(u64::try_from) {
        None => ours["seed"] = json!(defaults.seed),
        Some(Ok(seed)) => ours["seed"] = seed.into(),
        Some(Err(_)) => {
            fields.problem(format!("{place}: data.seed is below 0, expected 0 or more"));
        }
    }
    Some(ours)
}

/// What cannot be followed.
fn refuse(fields: &mut Fields<'_>, place: &str, data: &OfficialData) {
    for (name, is_there, reason) in [
        (
            "label_mask_paths",
            data.label_mask_paths.is_some(),
            "its masked tokens would count as known without loss",
        ),
        (
            "instance_filter",
            data.instance_filter.is_some(),
            "the instances that it leaves out would count as known without loss",
        ),
        (
            "generate_doc_lengths",
            data.generate_doc_lengths,
            "attention cannot keep documents from seeing each other yet",
        ),
        ("custom_dataset", data.custom_dataset.is_some(), "it is made by Python code"),
    ] {
        if is_there {
            fields.problem(format!("{place}: data.{name} is there, expected none: {reason}"));
        }
    }
}

/// What has no effect, once for all evaluators.
fn note(fields: &mut Fields<'_>, data: &OfficialData) {
    let loader = "it is of PyTorch's loader; ours reads a batch when its turn has come";
    let no_padding = "no instance has padding";
    let given: BTreeSet<(&str, &str)> = [
        ("num_workers", data.num_workers.is_some(), loader),
        ("pin_memory", data.pin_memory, loader),
        ("prefetch_factor", data.prefetch_factor.is_some(), loader),
        ("persistent_workers", data.persistent_workers, loader),
        ("timeout", data.timeout.is_some(), loader),
        ("generate_attention_mask", data.generate_attention_mask, no_padding),
        ("pad_direction", data.pad_direction != PaddingDirection::Right, no_padding),
    ]
    .into_iter()
    .filter(|(_, given, _)| *given)
    .map(|(name, _, reason)| (name, reason))
    .collect();
    for (name, reason) in given {
        fields.note_once(&format!("evaluators.data.{name}"), reason);
    }
}

/// A whole number of an evaluator.
fn integer(fields: &mut Fields<'_>, place: &str, name: &str, value: Option<Value>) -> Option<i64> {
    let value = value.filter(|value| !value.is_null())?;
    let number = python_int(&value);
    if number.is_none() {
        fields.problem(format!("{place}: {name} is {value}, expected a whole number"));
    }
    number
}

/// A whole number of the configuration that may be below zero.
fn number(fields: &mut Fields<'_>, path: &str) -> Option<i64> {
    let value = fields.get(path)?;
    let number = python_int(&value);
    if number.is_none() {
        fields.problem(format!("{path} is {value}, expected a whole number, -1 for all batches"));
    }
    number
}
