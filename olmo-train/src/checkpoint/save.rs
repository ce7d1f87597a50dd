//! Writing a checkpoint.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use olmo_hub::{
    Dtype, HfExport, Special, TensorSpec, write_atomic, write_dir_atomic, write_tensors,
};
use olmo_model::Transformer;

use super::{Kept, Manifest, OPTIMIZER_FILE, STATE_FILE, TRAIN_FOLDER, TrainState, folder_name};
use crate::error::Error;

/// What goes into a checkpoint.
///
/// Tensors are handles to the live ones: taking them copies nothing, and an update made while they
/// are held writes elsewhere, so that the values here stay those of the step they were taken at.
#[derive(Debug)]
pub struct Contents {
    /// The f32 master weights.
    pub model: Transformer,
    /// [`Optimizer::named_tensors`](olmo_optim::Optimizer::named_tensors), saved in f32.
    pub optimizer: Vec<(String, Tensor<1>)>,
    /// Step, tokens, data.
    pub state: TrainState,
    /// Ids for `config.json`.
    pub special: Special,
    /// The tokenizer's file, to be copied.
    pub tokenizer: Option<PathBuf>,
    /// For how long.
    pub kept: Kept,
}

/// Writes a checkpoint under `checkpoints`, and points `latest` at it.
///
/// # Errors
///
/// [`Error::Hub`] or [`Error::Io`] where something cannot be written, such as on a full disk;
/// nothing of the new checkpoint is left then, and the older ones are as they were.
pub fn save(checkpoints: &Path, contents: Contents) -> Result<PathBuf, Error> {
    let TrainState { global_step, global_train_tokens_seen, .. } = contents.state;
    let dir = checkpoints.join(folder_name(global_step, global_train_tokens_seen));
    write_dir_atomic(&dir, |dir| write_contents(dir, contents))?;
    point_latest(&dir)?;
    Ok(dir)
}

/// Each tensor's handle goes as soon as it is written, so that updates need no copies any more.
fn write_contents(dir: &Path, contents: Contents) -> Result<(), Error> {
    let Contents { model, optimizer, state, special, tokenizer, kept } = contents;
    olmo_hub::save(&model, &HfExport::new(special, Dtype::F32), dir)?;
    drop(model);
    if let Some(tokenizer) = tokenizer {
        copy(&tokenizer, &dir.join("tokenizer.json"))?;
    }
    let train = dir.join(TRAIN_FOLDER);
    fs::create_dir(&train).map_err(|source| Error::Io { path: train.clone(), source })?;
    write_optimizer(&train.join(OPTIMIZER_FILE), optimizer)?;
    let path = train.join(STATE_FILE);
    let json = serde_json::to_string_pretty(&state)
        .map_err(|error| Error::Checkpoint { path: path.clone(), message: error.to_string() })?;
    write_atomic(&path, |file| file.put(json.as_bytes()))?;
    Manifest::write(dir, kept)?;
    Ok(())
}

/// Every state tensor under `path.name`, flat, in f32.
fn write_optimizer(path: &Path, tensors: Vec<(String, Tensor<1>)>) -> Result<(), Error> {
    let specs: Vec<_> = tensors
        .iter()
        .map(|(name, values)| TensorSpec {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: values.dims().to_vec(),
        })
        .collect();
    // They are asked for in their order, each once.
    let mut tensors = tensors.into_iter();
    write_tensors(path, &specs, &[], |_| {
        let bytes = tensors.next().map_or_else(Vec::new, |(_, values)| bytes(values));
        Ok::<_, Error>(Cow::Owned(bytes))
    })
}

/// The elements as they go to disk.
fn bytes(values: Tensor<1>) -> Vec<u8> {
    values.into_data().iter::<f32>().flat_map(f32::to_le_bytes).collect()
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let bytes = fs::read(from).map_err(|source| Error::Io { path: from.to_owned(), source })?;
    write_atomic(to, |file| file.put(&bytes))?;
    Ok(())
}

/// Makes `latest`, beside a checkpoint, a link to it, replacing the old link in one step.
#[cfg(unix)]
pub(crate) fn point_latest(dir: &Path) -> Result<(), Error> {
    let (link, temporary) = (dir.with_file_name("latest"), dir.with_file_name(".tmp-olmo-latest"));
    let io = |source| Error::Io { path: link.clone(), source };
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(dir.file_name().unwrap_or_default(), &temporary).map_err(io)?;
    fs::rename(&temporary, &link).map_err(io)
}

/// Where links need privileges, `latest` is a file that holds the checkpoint's name.
#[cfg(not(unix))]
pub(crate) fn point_latest(dir: &Path) -> Result<(), Error> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    write_atomic(&dir.with_file_name("latest"), |file| file.put(name.as_bytes()))?;
    Ok(())
}
