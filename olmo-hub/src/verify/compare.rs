//! How far two forms of a model are apart.

use olmo_model::Parameter;
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
    let n_elements = parameter.n_elements();
    let (mut n_different, mut max_error, mut sum, mut largest) = (0, 0.0_f64, 0.0_f64, 0.0_f64);
    for start in (0..n_elements).step_by(PART) {
        let n = PART.min(n_elements - start);
        let ours = first.values(parameter, start, n)?;
        let theirs = second.values(parameter, start, n)?;
        for (a, b) in ours.iter().zip(&theirs) {
            largest = largest.max(f64::from(a.abs()));
            if a.to_bits() == b.to_bits() {
                continue;
            }
            n_different += 1;
            let error = (f64::from(*a) - f64::from(*b)).abs();
            let error = if error.is_nan() { f64::INFINITY } else { error };
            max_error = max_error.max(error);
            sum += error;
        }
    }
    let mean_error = if n_elements == 0 { 0.0 } else { sum / n_elements as f64 };
    let path = parameter.path.clone();
    Ok(TensorDifference { path, n_elements, n_different, max_error, mean_error, largest })
}
