//! A folder with a model, in every form that OLMo is published in.
//! Names may also be OLMo-core's, in any of the files.
//!
//! | configuration | weights |
//! |---|---|
//! | `config.json` of transformers | `model.safetensors`, also in shards, or `pytorch_model.bin` |
//! | `config.json` of type `hf_olmo` | the same files, with ai2-olmo's names |
//! | `config.yaml` of ai2-olmo's trainer | `model.pt`, or `model.safetensors` with pickled names |
//! | `config.json` of OLMo-core's trainer | `model_and_optim/.metadata` with `*.distcp` |
//! | `config.yaml` of ai2-olmo's trainer | the same; `model/rank*.pt`; `model/metadata.json`; or `rank*.pt` |
//!
//! Opening reads the configuration and the headers, and checks every name, shape and dtype. Values are
//! read a parameter at a time, or a part of one.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use olmo_model::{ModelConfig, Parameter};

use crate::config_json::{HfConfig, Special, mended};
use crate::dtype::Dtype;
use crate::error::{BadValue, Error, FolderProblem, Problems, Result};
use crate::keys::is_buffer;
use crate::layout::{Layout, Place};
use crate::shards::{Shards, is_plain_name};
use crate::text_file;
use crate::values::{ReadError, Stored};

/// A model folder that is complete by its headers; no weights are read yet.
#[derive(Debug)]
pub struct ModelFolder {
    dir: PathBuf,
    config: HfConfig,
    special: Special,
    shards: Shards,
    layout: Layout,
    notes: Vec<String>,
}

