//! What is measured at each step, under the names of OLMo's trainer, as one JSON object a line.

mod parameters;
mod speed;
pub mod tensorboard;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use olmo_hub::write_atomic;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::parameters::ParameterMetrics;
pub(crate) use self::speed::Speedometer;
pub use self::speed::{Speed, measure_peak_flops};
use self::tensorboard::TensorBoard;
use crate::error::Error;

/// The measurements of one step. Losses are in nats per labelled token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The step, from 1.
    pub step: u64,
    /// Mean cross-entropy.
    #[serde(rename = "train/CrossEntropyLoss", deserialize_with = "nan_for_null")]
    pub cross_entropy: f64,
    /// `exp` of the mean cross-entropy.
    #[serde(rename = "train/Perplexity", deserialize_with = "nan_for_null")]
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
    #[serde(rename = "optim/total_grad_norm", deserialize_with = "nan_for_null")]
    pub total_grad_norm: f64,
    /// What the gradients were multiplied by to clip them; 1 where they were not.
    #[serde(rename = "optim/clip_coefficient", deserialize_with = "nan_for_null")]
    pub clip_coefficient: f64,
    /// 1 where the step was skipped, as its loss or gradients were no number or a spike. Of one that was made
    /// 0 with `skip_step_adamw`, and else absent. Under OLMo-core's name.
    #[serde(rename = "optim/step skipped", skip_serializing_if = "Option::is_none", default)]
    pub step_skipped: Option<f64>,
    /// Learning rate of the first parameter group.
    #[serde(rename = "optim/learning_rate_group0")]
    pub learning_rate: f64,
    /// Tokens of the batch, where it grows in the course of the run; OLMo-core's name.
    #[serde(rename = "train/global batch size", skip_serializing_if = "Option::is_none", default)]
    pub global_batch_size: Option<u64>,
    /// Epoch of the batch, from 0.
    #[serde(rename = "throughput/epoch")]
    pub epoch: u64,
    /// Tokens of all batches so far.
    #[serde(rename = "throughput/total_tokens")]
    pub total_tokens: u64,
    /// Tokens per second of this step.
    #[serde(rename = "throughput/device/tokens_per_second")]
    pub tokens_per_second: f64,
    /// Speed, work, memory and energy.
    #[serde(flatten)]
    pub speed: Speed,
}

/// What is no number has no form in JSON and stands there as null.
fn nan_for_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// `metrics.jsonl` of a run.
#[derive(Debug)]
pub struct MetricsFile {
    file: File,
    path: PathBuf,
    kwh: f64,
    board: Option<TensorBoard>,
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
        let kwh = old.lines().filter_map(kwh_of).fold(0.0, f64::max);
        // A last line cut short by a crash does not parse, and goes with the steps beyond; another that
        // does not is no reason to lose what stands behind it.
        let is_kept = |line: &&str| match step_of(line) {
            Some(step) => step <= last_step,
            None => line.ends_with('\n'),
        };
        let kept: String = old.split_inclusive('\n').filter(is_kept).collect();
        if kept.len() != old.len() {
            write_atomic(path, |file| file.put(kept.as_bytes()))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        Ok(Self { file, path: path.to_owned(), kwh, board: None })
    }

