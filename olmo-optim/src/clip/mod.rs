//! Clipping by the global norm of the gradients.
//!
//! torch's `clip_grad_norm_` (torch 2.9), which OLMo's `Optimizer.clip_grads_and_collect_metrics`
//! (olmo/optim.py) repeats: `coefficient = min(1, max_norm / (norm + 1e-6))`, where `norm` is the L2
//! norm over all gradients. Differences, both deliberate:
//!
//! - the gradients are not multiplied here; [`crate::UpdateOptions::grad_scale`] takes the
//!   coefficient into the update;
//! - torch sums in f32. Here the sums over the elements are f64 on the flex device and f32 on the
//!   others, and the sum over the tensors is f64.

mod adaptive;

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::Error;

pub use adaptive::AdaptiveClip;

/// The L2 norm of a set of gradients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GradNorm {
    /// A number.
    Finite(f64),
    /// Infinity or not a number: some gradient overflowed or came out of an invalid operation.
    /// Clipping cannot repair it; skip the step or stop.
    NonFinite(f64),
}

impl GradNorm {
    /// The norm of gradients whose squares have this sum, e.g. the sum over all ranks of
    /// [`sums_of_squares`] of their shards.
    pub fn from_sum_of_squares(sum: f64) -> Self {
        let norm = sum.sqrt();
        if norm.is_finite() { Self::Finite(norm) } else { Self::NonFinite(norm) }
    }

    /// The norm as a number, infinite or NaN where it is not finite.
    pub fn value(self) -> f64 {
        match self {
            Self::Finite(norm) | Self::NonFinite(norm) => norm,
        }
    }

    /// The norm if it is finite.
    pub fn finite(self) -> Option<f64> {
        match self {
            Self::Finite(norm) => Some(norm),
            Self::NonFinite(_) => None,
        }
    }
}

/// The L2 norm over all elements of all gradients; 0 for none.
///
/// # Errors
///
/// See [`sums_of_squares`].
pub fn global_norm<'a>(grads: impl IntoIterator<Item = &'a Tensor<1>>) -> Result<GradNorm, Error> {
    let sums = sums_of_squares(grads)?;
    Ok(GradNorm::from_sum_of_squares(sums.iter().sum()))
}

/// The sum of squares of each gradient, in order: for the norms of single parameters, and for the
/// global norm of gradients that are spread over ranks.
///
/// On the flex device the values are read in place, in parallel, with a result that does not depend
/// on the number of threads. On other devices each sum is computed there and all are read at once.
///
/// # Errors
///
/// [`Error::DType`] for a gradient that is not f32, [`Error::Read`] if the device fails.
pub fn sums_of_squares<'a>(
    grads: impl IntoIterator<Item = &'a Tensor<1>>,
) -> Result<Vec<f64>, Error> {
    let mut sums = Vec::new();
    // Sums still on their device, with their places in `sums`.
    let mut pending: Vec<(usize, Tensor<1>)> = Vec::new();
    for (i, grad) in grads.into_iter().enumerate() {
        if grad.dtype() != DType::F32 {
            let found = format!("{:?}", grad.dtype()).to_lowercase();
            return Err(Error::DType {
                path: format!("gradient {i}"),
                tensor: "grad".into(),
                found,
            });
        }
        let host_sum = host_sum_of_squares(grad);
        sums.push(host_sum.unwrap_or(0.0));
        if host_sum.is_none() && grad.dims()[0] > 0 {
            pending.push((i, device_sum_of_squares(grad)));
        }
    }
    if let Some(device) = pending.first().map(|(_, sum)| sum.device()) {
        let (places, scalars): (Vec<usize>, Vec<Tensor<1>>) =
            pending.into_iter().map(|(place, sum)| (place, sum.to_device(&device))).unzip();
        for (place, sum) in places.into_iter().zip(read(Tensor::cat(scalars, 0))?) {
            sums[place] = f64::from(sum);
        }
    }
    Ok(sums)
}

/// The factor that brings gradients of norm `norm` to at most `max_norm`, never above 1.
///
/// To the bit torch's for the same `norm`: computed in f32, as the reciprocal of `norm + 1e-6`
/// times `max_norm`. A NaN norm gives NaN and an infinite one 0, as in torch; see [`GradNorm`] to
/// find out before.
pub fn clip_coefficient(norm: f64, max_norm: f64) -> f64 {
    let coefficient = (norm as f32 + 1e-6).recip() * max_norm as f32;
    // Not `min`, which would turn NaN into 1.
    f64::from(if coefficient > 1.0 { 1.0 } else { coefficient })
}

/// The largest gradient norm allowed at a step, which OLMo 7B raises at the start of a run
/// (`Scheduler.get_max_grad_norm` in olmo/optim.py).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradNormLimit {
    /// The limit after the warmup.
    pub max_norm: f64,
    /// The last step of the warmup, in the unit of the schedule (steps or tokens); `None` for none.
    #[serde(default)]
    pub warmup_steps: Option<u64>,
    /// The limit is `max_norm` times this during the warmup; `None` for 1.
    #[serde(default)]
    pub warmup_factor: Option<f64>,
}

impl GradNormLimit {
    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with every problem found.
    pub fn validate(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        let factor = self.warmup_factor.unwrap_or(1.0);
        for (name, value) in [("max_norm", self.max_norm), ("warmup_factor", factor)] {
            if !(value.is_finite() && value > 0.0) {
                problems.push(format!("{name} is {value}, expected a finite number above 0"));
            }
        }
        Error::unless_valid("gradient norm limit", problems)
    }

