//! What the trainers keep beside the weights of a checkpoint: the state of the optimizer, and how far the
//! run has come.
//!
//! Sources: ai2-olmo 0.6.0 `olmo/checkpoint.py`, `FullCheckpointer`, and `olmo/train.py`,
//! `trainer_state_dict`; ai2-olmo-core 2.4.0 `train/checkpoint.py` and `train/trainer.py`. A checkpoint
//! that is not sharded has `optim.pt` and `train.pt`. A sharded one has the optimizer's state in pieces as
//! it has the model, see `sharded`, and the progress in the files of each process. As with weights, query,
//! key and value are one tensor in ai2-olmo, and so are gate and up projection.

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
use crate::sharded::{self, OptimizerForm, Tensor};
use crate::torch_file::{Reader, read_with};
use crate::torch_optimizer::{self, States};
use crate::values::{ReadError, Source, Stored};

/// Name of the file with the optimizer's state.
const OPTIMIZER: &str = "optim.pt";
/// Names of the file with the trainer's state, those of a sharded checkpoint's first process last, and
/// what it may name: folders of checkpoints, states of random numbers, and beside them the model.
const TRAINER: [(&str, &[&[Global]]); 3] = [
    ("train.pt", &[sharded::TRAINER_GLOBALS]),
    ("train/rank0.pt", &[sharded::TRAINER_GLOBALS]),
    ("rank0.pt", &[sharded::LEGACY_GLOBALS, sharded::TRAINER_GLOBALS]),
];

/// The state of the optimizer in a trainer's checkpoint.
#[derive(Debug)]
pub struct SavedOptimizer {
    /// The file, or the folder of many.
    path: PathBuf,
    file: Option<File>,
    /// The files of pieces.
    paths: Vec<PathBuf>,
    layout: Layout,
    family: Option<Family>,
    model: ModelConfig,
    /// By the name of the parameter's tensor, and by their own.
    states: HashMap<String, HashMap<String, Place>>,
}

/// Where a tensor is.
#[derive(Debug)]
enum Place {
    Whole(Entry),
    Pieces(Tensor),
}

impl SavedOptimizer {
    /// Whether a checkpoint's folder has the files that a state is read from.
    pub fn is_there(dir: &Path) -> bool {
        dir.join(OPTIMIZER).is_file() || OptimizerForm::find(dir).is_some()
    }

    /// Opens the optimizer's state in the folder of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where there is none, [`Error::TorchFile`] and [`Error::Folder`] where it is not what
    /// the trainers write.
    pub fn open(folder: &ModelFolder) -> Result<Self> {
        let dir = folder.path();
        let path = dir.join(OPTIMIZER);
        let mut opened = Self {
            path,
            file: None,
            paths: Vec::new(),
            layout: Layout::Original,
            family: folder.config().family,
            model: folder.model_config().clone(),
            states: HashMap::new(),
        };
        let form = OptimizerForm::find(dir).filter(|_| !opened.path.is_file());
        if let Some(form) = form {
            let mut problems = Vec::new();
            let found = form.open(dir, &mut problems);
            if !problems.is_empty() {
                return Err(Error::Folder { path: dir.to_owned(), problems: Problems(problems) });
            }
            opened.path = dir.join(form.place());
            opened.paths = found.files.iter().map(|file| dir.join(file)).collect();
            opened.states = sharded_states(found.tensors);
        } else {
            opened.read_file()?;
        }
        opened.layout = Layout::of(|name| opened.states.contains_key(name));
        Ok(opened)
    }

    fn read_file(&mut self) -> Result<()> {
        let file = File::open(&self.path).map_err(Error::io(&self.path, "read"))?;
        let length = file.metadata().map_err(Error::io(&self.path, "read"))?.len();
        let states = read_with(&file, 0, length, &[], |reader| {
            torch_optimizer::states(reader).map_err(|problem| vec![problem])
        });
        self.states = by_plain_name(states.map_err(|error| torch_error(&self.path, error))?);
        self.file = Some(file);
        Ok(())
    }

