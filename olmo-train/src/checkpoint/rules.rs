//! Which steps are saved, and which of the saved ones stay.

use std::fs;
use std::path::{Path, PathBuf};

use olmo_hub::atomic::TEMPORARY_PREFIX;
use serde::{Deserialize, Serialize};

use super::{Manifest, list};
use crate::error::Error;

/// For how long a checkpoint is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// Until there are more of its kind than are to be kept.
    Permanent,
    /// Until the next checkpoint of any kind.
    Ephemeral,
}

/// What is done where the newest checkpoint turns out to be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDamage {
    /// The run does not start; the message says which file is damaged.
    #[default]
    Stop,
    /// The damaged one is set aside as `damaged-stepN-tokensM`, and the run goes on from the newest
    /// whole one before it.
    Previous,
}

/// Which steps are saved, and which checkpoints stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveRules {
    /// Steps between permanent checkpoints.
    pub interval: u64,
    /// Steps between ephemeral ones; none where not given.
    pub ephemeral_interval: Option<u64>,
    /// Permanent ones to keep, the newest; all where not given.
    pub keep: Option<usize>,
}

impl SaveRules {
    /// Whether a step is saved, and for how long; the last step of a run is permanent.
    pub fn at(&self, step: u64, last_step: u64) -> Option<Kept> {
        let due = |interval: u64| step.is_multiple_of(interval);
        if due(self.interval) || step == last_step {
            Some(Kept::Permanent)
        } else {
            self.ephemeral_interval.is_some_and(due).then_some(Kept::Ephemeral)
        }
    }

    /// Removes the checkpoints that are not to stay: ephemeral ones before the newest, and
    /// permanent ones but the newest `keep`. One whose manifest cannot be read counts as permanent.
    ///
    /// A folder loses its name before its files, so that what bears the name is always whole.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where one cannot be removed.
    pub fn prune(&self, checkpoints: &Path) -> Result<(), Error> {
        for path in self.surplus(checkpoints)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let doomed = path.with_file_name(format!("{TEMPORARY_PREFIX}removed-{name}"));
            fs::rename(&path, &doomed)
                .and_then(|()| fs::remove_dir_all(&doomed))
                .map_err(|source| Error::Io { path, source })?;
        }
        Ok(())
    }

    fn surplus(&self, checkpoints: &Path) -> Result<Vec<PathBuf>, Error> {
        let mut paths: Vec<_> = list(checkpoints)?.into_iter().map(|(_, path)| path).collect();
        let newest = paths.pop();
        let is_ephemeral = |path: &PathBuf| {
            Manifest::read(path).is_ok_and(|manifest| manifest.kept == Kept::Ephemeral)
        };
        let newest_counts = usize::from(newest.is_some_and(|path| !is_ephemeral(&path)));
        let (mut surplus, mut permanent): (Vec<_>, Vec<_>) =
            paths.into_iter().partition(is_ephemeral);
        if let Some(keep) = self.keep {
            let n_stay = keep.saturating_sub(newest_counts).min(permanent.len());
            permanent.truncate(permanent.len() - n_stay);
            surplus.append(&mut permanent);
        }
        Ok(surplus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: SaveRules = SaveRules { interval: 10, ephemeral_interval: Some(4), keep: Some(2) };

    fn names(folder: &Path) -> Vec<u64> {
        list(folder).expect("there").into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn steps_are_due_by_interval_and_the_last_one_always() {
        let kinds: Vec<_> = (1..=13).filter_map(|step| Some((step, RULES.at(step, 13)?))).collect();
        let (permanent, ephemeral) = (Kept::Permanent, Kept::Ephemeral);
        let expected =
            [(4, ephemeral), (8, ephemeral), (10, permanent), (12, ephemeral), (13, permanent)];
        assert_eq!(kinds, expected);
        let without = SaveRules { ephemeral_interval: None, ..RULES };
        assert_eq!(without.at(4, 13), None);
    }

    #[test]
    fn the_newest_ephemeral_and_the_newest_permanent_ones_stay() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut stay = Vec::new();
        for step in 1..=33 {
            let Some(kept) = RULES.at(step, 33) else { continue };
            let dir = folder.path().join(format!("step{step}-tokens{step}"));
            fs::create_dir_all(dir.join("train")).expect("writable");
            Manifest::write(&dir, kept).expect("writable");
            RULES.prune(folder.path()).expect("removable");
            stay.push(names(folder.path()));
        }
        let expected: [&[u64]; 11] = [
            &[4],
            &[8],
            &[10],
            &[10, 12],
            &[10, 16],
            &[10, 20],
            &[10, 20, 24],
            &[10, 20, 28],
            &[20, 30],
            &[20, 30, 32],
            &[30, 33],
        ];
        assert_eq!(stay, expected);
        let n_entries = fs::read_dir(folder.path()).expect("there").count();
        assert_eq!(n_entries, 2, "nothing is left of what was removed");
    }
}
