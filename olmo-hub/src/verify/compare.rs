//! How far two forms of a model are apart.

use burn::tensor::Device;
use olmo_model::packed::PackedMatrix;
use olmo_model::{Parameter, Quantization};
use rayon::prelude::*;

use super::PART;
use crate::error::{Error, FieldProblem, Problems, Result};
use crate::read::ModelFolder;

/// How far two models are apart.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Every parameter, in module order.
    pub tensors: Vec<TensorDifference>,
}

/// How far one parameter is apart in two models.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorDifference {
    /// The parameter.
    pub path: String,
    /// Elements.
    pub n_elements: usize,
    /// Elements that differ.
    pub n_different: usize,
    /// The largest difference; infinite where a value is not finite in one and not the same in
    /// the other.
    pub max_error: f64,
    /// The sum of all differences over the elements.
    pub mean_error: f64,
    /// The largest magnitude in the first model, to see errors beside.
    pub largest: f64,
}

impl Comparison {
    /// Elements that differ, in all parameters.
    pub fn n_different(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.n_different).sum()
    }

    /// The largest difference of any parameter.
    pub fn max_error(&self) -> f64 {
        self.tensors.iter().fold(0.0, |max, tensor| tensor.max_error.max(max))
    }
}

/// Compares two folders parameter by parameter, whatever their forms; `progress` is told of each
/// parameter's elements once they are compared.
///
/// # Errors
///
/// [`Error::OtherModel`] where a parameter is in one only or of another shape; [`Error::Io`].
pub fn compare(
    first: &ModelFolder,
    second: &ModelFolder,
    progress: impl Fn(u64) + Sync,
) -> Result<Comparison> {
    let parameters = first.model_config().parameters();
    let others = second.model_config().parameters();
    check_same(&parameters, &others, second)?;
    let tensors: Result<Vec<TensorDifference>> = parameters
        .par_iter()
        .map(|parameter| {
            let difference = difference(first, second, parameter)?;
            progress(parameter.n_elements() as u64);
            Ok(difference)
        })
        .collect();
    Ok(Comparison { tensors: tensors? })
}

fn check_same(first: &[Parameter], second: &[Parameter], folder: &ModelFolder) -> Result<()> {
    let shown = |list: &[Parameter], path: &str| {
        let found = list.iter().find(|parameter| parameter.path == path);
        found.map_or("absent".to_owned(), |parameter| format!("{:?}", parameter.shape))
    };
    let paths = first.iter().chain(second).map(|parameter| parameter.path.as_str());
    let mut problems: Vec<FieldProblem> = Vec::new();
    for path in paths {
        let (expected, found) = (shown(first, path), shown(second, path));
        if expected != found && problems.iter().all(|problem| problem.field != path) {
            problems.push(FieldProblem { field: path.to_owned(), found, expected });
        }
        if problems.len() > 20 {
            break;
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::OtherModel { path: folder.path().to_owned(), problems: Problems(problems) })
}

fn difference(
    first: &ModelFolder,
    second: &ModelFolder,
    parameter: &Parameter,
) -> Result<TensorDifference> {
    let mut differences = TensorDifference::none(parameter);
    for start in (0..parameter.n_elements()).step_by(PART) {
        let n = PART.min(parameter.n_elements() - start);
        let ours = first.values(parameter, start, n)?;
        differences.add(&ours, &second.values(parameter, start, n)?);
    }
    Ok(differences)
}

/// Compares a model with itself in 8 or 4 bits an element; what stays as it is does not differ.
///
/// # Errors
///
/// [`Error::Io`], or [`Error::Model`] where a matrix cannot be quantised.
pub fn compare_quantized(
    folder: &ModelFolder,
    device: &Device,
    to: Quantization,
    progress: impl Fn(u64) + Sync,
) -> Result<Comparison> {
    let model_error = |source| Error::Model { path: folder.path().to_owned(), source };
    let compared = |parameter: &Parameter| {
        let mut differences = TensorDifference::none(parameter);
        let values = folder.values(parameter, 0, parameter.n_elements())?;
        if let ([d_out, d_in], true) = (&parameter.shape[..], Quantization::applies_to(parameter)) {
            let matrix = PackedMatrix::quantized(&values, [*d_out, *d_in], to, device);
            let found = matrix.map_err(model_error)?.unpacked();
            differences.add(&values, &found.iter::<f32>().collect::<Vec<_>>());
        } else {
            differences.add(&values, &values);
        }
        progress(parameter.n_elements() as u64);
        Ok(differences)
    };
    // One after another: a matrix is in memory three times while it is compared.
    let tensors: Result<_> = folder.model_config().parameters().iter().map(compared).collect();
    Ok(Comparison { tensors: tensors? })
}

impl TensorDifference {
    fn none(parameter: &Parameter) -> Self {
        Self {
            path: parameter.path.clone(),
            n_elements: 0,
            n_different: 0,
            max_error: 0.0,
            mean_error: 0.0,
            largest: 0.0,
        }
    }

    /// Counts more elements in.
    fn add(&mut self, ours: &[f32], theirs: &[f32]) {
        let mut sum = self.mean_error * self.n_elements as f64;
        for (a, b) in ours.iter().zip(theirs) {
            self.largest = self.largest.max(f64::from(a.abs()));
            if a.to_bits() == b.to_bits() {
                continue;
            }
            self.n_different += 1;
            let error = (f64::from(*a) - f64::from(*b)).abs();
            let error = if error.is_nan() { f64::INFINITY } else { error };
            self.max_error = self.max_error.max(error);
            sum += error;
        }
        self.n_elements += ours.len();
        if self.n_elements > 0 {
            self.mean_error = sum / self.n_elements as f64;
        }
    }
}
