//! Errors of this crate: each names the file or folder that it is about.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use olmo_model::error::ConfigProblems;

use crate::dtype::Dtype;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in reading or writing a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: no such file, no permission, a full disk.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// A model whose matrices are not held as they are stored.
    #[error(
        "a model that was loaded to run cannot be saved to {}, expected one from `ModelFolder::load`",
        path.display()
    )]
    LoadedToRun {
        /// Where it was to be saved.
        path: PathBuf,
    },
    /// A folder that is no model's.
    #[error(
        "{} is no model folder: it has no config.json{}",
        path.display(),
        newest.as_ref().map_or_else(
            || ", nor ai2-olmo's config.yaml".to_owned(),
            |newest| format!("; the newest checkpoint in it is {}", newest.display())
        )
    )]
    NoModel {
        /// The folder.
        path: PathBuf,
        /// The model that its `latest` names, where it is a run's folder, or that of its checkpoints.
        newest: Option<PathBuf>,
    },
    /// A file that should be JSON is not, or is JSON of another form.
    #[error("{} is not the JSON that was expected: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The place and the reason.
        source: serde_json::Error,
    },
    /// A file that should be YAML is not, or lacks what it must have.
    #[error("{} is not the YAML that was expected: {message}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The place and the reason.
        message: String,
    },
    /// The configuration is of a model that this version does not know.
    #[error(
        "{} has model_type {found}, supported are olmo, olmo2, olmo3, olmoe and hf_olmo{note}",
        path.display()
    )]
    ModelType {
        /// The `config.json`.
        path: PathBuf,
        /// Its `model_type`, as JSON.
        found: String,
        /// What is known of that model, empty or beginning with a semicolon.
        note: &'static str,
    },
    /// Fields of a `config.json` that cannot be followed.
    #[error("{} describes what this version cannot run:{problems}", path.display())]
    Config {
        /// The `config.json`.
        path: PathBuf,
        /// Every such field.
        problems: Problems<FieldProblem>,
    },
    /// A `config.json` whose fields contradict each other.
    #[error("{}: {source}", path.display())]
    Architecture {
        /// The `config.json`.
        path: PathBuf,
        /// Every contradiction, by the fields of [`ModelConfig`](olmo_model::ModelConfig).
        source: ConfigProblems,
    },
    /// A model that a kind of configuration cannot express; nothing was written.
    #[error("{} cannot be written, for model_type {family} does not fit:{problems}", path.display())]
    Unexpressible {
        /// The `config.json` that was to be written.
        path: PathBuf,
        /// The kind asked for, or the Hugging Face family that comes closest.
        family: &'static str,
        /// Every field that does not fit it.
        problems: Problems<FieldProblem>,
    },
    /// The tensors of a model folder are not those of its configuration, or cannot be read.
    #[error("{} is not a sound model folder:{problems}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Problems<FolderProblem>,
    },
    /// A safetensors file is damaged.
    #[error("{} is not a sound safetensors file:{problems}", path.display())]
    TensorFile {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Problems<String>,
    },
    /// A file of torch is damaged, or holds something else.
    #[error("{} is not the torch file that was expected:{problems}", path.display())]
    TorchFile {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Problems<String>,
    },
    /// A tensor that was asked for is not in the file.
    #[error("{} has no tensor {name}", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor cannot be kept in the dtype asked for, or is not of one that can be read.
    #[error("{}: {tensor} is of dtype {found}, supported are {supported}", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        found: String,
        /// What works.
        supported: &'static str,
    },
    /// A value is not finite, or does not fit the dtype asked for.
    #[error("{}: {tensor}: {value}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The tensor, by its name in the file.
        tensor: String,
        /// Where and what.
        value: BadValue,
    },
    /// The weights are tied, yet the file has an output projection that is not the embedding.
    #[error(
        "{}: {tensor} is not equal to the embedding from element {index} on, though config.json \
         has tie_word_embeddings = true; set it to false to keep both",
        path.display()
    )]
    TiedHead {
        /// The file.
        path: PathBuf,
        /// The output projection.
        tensor: String,
        /// The first element that differs.
        index: usize,
    },
    /// What a caller gave does not have the size that it said.
    #[error("{}: {tensor} has {found} bytes, expected {expected}", path.display())]
    TensorSize {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Bytes given.
        found: usize,
        /// Bytes by shape and dtype.
        expected: usize,
    },
    /// Something is already where a new folder was to be written.
    #[error("{} is there and not empty, expected a new folder", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Two folders that should hold the same model do not.
    #[error("{} holds another model:{problems}", path.display())]
    OtherModel {
        /// The second folder.
        path: PathBuf,
        /// Every parameter that is only in one, or of another shape.
        problems: Problems<FieldProblem>,
    },
    /// The caller asked to stop; nothing was left behind.
    #[error("stopped on request; nothing was written")]
    Cancelled,
    /// The Hub, or the way to it.
    #[cfg(feature = "net")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// The model could not be built.
    #[error("{}: {source}", path.display())]
    Model {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: olmo_model::Error,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Json { path: path.to_owned(), source }
    }
}

