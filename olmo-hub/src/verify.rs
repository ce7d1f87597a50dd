//! Whether a model folder is sound, and whether two are the same model.
//!
//! The digest of a model is SHA-256 over its parameters in the order of
//! [`ModelConfig::parameters`](olmo_model::ModelConfig::parameters): path, shape, and the SHA-256
//! of the values as little-endian f32. It does not depend on names, fusions, shards or the dtype
//! of the files, so that two forms of a model are told to be one.

mod compare;
mod tokenizer;

use std::path::Path;

use olmo_model::Parameter;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::dtype::Dtype;
use crate::error::{Error, FolderProblem, Result};
use crate::layout::Layout;
use crate::read::ModelFolder;

pub use compare::{Comparison, TensorDifference, compare, compare_quantized};

/// Elements that are read at a time.
pub(crate) const PART: usize = 1 << 20;

/// What was found in a model folder.
#[derive(Debug, Clone)]
pub struct Verification {
    /// Everything that is wrong, a sentence each; none where the folder is sound.
    pub problems: Vec<String>,
    /// The digest of the weights in hexadecimal, `None` where not all of them could be read.
    pub digest: Option<String>,
    /// Tensors that the model has by its configuration, as our modules have them.
    pub n_parameters: usize,
    /// Elements of all of them.
    pub n_elements: usize,
    /// The dtype of the weights in the files, the widest where they differ.
    pub dtype: Dtype,
    /// How they are named and fused.
    pub layout: Layout,
}

/// Reads every weight of a folder and lists every problem; `progress` is told of each parameter's
/// elements once they are read.
///
/// # Errors
///
/// Only where the configuration cannot be read, without which nothing can be checked.
pub fn verify(dir: impl AsRef<Path>, progress: impl Fn(u64) + Sync) -> Result<Verification> {
    let mut found = Vec::new();
    let folder = ModelFolder::examine(dir.as_ref(), &mut found)?;
    let mut problems: Vec<String> = found.iter().map(ToString::to_string).collect();
    problems.extend(folder.notes().iter().cloned());
    let parameters = folder.model_config().parameters();
    let scanned: Vec<Option<Scan>> = parameters
        .par_iter()
        .map(|parameter| {
            let scan = Scan::of(&folder, parameter);
            progress(parameter.n_elements() as u64);
            scan
        })
        .collect();
    for (parameter, scan) in parameters.iter().zip(&scanned) {
        problems.extend(scan.as_ref().and_then(|scan| scan.problem(parameter)));
    }
    if let Err(error @ (Error::TiedHead { .. } | Error::Io { .. })) = folder.check_tied_output() {
        problems.push(error.to_string());
    }
    problems.extend(tokenizer::problems(&folder));
    let is_whole = found.iter().all(|problem| matches!(problem, FolderProblem::Extra { .. }));
    Ok(Verification {
        digest: digest(&parameters, &scanned).filter(|_| is_whole),
        problems,
        n_parameters: parameters.len(),
        n_elements: parameters.iter().map(Parameter::n_elements).sum(),
        dtype: folder.stored_dtype(),
        layout: folder.layout(),
    })
}

/// What one pass over a parameter's values told.
struct Scan {
    digest: [u8; 32],
    n_bad: usize,
    first_bad: Option<(usize, f32)>,
    error: Option<String>,
}

impl Scan {
    /// `None` where the parameter is not there, which the folder's own problems say.
    fn of(folder: &ModelFolder, parameter: &Parameter) -> Option<Self> {
        let mut hasher = Sha256::new();
        let mut scan = Self { digest: [0; 32], n_bad: 0, first_bad: None, error: None };
        let n_elements = parameter.n_elements();
        folder.stored(parameter).ok()?;
        for first in (0..n_elements).step_by(PART) {
            let values = match folder.values(parameter, first, PART.min(n_elements - first)) {
                Ok(values) => values,
                Err(error) => {
                    scan.error = Some(error.to_string());
                    return Some(scan);
                }
            };
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            hasher.update(&bytes);
            for (index, value) in values.iter().enumerate().filter(|(_, v)| !v.is_finite()) {
                scan.n_bad += 1;
                scan.first_bad.get_or_insert((first + index, *value));
            }
        }
        scan.digest = hasher.finalize().into();
        Some(scan)
    }

    fn problem(&self, parameter: &Parameter) -> Option<String> {
        if self.error.is_some() {
            return self.error.clone();
        }
        let (index, value) = self.first_bad?;
        let (path, n_bad) = (&parameter.path, self.n_bad);
        Some(format!("{path}: {n_bad} values are not finite, the first is {value} at {index}"))
    }
}

fn digest(parameters: &[Parameter], scanned: &[Option<Scan>]) -> Option<String> {
    let mut whole = Sha256::new();
    for (parameter, scan) in parameters.iter().zip(scanned) {
        let scan = scan.as_ref().filter(|scan| scan.error.is_none())?;
        let Parameter { path, shape, .. } = parameter;
        whole.update(format!("{path} {shape:?}\n"));
        whole.update(scan.digest);
    }
    Some(format!("{:x}", whole.finalize()))
}
