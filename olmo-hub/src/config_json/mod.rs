//! Hugging Face's `config.json` to [`ModelConfig`] and back.
//!
//! A field is mapped, or listed as having no bearing on the network, or an error that names it;
//! none is dropped in silence. What is absent has the default of its `model_type` in
//! transformers 5.23 (`configuration_olmo*.py`).

mod fields;
mod read;
mod rope;
mod write;

use std::fs;
use std::path::Path;

use olmo_model::ModelConfig;
use serde_json::{Map, Value};

use self::fields::Fields;
use crate::dtype::Dtype;
use crate::error::{Error, FieldProblem, Problems, Result};
use crate::family::Family;

/// What a `config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub struct HfConfig {
    /// The `model_type`.
    pub family: Family,
    /// The architecture.
    pub model: ModelConfig,
    /// The tokens with a meaning of their own.
    pub special: Special,
    /// The dtype that the weights are said to have; the files are the truth.
    pub dtype: Option<Dtype>,
}

/// Ids of the tokens with a meaning of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Special {
    /// Begins a text; no OLMo release has one.
    pub bos_token_id: Option<u32>,
    /// Each of these ends a text. The first is the one to train with.
    pub eos_token_id: Vec<u32>,
    /// Fills the rows of a batch.
    pub pad_token_id: Option<u32>,
}

impl HfConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse), and [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        Self::parse(&text, path)
    }

    /// Reads the text of a `config.json`; `path` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Json`], [`Error::ModelType`], [`Error::Config`] with every field that cannot be
    /// followed, or [`Error::Architecture`] with every contradiction between them.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let object: Map<String, Value> = serde_json::from_str(text).map_err(Error::json(path))?;
        let family = read::family(&object, path)?;
        let mut fields = Fields::new(object);
        let config = read::config(&mut fields, family);
        let problems = fields.finish(&format!("model_type {}", family.model_type()));
        if !problems.is_empty() {
            return Err(Error::Config { path: path.to_owned(), problems: Problems(problems) });
        }
        let architecture = |source| Error::Architecture { path: path.to_owned(), source };
        config.model.validate().map_err(architecture)?;
        Ok(config)
    }

    /// The `config.json` of a model of ours; `path` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Architecture`] where the configuration contradicts itself, or
    /// [`Error::Unexpressible`] with every field that keeps it from being of a family.
    pub fn for_model(
        model: &ModelConfig,
        special: &Special,
        dtype: Dtype,
        path: &Path,
    ) -> Result<Self> {
        let architecture = |source| Error::Architecture { path: path.to_owned(), source };
        model.validate().map_err(architecture)?;
        let (family, mut problems) = match Family::of(model) {
            Ok(family) => (family, Vec::new()),
            Err(misfits) => misfits,
        };
        if let Some(pad) = special.pad_token_id.filter(|&pad| pad as usize >= model.vocab_size) {
            problems.push(FieldProblem {
                field: "pad_token_id".to_owned(),
                found: pad.to_string(),
                expected: format!("an id below vocab_size = {}, or none", model.vocab_size),
            });
        }
        if problems.is_empty() {
            let (model, special) = (model.clone(), special.clone());
            return Ok(Self { family, model, special, dtype: Some(dtype) });
        }
        Err(Error::Unexpressible {
            path: path.to_owned(),
            family: family.model_type(),
            problems: Problems(problems),
        })
    }

    /// The text of `config.json` as transformers 5 writes it.
    pub fn to_json(&self) -> String {
        write::config(self)
    }
}

impl Special {
    /// What a `generation_config.json` says, and where it names none, what `self` says.
    ///
    /// Everything else in that file is a choice of whoever generates, not of the model.
    ///
    /// # Errors
    ///
    /// [`Error::Json`], or [`Error::Config`] where an id is not one; `path` is for them.
    pub fn with_generation_config(&self, text: &str, path: &Path) -> Result<Self> {
        let mut fields = Fields::new(serde_json::from_str(text).map_err(Error::json(path))?);
        let special = read::special(&mut fields, self);
        let problems = fields.into_problems();
        if problems.is_empty() {
            return Ok(special);
        }
        Err(Error::Config { path: path.to_owned(), problems: Problems(problems) })
    }

    /// The text of `generation_config.json` as transformers 5 writes it.
    pub fn to_generation_json(&self) -> String {
        write::generation_config(self)
    }
}