    /// The file, or the folder of many.
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
        let place = self.state(&tensor, name)?;
        if place.n_elements() != whole {
            return Err(self.no_tensor(&tensor, name));
        }
        self.read(place, first, parameter.n_elements())
    }

    /// The one value of a parameter's state of that name, such as `step`; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`] where it has other than one; [`Error::Io`].
    pub fn value(&self, parameter: &Parameter, name: &str) -> Result<Option<f32>> {
        let (tensor, ..) = self.place(parameter)?;
        let Ok(place) = self.state(&tensor, name) else { return Ok(None) };
        if place.n_elements() != 1 {
            return Err(self.no_tensor(&tensor, name));
        }
        Ok(self.read(place, 0, 1)?.first().copied())
    }

    /// Whether a parameter is part of a tensor that holds others too.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`] where the trainer has no such parameter.
    pub fn is_fused(&self, parameter: &Parameter) -> Result<bool> {
        Ok(self.place(parameter)?.2 != parameter.n_elements())
    }

    /// The tensor that a parameter is in, its first element there, and how many that has.
    fn place(&self, parameter: &Parameter) -> Result<(String, usize, usize)> {
        let place = self.layout.place(self.family, &self.model, parameter);
        let place = place.ok_or_else(|| self.no_tensor(&parameter.path, "place"))?;
        Ok((place.name, place.first, place.shape.iter().product()))
    }

    fn state(&self, tensor: &str, name: &str) -> Result<&Place> {
        let place = self.states.get(tensor).and_then(|state| state.get(name));
        place.ok_or_else(|| self.no_tensor(tensor, name))
    }

    fn read(&self, place: &Place, first: usize, n_elements: usize) -> Result<Vec<f32>> {
        let (name, dtype) = match place {
            Place::Whole(entry) => (&entry.name, &entry.dtype),
            Place::Pieces(tensor) => (&tensor.name, &tensor.dtype),
        };
        let known = Dtype::from_safetensors_name(dtype);
        let known = known.ok_or_else(|| Error::TensorDtype {
            path: self.path.clone(),
            tensor: name.clone(),
            found: dtype.clone(),
            supported: "F32, F16 and BF16",
        })?;
        let source = match (place, &self.file) {
            (Place::Whole(entry), Some(file)) => Source::File(file, entry.start),
            (Place::Pieces(tensor), _) => {
                Source::Pieces { paths: &self.paths, pieces: &tensor.pieces, first: 0 }
            }
            (Place::Whole(_), None) => return Err(self.no_tensor(name, "file")),
        };
        let stored = Stored { source, n_elements: place.n_elements(), dtype: known };
        stored.part(first, n_elements).any_f32().map_err(|error| match error {
            ReadError::Io(error) => Error::io(&self.path, "read")(error),
            ReadError::Value(value) => {
                Error::Value { path: self.path.clone(), tensor: name.clone(), value }
            }
        })
    }

    fn no_tensor(&self, tensor: &str, name: &str) -> Error {
        Error::NoTensor { path: self.path.clone(), name: format!("{tensor}.{name}") }
    }
}

impl Place {
    fn n_elements(&self) -> usize {
        match self {
            Self::Whole(entry) => entry.n_elements(),
            Self::Pieces(tensor) => tensor.shape.iter().product(),
        }
    }
}

/// How far the run of a checkpoint has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedProgress {
    /// Epoch, from 0 in ai2-olmo and from 1 in OLMo-core.
    pub epoch: u64,
    /// Steps made.
    pub global_step: u64,
    /// Tokens seen in the whole run.
    pub n_tokens_seen: u64,
    /// What was seen of this epoch.
    pub of_epoch: Seen,
    /// What the order of the data depends on, as far as the trainer says it: OLMo-core does.
    pub data: SavedData,
}

/// What a trainer says of the data of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SavedData {
    /// Seed of the order.
    pub seed: Option<u64>,
    /// In which way the fingerprint was made, as `v2.0`.
    pub fingerprint_version: Option<String>,
    /// The dataset's fingerprint.
    pub fingerprint: Option<String>,
}

/// What a trainer counts in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// ai2-olmo: instances.
    Instances(u64),
    /// OLMo-core: tokens.
    Tokens(u64),
}

