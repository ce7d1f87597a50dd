//! What a run begins with: its folder, and weights.

use std::fs::{File, TryLockError};
use std::path::Path;

use burn::tensor::Device;
use olmo_hub::{Dtype, ModelFolder};
use olmo_model::Transformer;

use crate::config::TrainConfig;
use crate::error::Error;

/// Takes a run's folder for this process, until the file is closed, however the process ends.
pub(crate) fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("run.lock");
    let file = File::create(&path).map_err(|source| Error::Io { path, source })?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: folder.to_owned() }),
        // A file system without locks is no reason not to train.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// The weights that a new run begins with.
pub(crate) fn initial_model(config: &TrainConfig, device: &Device) -> Result<Transformer, Error> {
    let Some(path) = &config.load_path else {
        return Ok(Transformer::init(&config.model, &config.init, config.seed, device)?);
    };
    let folder = ModelFolder::open(path)?;
    if *folder.model_config() != config.model {
        return Err(Error::Config {
            origin: "load_path".to_owned(),
            message: format!(
                "{} holds a model of another architecture than `model` describes",
                path.display()
            ),
        });
    }
    Ok(folder.load(device, Some(Dtype::F32))?)
}
