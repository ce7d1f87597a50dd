//! A model folder in another form, tensor by tensor.
//!
//! The bytes of each tensor go from file to file in chunks, so that memory does not grow with the
//! model. Where the dtype stays, they go as they are: there and back is the identity to the last
//! bit. Where it narrows, values are rounded to nearest, ties to even.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use olmo_model::Parameter;
use serde_json::{Map, Value};

use crate::atomic::{AtomicFile, write_atomic, write_dir_atomic};
use crate::config_json::{HfConfig, Special};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::header::header_bytes;
use crate::layout::{Fused, Layout};
use crate::pickled_keys;
use crate::plan::{index_json, plan_files};
use crate::read::ModelFolder;
use crate::shards::{INDEX, ORIGINAL, SINGLE};
use crate::tensor_file::TensorSpec;
use crate::torch_file::state_dict_pickle;
use crate::write::{TOKENIZER_FILES, copy_tokenizer};
use crate::zip::ZipWriter;

/// A form that a model is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// What transformers reads: `config.json` and `model*.safetensors`.
    HuggingFace,
    /// What ai2-olmo reads: `config.yaml` and `model.pt`.
    Original,
    /// `config.yaml` and `model.safetensors` with pickled names, as ai2-olmo's trainer can save.
    OriginalSafetensors,
    /// What ai2-olmo's `hf_olmo` reads: a flattened `config.json` and `model*.safetensors`.
    HfOlmo,
    /// `config.json` as for transformers, or as for `hf_olmo` where it has no such model, and weights by
    /// the names of OLMo-core.
    Core,
}

impl Form {
    /// How weights are named and fused in this form.
    pub fn layout(self) -> Layout {
        match self {
            Self::HuggingFace => Layout::HuggingFace,
            Self::Original | Self::OriginalSafetensors | Self::HfOlmo => Layout::Original,
            Self::Core => Layout::Core,
        }
    }

    /// What of the tokens with a meaning of their own this form has no place for, in words.
    pub fn leaves_out(self, special: &Special) -> Vec<String> {
        let mut left_out = Vec::new();
        if !matches!(self, Self::Original | Self::OriginalSafetensors) {
            return left_out;
        }
        if let [kept, rest @ ..] = &special.eos_token_id[..]
            && !rest.is_empty()
        {
            let rest = rest.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            left_out.push(format!("config.yaml has one eos_token_id: {kept} is kept, {rest} not"));
        }
        if let Some(bos) = special.bos_token_id {
            left_out.push(format!("config.yaml has no bos_token_id: {bos} is not kept"));
        }
        left_out
    }

    /// The form that a model of ours is saved in: Hugging Face's, or that of `hf_olmo` where
    /// transformers has no such model.
    pub(crate) fn of(config: &HfConfig) -> Self {
        if config.family.is_some() { Self::HuggingFace } else { Self::HfOlmo }
    }

    /// Every tensor of the model in this form, `None` where a parameter has no place.
    pub(crate) fn tensors(self, config: &HfConfig) -> Option<Vec<Fused>> {
        let mut tensors = self.layout().tensors(config.family, &config.model)?;
        if self == Self::HfOlmo {
            // Its class holds ai2-olmo's model as its `model`.
            for tensor in &mut tensors {
                tensor.name = format!("model.{}", tensor.name);
            }
        }
        Some(tensors)
    }
}

/// How a model is to be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    /// The form to write.
    pub form: Form,
    /// The dtype of the weights, `None` to leave each tensor as it is.
    pub dtype: Option<Dtype>,
    /// Bytes of tensors in a file, where the form allows for several.
    pub max_shard_bytes: u64,
}

impl Conversion {
    /// To a form, every tensor in its own dtype, in files of up to five gigabytes.
    pub fn to(form: Form) -> Self {
        Self { form, dtype: None, max_shard_bytes: 5_000_000_000 }
    }
}

