//! Writing a checkpoint.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use olmo_hub::{
    Dtype, HfExport, Special, TensorSpec, write_atomic, write_dir_atomic, write_tensors,
};
use olmo_model::Transformer;
use olmo_optim::Optimizer;

use super::{OPTIMIZER_FILE, STATE_FILE, TRAIN_FOLDER, TrainState, folder_name, list};
use crate::error::Error;

/// What goes into a checkpoint.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The f32 master weights.
    pub model: &'a Transformer,
    /// Its state is saved in f32.
    pub optimizer: &'a dyn Optimizer,
    /// Step, tokens, data.
    pub state: &'a TrainState,
    /// Ids for `config.json`.
    pub special: &'a Special,
    /// The tokenizer's file, to be copied.
    pub tokenizer: Option<&'a Path>,
}

/// Writes a checkpoint under `checkpoints`, and points `latest` at it.
///
/// # Errors
///
/// [`Error::Hub`] or [`Error::Io`] where something cannot be written, such as on a full disk;
/// nothing of the new checkpoint is left then, and the older ones are as they were.
pub fn save(checkpoints: &Path, contents: &Contents<'_>) -> Result<PathBuf, Error> {
    let TrainState { global_step, global_train_tokens_seen, .. } = *contents.state;
    let name = folder_name(global_step, global_train_tokens_seen);
    let dir = checkpoints.join(&name);
    write_dir_atomic(&dir, |dir| write_contents(dir, contents))?;
    point_latest(checkpoints, &name)?;
    Ok(dir)
}

/// Removes all but the newest `keep` checkpoints.
///
/// # Errors
///
/// [`Error::Io`] where one cannot be removed.
pub fn prune(checkpoints: &Path, keep: usize) -> Result<(), Error> {
    let all = list(checkpoints)?;
    for (_, path) in &all[..all.len().saturating_sub(keep)] {
        fs::remove_dir_all(path).map_err(|source| Error::Io { path: path.clone(), source })?;
    }
    Ok(())
}

fn write_contents(dir: &Path, contents: &Contents<'_>) -> Result<(), Error> {
    olmo_hub::save(contents.model, &HfExport::new(contents.special.clone(), Dtype::F32), dir)?;
    if let Some(tokenizer) = contents.tokenizer {
        copy(tokenizer, &dir.join("tokenizer.json"))?;
    }
    let train = dir.join(TRAIN_FOLDER);
    fs::create_dir(&train).map_err(|source| Error::Io { path: train.clone(), source })?;
    write_optimizer(&train.join(OPTIMIZER_FILE), contents.optimizer)?;
    let path = train.join(STATE_FILE);
    let json = serde_json::to_string_pretty(contents.state)
        .map_err(|error| Error::Checkpoint { path: path.clone(), message: error.to_string() })?;
    write_atomic(&path, |file| file.put(json.as_bytes()))?;
    Ok(())
}

/// Every state tensor under `path.name`, flat, in f32.
fn write_optimizer(path: &Path, optimizer: &dyn Optimizer) -> Result<(), Error> {
    let tensors = optimizer.named_tensors();
    let specs: Vec<_> = tensors
        .iter()
        .map(|(name, values)| TensorSpec {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: values.dims().to_vec(),
        })
        .collect();
    write_tensors(path, &specs, &[], |i| Ok::<_, Error>(Cow::Owned(bytes(&tensors[i].1))))
}

/// The elements as they go to disk; the device's handle stays alive, so this is a copy.
fn bytes(values: &Tensor<1>) -> Vec<u8> {
    values.to_data().iter::<f32>().flat_map(f32::to_le_bytes).collect()
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let bytes = fs::read(from).map_err(|source| Error::Io { path: from.to_owned(), source })?;
    write_atomic(to, |file| file.put(&bytes))?;
    Ok(())
}

/// Makes `latest` a link to the checkpoint, replacing the old link in one step.
#[cfg(unix)]
fn point_latest(checkpoints: &Path, name: &str) -> Result<(), Error> {
    let (link, temporary) = (checkpoints.join("latest"), checkpoints.join(".tmp-olmo-latest"));
    let io = |source| Error::Io { path: link.clone(), source };
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(name, &temporary).map_err(io)?;
    fs::rename(&temporary, &link).map_err(io)
}

/// Where links need privileges, `latest` is a file that holds the checkpoint's name.
#[cfg(not(unix))]
fn point_latest(checkpoints: &Path, name: &str) -> Result<(), Error> {
    write_atomic(&checkpoints.join("latest"), |file| file.put(name.as_bytes()))?;
    Ok(())
}
