//! What a run reads, opened before its folder is made.

use std::path::Path;

use olmo_data::Tokenizer;
use olmo_hub::ModelFolder;

use crate::config::TrainConfig;
use crate::data::{self, OpenData};
use crate::error::Error;
use crate::evaluation::TokenSets;
use crate::missing;

/// Files of a run, opened.
#[derive(Debug)]
pub(super) struct Inputs {
    /// What it learns from.
    pub(super) opened: OpenData,
    /// What it is measured by.
    pub(super) sets: TokenSets,
}

impl Inputs {
    /// Opens the files that a configuration names. `load_path` is looked at where the run has no
    /// folder yet, `checkpoints`, since a run that goes on takes nothing of it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Data`], [`Error::Evaluator`] and [`Error::Hub`]: files that are not
    /// there, or not what they should be.
    pub(super) fn open(config: &TrainConfig, checkpoints: &Path) -> Result<Self, Error> {
        check_files(config)?;
        if let Some(path) = config.load_path.as_ref().filter(|_| !checkpoints.exists()) {
            ModelFolder::open(path)?;
        }
        let opened = data::open(config)?;
        config.check_growth(opened.instances.len())?;
        Ok(Self { opened, sets: TokenSets::open(config)? })
    }
}

/// Looks at the files that a configuration names before more is done with them: that none is missing of
/// which its own error would not say what to do, and that the tokenizer is one of the model's.
/// [`Trainer::new`](crate::Trainer::new) begins with it; whoever opens some of the files before does so too.
///
/// # Errors
///
/// [`Error::Config`] with the first file that is not as it should be.
pub fn check_files(config: &TrainConfig) -> Result<(), Error> {
    missing::check(config)?;
    match &config.tokenizer {
        Some(path) => check_tokenizer(path, config.model.vocab_size),
        None => Ok(()),
    }
}

/// Whether a file can be the tokenizer of a model: it is copied into each checkpoint, and the first of
/// them would be too late to find out.
fn check_tokenizer(path: &Path, vocab_size: usize) -> Result<(), Error> {
    let refused = |message| Error::Config { origin: "tokenizer".to_owned(), message };
    let tokenizer = Tokenizer::from_file(path).map_err(|error| {
        refused(format!("{error}; give the tokenizer.json that made the tokens, or leave it out"))
    })?;
    let max_id = tokenizer.max_id();
    if max_id as usize >= vocab_size {
        return Err(refused(format!(
            "{} has token ids up to {max_id}, expected less than model.vocab_size = {vocab_size}",
            path.display()
        )));
    }
    Ok(())
}
