//! Reading a checkpoint.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use olmo_hub::{Dtype, ModelFolder, TensorFile};
use olmo_model::{ModelConfig, Transformer};
use olmo_optim::Optimizer;

use super::{DataIdentity, OPTIMIZER_FILE, STATE_FILE, STATE_VERSION, TRAIN_FOLDER, TrainState};
use crate::error::Error;

/// What a checkpoint held, besides the optimizer's state.
#[derive(Debug)]
pub struct Loaded {
    /// The f32 master weights.
    pub model: Transformer,
    /// Step, tokens, data.
    pub state: TrainState,
}

/// Reads a checkpoint made by a run of architecture `config` on the data `data`; the optimizer's
/// state goes into `optimizer`.
///
/// # Errors
///
/// [`Error::OtherRun`] where architecture or data differ, [`Error::Checkpoint`], [`Error::Hub`]
/// and [`Error::Io`] where a file is damaged or missing.
pub fn load(
    dir: &Path,
    config: &ModelConfig,
    data: &DataIdentity,
    optimizer: &mut dyn Optimizer,
    device: &Device,
) -> Result<Loaded, Error> {
    let train = dir.join(TRAIN_FOLDER);
    let state = read_state(&train.join(STATE_FILE))?;
    let other_run = |message| Error::OtherRun { path: dir.to_owned(), message };
    if let Some(obstacle) = state.data.obstacle(data) {
        return Err(other_run(obstacle));
    }
    let folder = ModelFolder::open(dir)?;
    if folder.model_config() != config {
        return Err(other_run("its architecture is another".to_owned()));
    }
    read_optimizer(&train.join(OPTIMIZER_FILE), &state, optimizer, device)?;
    let model = folder.load(device, Some(Dtype::F32))?;
    Ok(Loaded { model, state })
}

/// The trainer's state of a checkpoint.
pub(crate) fn read_state(path: &Path) -> Result<TrainState, Error> {
    let text =
        fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let wrong = |message| Error::Checkpoint { path: path.to_owned(), message };
    let state: TrainState =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if state.version != STATE_VERSION {
        let found = state.version;
        return Err(wrong(format!("is of layout {found}, this version reads {STATE_VERSION}")));
    }
    Ok(state)
}

/// Reads the optimizer's state of a checkpoint into `optimizer`.
pub(crate) fn read_optimizer(
    path: &Path,
    state: &TrainState,
    optimizer: &mut dyn Optimizer,
    device: &Device,
) -> Result<(), Error> {
    let file = TensorFile::open(path)?;
    let mut tensors = Vec::new();
    for name in file.names() {
        let values = file.get_f32(name)?;
        let n = values.len();
        let tensor: Tensor<1> = Tensor::from_data(TensorData::new(values, [n]), device);
        tensors.push((name.to_owned(), tensor));
    }
    let steps = state.optimizer_steps.clone().into_iter().collect();
    optimizer
        .load_named(tensors, steps)
        .map_err(|error| {
            let advice = "where optimizer.name has changed, give the old one, or begin another run with \
                load_path=CHECKPOINT";
            Error::Checkpoint { path: path.to_owned(), message: format!("{error}; {advice}") }
        })
}
