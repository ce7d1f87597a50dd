//! What is told of a run while it runs, and asked of whoever watches it.

use std::collections::BTreeMap;
use std::path::Path;

use olmo_model::Transformer;

use crate::error::Error;
use crate::metrics::StepMetrics;

/// What is told of a run while it runs. Everything is optional.
pub trait Observer {
    /// The run begins or goes on; `step` steps of `max_steps` are made.
    fn on_start(&mut self, step: u64, max_steps: u64) {
        let _ = (step, max_steps);
    }

    /// A step was made.
    fn on_step(&mut self, metrics: &StepMetrics) {
        let _ = metrics;
    }

    /// Measures what the trainer does not, such as documents, at a step of `eval_interval`, at the last
    /// one, and with `eval_on_load` where the run goes on. What it gives stands in the step's metrics,
    /// under its names.
    ///
    /// # Errors
    ///
    /// Any; it ends the run.
    fn evaluate(&mut self, step: u64, model: &Transformer) -> Evaluation {
        let _ = (step, model);
        Ok(BTreeMap::new())
    }

    /// What the trainer measured and [`evaluate`](Self::evaluate) gave, which is written.
    fn on_scores(&mut self, step: u64, scores: &BTreeMap<String, f64>) {
        let _ = (step, scores);
    }

    /// A step was skipped; the notice says why, and names its batch.
    fn on_skip(&mut self, notice: &str) {
        let _ = notice;
    }

    /// A checkpoint was saved.
    fn on_checkpoint(&mut self, path: &Path) {
        let _ = path;
    }

    /// An older checkpoint could not make way for one that was saved. It is tried again with the next.
    fn on_prune_failed(&mut self, error: &Error) {
        let _ = error;
    }

    /// A checkpoint could not be saved. The run goes on and saves again when that is next due; two
    /// failures in a row end it.
    fn on_save_failed(&mut self, error: &Error) {
        let _ = error;
    }
}

/// Measurements by name.
pub type Evaluation = Result<BTreeMap<String, f64>, Box<dyn std::error::Error + Send + Sync>>;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are made, or all up to where the configuration stops the run.
    Finished,
    /// The loss rose by more than `early_stopping_factor`; the state is saved.
    LossRose,
    /// It was asked to stop; the state is saved, and the same call goes on.
    Interrupted,
}