/// Problems found in one pass; shown one a line, the first fifty of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems<T>(pub Vec<T>);

impl<T: fmt::Display> fmt::Display for Problems<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 50;
        for problem in self.0.iter().take(SHOWN) {
            write!(f, "\n  {problem}")?;
        }
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\n  … and {more} more"),
        }
    }
}

/// One field of a configuration that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Dotted path of the field.
    pub field: String,
    /// Its value, as text.
    pub found: String,
    /// What would work.
    pub expected: String,
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, expected {}", self.field, self.found, self.expected)
    }
}

impl FolderProblem {
    /// That a file of this name could not be read.
    pub(crate) fn unreadable(file: &str, error: &io::Error) -> Self {
        Self::Unreadable { file: file.to_owned(), problem: error.to_string(), kind: error.kind() }
    }
}

/// One thing wrong with a model folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FolderProblem {
    /// No file of weights is there.
    #[error(
        "there are no weights: neither model.safetensors nor its index, neither model.pt nor \
         pytorch_model.bin nor its index, and no sharded checkpoint of a trainer \
         (model_and_optim/.metadata, .metadata, model/rank0.pt, model/metadata.json or rank0.pt)"
    )]
    NoTensors,
    /// The index names a file that is not there.
    #[error("{file} is named by the index but is not there")]
    MissingFile {
        /// The file.
        file: String,
    },
    /// The index names a file that is not plainly in the folder.
    #[error("the index names {file:?}, expected a file name without folders")]
    EscapingFile {
        /// The name.
        file: String,
    },
    /// A file is a link that leads out of the folder.
    #[error("{file} is a link out of the folder, to {target}; copy or move the file itself there")]
    Link {
        /// The file.
        file: String,
        /// Where it leads.
        target: String,
    },
    /// A file could not be read, which says nothing about what is in it.
    #[error("{file}: {problem}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system says of it.
        problem: String,
        /// The same, to tell a disk that fails from a file that ends too early.
        kind: io::ErrorKind,
    },
    /// A file is not what it should be.
    #[error("{file}: {problem}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The index places a tensor in a file that does not hold it.
    #[error("{name} is not in {file}, where the index places it")]
    Misplaced {
        /// The tensor.
        name: String,
        /// The file.
        file: String,
    },
    /// Two files hold a tensor of the same name.
    #[error("{name} is in both {first} and {second}")]
    Duplicate {
        /// The tensor.
        name: String,
        /// The file that was read first.
        first: String,
        /// The other.
        second: String,
    },
    /// A tensor of the configuration is not there.
    #[error("{name} {shape:?} is missing")]
    Missing {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor is there that the configuration has no place for.
    #[error("{name} in {file} has no place in this model")]
    Extra {
        /// The tensor.
        name: String,
        /// The file.
        file: String,
    },
    /// A tensor's shape is not that of the configuration.
    #[error("{name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor is of a dtype that cannot be read.
    #[error("{name} is of dtype {found}, supported are F32, F16 and BF16")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its dtype.
        found: String,
    },
}

/// A value that cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BadValue {
    /// Index of the value in its tensor, row-major.
    pub index: usize,
    /// The value as it was found.
    pub value: f32,
    /// The dtype it was to be kept in.
    pub dtype: Dtype,
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, value, dtype } = self;
        if value.is_finite() {
            write!(f, "element {index} is {value:e}, which does not fit {dtype}")
        } else {
            write!(f, "element {index} is {value}, expected a finite number")
        }
    }
}
