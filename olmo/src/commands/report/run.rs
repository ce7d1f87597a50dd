//! A run's folder as a report needs it: any metrics by name, the configuration field by field.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use olmo_train::TrainConfig;
use serde_json::{Map, Value};

/// A run as it stands on the disk.
#[derive(Debug)]
pub(crate) struct Run {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// The configuration's `run_name`.
    pub(crate) name: String,
    /// The configuration.
    pub(crate) config: TrainConfig,
    /// One object a step.
    steps: Vec<Map<String, Value>>,
}

impl Run {
    /// Reads `config.yaml` and `metrics.jsonl`. A last line that is cut short, as of a run that is
    /// being written, is passed over.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let config = TrainConfig::read(&folder.join("config.yaml"), &[])
            .with_context(|| format!("{} is no run's folder", folder.display()))?;
        let path = folder.join("metrics.jsonl");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut steps = Vec::new();
        for (i, line) in text.split_inclusive('\n').enumerate() {
            match serde_json::from_str(line) {
                Ok(step) => steps.push(step),
                Err(_) if !line.ends_with('\n') => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{} line {}", path.display(), i + 1));
                }
            }
        }
        ensure!(!steps.is_empty(), "{}: has no steps yet", path.display());
        let name = config.run_name.clone();
        Ok(Self { folder: folder.to_owned(), name, config, steps })
    }

    /// Names of all metrics, sorted.
    pub(crate) fn metrics(&self) -> Vec<String> {
        let mut names: Vec<_> = self.steps.iter().flat_map(|step| step.keys().cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Steps and values of a metric, where it was measured.
    pub(crate) fn curve(&self, metric: &str) -> Vec<(f64, f64)> {
        let point = |step: &Map<String, Value>| {
            Some((step.get("step")?.as_f64()?, step.get(metric)?.as_f64()?))
        };
        self.steps.iter().filter_map(point).collect()
    }

    /// The last value of a metric.
    pub(crate) fn last(&self, metric: &str) -> Option<f64> {
        self.steps.iter().rev().find_map(|step| step.get(metric)?.as_f64())
    }

    /// The configuration as dotted paths and plain values.
    pub(crate) fn fields(&self) -> Result<BTreeMap<String, String>> {
        let mut fields = BTreeMap::new();
        flatten("", &serde_json::to_value(&self.config)?, &mut fields);
        Ok(fields)
    }
}

fn flatten(path: &str, value: &Value, fields: &mut BTreeMap<String, String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&below(key), value, fields);
            }
        }
        Value::String(text) => drop(fields.insert(path.to_owned(), text.clone())),
        plain => drop(fields.insert(path.to_owned(), plain.to_string())),
    }
}
