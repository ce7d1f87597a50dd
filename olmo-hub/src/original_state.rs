//! What ai2-olmo's trainer keeps beside the weights of a checkpoint that is not sharded: `optim.pt`, the
//! state of its optimizer, and `train.pt`, how far the run has come.
//!
//! Sources: ai2-olmo 0.6.0 `olmo/checkpoint.py`, `FullCheckpointer`, and `olmo/train.py`,
//! `trainer_state_dict`. Parameters are numbered in `optim.pt` where the run was on one device or with
//! DDP, and named where it was with FSDP; the groups of parameters say which name a number has. As with
//! weights, query, key and value are one tensor there, and so are gate and up projection.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use olmo_model::{ModelConfig, Parameter};

use crate::dtype::Dtype;
use crate::error::{Error, Problems, Result};
use crate::family::Family;
use crate::header::{Entry, HeaderError};
use crate::layout::{Layout, plain_names};
use crate::pickle::{Global, Id, Node};
use crate::read::ModelFolder;
use crate::torch_file::{Reader, read_with};
use crate::values::{ReadError, Source, Stored};

/// Name of the file with the optimizer's state.
const OPTIMIZER: &str = "optim.pt";
/// Names of the file with the trainer's state, that of a sharded checkpoint's first process last.
const TRAINER: [&str; 2] = ["train.pt", "train/rank0.pt"];

/// What `train.pt` may name: folders of checkpoints, and states of random numbers.
const TRAINER_GLOBALS: &[Global] = &[
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
];

/// The state of the optimizer of an original checkpoint.
#[derive(Debug)]
pub struct OriginalOptimizer {
    path: PathBuf,
    file: File,
    family: Family,
    model: ModelConfig,
    /// By the name of the parameter's tensor, and by their own.
    states: HashMap<String, HashMap<String, Entry>>,
}

impl OriginalOptimizer {
    /// Opens `optim.pt` in the folder of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where there is none, [`Error::TorchFile`] where it is not what ai2-olmo writes.
    pub fn open(folder: &ModelFolder) -> Result<Self> {
        let path = folder.path().join(OPTIMIZER);
        let file = File::open(&path).map_err(Error::io(&path, "read"))?;
        let length = file.metadata().map_err(Error::io(&path, "read"))?.len();
        let states = read_with(&file, 0, length, &[], |reader| {
            states(reader).map_err(|problem| vec![problem])
        });
        let states = states.map_err(|error| torch_error(&path, error))?;
        let family = folder.config().family;
        Ok(Self { path, file, family, model: folder.model_config().clone(), states })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of what is kept of each parameter, such as `exp_avg`.
    pub fn names(&self) -> BTreeSet<&str> {
        self.states.values().flat_map(HashMap::keys).map(String::as_str).collect()
    }

    /// Values of one parameter's state of as many elements as it has.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`] where there is none of that name and size; [`Error::Io`].
    pub fn values(&self, parameter: &Parameter, name: &str) -> Result<Vec<f32>> {
        let (tensor, first, whole) = self.place(parameter)?;
        let entry = self.entry(&tensor, name)?;
        if entry.n_elements() != whole {
            return Err(self.no_tensor(&tensor, name));
        }
        self.read(entry, first, parameter.n_elements())
    }

    /// The one value of a parameter's state of that name, such as `step`; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`] where it has other than one; [`Error::Io`].
    pub fn value(&self, parameter: &Parameter, name: &str) -> Result<Option<f32>> {
        let (tensor, ..) = self.place(parameter)?;
        let Ok(entry) = self.entry(&tensor, name) else { return Ok(None) };
        if entry.n_elements() != 1 {
            return Err(self.no_tensor(&tensor, name));
        }
        Ok(self.read(entry, 0, 1)?.first().copied())
    }

    /// Whether a parameter is part of a tensor that holds others too.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`] where ai2-olmo has no such parameter.
    pub fn is_fused(&self, parameter: &Parameter) -> Result<bool> {
        Ok(self.place(parameter)?.2 != parameter.n_elements())
    }

    /// The tensor that a parameter is in, its first element there, and how many that has.
    fn place(&self, parameter: &Parameter) -> Result<(String, usize, usize)> {
        let place = Layout::Original.place(self.family, &self.model, parameter);
        let place = place.ok_or_else(|| self.no_tensor(&parameter.path, "place"))?;
        Ok((place.name, place.first, place.shape.iter().product()))
    }

    fn entry(&self, tensor: &str, name: &str) -> Result<&Entry> {
        let entry = self.states.get(tensor).and_then(|state| state.get(name));
        entry.ok_or_else(|| self.no_tensor(tensor, name))
    }

    fn read(&self, entry: &Entry, first: usize, n_elements: usize) -> Result<Vec<f32>> {
        let dtype = Dtype::from_safetensors_name(&entry.dtype);
        let dtype = dtype.ok_or_else(|| Error::TensorDtype {
            path: self.path.clone(),
            tensor: entry.name.clone(),
            found: entry.dtype.clone(),
            supported: "F32, F16 and BF16",
        })?;
        let source = Source::File(&self.file, entry.start);
        let stored = Stored { source, n_elements: entry.n_elements(), dtype };
        stored.part(first, n_elements).any_f32().map_err(|error| match error {
            ReadError::Io(error) => Error::io(&self.path, "read")(error),
            ReadError::Value(value) => {
                Error::Value { path: self.path.clone(), tensor: entry.name.clone(), value }
            }
        })
    }

    fn no_tensor(&self, tensor: &str, name: &str) -> Error {
        Error::NoTensor { path: self.path.clone(), name: format!("{tensor}.{name}") }
    }
}

/// How far the run of an original checkpoint has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginalProgress {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Steps made.
    pub global_step: u64,
    /// Instances seen of this epoch.
    pub n_instances_seen: u64,
    /// Tokens seen in the whole run.
    pub n_tokens_seen: u64,
}

