//! Training of OLMo models: the step, the loop, checkpoints and metrics.
//!
//! - [`TrainConfig`] is a run as data; it is read from YAML and checked as a whole.
//! - [`Trainer`] makes a run of it: it starts or resumes by itself, and saves so that whatever
//!   interrupts it, the last checkpoint is whole.
//! - [`step`] is one micro-batch's forward and backward pass, as a chain of segments.
//! - [`checkpoint`] is a model folder, Hugging Face's where that has the model, with the trainer's
//!   state beside the weights.
//! - [`metrics`] are OLMo's, one JSON object a step; [`energy`] is part of them.
//! - [`faults`] are steps that must not be made: what is done about them, and made again.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//! use burn::tensor::Device;
//! use olmo_train::{Observer, TrainConfig, Trainer};
//!
//! struct Quiet;
//! impl Observer for Quiet {}
//!
//! # fn main() -> Result<(), olmo_train::Error> {
//! let config = TrainConfig::read(Path::new("run.yaml"), &["max_duration=100".to_owned()])?;
//! let mut trainer = Trainer::new(config, &Device::flex())?;
//! let outcome = trainer.run(&mut Quiet, &AtomicBool::new(false))?;
//! println!("{outcome:?}: {}", trainer.last_checkpoint().unwrap_or(Path::new("")).display());
//! # Ok(())
//! # }
//! ```

pub mod checkpoint;
pub mod config;
pub mod data;
pub mod data_config;
pub mod energy;
pub mod error;
pub mod evaluation;
pub mod faults;
pub mod metrics;
pub mod missing;
pub mod observer;
pub mod official;
pub mod publish;
mod start;
pub mod step;
pub mod trainer;

pub use config::TrainConfig;
pub use data_config::DataConfig;
pub use error::Error;
pub use metrics::{Speed, StepMetrics};
pub use observer::{Evaluation, Observer, Outcome};
pub use trainer::{Trainer, check_files};
