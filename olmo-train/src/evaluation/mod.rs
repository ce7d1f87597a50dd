//! Which sets are measured during training, and when.
//!
//! Sets of token files are measured by the trainer, as OLMo's trainer measures its evaluators of
//! `type: lm`; sets of documents by the [`Observer`].
//!
//! [`Observer`]: crate::Observer

mod sets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use olmo_data::TokenDtype;
use serde::{Deserialize, Serialize};

pub(crate) use self::sets::TokenSets;

/// A set that the model is measured on as it is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluatorConfig {
    /// Its name; that of its metrics where they are of `paths`, `eval/LABEL/CrossEntropyLoss`.
    pub label: String,
    /// Documents (`.jsonl`, `.txt`, plain or compressed), or raw tokens (`.npy`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathBuf>,
    /// Files of raw tokens by the name of their metrics, `eval/NAME/CrossEntropyLoss`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub datasets: BTreeMap<String, Vec<PathBuf>>,
    /// Number format of raw tokens.
    #[serde(default)]
    pub memmap_dtype: TokenDtype,
    /// Instances or windows that are computed at a time; it changes speed and memory, not the result,
    /// unless there is a `subset_num_batches`.
    #[serde(default = "default_batch_size")]
    pub device_eval_batch_size: usize,
    /// Batches of raw tokens that are measured, the first in the order of `seed`; all of them where not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset_num_batches: Option<usize>,
    /// Seed of the order of raw tokens, where it is not that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

fn default_batch_size() -> usize {
    8
}

impl EvaluatorConfig {
    /// Whether it is of raw tokens, which the trainer measures, and not of documents.
    pub fn is_of_tokens(&self) -> bool {
        !self.datasets.is_empty() || self.paths.iter().any(is_token_file)
    }

    /// Its files by the name of their metrics.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[PathBuf])> {
        let own = (!self.paths.is_empty()).then_some((self.label.as_str(), self.paths.as_slice()));
        let named = self.datasets.iter().map(|(name, paths)| (name.as_str(), paths.as_slice()));
        own.into_iter().chain(named)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, problem: &str| {
            if !ok {
                problems.push(problem.to_owned());
            }
        };
        check(!self.label.is_empty(), "label is empty, expected a name");
        check(
            self.paths.is_empty() != self.datasets.is_empty(),
            "expected files in one of paths and datasets",
        );
        check(
            self.datasets.values().all(|paths| !paths.is_empty()),
            "datasets has a name without files",
        );
        check(
            self.paths.iter().any(is_token_file) == self.paths.iter().all(is_token_file)
                || self.paths.is_empty(),
            "paths has raw tokens and documents, expected an evaluator of its own for each kind",
        );
        check(self.device_eval_batch_size > 0, "device_eval_batch_size is 0, expected at least 1");
        check(self.subset_num_batches != Some(0), "subset_num_batches is 0, expected at least 1");
        check(
            self.is_of_tokens() || (self.subset_num_batches.is_none() && self.seed.is_none()),
            "subset_num_batches or seed is there, expected neither with documents, which are all measured",
        );
        problems
    }
}

fn is_token_file(path: impl AsRef<Path>) -> bool {
    path.as_ref().extension().is_some_and(|ending| ending == "npy")
}

/// Everything that is wrong with the sets and when they are measured.
pub(crate) fn problems(
    evaluators: &[EvaluatorConfig],
    interval: Option<u64>,
    on_load: bool,
) -> Vec<String> {
    let mut problems = Vec::new();
    if interval == Some(0) {
        problems.push("eval_interval is 0, expected at least 1 step".to_owned());
    }
    for (name, is_there) in [("eval_interval", interval.is_some()), ("eval_on_load", on_load)] {
        if is_there && evaluators.is_empty() {
            problems.push(format!("{name} is there, expected only with evaluators"));
        }
    }
    let mut names = BTreeSet::new();
    for (i, evaluator) in evaluators.iter().enumerate() {
        let of_it = evaluator.problems().into_iter();
        problems.extend(of_it.map(|problem| format!("evaluators.{i}: {problem}")));
        for (name, _) in evaluator.files().filter(|(name, _)| !names.insert(*name)) {
            problems.push(format!(
                "evaluators.{i} measures {name:?}, as one before it does, expected a name that no other has"
            ));
        }
    }
    problems
}
