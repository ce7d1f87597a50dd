//! What is measured at each step, under the names of OLMo's trainer, as one JSON object a line.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use olmo_hub::write_atomic;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The measurements of one step. Losses are in nats per labelled token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The step, from 1.
    pub step: u64,
    /// Mean cross-entropy.
    #[serde(rename = "train/CrossEntropyLoss")]
    pub cross_entropy: f64,
    /// `exp` of the mean cross-entropy.
    #[serde(rename = "train/Perplexity")]
    pub perplexity: f64,
    /// The z-loss as it enters the objective; absent without one.
    #[serde(rename = "train/ZLoss", skip_serializing_if = "Option::is_none", default)]
    pub z_loss: Option<f64>,
    /// The load-balancing loss of all routers as it enters the objective, under OLMo-core's name;
    /// absent without one.
    #[serde(
        rename = "train/load balancing loss",
        skip_serializing_if = "Option::is_none",
        default
    )]
    pub load_balancing_loss: Option<f64>,
    /// The z-loss of all routers, likewise.
    #[serde(rename = "train/router Z loss", skip_serializing_if = "Option::is_none", default)]
    pub router_z_loss: Option<f64>,
    /// Tokens of the busiest expert over those of the mean one, in the layer where that is most.
    #[serde(rename = "train/load imbalance", skip_serializing_if = "Option::is_none", default)]
    pub load_imbalance: Option<f64>,
    /// Norm of all gradients together, before they are clipped.
    #[serde(rename = "optim/total_grad_norm")]
    pub total_grad_norm: f64,
    /// What the gradients were multiplied by to clip them; 1 where they were not.
    #[serde(rename = "optim/clip_coefficient")]
    pub clip_coefficient: f64,
    /// Learning rate of the first parameter group.
    #[serde(rename = "optim/learning_rate_group0")]
    pub learning_rate: f64,
    /// Epoch of the batch, from 0.
    #[serde(rename = "throughput/epoch")]
    pub epoch: u64,
    /// Tokens of all batches so far.
    #[serde(rename = "throughput/total_tokens")]
    pub total_tokens: u64,
    /// Tokens per second of this step.
    #[serde(rename = "throughput/device/tokens_per_second")]
    pub tokens_per_second: f64,
}

/// `metrics.jsonl` of a run.
#[derive(Debug)]
pub struct MetricsFile {
    file: File,
    path: PathBuf,
}

impl MetricsFile {
    /// Opens the file to go on after `last_step`: steps beyond it, which an interrupted run made
    /// and did not save, are dropped, so that each step stands there once.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn open_after(path: &Path, last_step: u64) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let old = if path.exists() { fs::read_to_string(path).map_err(io)? } else { String::new() };
        // A line cut short by a crash does not parse, and goes with the steps beyond.
        let kept: String = old
            .split_inclusive('\n')
            .take_while(|line| step_of(line).is_some_and(|step| step <= last_step))
            .collect();
        if kept.len() != old.len() {
            write_atomic(path, |file| file.put(kept.as_bytes()))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends one step.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let mut line = serde_json::to_string(metrics).map_err(|error| io(error.into()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(io)
    }
}

fn step_of(line: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    line.ends_with('\n').then(|| serde_json::from_str::<Step>(line).ok().map(|s| s.step)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            cross_entropy: 1.5,
            perplexity: 1.5_f64.exp(),
            z_loss: None,
            load_balancing_loss: None,
            router_z_loss: None,
            load_imbalance: None,
            total_grad_norm: 2.0,
            clip_coefficient: 0.5,
            learning_rate: 1e-3,
            epoch: 0,
            total_tokens: 64 * step,
            tokens_per_second: 10.0,
        }
    }

    #[test]
    fn each_step_stands_once_after_a_resume() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open_after(&path, 0).expect("new");
        (1..=5).for_each(|step| file.append(&metrics(step)).expect("writable"));
        fs::write(&path, fs::read_to_string(&path).expect("there") + "{\"step\":6,\"tr")
            .expect("w");

        let mut file = MetricsFile::open_after(&path, 3).expect("there");
        file.append(&metrics(4)).expect("writable");
        let text = fs::read_to_string(&path).expect("there");
        let steps: Vec<_> = text.split_inclusive('\n').map(step_of).collect();
        assert_eq!(steps, [Some(1), Some(2), Some(3), Some(4)]);
        let last = text.lines().last().expect("four lines");
        assert_eq!(serde_json::from_str::<StepMetrics>(last).expect("ours"), metrics(4));
        assert!(last.contains("\"train/CrossEntropyLoss\":1.5"));
    }
}
