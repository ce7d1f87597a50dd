//! What several verbs read: a model folder, token rows, a floating-point format.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use olmo_data::Tokenizer;
#[cfg(feature = "net")]
use olmo_hub::hub::{self, Repo};
use olmo_hub::{Dtype, ModelFolder, linked};
use olmo_model::{Quantization, Transformer, check_dtype};

use crate::device::DeviceName;
#[cfg(feature = "net")]
use crate::interrupt::Interrupt;

/// How the weights of a model are held while it runs.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Weights {
    /// What to hold weights in and compute in; `auto` is the dtype of the files, or f32 where the device
    /// does not compute in it; bf16 halves the memory
    #[arg(long, value_enum, default_value = "f32")]
    dtype: ComputeDtype,
    /// Hold weights in 8 or 4 bits and multiply them with activations in 8 bits, on the CPU;
    /// `olmo verify --quantize` tells the error of the weights
    #[arg(long, value_enum, value_name = "BITS", conflicts_with = "dtype")]
    quantize: Option<QuantizationName>,
}

/// The dtype that a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ComputeDtype {
    Auto,
    F32,
    Bf16,
    F16,
}

/// How many bits a weight has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuantizationName {
    Q8,
    Q4,
}

impl From<QuantizationName> for Quantization {
    fn from(name: QuantizationName) -> Self {
        match name {
            QuantizationName::Q8 => Self::Q8,
            QuantizationName::Q4 => Self::Q4,
        }
    }
}

impl Weights {
    /// The quantisation asked for.
    pub(crate) fn quantization(self) -> Option<Quantization> {
        self.quantize.map(Into::into)
    }

    /// What a model of this folder computes in on a device.
    fn dtype(self, folder: &ModelFolder, device: &Device) -> Dtype {
        match (self.quantize, self.dtype) {
            (Some(_), _) | (None, ComputeDtype::F32) => Dtype::F32,
            (None, ComputeDtype::Bf16) => Dtype::Bf16,
            (None, ComputeDtype::F16) => Dtype::F16,
            (None, ComputeDtype::Auto) => {
                let stored = folder.stored_dtype();
                if check_dtype(device, stored.into()).is_ok() { stored } else { Dtype::F32 }
            }
        }
    }
}

/// Opens a model without reading its weights: a folder, or a repository of the Hub, `owner/name` or
/// `owner/name@revision`, which is pulled unless it is in the cache.
pub(crate) fn model_folder(model: &Path) -> Result<ModelFolder> {
    Ok(ModelFolder::open(model_dir(model)?)?)
}

/// The folder of a model, which is pulled where it is the name of a repository.
pub(crate) fn model_dir(model: &Path) -> Result<PathBuf> {
    if model.exists() {
        let dir = linked(model);
        ensure!(dir.is_dir(), "{} is a file, expected a model folder", dir.display());
        return Ok(dir);
    }
    #[cfg(feature = "net")]
    if let Some(repo) = as_repo(model) {
        return Ok(pull(&repo)?.path);
    }
    bail!("there is no model folder {}{}", model.display(), why_no_repo(model))
}

/// What is to be said of a name that is no folder's, where it could have been a repository's.
fn why_no_repo(model: &Path) -> String {
    let is_path = !model.is_relative() || model.starts_with(".") || model.starts_with("..");
    #[cfg(feature = "net")]
    if let (false, Some(Err(error))) = (is_path, model.to_str().map(str::parse::<Repo>)) {
        return format!(", and {error}");
    }
    if is_path { String::new() } else { " here".to_owned() }
}

/// The repository that a name is of, which a path that begins like one is not.
#[cfg(feature = "net")]
fn as_repo(model: &Path) -> Option<Repo> {
    let repo: Repo = model.to_str()?.parse().ok()?;
    // `runs/small` with a folder `runs` is a slip in a path.
    (!Path::new(repo.owner()).is_dir()).then_some(repo)
}

/// Brings a model into the cache, with a bar for each file and one for all.
#[cfg(feature = "net")]
pub(crate) fn pull(repo: &Repo) -> Result<hub::Pulled> {
    let settings = hub::Settings::from_env();
    let interrupt = Interrupt::listen()?;
    let bars = crate::progress::Files::new(&repo.to_string());
    let request = hub::Pull { repo, settings: &settings, stop: interrupt.flag() };
    let pulled = hub::pull(&request, &|event| match event {
        hub::Event::Planned(files) => bars.begin(files),
        hub::Event::Progress(index, n_bytes) => bars.advance(index, n_bytes),
        hub::Event::Done(index) => bars.finish(index),
    });
    bars.clear();
    let pulled = pulled?;
    if let Some(name) = &pulled.moved_to {
        crate::output::complain(&format!("note: {} has moved to {name}", repo.id()));
    }
    Ok(pulled)
}

/// Reads a model's weights to a device, to run it.
pub(crate) fn load(
    folder: &ModelFolder,
    device: DeviceName,
    weights: Weights,
) -> Result<Transformer> {
    crate::allocator::share_buffers();
    let device = device.open()?;
    let bar = crate::progress::open_ended("loading the model");
    let model = match weights.quantization() {
        Some(quantization) => folder.load_quantized(&device, quantization)?,
        None => folder.load_to_run(&device, Some(weights.dtype(folder, &device)))?,
    };
    bar.finish_and_clear();
    Ok(model)
}

/// Where the tokenizer of a model folder would be.
pub(crate) fn tokenizer_path(folder: &ModelFolder) -> PathBuf {
    folder.path().join("tokenizer.json")
}

/// The tokenizer of a model folder, if it has one.
pub(crate) fn tokenizer(folder: &ModelFolder) -> Result<Option<Tokenizer>> {
    let path = tokenizer_path(folder);
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(Tokenizer::from_file(path)?))
}

/// Reads rows of token ids, JSON `[[ids], …]`, and checks them against a model's vocabulary.
pub(crate) fn token_rows(path: &Path, vocab_size: usize) -> Result<Vec<Vec<u32>>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows: Vec<Vec<u32>> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no JSON of token ids [[ids], …]", path.display()))?;
    ensure!(!rows.is_empty(), "{} has no rows, expected [[ids], …]", path.display());
    for (i, row) in rows.iter().enumerate() {
        let row_number = i + 1;
        ensure!(!row.is_empty(), "row {row_number} of {} has no tokens", path.display());
        if let Some(position) = row.iter().position(|&id| id as usize >= vocab_size) {
            bail!(
                "row {row_number} of {}: token id {} at position {position} is past the \
                 vocabulary of {vocab_size}",
                path.display(),
                row[position],
            );
        }
    }
    Ok(rows)
}