/// Writes the model of a folder in another form to a new folder, with its tokenizer; `progress` is
/// told the bytes of weights that each write adds, and can end it.
///
/// # Errors
///
/// [`Error::Exists`] where `out` is there and not empty; [`Error::Unexpressible`] where the form
/// has no such model; [`Error::Value`] with the first value that does not fit the dtype;
/// [`Error::TiedHead`]; [`Error::Io`]; [`Error::Cancelled`] where `progress` breaks. Nothing is left
/// behind.
pub fn convert(
    folder: &ModelFolder,
    conversion: &Conversion,
    out: impl AsRef<Path>,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<()> {
    let out = out.as_ref();
    refuse_content(out)?;
    folder.check_tied_output()?;
    let source = Source { folder, dtype: conversion.dtype };
    let config = source.config(&out.join("config.json"))?;
    let tensors = source.tensors(conversion.form, &config, out)?;
    write_dir_atomic(out, |dir| {
        match conversion.form {
            Form::Original => source.write_torch(&tensors, &dir.join(ORIGINAL), &mut progress)?,
            Form::OriginalSafetensors => {
                source.write_pickled_names(tensors, &dir.join(SINGLE), &mut progress)?;
            }
            Form::HuggingFace | Form::Core | Form::HfOlmo => {
                let max = conversion.max_shard_bytes;
                source.write_shards(tensors, max, dir, &mut progress)?;
            }
        }
        if folder.path().join(TOKENIZER_FILES[0]).exists() {
            copy_tokenizer(folder.path(), dir)?;
        }
        write_config(&config, conversion.form, dir)
    })
}

/// What is told of the bytes that are written, and says whether to go on.
type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

fn told(progress: Progress<'_>, bytes: &[u8]) -> Result<()> {
    match progress(bytes.len() as u64) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

fn refuse_content(out: &Path) -> Result<()> {
    match fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::Exists { path: out.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(out, "write to")(error)),
    }
}

/// A tensor to be written, and where its values come from.
struct Target {
    spec: TensorSpec,
    parts: Vec<Parameter>,
}

/// The model that is converted.
struct Source<'a> {
    folder: &'a ModelFolder,
    dtype: Option<Dtype>,
}

