//! The update in one pass over the host buffers of the flex device, in place.
//!
//! It reads four streams and writes three, where the tensor operations make some ten passes, and
//! allocates nothing when the tensors are not shared. Every element is computed by itself in the
//! order of operations of [`super::composed`], so the number of threads does not change the result.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::Scalars;
use crate::flex::HostTensor;

/// Elements of one task: four streams of 64 KiB, which fit a core's second-level cache.
const CHUNK: usize = 16 * 1024;

/// Weight, first and second moment after the update; see [`super::apply`].
pub(super) fn update(
    weight: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    grad: Tensor<1>,
    scalars: &Scalars,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let grad = HostTensor::new(grad);
    let (mut weight, mut exp_avg, mut exp_avg_sq) =
        (HostTensor::new(weight), HostTensor::new(exp_avg), HostTensor::new(exp_avg_sq));
    update_slices(
        weight.as_mut_slice(),
        exp_avg.as_mut_slice(),
        exp_avg_sq.as_mut_slice(),
        grad.as_slice(),
        scalars,
    );
    (weight.into_tensor(), exp_avg.into_tensor(), exp_avg_sq.into_tensor())
}

fn update_slices(
    weight: &mut [f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
    grad: &[f32],
    scalars: &Scalars,
) {
    if weight.len() <= CHUNK {
        return update_chunk(weight, exp_avg, exp_avg_sq, grad, scalars);
    }
    weight
        .par_chunks_mut(CHUNK)
        .zip(exp_avg.par_chunks_mut(CHUNK))
        .zip(exp_avg_sq.par_chunks_mut(CHUNK))
        .zip(grad.par_chunks(CHUNK))
        .for_each(|(((w, m), v), g)| update_chunk(w, m, v, g, scalars));
}

/// Written as one loop without branches or calls, which the compiler turns into vector code.
fn update_chunk(
    weight: &mut [f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
    grad: &[f32],
    scalars: &Scalars,
) {
    let s = *scalars;
    let lerp_from_grad = s.lerp_from_grad();
    let lerp = if lerp_from_grad { s.lerp - 1.0 } else { s.lerp };
    for (((w, m), v), g) in weight.iter_mut().zip(exp_avg).zip(exp_avg_sq).zip(grad) {
        let g = g * s.grad_scale;
        let base = if lerp_from_grad { g } else { *m };
        *m = (g - *m) * lerp + base;
        *v = *v * s.beta2 + g * s.one_minus_beta2 * g;
        let denominator = v.sqrt() / s.bias_correction2_sqrt + s.eps;
        *w = *w * s.keep + *m * s.minus_step_size / denominator;
    }
}
