//! The checkpoint that a run goes on from.

use std::fs;
use std::path::{Path, PathBuf};

use super::save::point_latest;
use super::{Manifest, OnDamage, list};
use crate::error::Error;

/// The newest whole checkpoint of a run, and what was passed over on the way to it.
#[derive(Debug, Default)]
pub struct Found {
    /// Its step and folder; `None` where there is none at all.
    pub newest: Option<(u64, PathBuf)>,
    /// Damaged ones that were set aside: where they are now, and what is wrong with each.
    pub set_aside: Vec<(PathBuf, Error)>,
}

/// Finds the newest checkpoint whose files are as they were written, and points `latest` at it.
///
/// # Errors
///
/// [`Error::Damaged`] where the newest is damaged and `on_damage` is to stop, or where none is whole;
/// its message says what to do. [`Error::Io`].
pub fn find(checkpoints: &Path, on_damage: OnDamage) -> Result<Found, Error> {
    let mut found = Found::default();
    let mut left = list(checkpoints)?;
    while let Some((step, dir)) = left.pop() {
        match check(&dir) {
            Ok(()) => {
                point_latest(&dir)?;
                found.newest = Some((step, dir));
                return Ok(found);
            }
            Err(error) => {
                let before = left.iter().rev().find(|(_, dir)| check(dir).is_ok());
                if on_damage == OnDamage::Stop || before.is_none() {
                    return Err(with_advice(error, &dir, before.map(|(step, _)| *step)));
                }
                found.set_aside.push((set_aside(&dir)?, error));
            }
        }
    }
    Ok(found)
}

/// Whether every file of a checkpoint is as it was written.
///
/// # Errors
///
/// [`Error::Damaged`] with the first that is not.
pub fn check(dir: &Path) -> Result<(), Error> {
    Manifest::read(dir)?.check(dir)
}

fn with_advice(error: Error, dir: &Path, before: Option<u64>) -> Error {
    let dir = dir.display();
    match error {
        Error::Damaged { path, message, .. } => {
            let advice = match before {
                Some(step) => format!(
                    "; to go on from step {step}, the newest whole checkpoint before it, give on_damaged_checkpoint=previous"
                ),
                None => format!("; no checkpoint before it is whole: remove {dir} to begin anew"),
            };
            Error::Damaged { path, message, advice }
        }
        other => other,
    }
}

/// Gives a damaged checkpoint a name under which it is no checkpoint; one of that name is replaced.
fn set_aside(dir: &Path) -> Result<PathBuf, Error> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.with_file_name(format!("damaged-{name}"));
    let io = |source| Error::Io { path: aside.clone(), source };
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(io)?;
    }
    fs::rename(dir, &aside).map_err(io)?;
    Ok(aside)
}