impl Source<'_> {
    /// The `config.json` of the result.
    fn config(&self, path: &Path) -> Result<HfConfig> {
        let dtype = self.dtype.unwrap_or_else(|| self.folder.stored_dtype());
        HfConfig::for_model(self.folder.model_config(), self.folder.special(), dtype, path)
    }

    fn tensors(&self, form: Form, config: &HfConfig, out: &Path) -> Result<Vec<Target>> {
        match form {
            Form::HuggingFace => drop(config.transformers(out)?),
            Form::Original | Form::OriginalSafetensors | Form::HfOlmo => {
                config.check_original(out)?;
            }
            Form::Core => {}
        }
        let fused = form.tensors(config).ok_or_else(|| Error::NoTensor {
            path: out.to_owned(),
            name: "of this architecture in that form".to_owned(),
        })?;
        let target = |Fused { name, shape, parts }| {
            let dtype = self.dtype_of(&parts)?;
            Ok(Target { spec: TensorSpec { name, dtype, shape }, parts })
        };
        fused.into_iter().map(target).collect()
    }

    /// The dtype of a tensor of these parts, the widest where they differ.
    fn dtype_of(&self, parts: &[Parameter]) -> Result<Dtype> {
        if let Some(dtype) = self.dtype {
            return Ok(dtype);
        }
        let dtypes: Result<Vec<Dtype>> =
            parts.iter().map(|part| Ok(self.folder.stored(part)?.dtype)).collect();
        let dtypes = dtypes?;
        let all_equal = dtypes.windows(2).all(|pair| pair[0] == pair[1]);
        Ok(dtypes.first().copied().filter(|_| all_equal).unwrap_or(Dtype::F32))
    }

    /// Passes the bytes of a tensor to `put`.
    fn copy(&self, target: &Target, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for part in &target.parts {
            let bad = |error| self.folder.read_error(part, error);
            self.folder.stored(part)?.copy(target.spec.dtype, bad, &mut put)?;
        }
        Ok(())
    }

    fn write_shards(
        &self,
        tensors: Vec<Target>,
        max_bytes: u64,
        dir: &Path,
        progress: Progress<'_>,
    ) -> Result<()> {
        let specs = tensors.iter().map(|target| target.spec.clone()).collect();
        let files = plan_files(specs, max_bytes);
        let mut targets = tensors.iter();
        for file in &files {
            let targets: Vec<&Target> = targets.by_ref().take(file.tensors.len()).collect();
            write_atomic(&dir.join(&file.name), |out| {
                out.put(&header_bytes(&file.tensors, &[("format", "pt")]))?;
                targets.iter().try_for_each(|target| self.put(target, out, progress))
            })?;
        }
        if files.len() > 1 {
            let n_parameters = self.folder.model_config().n_parameters();
            write_text(&dir.join(INDEX), &index_json(&files, n_parameters))?;
        }
        Ok(())
    }

    fn put(&self, target: &Target, out: &mut AtomicFile, progress: Progress<'_>) -> Result<()> {
        self.copy(target, |bytes| {
            told(progress, bytes)?;
            out.put(bytes)
        })
    }

    fn write_pickled_names(
        &self,
        mut tensors: Vec<Target>,
        path: &Path,
        progress: Progress<'_>,
    ) -> Result<()> {
        for target in &mut tensors {
            target.spec.name = pickled_keys::encode(&target.spec.name);
        }
        let specs: Vec<TensorSpec> = tensors.iter().map(|target| target.spec.clone()).collect();
        write_atomic(path, |out| {
            out.put(&header_bytes(&specs, &[]))?;
            tensors.iter().try_for_each(|target| self.put(target, out, progress))
        })
    }

    fn write_torch(&self, tensors: &[Target], path: &Path, progress: Progress<'_>) -> Result<()> {
        /// Where torch begins the bytes of a tensor.
        const ALIGNMENT: u64 = 64;
        let entry = |target: &Target| {
            let TensorSpec { name, dtype, shape } = target.spec.clone();
            (name, dtype, shape)
        };
        let pickle = state_dict_pickle(&tensors.iter().map(entry).collect::<Vec<_>>());
        write_atomic(path, |out| {
            let mut zip = ZipWriter::default();
            for (name, content) in [("data.pkl", &pickle[..]), ("byteorder", b"little")] {
                let (name, n_bytes) = (format!("model/{name}"), content.len() as u64);
                zip.begin(&name, n_bytes, ALIGNMENT, |bytes| out.put(bytes))?;
                zip.put(content, |bytes| out.put(bytes))?;
                zip.end(|bytes| out.put(bytes))?;
            }
            for (index, target) in tensors.iter().enumerate() {
                let (name, n_bytes) = (format!("model/data/{index}"), target.spec.n_bytes() as u64);
                zip.begin(&name, n_bytes, ALIGNMENT, |bytes| out.put(bytes))?;
                self.copy(target, |bytes| {
                    told(progress, bytes)?;
                    zip.put(bytes, |bytes| out.put(bytes))
                })?;
                zip.end(|bytes| out.put(bytes))?;
            }
            zip.begin("model/version", 2, ALIGNMENT, |bytes| out.put(bytes))?;
            zip.put(b"3\n", |bytes| out.put(bytes))?;
            zip.end(|bytes| out.put(bytes))?;
            zip.finish(|bytes| out.put(bytes))
        })
    }
}

/// Writes the configuration, last of all files.
fn write_config(config: &HfConfig, form: Form, dir: &Path) -> Result<()> {
    let json = dir.join("config.json");
    match form {
        Form::HuggingFace | Form::Core => {
            let generation = config.special.to_generation_json();
            write_text(&dir.join("generation_config.json"), &generation)?;
            write_text(&json, &config.to_json())
        }
        Form::HfOlmo => {
            // Of the ends of a text its `config.json` holds the first.
            let generation = config.special.to_generation_json();
            write_text(&dir.join("generation_config.json"), &generation)?;
            write_text(&json, &config.to_hf_olmo_json(&json)?)
        }
        Form::Original | Form::OriginalSafetensors => {
            let path = dir.join("config.yaml");
            let model = Value::Object(config.to_original(&path)?);
            let all = Value::Object(Map::from_iter([("model".to_owned(), model)]));
            let text = serde_saphyr::to_string(&all);
            let text = text
                .map_err(|error| Error::Yaml { path: path.clone(), message: error.to_string() })?;
            write_text(&path, &text)
        }
    }
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, |file| file.put(text.as_bytes()))
}
