//! Checkpoints of a run: where they are, and what is in one.
//!
//! `checkpoints/stepN-tokensM/` is a Hugging Face model folder in f32, which any tool reads, or that of
//! ai2-olmo's `hf_olmo` where transformers has no such model, with `train/` beside the weights:
//! `state.json`, `optimizer.safetensors`, and `manifest.json` with the SHA-256 of every file. A folder
//! gets its name only when all of it is on the disk, and loses it before its files, so one that is there
//! is whole, unless a disk has damaged it since.

mod data_identity;
mod find;
mod load;
mod manifest;
mod rules;
mod save;
mod saver;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use olmo_data::LoaderState;
use olmo_optim::SkipStep;
use serde::{Deserialize, Serialize};

use crate::error::Error;

pub use data_identity::DataIdentity;
pub use find::{Found, check, find};
pub use load::{Loaded, load};
pub(crate) use load::{read_optimizer, read_state};
pub use manifest::{FileRecord, Manifest};
pub use rules::{Kept, OnDamage, SaveRules};
pub use save::{Contents, save};
pub use saver::{Saved, Saver};

/// The trainer's state beside weights and optimizer state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// Layout of this file.
    pub version: u32,
    /// Steps made.
    pub global_step: u64,
    /// Tokens of all batches so far.
    pub global_train_tokens_seen: u64,
    /// Where the data goes on.
    pub loader: LoaderState,
    /// What the order of the data depends on; a run that differs is another run.
    pub data: DataIdentity,
    /// Updates of each parameter so far.
    pub optimizer_steps: BTreeMap<String, u64>,
    /// Moving averages of gradient norms, by name; empty without `max_grad_norm_ratio`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grad_norm_exp_avg: BTreeMap<String, f32>,
    /// What spikes are measured by; absent where they are not looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spikes: Option<SkipStep>,
    /// Where a warmup begins that the schedule does not have, in its units: after the optimizer began
    /// anew in a run that went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_start: Option<u64>,
}

/// Layout of `state.json` that this version writes and reads.
pub(crate) const STATE_VERSION: u32 = 1;

/// Name of the folder that holds a checkpoint's training state.
pub(crate) const TRAIN_FOLDER: &str = "train";
pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Name of a checkpoint's folder.
pub fn folder_name(step: u64, tokens: u64) -> String {
    format!("step{step}-tokens{tokens}")
}

/// The checkpoints in a run's `checkpoints` folder, by step, oldest first.
///
/// # Errors
///
/// [`Error::Io`] where the folder is there but cannot be listed.
pub fn list(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let io = |source| Error::Io { path: checkpoints.to_owned(), source };
    if !checkpoints.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(checkpoints).map_err(io)? {
        let entry = entry.map_err(io)?;
        if let Some(step) = entry.file_name().to_str().and_then(step_of) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// The step in a checkpoint's folder name.
fn step_of(name: &str) -> Option<u64> {
    let (step, tokens) = name.strip_prefix("step")?.split_once("-tokens")?;
    tokens.parse::<u64>().ok()?;
    step.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_listed_by_step_and_others_passed_over() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["step10-tokens640", "step9-tokens576", ".tmp-olmo-step11", "notes", "step3"] {
            fs::create_dir(folder.path().join(name)).expect("writable");
        }
        let steps: Vec<_> = list(folder.path()).expect("there").into_iter().map(|c| c.0).collect();
        assert_eq!(steps, [9, 10]);
        assert_eq!(list(&folder.path().join("none")).expect("no folder, no checkpoints"), []);
        assert_eq!(step_of(&folder_name(12, 34)), Some(12));
    }
}
