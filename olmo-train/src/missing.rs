//! Files that a run names and that are not on this machine.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::TrainConfig;
use crate::data_config::{DataConfig, DatasetConfig};
use crate::error::Error;

/// Files of one part of a run that are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingFiles {
    /// The part: `data`, or `evaluator LABEL`.
    pub part: String,
    /// How many of its files are not there.
    pub n_missing: usize,
    /// How many it has.
    pub n_files: usize,
    /// The first that is not there.
    pub first: PathBuf,
}

impl fmt::Display for MissingFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.count())
    }
}

impl MissingFiles {
    fn of<'a>(part: String, files: impl IntoIterator<Item = &'a PathBuf>) -> Option<Self> {
        let files: Vec<&PathBuf> = files.into_iter().collect();
        let missing: Vec<&PathBuf> = files.iter().copied().filter(|path| !path.exists()).collect();
        let first = (*missing.first()?).clone();
        Some(Self { part, n_missing: missing.len(), n_files: files.len(), first })
    }

    fn count(&self) -> String {
        let Self { n_missing, n_files, first, .. } = self;
        format!("{n_missing} of {n_files} files are not here, the first {}", first.display())
    }

    /// What would work.
    fn advice(&self) -> String {
        let first = self.first.display().to_string();
        let from = beginning(&first).unwrap_or("BEGINNING");
        let map = format!("say where they are with 'path_map={{\"{from}\": FOLDER}}'");
        if self.part == DATA {
            format!("{map}, or name others with data.paths=[FILE]")
        } else {
            format!("{map}, or measure nothing with 'evaluators=[]'")
        }
    }
}

const DATA: &str = "data";

/// Scheme and host of a URL.
fn beginning(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next().unwrap_or_default();
    Some(&url[..scheme.len() + "://".len() + host.len()])
}

/// What of a run's files is not on this machine, part by part.
pub fn missing_files(config: &TrainConfig) -> Vec<MissingFiles> {
    let of_data = MissingFiles::of(DATA.to_owned(), training_files(&config.data));
    let of_evaluators = config.evaluators.iter().filter_map(|evaluator| {
        let files = evaluator.files().flat_map(|(_, paths)| paths);
        MissingFiles::of(format!("evaluator {}", evaluator.label), files)
    });
    of_data.into_iter().chain(of_evaluators).collect()
}

/// That no file is missing of which its own error would not say what to do: those of evaluators, and
/// URLs.
///
/// # Errors
///
/// [`Error::Config`] with the first part of which files are missing.
pub(crate) fn check(config: &TrainConfig) -> Result<(), Error> {
    let is_url = |path: &Path| path.to_string_lossy().contains("://");
    let missing = missing_files(config);
    let unexplained = missing.iter().find(|files| files.part != DATA || is_url(&files.first));
    let Some(files) = unexplained else { return Ok(()) };
    let message = format!("{}; {}", files.count(), files.advice());
    Err(Error::Config { origin: files.part.clone(), message })
}

fn training_files(data: &DataConfig) -> Vec<&PathBuf> {
    let sources = match &data.dataset {
        DatasetConfig::FslMixture { sources, .. } => sources.as_slice(),
        _ => &[],
    };
    let of_sources = sources.iter().flat_map(|source| &source.paths);
    let masks = data.label_mask_paths.iter().flatten();
    data.paths.iter().chain(of_sources).chain(masks).collect()
}