impl ModelFolder {
    /// Opens a folder with a model in one of the forms above.
    ///
    /// # Errors
    ///
    /// [`Error::Folder`] with everything at once: files that are missing, damaged or cut short,
    /// tensors missing, left over, there twice, or of another shape or dtype than the
    /// configuration asks for. [`Error::NoModel`], what [`HfConfig::read`] and
    /// [`HfConfig::read_yaml`] return, and [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let mut problems = Vec::new();
        let folder = Self::examine(dir.as_ref(), &mut problems)?;
        if problems.is_empty() {
            return Ok(folder);
        }
        Err(Error::Folder { path: folder.dir, problems: Problems(problems) })
    }

    /// Opens a folder as far as it can be; what is wrong with its weights is added to `problems`.
    pub(crate) fn examine(dir: &Path, problems: &mut Vec<FolderProblem>) -> Result<Self> {
        let dir = &linked(dir)?;
        let config_path = config_path(dir)?;
        let config = read_config(&config_path)?;
        let special = read_special(dir, &config.special)?;
        let notes = mended(&config_path)?;
        let shards = Shards::open(dir, problems)?;
        let layout = Layout::of(|name| shards.get(name).is_some());
        if !problems.contains(&FolderProblem::NoTensors) {
            check_tensors(&shards, &config, layout, problems);
        }
        Ok(Self { dir: dir.to_owned(), config, special, shards, layout, notes })
    }

    /// The configuration of a folder, without looking at its weights.
    ///
    /// # Errors
    ///
    /// [`Error::NoModel`], and what [`HfConfig::read`] and [`HfConfig::read_yaml`] return.
    pub fn read_config(dir: impl AsRef<Path>) -> Result<HfConfig> {
        read_config(&config_path(&linked(dir.as_ref())?)?)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What `config.json` says.
    pub fn config(&self) -> &HfConfig {
        &self.config
    }

    /// The architecture.
    pub fn model_config(&self) -> &ModelConfig {
        &self.config.model
    }

    /// How the weights are named and fused.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What the configuration says that is known to be wrong, and was read as it was meant.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The special tokens: those of `generation_config.json`, where it names any, before those
    /// of `config.json`. Instruct models end their answers by the former.
    pub fn special(&self) -> &Special {
        &self.special
    }

    /// Names of the files that the tensors are in.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.shards.file_names()
    }

    /// The dtype of the weights in the files, the widest where they differ: f32 for any mixture.
    pub fn stored_dtype(&self) -> Dtype {
        let parameters = self.config.model.parameters();
        let mut dtypes =
            parameters.iter().filter_map(|parameter| Some(self.stored(parameter).ok()?.dtype));
        let first = dtypes.next().unwrap_or(Dtype::F32);
        if dtypes.all(|dtype| dtype == first) { first } else { Dtype::F32 }
    }

    /// Reads one parameter of the model in the dtype asked for.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`], [`Error::Value`] or [`Error::Io`].
    pub fn read(&self, parameter: &Parameter, dtype: Dtype) -> Result<TensorData> {
        self.read_rows(parameter, 0..parameter.shape[0], dtype)
    }

    /// Reads a part of a parameter's first dimension.
    pub(crate) fn read_rows(
        &self,
        parameter: &Parameter,
        rows: Range<usize>,
        dtype: Dtype,
    ) -> Result<TensorData> {
        let mut shape = parameter.shape.clone();
        let row = parameter.n_elements() / shape[0].max(1);
        let first = rows.start * row;
        shape[0] = rows.len();
        let stored = self.stored(parameter)?.part(first, rows.len() * row);
        stored.tensor(&shape, dtype).map_err(|error| {
            let error = match error {
                ReadError::Value(value) => {
                    ReadError::Value(BadValue { index: first + value.index, ..value })
                }
                error @ ReadError::Io(_) => error,
            };
            self.read_error(parameter, error)
        })
    }

    /// `n_elements` of a parameter's values from element `first` on, in single precision, row-major
    /// and not checked to be finite; a part of a parameter that is larger than memory.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`] and [`Error::Io`].
    ///
    /// # Panics
    ///
    /// Panics where the range is past the end of the parameter.
    pub fn values(
        &self,
        parameter: &Parameter,
        first: usize,
        n_elements: usize,
    ) -> Result<Vec<f32>> {
        assert!(first + n_elements <= parameter.n_elements(), "a range of the parameter");
        let part = self.stored(parameter)?.part(first, n_elements);
        part.any_f32().map_err(|error| self.read_error(parameter, error))
    }

    /// Where a parameter is.
    pub(crate) fn stored(&self, parameter: &Parameter) -> Result<Stored<'_>> {
        let place = self.layout.place(self.config.family, &self.config.model, parameter);
        let place = place.ok_or_else(|| self.no_tensor(&parameter.path))?;
        let whole = self.stored_tensor(&place.name)?;
        // A folder that was only examined may have tensors of other shapes.
        if place.first + parameter.n_elements() > whole.n_elements {
            return Err(self.no_tensor(&place.name));
        }
        Ok(whole.part(place.first, parameter.n_elements()))
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.shards.get(name).is_some()
    }

    pub(crate) fn stored_tensor(&self, name: &str) -> Result<Stored<'_>> {
        let tensor = self.shards.get(name).ok_or_else(|| self.no_tensor(name))?;
        let dtype = Dtype::from_safetensors_name(&tensor.dtype);
        let dtype = dtype.ok_or_else(|| Error::TensorDtype {
            path: self.file_of(name),
            tensor: name.to_owned(),
            found: tensor.dtype.clone(),
            supported: "F32, F16 and BF16",
        })?;
        let source = self.shards.source(tensor);
        Ok(Stored { source, n_elements: tensor.n_elements(), dtype })
    }

    pub(crate) fn file_of(&self, name: &str) -> PathBuf {
        self.dir.join(self.shards.file_name(name))
    }

    fn no_tensor(&self, name: &str) -> Error {
        Error::NoTensor { path: self.dir.clone(), name: name.to_owned() }
    }

    pub(crate) fn read_error(&self, parameter: &Parameter, error: ReadError) -> Error {
        let place = self.layout.place(self.config.family, &self.config.model, parameter);
        match (place, error) {
            // The value's place in the tensor of the file, which may hold several parameters.
            (Some(Place { name, first, .. }), ReadError::Value(value)) => {
                let value = BadValue { index: first + value.index, ..value };
                self.tensor_error(&name, ReadError::Value(value))
            }
            (Some(Place { name, .. }), error) => self.tensor_error(&name, error),
            (None, error) => self.tensor_error(&parameter.path, error),
        }
    }

    pub(crate) fn tensor_error(&self, name: &str, error: ReadError) -> Error {
        let path = self.file_of(name);
        match error {
            ReadError::Io(source) => Error::Io { path, action: "read", source },
            ReadError::Value(value) => Error::Value { path, tensor: name.to_owned(), value },
        }
    }
}