    /// Writes what is appended to TensorBoard's files in a folder too.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn with_tensorboard(mut self, folder: &Path, last_step: u64) -> Result<Self, Error> {
        let board = TensorBoard::create(folder, last_step)
            .map_err(|source| Error::Io { path: folder.to_owned(), source })?;
        self.board = Some(board);
        Ok(self)
    }

    /// Whether the last line is one of `step` that has no scores, where there may have been none to take.
    pub(crate) fn lacks_scores(&self, step: u64) -> Result<bool, Error> {
        let text = fs::read_to_string(&self.path).map_err(self.io())?;
        let last = text.split_inclusive('\n').next_back();
        let last = last.filter(|line| step_of(line) == Some(step));
        let fields: Option<Map<String, Value>> =
            last.and_then(|line| serde_json::from_str(line).ok());
        Ok(fields.is_some_and(|fields| !fields.keys().any(|name| name.starts_with("eval/"))))
    }

    /// Energy of all steps that were made before, those that were lost included.
    pub(crate) fn kwh(&self) -> f64 {
        self.kwh
    }

    /// Appends one step, with what else was measured at it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn append(
        &mut self,
        metrics: &StepMetrics,
        scores: &BTreeMap<String, f64>,
    ) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(flatten)]
            metrics: &'a StepMetrics,
            #[serde(flatten)]
            scores: &'a BTreeMap<String, f64>,
        }
        let text = line(&Line { metrics, scores }).map_err(self.io())?;
        self.file.write_all(text.as_bytes()).map_err(self.io())?;
        if self.board.is_none() {
            return Ok(());
        }
        let fields = serde_json::from_str(&text).map_err(|error| self.io()(error.into()))?;
        self.draw(metrics.step, &fields)
    }

    /// Adds what is measured of a step that was made before the file was opened: to its line where that
    /// is the last, and else in one of its own, as where the step is of another run.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn amend(&mut self, step: u64, scores: &BTreeMap<String, f64>) -> Result<(), Error> {
        let old = fs::read_to_string(&self.path).map_err(self.io())?;
        let last = old.split_inclusive('\n').next_back().filter(|last| step_of(last) == Some(step));
        let last = last.unwrap_or_default();
        let of_step = || [("step".to_owned(), step.into())].into_iter().collect();
        let mut fields: Map<String, Value> =
            serde_json::from_str(last).unwrap_or_else(|_| of_step());
        let scores: Map<String, Value> =
            scores.iter().map(|(name, score)| (name.clone(), (*score).into())).collect();
        fields.extend(scores.clone());
        let text = line(&fields).map_err(self.io())?;
        let before = &old[..old.len() - last.len()];
        write_atomic(&self.path, |file| {
            file.put(before.as_bytes())?;
            file.put(text.as_bytes())
        })?;
        self.file = OpenOptions::new().append(true).open(&self.path).map_err(self.io())?;
        self.draw(step, &scores)
    }

    /// Writes to TensorBoard's files what of the fields of a step is a measurement.
    fn draw(&mut self, step: u64, fields: &Map<String, Value>) -> Result<(), Error> {
        let io = self.io();
        let Some(board) = &mut self.board else { return Ok(()) };
        let scalars = fields
            .iter()
            .filter(|(name, _)| name.contains('/'))
            .map(|(name, value)| (name.as_str(), value.as_f64().unwrap_or(f64::NAN)));
        board.append(step, scalars).map_err(io)
    }

    fn io(&self) -> impl Fn(io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Io { path: path.clone(), source }
    }
}

/// A line of the file.
fn line(fields: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(fields)? + "\n")
}

fn step_of(line: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    line.ends_with('\n').then(|| serde_json::from_str::<Step>(line).ok().map(|s| s.step)).flatten()
}

