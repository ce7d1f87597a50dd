//! A Hugging Face model folder as a [`Transformer`].
//!
//! Opening reads `config.json` and the headers, and checks every name, shape and dtype; loading
//! then reads tensor by tensor straight into the model's own buffers, in whatever dtype is asked
//! for. Beyond the model, a load holds one tensor.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use olmo_model::{ModelConfig, Parameter, Transformer};

use crate::config_json::{HfConfig, Special};
use crate::dtype::Dtype;
use crate::error::{Error, FolderProblem, Problems, Result};
use crate::family::Family;
use crate::keys::is_buffer;
use crate::shards::Shards;
use crate::values::{ReadError, Stored};

/// The output projection, which files of models with tied weights may hold once more.
const OUTPUT: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Elements of the two that are compared at a time.
const COMPARED: usize = 1 << 20;

/// A model folder that is complete by its headers; no weights are read yet.
#[derive(Debug)]
pub struct ModelFolder {
    dir: PathBuf,
    config: HfConfig,
    special: Special,
    shards: Shards,
}

impl ModelFolder {
    /// Opens a folder as transformers' `save_pretrained` writes it: `config.json` beside
    /// `model.safetensors`, or beside an index and its files.
    ///
    /// # Errors
    ///
    /// [`Error::Folder`] with everything at once: files that are missing, damaged or cut short,
    /// tensors missing, left over, there twice, or of another shape or dtype than `config.json`
    /// asks for. What [`HfConfig::read`] returns, and [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let config = HfConfig::read(&dir.join("config.json"))?;
        let special = read_special(dir, &config.special)?;
        let mut problems = Vec::new();
        let shards = Shards::open(dir, &mut problems)?;
        if !problems.contains(&FolderProblem::NoTensors) {
            check_tensors(&shards, &config, &mut problems);
        }
        if !problems.is_empty() {
            return Err(Error::Folder { path: dir.to_owned(), problems: Problems(problems) });
        }
        Ok(Self { dir: dir.to_owned(), config, special, shards })
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
        let mut dtypes = self.names().filter_map(|name| Some(self.stored(&name).ok()?.dtype));
        let first = dtypes.next().unwrap_or(Dtype::F32);
        if dtypes.all(|dtype| dtype == first) { first } else { Dtype::F32 }
    }

    /// Loads the model, in [`stored_dtype`](Self::stored_dtype) where `dtype` is `None`.
    /// Narrowing rounds to nearest, ties to even.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] with the first value that is not finite or does not fit `dtype`;
    /// [`Error::TiedHead`]; [`Error::Io`]; [`Error::Model`] where the model cannot be built.
    pub fn load(&self, device: &Device, dtype: Option<Dtype>) -> Result<Transformer> {
        let dtype = dtype.unwrap_or_else(|| self.stored_dtype());
        self.check_tied_output()?;
        let built = Transformer::build(&self.config.model, device, |parameter| {
            self.read(parameter, dtype).map_err(BuildError::Hub)
        });
        built.map_err(|error| match error {
            BuildError::Hub(error) => error,
            BuildError::Model(source) => Error::Model { path: self.dir.clone(), source },
        })
    }

    /// Reads one parameter of the model in the dtype asked for.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`], [`Error::Value`] or [`Error::Io`].
    pub fn read(&self, parameter: &Parameter, dtype: Dtype) -> Result<TensorData> {
        let Some(name) = self.family().hf_name(&parameter.path) else {
            return Err(self.no_tensor(&parameter.path));
        };
        let stored = self.stored(&name)?;
        stored.tensor(&parameter.shape, dtype).map_err(|error| self.read_error(&name, error))
    }

    fn family(&self) -> Family {
        self.config.family
    }

    /// Names in the files of the model's parameters.
    fn names(&self) -> impl Iterator<Item = String> {
        let parameters = self.config.model.parameters().into_iter();
        parameters.filter_map(|parameter| self.family().hf_name(&parameter.path))
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let (file, entry) = self.shards.get(name).ok_or_else(|| self.no_tensor(name))?;
        let dtype = Dtype::from_safetensors_name(&entry.dtype);
        let dtype = dtype.ok_or_else(|| Error::TensorDtype {
            path: self.file_of(name),
            tensor: name.to_owned(),
            found: entry.dtype.clone(),
            supported: "F32, F16 and BF16",
        })?;
        Ok(Stored { file, start: entry.start, n_elements: entry.n_elements(), dtype })
    }

    /// With tied weights, an output projection in the file must be the embedding.
    fn check_tied_output(&self) -> Result<()> {
        if !self.config.model.weight_tying || self.shards.get(OUTPUT).is_none() {
            return Ok(());
        }
        let (output, embedding) = (self.stored(OUTPUT)?, self.stored(EMBEDDING)?);
        let differ_at = |index| {
            let (path, tensor) = (self.file_of(OUTPUT), OUTPUT.to_owned());
            Err(Error::TiedHead { path, tensor, index })
        };
        let n_elements = output.n_elements.min(embedding.n_elements);
        for first in (0..n_elements).step_by(COMPARED) {
            let values = |stored: Stored<'_>, name: &str| {
                let part = stored.part(first, COMPARED.min(n_elements - first));
                part.any_f32().map_err(|error| self.read_error(name, error))
            };
            let (output, embedding) = (values(output, OUTPUT)?, values(embedding, EMBEDDING)?);
            let differ = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            if let Some(index) = output.iter().zip(&embedding).position(differ) {
                return differ_at(first + index);
            }
        }
        if output.n_elements == embedding.n_elements { Ok(()) } else { differ_at(n_elements) }
    }

    fn file_of(&self, name: &str) -> PathBuf {
        self.dir.join(self.shards.file_name(name))
    }

    fn no_tensor(&self, name: &str) -> Error {
        Error::NoTensor { path: self.dir.clone(), name: name.to_owned() }
    }

    fn read_error(&self, name: &str, error: ReadError) -> Error {
        let path = self.file_of(name);
        match error {
            ReadError::Io(source) => Error::Io { path, action: "read", source },
            ReadError::Value(value) => Error::Value { path, tensor: name.to_owned(), value },
        }
    }
}

