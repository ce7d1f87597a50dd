//! Which sets are measured during training, and when. The measuring is the [`Observer`]'s.
//!
//! [`Observer`]: crate::Observer

use std::path::PathBuf;

use olmo_data::TokenDtype;
use serde::{Deserialize, Serialize};

/// A set that the model is measured on as it is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluatorConfig {
    /// Its name in the metrics, `eval/LABEL/CrossEntropyLoss`.
    pub label: String,
    /// Documents (`.jsonl`, `.txt`, plain or compressed), or raw tokens (`.npy`).
    pub paths: Vec<PathBuf>,
    /// Number format of raw tokens.
    #[serde(default)]
    pub memmap_dtype: TokenDtype,
    /// Windows that are computed at a time; it changes speed and memory, not the result.
    #[serde(default = "default_batch_size")]
    pub device_eval_batch_size: usize,
}

fn default_batch_size() -> usize {
    8
}

/// Everything that is wrong with the sets and their interval.
pub(crate) fn problems(evaluators: &[EvaluatorConfig], interval: Option<u64>) -> Vec<String> {
    let mut problems = Vec::new();
    if interval == Some(0) {
        problems.push("eval_interval is 0, expected at least 1 step".to_owned());
    }
    if interval.is_some() && evaluators.is_empty() {
        problems.push("eval_interval is there, expected only with evaluators".to_owned());
    }
    for (i, evaluator) in evaluators.iter().enumerate() {
        let label = &evaluator.label;
        if label.is_empty() || evaluators[..i].iter().any(|other| other.label == *label) {
            problems.push(format!(
                "evaluators.{i}.label is {label:?}, expected a name that no other has"
            ));
        }
        if evaluator.paths.is_empty() {
            problems.push(format!("evaluators.{i}.paths is empty, expected files"));
        }
        if evaluator.device_eval_batch_size == 0 {
            problems
                .push(format!("evaluators.{i}.device_eval_batch_size is 0, expected at least 1"));
        }
    }
    problems
}
