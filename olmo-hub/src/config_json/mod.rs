//! Hugging Face's `config.json` to [`ModelConfig`] and back.
//!
//! A field is mapped, or listed as having no bearing on the network, or an error that names it;
//! none is dropped in silence. What is absent has the default of its `model_type` in
//! transformers 5.23 (`configuration_olmo*.py`).

mod core;
mod fields;
mod original;
mod read;
mod rope;
mod write;

use std::path::Path;

use olmo_model::ModelConfig;
use serde_json::{Map, Value};

use self::fields::Fields;
use crate::dtype::Dtype;
use crate::error::{Error, FieldProblem, Problems, Result};
use crate::family::Family;
use crate::text_file;

/// What a `config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub struct HfConfig {
    /// The model type of `transformers` that expresses the architecture, `None` where only ai2-olmo's
    /// own `hf_olmo` does.
    pub family: Option<Family>,
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
        let text = text_file::read_text(path)?;
        Self::parse(&text, path)
    }

    /// Reads the `model` of a `config.yaml`, as ai2-olmo's trainer leaves it with a checkpoint.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse), [`Error::Yaml`] and [`Error::Io`].
    pub fn read_yaml(path: &Path) -> Result<Self> {
        Self::from_original(read_yaml(path)?, path)
    }

    /// Reads the text of a `config.json`, also of one with model type `hf_olmo` and of the one that
    /// OLMo-core's trainer leaves with a checkpoint; `path` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Json`], [`Error::ModelType`], [`Error::Config`] with every field that cannot be
    /// followed, or [`Error::Architecture`] with every contradiction between them.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let object: Map<String, Value> = serde_json::from_str(text).map_err(Error::json(path))?;
        if original::is_flattened(&object) {
            return Self::from_original(object, path);
        }
        if core::is_experiment(&object) {
            let (config, problems) = core::config(object);
            return config.checked(problems, path);
        }
        let family = read::family(&object, path)?;
        let mut fields = Fields::new(object);
        let config = read::config(&mut fields, family);
        let problems = fields.finish(&format!("model_type {}", family.model_type()));
        config.checked(problems, path)
    }

    /// The configuration, unless something of it cannot be followed.
    fn checked(self, problems: Vec<FieldProblem>, path: &Path) -> Result<Self> {
        if !problems.is_empty() {
            return Err(Error::Config { path: path.to_owned(), problems: Problems(problems) });
        }
        let architecture = |source| Error::Architecture { path: path.to_owned(), source };
        self.model.validate().map_err(architecture)?;
        Ok(self)
    }

    /// Reads the fields of ai2-olmo's `ModelConfig`; `path` is for errors.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn from_original(object: Map<String, Value>, path: &Path) -> Result<Self> {
        let mut fields = Fields::new(object);
        let config = original::config(&mut fields);
        let problems = fields.finish("ai2-olmo's ModelConfig");
        config.checked(problems, path)
    }

    /// Whether ai2-olmo has such a model; `path` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Unexpressible`] where it has not.
    pub(crate) fn check_original(&self, path: &Path) -> Result<()> {
        let problems = original::misfits(&self.model);
        if problems.is_empty() { Ok(()) } else { Err(unexpressible(path, "hf_olmo", problems)) }
    }

    /// The fields of ai2-olmo's `ModelConfig` that describe this model; `path` is for errors.
    ///
    /// # Errors
    ///
    /// As [`check_original`](Self::check_original).
    pub(crate) fn to_original(&self, path: &Path) -> Result<Map<String, Value>> {
        self.check_original(path)?;
        Ok(original::write(self))
    }

    /// The model type of `transformers`; `path` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Unexpressible`] where it has none, with every field that keeps the model from being of
    /// the one that comes closest.
    pub(crate) fn transformers(&self, path: &Path) -> Result<Family> {
        let found = Family::of(&self.model);
        found.map_err(|(family, problems)| unexpressible(path, family.model_type(), problems))
    }

    /// The text of the `config.json` of model type `hf_olmo`; `path` is for errors.
    ///
    /// # Errors
    ///
    /// As [`check_original`](Self::check_original).
    pub(crate) fn to_hf_olmo_json(&self, path: &Path) -> Result<String> {
        self.check_original(path)?;
        Ok(original::flattened(self))
    }

    /// The `config.json` of a model of ours; `path` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Architecture`] where the configuration contradicts itself, or
    /// [`Error::Unexpressible`] with every field that keeps it from being of a family of
    /// `transformers`, where ai2-olmo has no such model either.
    pub fn for_model(
        model: &ModelConfig,
        special: &Special,
        dtype: Dtype,
        path: &Path,
    ) -> Result<Self> {
        let architecture = |source| Error::Architecture { path: path.to_owned(), source };
        model.validate().map_err(architecture)?;
        let family = Family::of(model);
        let mut problems = match &family {
            Err((_, misfits)) if !original::misfits(model).is_empty() => misfits.clone(),
            _ => Vec::new(),
        };
        if let Some(pad) = special.pad_token_id.filter(|&pad| pad as usize >= model.vocab_size) {
            problems.push(FieldProblem {
                field: "pad_token_id".to_owned(),
                found: pad.to_string(),
                expected: format!("an id below vocab_size = {}, or none", model.vocab_size),
            });
        }
        if problems.is_empty() {
            let (family, model, special) = (family.ok(), model.clone(), special.clone());
            return Ok(Self { family, model, special, dtype: Some(dtype) });
        }
        let closest = family.unwrap_or_else(|(closest, _)| closest);
        Err(unexpressible(path, closest.model_type(), problems))
    }

    /// The text of `config.json`: as transformers 5 writes it, or as `hf_olmo` where it has no such
    /// model.
    pub fn to_json(&self) -> String {
        match self.family {
            Some(family) => write::config(self, family),
            None => original::flattened(self),
        }
    }
}

fn unexpressible(path: &Path, family: &'static str, problems: Vec<FieldProblem>) -> Error {
    Error::Unexpressible { path: path.to_owned(), family, problems: Problems(problems) }
}

/// The `model` of a `config.yaml`.
fn read_yaml(path: &Path) -> Result<Map<String, Value>> {
    let text = text_file::read_text(path)?;
    let yaml = |message: String| Error::Yaml { path: path.to_owned(), message };
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| yaml(error.to_string()))?;
    match value.get("model") {
        Some(Value::Object(model)) => Ok(model.clone()),
        _ => Err(yaml("it has no mapping `model`, which describes the architecture".to_owned())),
    }
}

/// What the configuration of a folder says that is known to be wrong, and was read as meant.
///
/// # Errors
///
/// As [`HfConfig::read`] and [`HfConfig::read_yaml`], as far as the form of the file goes.
pub(crate) fn mended(path: &Path) -> Result<Vec<String>> {
    let object = if path.extension() == Some("yaml".as_ref()) {
        read_yaml(path)?
    } else {
        let text = text_file::read_text(path)?;
        serde_json::from_str(&text).map_err(Error::json(path))?
    };
    Ok(original::mended(&object).into_iter().collect())
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
