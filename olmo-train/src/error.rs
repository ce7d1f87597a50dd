//! Errors of this crate.

use std::io;
use std::path::PathBuf;

/// What can go wrong in a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration is not sound.
    #[error("{origin}: {message}")]
    Config {
        /// The file or field.
        origin: String,
        /// What is wrong, and what would work.
        message: String,
    },
    /// A file of the run cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of a checkpoint is not what this version writes.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// A file of a checkpoint is not as it was written.
    #[error("{}: {message}; the file is damaged{advice}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
        /// What to do, beginning with "; ", or nothing.
        advice: String,
    },
    /// Another process trains in the run's folder.
    #[error("{}: another process is training in this folder; wait until it ends, or choose another save_folder", path.display())]
    InUse {
        /// The run's folder.
        path: PathBuf,
    },
    /// The run's folder belongs to another run.
    #[error("{}: holds the checkpoint of another run ({message}); choose another save_folder, or remove it", path.display())]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        message: String,
    },
    /// A loss or a gradient is not a number.
    #[error(
        "{what} is {value} at step {step}, so the weights were left as they were; lower the learning rate, pass over the batch with faults.on_nan=skip, or go on from an earlier checkpoint{report}"
    )]
    NonFinite {
        /// The quantity.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The step, from 1.
        step: u64,
        /// The batch and the bundle, in lines of their own.
        report: String,
    },
    /// A loss or a gradient norm is far above those before, and the rule is to stop.
    #[error(
        "{message} at step {step}, so the weights were left as they were; pass over such batches with faults.spike.action=skip{report}"
    )]
    Spike {
        /// What was found.
        message: String,
        /// The step, from 1.
        step: u64,
        /// The batch and the bundle, in lines of their own.
        report: String,
    },
    /// The model could not be measured.
    #[error("at step {step}: {source}")]
    Evaluation {
        /// The step, from 1.
        step: u64,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The files of a set that is measured cannot be read.
    #[error("evaluator {label}: {source}")]
    Evaluator {
        /// The evaluator.
        label: String,
        /// What is wrong.
        source: olmo_data::Error,
    },
    /// The loss of an instance that is measured is no number.
    #[error(
        "evaluator {label}: the loss of instance {instance} of {} is {loss}, expected a number; go on from an earlier checkpoint",
        path.display()
    )]
    NonFiniteScore {
        /// The evaluator.
        label: String,
        /// The file.
        path: PathBuf,
        /// The instance in the file, from 0.
        instance: usize,
        /// Its loss.
        loss: f64,
    },
    /// Nothing of a batch is to be learnt.
    #[error(
        "no token of the batch of step {step} counts as a label, so there is no loss: label masks or the instance filter leave all of them out"
    )]
    NoLabels {
        /// The step, from 1.
        step: u64,
    },
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] olmo_model::Error),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] olmo_data::Error),
    /// The optimizer was given something it cannot use.
    #[error(transparent)]
    Optim(#[from] olmo_optim::Error),
    /// A checkpoint's weights cannot be read or written.
    #[error(transparent)]
    Hub(#[from] olmo_hub::Error),
}
