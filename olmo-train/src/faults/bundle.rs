//! A folder that makes a step again: weights before it, its batch, and the run's configuration.
//!
//! `config.yaml`, `fault.json` ([`FaultRecord`]) and `weights.safetensors`, f32 under the parameters'
//! paths, which may hold what is no number. The fault is found before the optimizer takes part, so
//! its state is not needed.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use olmo_data::Batch;
use olmo_data::inspect::InspectedInstance;
use olmo_hub::{Dtype, TensorFile, TensorSpec, write_atomic, write_dir_atomic, write_tensors};
use olmo_model::Transformer;
use serde::{Deserialize, Serialize};

use super::Fault;
use crate::config::TrainConfig;
use crate::error::Error;
use crate::step::batch_gradients;

const CONFIG_FILE: &str = "config.yaml";
const RECORD_FILE: &str = "fault.json";
const WEIGHTS_FILE: &str = "weights.safetensors";

/// What a step was and why it was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultRecord {
    /// The step, from 1.
    pub step: u64,
    /// What was found.
    pub fault: String,
    /// Index in the dataset of each row.
    pub indices: Vec<u32>,
    /// Tokens, row after row.
    pub tokens: Vec<u32>,
    /// Tokens of a row.
    pub seq_len: usize,
    /// Which tokens count as labels, where not all do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_mask: Option<Vec<bool>>,
    /// Rows that the filter leaves out.
    pub n_filtered: usize,
    /// File, place and documents of each row, where the files tell.
    pub instances: Vec<InspectedInstance>,
}

/// The part of a record that a step is made from.
#[derive(Debug, Deserialize)]
struct Recorded {
    step: u64,
    fault: String,
    indices: Vec<u32>,
    tokens: Vec<u32>,
    seq_len: usize,
    label_mask: Option<Vec<bool>>,
    #[serde(default)]
    n_filtered: usize,
}

impl FaultRecord {
    pub(crate) fn new(
        step: u64,
        fault: &Fault,
        batch: &Batch,
        instances: Vec<InspectedInstance>,
    ) -> Self {
        let Batch { indices, tokens, seq_len, label_mask, n_filtered, .. } = batch.clone();
        let fault = fault.to_string();
        Self { step, fault, indices, tokens, seq_len, label_mask, n_filtered, instances }
    }
}

/// A step made again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replay {
    /// The step, from 1.
    pub step: u64,
    /// What was found when it was first made.
    pub fault: String,
    /// Mean cross-entropy of the batch.
    pub cross_entropy: f64,
    /// Norm of all gradients together.
    pub total_grad_norm: f64,
    /// Weights and gradients of each parameter, in the model's order.
    pub parameters: Vec<ReplayedParameter>,
}

/// A parameter in a step made again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayedParameter {
    /// Its path.
    pub path: String,
    /// Norm of its gradient.
    pub grad_norm: f64,
    /// Elements of the gradient that are infinite or no number.
    pub n_bad_gradients: usize,
    /// Elements of the weight that are infinite or no number.
    pub n_bad_weights: usize,
}

/// Writes a bundle, whole or not at all.
pub(crate) fn write(
    dir: &Path,
    config: &TrainConfig,
    model: &Transformer,
    record: &FaultRecord,
) -> Result<(), Error> {
    write_dir_atomic(dir, |dir| {
        let path = dir.join(RECORD_FILE);
        let json = serde_json::to_string(record)
            .map_err(|error| Error::Io { path: path.clone(), source: error.into() })?;
        write_atomic(&path, |file| file.put(json.as_bytes()))?;
        let yaml = config.to_yaml()?;
        write_atomic(&dir.join(CONFIG_FILE), |file| file.put(yaml.as_bytes()))?;
        write_weights(&dir.join(WEIGHTS_FILE), model)
    })
}

fn write_weights(path: &Path, model: &Transformer) -> Result<(), Error> {
    let mut tensors = Vec::new();
    model.visit_parameters(|name, shape, values| {
        let spec = TensorSpec { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec() };
        tensors.push((spec, values));
    });
    let (specs, values): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
    let mut values = values.into_iter();
    write_tensors(path, &specs, &[], |_| {
        let data = values.next().map(burn::tensor::Tensor::into_data);
        let bytes = data.iter().flat_map(TensorData::iter::<f32>).flat_map(f32::to_le_bytes);
        Ok::<_, Error>(Cow::Owned(bytes.collect()))
    })
}

/// Makes the step of a bundle again, up to the update of the weights.
///
/// # Errors
///
/// [`Error::Config`], [`Error::Checkpoint`], [`Error::Hub`] and [`Error::Io`] where a file of the
/// bundle is missing or is not what this version writes; [`Error::Model`] where the device does not
/// compute in the precision of the run.
pub fn replay(dir: &Path, device: &Device) -> Result<Replay, Error> {
    let config = TrainConfig::read(&dir.join(CONFIG_FILE), &[])?;
    config.precision.check(device)?;
    let path = dir.join(RECORD_FILE);
    let text =
        fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let wrong = |message: String| Error::Checkpoint { path: path.clone(), message };
    let Recorded { step, fault, indices, tokens, seq_len, label_mask, n_filtered } =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let batch = Batch { indices, tokens, seq_len, label_mask, n_filtered, doc_lens: None };
    let is_other = |mask: &Vec<bool>| mask.len() != batch.tokens.len();
    if !(1..=config.data.sequence_length).contains(&seq_len)
        || batch.label_mask.as_ref().is_some_and(is_other)
        || batch.indices.is_empty()
        || n_filtered > batch.indices.len()
        || batch.indices.len().checked_mul(seq_len) != Some(batch.tokens.len())
    {
        return Err(wrong("its batch has not the shape that its configuration says".to_owned()));
    }
    let file = TensorFile::open(&dir.join(WEIGHTS_FILE))?;
    let mut n_bad_weights = Vec::new();
    let model = Transformer::build::<Error>(&config.model, device, |parameter| {
        let values = file.get_f32(&parameter.path)?;
        if values.len() != parameter.shape.iter().product::<usize>() {
            return Err(wrong(format!("{} has another shape in the weights", parameter.path)));
        }
        n_bad_weights.push(values.iter().filter(|value| !value.is_finite()).count());
        Ok(TensorData::new(values, parameter.shape.clone()))
    })?;
    model.check_tokens(&batch.tokens)?;
    let (losses, divisor, mut gradients) = batch_gradients(&config, &model, &batch);
    let total_grad_norm = olmo_optim::global_norm(gradients.iter().map(|(_, sum)| sum))?.value();
    let paths = config.model.parameters().into_iter().map(|parameter| parameter.path);
    let parameters = paths
        .zip(n_bad_weights)
        .map(|(path, n_bad_weights)| {
            let gradient = gradients.take(&path).map(burn::tensor::Tensor::into_data);
            let values: Vec<f32> = gradient.iter().flat_map(TensorData::iter::<f32>).collect();
            let squares = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
            let n_bad_gradients = values.iter().filter(|value| !value.is_finite()).count();
            ReplayedParameter { path, grad_norm: squares.sqrt(), n_bad_gradients, n_bad_weights }
        })
        .collect();
    let cross_entropy = losses.cross_entropy / divisor;
    Ok(Replay { step, fault, cross_entropy, total_grad_norm, parameters })
}
