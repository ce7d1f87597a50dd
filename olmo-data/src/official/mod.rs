//! Configurations of OLMo's original trainer, read as they are.
//!
//! - [`OfficialYaml`] is the file: `OmegaConf`'s interpolations and the trainer's own resolvers, worked
//!   out for the fields that are asked for, so that a field about another machine is in nobody's way.
//! - [`OfficialRun`] is what it says about data: files, sequence length, batch, seed, duration.
//!
//! Matches `olmo/config.py` of ai2-olmo 0.6.0 with the defaults of its `TrainConfig`, `ModelConfig`
//! and `DataConfig`.

mod interpolation;
mod number;
mod run;
mod yaml;

pub use number::{python_float, python_int};
pub use run::{InstanceFilterConfig, MaxDuration, OfficialData, OfficialRun, PaddingDirection};
pub use yaml::OfficialYaml;