impl SavedProgress {
    /// Whether a checkpoint's folder has the file that it is read from.
    pub fn is_there(dir: &Path) -> bool {
        TRAINER.iter().any(|(name, _)| dir.join(name).is_file())
    }

    /// Reads `train.pt` of a checkpoint's folder, or `train/rank0.pt` or `rank0.pt` of a sharded one's.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where there is none, [`Error::TorchFile`] where it does not say how far.
    pub fn read(dir: &Path) -> Result<Self> {
        let there = TRAINER.into_iter().find(|(name, _)| dir.join(name).is_file());
        let (name, globals) = there.unwrap_or(TRAINER[0]);
        let path = dir.join(name);
        let file = File::open(&path).map_err(Error::io(&path, "read"))?;
        let length = file.metadata().map_err(Error::io(&path, "read"))?.len();
        let progress = read_with(&file, 0, length, globals, |reader| {
            progress(reader).map_err(|problem| vec![problem])
        });
        progress.map_err(|error| torch_error(&path, error))
    }
}

fn progress(reader: &Reader<'_>) -> Result<SavedProgress, String> {
    let pickle = reader.pickle;
    let root = pickle.root_id();
    let number = |dict: Id, names: &[&str]| {
        let found = names.iter().find_map(|name| pickle.entry(dict, name)).map(|id| {
            if matches!(pickle.node(id), Node::None) { Some(0) } else { pickle.size(id) }
        });
        found.flatten().ok_or_else(|| format!("it has no {}", names[0]))
    };
    let instances = ["global_train_examples_seen_this_epoch", "global_train_examples_seen"];
    let loader = pickle.entry(root, "data_loader");
    let of_epoch = match loader {
        Some(loader) => Seen::Tokens(number(loader, &["tokens_processed"])?),
        None => Seen::Instances(number(root, &instances)?),
    };
    let of_loader = |name: &str| loader.and_then(|loader| pickle.entry(loader, name));
    let text = |name: &str| of_loader(name).and_then(|id| pickle.text(id)).map(str::to_owned);
    Ok(SavedProgress {
        data: SavedData {
            seed: of_loader("seed").and_then(|id| pickle.size(id)),
            fingerprint_version: text("dataset_fingerprint_version"),
            fingerprint: text("dataset_fingerprint"),
        },
        epoch: number(root, &["epoch"])?,
        global_step: number(root, &["global_step"])?,
        n_tokens_seen: number(root, &["global_train_tokens_seen"])?,
        of_epoch,
    })
}

/// The tensors of each parameter's state, freed of what wrappers add to its name.
fn by_plain_name(states: States) -> HashMap<String, HashMap<String, Place>> {
    let plain = plain_names(states.iter().map(|(name, _)| name.as_str()));
    let places = states.into_iter().map(|(_, tensors)| {
        tensors.into_iter().map(|(key, entry)| (key, Place::Whole(entry))).collect()
    });
    plain.into_iter().zip(places).collect()
}

/// The tensors of each parameter's state, of those of a sharded checkpoint.
fn sharded_states(tensors: Vec<Tensor>) -> HashMap<String, HashMap<String, Place>> {
    let split = |full: &str| {
        full.rsplit_once('.')
            .map_or((full.to_owned(), String::new()), |(a, b)| (a.to_owned(), b.to_owned()))
    };
    let names: Vec<(String, String)> = tensors.iter().map(|tensor| split(&tensor.name)).collect();
    let plain = plain_names(names.iter().map(|(name, _)| name.as_str()));
    let mut states: HashMap<String, HashMap<String, Place>> = HashMap::new();
    for ((name, (_, key)), tensor) in plain.into_iter().zip(names).zip(tensors) {
        states.entry(name).or_default().insert(key, Place::Pieces(tensor));
    }
    states
}

fn torch_error(path: &Path, error: HeaderError) -> Error {
    match error {
        HeaderError::Io(error) => Error::io(path, "read")(error),
        HeaderError::Problems(problems) => {
            Error::TorchFile { path: path.to_owned(), problems: Problems(problems) }
        }
    }
}
