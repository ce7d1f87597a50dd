//! Configurations of the original trainer, to ours.
//!
//! Matches `TrainConfig` of `olmo/config.py` in ai2-olmo 0.6.0, with its defaults. Every field is
//! followed, refused with the reason, or told as a [`Note`]: that it has no effect here, and why.
//!
//! Overrides are of the original's fields. Beside them stand those of our own that it has no
//! counterpart for ([`OWN`]), such as `compat`.
//!
//! The default is to do the sound thing where the original has a mistake; `compat: olmo` makes the
//! mistakes too, see [`Compat`](crate::config::Compat).

mod evaluators;
mod fields;
mod idle;
mod sections;

use std::path::Path;

use olmo_data::official::{OfficialRun, OfficialYaml};
use serde_json::{Map, Value};

use self::fields::Fields;
use crate::error::Error;

/// A field that has no effect here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its path.
    pub field: String,
    /// Why it has none.
    pub reason: String,
}

/// A configuration in our terms.
#[derive(Debug, Clone, PartialEq)]
pub struct Translation {
    /// The fields of [`TrainConfig`](crate::TrainConfig), not yet checked.
    pub config: Value,
    /// What of the original has no effect.
    pub notes: Vec<Note>,
}

/// Fields of ours that may stand in a configuration of the original's.
pub const OWN: &[&str] = &[
    "batch_size_warmup",
    "compat",
    "device_peak_flops",
    "energy",
    "faults",
    "on_damaged_checkpoint",
    "path_map",
    "push",
    "save_async",
    "tensorboard",
];

/// Whether a configuration is the original trainer's: ours names a preset or describes attention.
pub fn is_official(value: &Value) -> bool {
    let Some(model) = value.get("model").and_then(Value::as_object) else { return false };
    model.contains_key("d_model")
        && !["preset", "attention", "feed_forward"].iter().any(|name| model.contains_key(*name))
}

/// Translates a configuration of the original trainer; `path` is for messages.
///
/// # Errors
///
/// [`Error::Data`] and [`Error::Hub`] where data or model are not sound, [`Error::Config`] with every
/// other field that cannot be followed.
pub fn translate(value: Value, path: &Path) -> Result<Translation, Error> {
    let yaml = OfficialYaml::from_value(value, path)?;
    let run = OfficialRun::from_yaml(&yaml)?;
    let mut fields = Fields::new(&yaml);
    let mut config = Map::new();
    sections::run(&mut fields, &mut config);
    sections::model(&mut fields, &mut config, path)?;
    sections::data(&mut fields, &mut config, &run)?;
    sections::optimizer(&mut fields, &mut config);
    sections::scheduler(&mut fields, &mut config);
    sections::lengths(&mut fields, &mut config);
    sections::loss_and_precision(&mut fields, &mut config);
    sections::saving(&mut fields, &mut config);
    sections::loading(&mut fields, &mut config);
    evaluators::evaluators(&mut fields, &mut config);
    for name in OWN {
        if let Some(value) = fields.get(name) {
            config.insert((*name).to_owned(), value);
        }
    }
    idle::note(&mut fields);
    let notes = fields.finish()?;
    Ok(Translation { config: Value::Object(config), notes })
}

#[cfg(test)]
mod tests;