/// Where a folder's configuration is: `config.json`, or else ai2-olmo's `config.yaml`. The folder of a
/// run of ours has a `config.yaml` too, which is not of a model.
fn config_path(dir: &Path) -> Result<PathBuf> {
    let (json, yaml) = (dir.join("config.json"), dir.join("config.yaml"));
    if json.exists() || !dir.is_dir() {
        return Ok(json);
    }
    let newest = ["checkpoints/latest", "latest"].map(|name| dir.join(name));
    let is_model = |dir: &PathBuf| linked(dir).is_ok_and(|dir| dir.join("config.json").exists());
    let newest = newest.into_iter().find(is_model);
    if newest.is_none() && yaml.exists() {
        return Ok(yaml);
    }
    Err(Error::NoModel { path: dir.to_owned(), newest })
}

/// The folder that a path leads to. A run's `latest` is a file with the name of a folder beside it where
/// links need privileges.
///
/// # Errors
///
/// [`Error::Io`] where such a file cannot be read, or holds something else.
pub fn linked(dir: &Path) -> Result<PathBuf> {
    if !dir.ends_with("latest") || !dir.is_file() {
        return Ok(dir.to_owned());
    }
    let text = text_file::read_text(dir)?;
    let name = text.trim();
    if is_plain_name(name) {
        return Ok(dir.with_file_name(name));
    }
    // What it holds may be long.
    let shown: String = name.chars().take(100).collect();
    let problem = format!("it holds {shown:?}, expected the name of a folder beside it");
    Err(Error::io(dir, "follow")(io::Error::new(io::ErrorKind::InvalidData, problem)))
}

fn read_config(path: &Path) -> Result<HfConfig> {
    if path.extension() == Some("yaml".as_ref()) {
        HfConfig::read_yaml(path)
    } else {
        HfConfig::read(path)
    }
}

fn read_special(dir: &Path, default: &Special) -> Result<Special> {
    let path = dir.join("generation_config.json");
    match text_file::read_text(&path) {
        Ok(text) => default.with_generation_config(&text, &path),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(default.clone())
        }
        Err(error) => Err(error),
    }
}

/// Every tensor of the configuration must be there as it says, and no other.
fn check_tensors(
    shards: &Shards,
    config: &HfConfig,
    layout: Layout,
    problems: &mut Vec<FolderProblem>,
) {
    // Where a file could not be read, its tensors are not missing: the file's own problem says it.
    let every_file_was_read = problems.is_empty();
    let mut left_over = shards.names();
    if config.model.weight_tying {
        left_over.remove(layout.ends()[0]);
    }
    let mut seen = HashSet::new();
    for parameter in config.model.parameters() {
        let place = layout.place(config.family, &config.model, &parameter);
        let Place { name, shape, .. } =
            place.unwrap_or(Place { name: parameter.path, shape: parameter.shape, first: 0 });
        // A tensor of several parameters is checked with the first of them.
        if !seen.insert(name.clone()) {
            continue;
        }
        left_over.remove(name.as_str());
        let Some(tensor) = shards.get(&name) else {
            if every_file_was_read {
                problems.push(FolderProblem::Missing { name, shape });
            }
            continue;
        };
        if Dtype::from_safetensors_name(&tensor.dtype).is_none() {
            let found = tensor.dtype.clone();
            problems.push(FolderProblem::Dtype { name: name.clone(), found });
        }
        if tensor.shape != shape {
            let found = tensor.shape.clone();
            problems.push(FolderProblem::Shape { name, found, expected: shape });
        }
    }
    for name in left_over.into_iter().filter(|name| !is_buffer(name)) {
        let file = shards.file_name(name).to_owned();
        problems.push(FolderProblem::Extra { name: name.to_owned(), file });
    }
}