    /// The limit at `step`, counted as in [`crate::Schedule::at`].
    pub fn at(&self, step: u64) -> f64 {
        match (self.warmup_steps, self.warmup_factor) {
            (Some(warmup_steps), Some(factor)) if step <= warmup_steps => factor * self.max_norm,
            _ => self.max_norm,
        }
    }
}

fn device_sum_of_squares(grad: &Tensor<1>) -> Tensor<1> {
    let grad = grad.clone().inner();
    (grad.clone() * grad).sum()
}

fn read(tensor: Tensor<1>) -> Result<Vec<f32>, Error> {
    let failed = |reason: String| Error::Read { what: "the norms of the gradients", reason };
    let data = tensor.try_into_data().map_err(|e| failed(e.to_string()))?;
    data.try_into_vec().map_err(|e| failed(e.to_string()))
}

#[cfg(not(feature = "flex"))]
fn host_sum_of_squares(_grad: &Tensor<1>) -> Option<f64> {
    None
}

/// The sum for a tensor on the flex device, `None` for another.
#[cfg(feature = "flex")]
fn host_sum_of_squares(grad: &Tensor<1>) -> Option<f64> {
    use rayon::prelude::*;

    use crate::flex::{HostTensor, is_flex};

    /// Elements of one task. Fixed, so that the sum does not depend on the number of threads.
    const CHUNK: usize = 64 * 1024;

    if !is_flex(grad) {
        return None;
    }
    let host = HostTensor::new(grad.clone());
    let values = host.as_slice();
    if values.len() <= CHUNK {
        return Some(chunk_sum_of_squares(values));
    }
    let partial: Vec<f64> = values.par_chunks(CHUNK).map(chunk_sum_of_squares).collect();
    Some(partial.iter().sum())
}

/// Sums in f64, in eight lanes that the compiler can keep in vector registers.
#[cfg(feature = "flex")]
fn chunk_sum_of_squares(values: &[f32]) -> f64 {
    let (blocks, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0_f64; 8];
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    let rest: f64 = rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(feature = "flex")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::tensor;

    #[test]
    fn the_norm_is_over_all_tensors() {
        let grads = [tensor(&[3.0, 0.0]), tensor(&[-4.0]), tensor(&[])];
        assert_eq!(global_norm(&grads).unwrap(), GradNorm::Finite(5.0));
        assert_eq!(global_norm([]).unwrap(), GradNorm::Finite(0.0));
        assert_eq!(sums_of_squares(&grads).unwrap(), [9.0, 16.0, 0.0]);
    }

    #[test]
    fn a_long_tensor_is_summed_to_f64_accuracy() {
        let n = 1_000_003_u32;
        let values: Vec<f32> = (0..n).map(|i| 1.0 + (i % 7) as f32 * 0.25).collect();
        // Every square is a multiple of 1/16 and the sum is far below 2^53 of them: exact in f64.
        let expected: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert_eq!(sums_of_squares([&tensor(&values)]).unwrap(), [expected]);
    }

    #[test]
    fn the_sum_does_not_depend_on_the_number_of_threads() {
        let values: Vec<f32> = (0..300_000_u32).map(|i| (i as f32).sin() * 1e-3).collect();
        let grad = tensor(&values);
        let sum_with = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| sums_of_squares([&grad]).unwrap()[0].to_bits())
        };
        assert_eq!(sum_with(1), sum_with(3));
    }

    #[test]
    fn the_device_sum_agrees_with_the_host_sum() {
        let values: Vec<f32> = (0..10_000_u32).map(|i| (i as f32).cos()).collect();
        let grad = tensor(&values);
        let device = f64::from(read(device_sum_of_squares(&grad)).unwrap()[0]);
        let host = host_sum_of_squares(&grad).unwrap();
        assert!((device - host).abs() <= 1e-6 * host, "{device} on the device, {host} on the host");
    }

    #[test]
    fn squares_beyond_f32_do_not_overflow() {
        let norm = global_norm([&tensor(&[3e30, 4e30])]).unwrap().finite().unwrap();
        assert!((norm - 5e30).abs() < 1e24, "{norm}");
    }

    #[test]
    fn a_norm_that_is_not_finite_is_reported() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let norm = global_norm([&tensor(&[1.0]), &tensor(&[0.0, value])]).unwrap();
            assert!(matches!(norm, GradNorm::NonFinite(_)), "{value}: {norm:?}");
            assert_eq!(norm.finite(), None);
        }
        assert!(clip_coefficient(f64::NAN, 1.0).is_nan());
        assert_eq!(clip_coefficient(f64::INFINITY, 1.0).to_bits(), 0);
    }

    #[test]
    fn only_f32_is_summed() {
        let error = sums_of_squares([&tensor(&[1.0]).cast(DType::BF16)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gradient 0: grad is bf16, expected f32: cast it before the update"
        );
    }

    #[test]
    fn a_limit_lists_all_its_problems() {
        let limit = GradNormLimit { max_norm: 0.0, warmup_steps: None, warmup_factor: Some(-1.0) };
        let message = limit.validate().unwrap_err().to_string();
        assert!(message.contains("max_norm is 0") && message.contains("warmup_factor is -1"));
        let limit = GradNormLimit { max_norm: 1.0, warmup_steps: None, warmup_factor: None };
        assert_eq!(limit.validate(), Ok(()));
    }
}