/// Carries an error of ours through [`Transformer::build`], which adds its own.
enum BuildError {
    Hub(Error),
    Model(olmo_model::Error),
}

impl From<olmo_model::Error> for BuildError {
    fn from(error: olmo_model::Error) -> Self {
        Self::Model(error)
    }
}

fn read_special(dir: &Path, default: &Special) -> Result<Special> {
    let path = dir.join("generation_config.json");
    match fs::read_to_string(&path) {
        Ok(text) => default.with_generation_config(&text, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(default.clone()),
        Err(error) => Err(Error::io(&path, "read")(error)),
    }
}

/// Every tensor of the configuration must be there as it says, and no other.
fn check_tensors(shards: &Shards, config: &HfConfig, problems: &mut Vec<FolderProblem>) {
    // Where a file could not be read, its tensors are not missing: the file's own problem says it.
    let every_file_was_read = problems.is_empty();
    let mut left_over = shards.names();
    if config.model.weight_tying {
        left_over.remove(OUTPUT);
    }
    for Parameter { path, shape, .. } in config.model.parameters() {
        let name = config.family.hf_name(&path).unwrap_or(path);
        left_over.remove(name.as_str());
        let Some((_, entry)) = shards.get(&name) else {
            if every_file_was_read {
                problems.push(FolderProblem::Missing { name, shape });
            }
            continue;
        };
        if Dtype::from_safetensors_name(&entry.dtype).is_none() {
            let found = entry.dtype.clone();
            problems.push(FolderProblem::Dtype { name: name.clone(), found });
        }
        if entry.shape != shape {
            let found = entry.shape.clone();
            problems.push(FolderProblem::Shape { name, found, expected: shape });
        }
    }
    for name in left_over.into_iter().filter(|name| !is_buffer(name)) {
        let file = shards.file_name(name).to_owned();
        problems.push(FolderProblem::Extra { name: name.to_owned(), file });
    }
}