/// The energy that a whole line gives.
fn kwh_of(line: &str) -> Option<f64> {
    #[derive(Deserialize)]
    struct Energy {
        #[serde(rename = "energy/total_kWh")]
        kwh: f64,
    }
    serde_json::from_str::<Energy>(line).ok().map(|energy| energy.kwh)
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
            step_skipped: None,
            global_batch_size: None,
            learning_rate: 1e-3,
            epoch: 0,
            total_tokens: 64 * step,
            tokens_per_second: 10.0,
            speed: Speed { total_kwh: Some(0.5 * step as f64), ..Speed::default() },
        }
    }

    #[test]
    fn what_is_no_number_reads_back_as_such() {
        let skipped = StepMetrics {
            cross_entropy: f64::NAN,
            perplexity: f64::INFINITY,
            step_skipped: Some(1.0),
            ..metrics(3)
        };
        let line = serde_json::to_string(&skipped).expect("plain data");
        let read: StepMetrics = serde_json::from_str(&line).expect("our own line");
        assert!(read.cross_entropy.is_nan() && read.perplexity.is_nan(), "{line}");
        assert_eq!((read.step, read.step_skipped), (3, Some(1.0)));
    }

    #[test]
    fn each_step_stands_once_after_a_resume() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open_after(&path, 0).expect("new");
        let none = BTreeMap::new();
        (1..=5).for_each(|step| file.append(&metrics(step), &none).expect("writable"));
        fs::write(&path, fs::read_to_string(&path).expect("there") + "{\"step\":6,\"tr")
            .expect("w");

        let mut file = MetricsFile::open_after(&path, 3).expect("there");
        assert!((file.kwh() - 2.5).abs() < 1e-12, "energy of steps that are made again counts");
        let scores = BTreeMap::from([("eval/held-out/CrossEntropyLoss".to_owned(), 2.5)]);
        file.append(&metrics(4), &scores).expect("writable");
        let text = fs::read_to_string(&path).expect("there");
        let steps: Vec<_> = text.split_inclusive('\n').map(step_of).collect();
        assert_eq!(steps, [Some(1), Some(2), Some(3), Some(4)]);
        let last = text.lines().last().expect("four lines");
        assert_eq!(serde_json::from_str::<StepMetrics>(last).expect("ours"), metrics(4));
        assert!(last.contains("\"train/CrossEntropyLoss\":1.5"));
        assert!(last.contains("\"eval/held-out/CrossEntropyLoss\":2.5"));
    }

    #[test]
    fn a_damaged_line_costs_no_other() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open_after(&path, 0).expect("new");
        (1..=3).for_each(|step| file.append(&metrics(step), &BTreeMap::new()).expect("writable"));
        let text = fs::read_to_string(&path).expect("there");
        fs::write(&path, format!("\n{text}")).expect("writable");
        MetricsFile::open_after(&path, 2).expect("there");
        let text = fs::read_to_string(&path).expect("there");
        let steps: Vec<_> = text.split_inclusive('\n').map(step_of).collect();
        assert_eq!(steps, [None, Some(1), Some(2)]);
    }

    #[test]
    fn what_is_measured_of_a_step_before_joins_its_line() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let scores = |loss| BTreeMap::from([("eval/held-out/CrossEntropyLoss".to_owned(), loss)]);
        let mut file = MetricsFile::open_after(&path, 0).expect("new");
        (1..=3).for_each(|step| file.append(&metrics(step), &BTreeMap::new()).expect("writable"));
        // Twice, as where the run is started twice without a step.
        for loss in [2.5, 2.5] {
            let mut file = MetricsFile::open_after(&path, 3).expect("there");
            file.amend(3, &scores(loss)).expect("writable");
        }
        let mut file = MetricsFile::open_after(&path, 3).expect("there");
        file.append(&metrics(4), &scores(2.0)).expect("writable");
        let text = fs::read_to_string(&path).expect("there");
        let steps: Vec<_> = text.split_inclusive('\n').map(step_of).collect();
        assert_eq!(steps, [Some(1), Some(2), Some(3), Some(4)]);
        let third = text.lines().nth(2).expect("four lines");
        assert_eq!(serde_json::from_str::<StepMetrics>(third).expect("ours"), metrics(3));
        assert!(third.contains("\"eval/held-out/CrossEntropyLoss\":2.5"), "{third}");

        // A step of another run has no line here.
        let other = folder.path().join("other.jsonl");
        let mut file = MetricsFile::open_after(&other, 7).expect("new");
        file.amend(7, &scores(2.5)).expect("writable");
        file.append(&metrics(8), &BTreeMap::new()).expect("writable");
        let text = fs::read_to_string(&other).expect("there");
        let first = text.lines().next().expect("two lines");
        let first: Value = serde_json::from_str(first).expect("ours");
        let expected = serde_json::json!({"step": 7, "eval/held-out/CrossEntropyLoss": 2.5});
        assert_eq!(first, expected);
        assert_eq!(text.lines().count(), 2);
    }
}