impl OriginalProgress {
    /// Reads `train.pt` of a checkpoint's folder, or `train/rank0.pt` of a sharded one's.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where there is none, [`Error::TorchFile`] where it does not say how far.
    pub fn read(dir: &Path) -> Result<Self> {
        let there = TRAINER.iter().map(|name| dir.join(name)).find(|path| path.is_file());
        let path = there.unwrap_or_else(|| dir.join(TRAINER[0]));
        let file = File::open(&path).map_err(Error::io(&path, "read"))?;
        let length = file.metadata().map_err(Error::io(&path, "read"))?.len();
        let progress = read_with(&file, 0, length, TRAINER_GLOBALS, |reader| {
            let pickle = reader.pickle;
            let number = |names: &[&str]| {
                let found =
                    names.iter().find_map(|name| pickle.entry(pickle.root_id(), name)).map(|id| {
                        if matches!(pickle.node(id), Node::None) {
                            Some(0)
                        } else {
                            pickle.size(id)
                        }
                    });
                found.flatten().ok_or_else(|| vec![format!("it has no {}", names[0])])
            };
            Ok(Self {
                epoch: number(&["epoch"])?,
                global_step: number(&["global_step"])?,
                n_instances_seen: number(&[
                    "global_train_examples_seen_this_epoch",
                    "global_train_examples_seen",
                ])?,
                n_tokens_seen: number(&["global_train_tokens_seen"])?,
            })
        });
        progress.map_err(|error| torch_error(&path, error))
    }
}

/// The tensors of each parameter's state, by its name.
fn states(reader: &Reader<'_>) -> Result<HashMap<String, HashMap<String, Entry>>, String> {
    let pickle = reader.pickle;
    let part = |name: &str| {
        let found = pickle.entry(pickle.root_id(), name);
        found.ok_or_else(|| format!("it has no {name}, as the state of a torch optimizer has"))
    };
    let names = names(reader, part("param_groups")?)?;
    let pairs = part("state")?;
    let pairs = pickle.dict(pairs).ok_or("its state is no dictionary")?;
    let mut numbered = Vec::new();
    for &(key, state) in pairs {
        let name = match pickle.node(key) {
            Node::Text(name) => Some((*name).to_owned()),
            Node::Int(number) => names.get(number).cloned(),
            _ => None,
        };
        let name = name.ok_or("its state is of a parameter that no group of parameters names")?;
        let state = pickle.dict(state).ok_or_else(|| format!("{name} has no dictionary"))?;
        let mut tensors = HashMap::new();
        for &(key, value) in state {
            let key =
                pickle.text(key).ok_or_else(|| format!("{name} has a key that is no text"))?;
            // Plain numbers, and nothing, are not read here.
            if pickle.call(value).is_some() {
                tensors.insert(key.to_owned(), reader.tensor(format!("{name}.{key}"), value)?);
            }
        }
        numbered.push((name, tensors));
    }
    let plain = plain_names(numbered.iter().map(|(name, _)| name.as_str()));
    Ok(plain.into_iter().zip(numbered.into_iter().map(|(_, tensors)| tensors)).collect())
}

/// The names of parameters by their numbers.
fn names(reader: &Reader<'_>, groups: Id) -> Result<HashMap<i64, String>, String> {
    let pickle = reader.pickle;
    let mut names = HashMap::new();
    for &group in pickle.items(groups).ok_or("its param_groups are no list")? {
        let list = |name: &str| pickle.entry(group, name).and_then(|id| pickle.items(id));
        let params = list("params").ok_or("a group of its parameters has no list of them")?;
        for (&number, &name) in params.iter().zip(list("param_names").unwrap_or_default()) {
            if let (Node::Int(number), Some(name)) = (pickle.node(number), pickle.text(name)) {
                names.insert(*number, name.to_owned());
            }
        }
    }
    Ok(names)
}

fn torch_error(path: &Path, error: HeaderError) -> Error {
    match error {
        HeaderError::Io(error) => Error::io(path, "read")(error),
        HeaderError::Problems(problems) => {
            Error::TorchFile { path: path.to_owned(), problems: Problems(problems) }
        }
    }
}
