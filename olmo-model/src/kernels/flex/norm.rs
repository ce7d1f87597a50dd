//! Layer norm without weights and RMS norm, one pass over each row.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::element::Element;
use super::lanes::vectorized;
use super::row_blocks::{for_row_blocks, row_blocks};
use super::{from_vec, into_vec, lanes, last_dim, typed, values};

/// Rows whose contributions to a weight's gradient are summed together; fixed, so that the sum does
/// not depend on the number of threads.
const ROWS_PER_SUM: usize = 64;

pub(super) fn layer_norm<E: Element>(x: FlexTensor, eps: f64) -> FlexTensor {
    for_rows::<E>(
        x,
        #[inline(always)]
        |x, out| {
            let (mean, inverse) = mean_and_inverse_sigma(x, eps);
            for (out, x) in out.iter_mut().zip(x) {
                *out = E::narrow((x - mean) * inverse);
            }
        },
    )
}

pub(super) fn layer_norm_backward(x: FlexTensor, grad: FlexTensor, eps: f64) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let d = last_dim(&x);
    let x = x.to_contiguous();
    let x = values(&x);
    let mut grad = into_vec(grad);
    for_row_blocks(
        &mut grad,
        d,
        #[inline(always)]
        |first, block| {
            for (i, g) in block.chunks_exact_mut(d).enumerate() {
                let x = &x[(first + i) * d..][..d];
                let (mean, inverse) = mean_and_inverse_sigma(x, eps);
                let g_mean = lanes::sum(g, |g| g) / d as f32;
                let along = lanes::sum_pairs(g, x, |g, x| g * ((x - mean) * inverse)) / d as f32;
                for (g, x) in g.iter_mut().zip(x) {
                    *g = (*g - g_mean - (x - mean) * inverse * along) * inverse;
                }
            }
        },
    );
    from_vec(grad, shape)
}

#[inline(always)]
fn mean_and_inverse_sigma(x: &[f32], eps: f64) -> (f32, f32) {
    let mean = lanes::sum(x, |x| x) / x.len() as f32;
    let variance = lanes::sum(x, |x| (x - mean) * (x - mean)) / x.len() as f32;
    (mean, 1.0 / (variance + eps as f32).sqrt())
}

/// `cast_first` rounds to `E` before the product with the weight too.
pub(super) fn rms_norm<E: Element>(
    x: FlexTensor,
    weight: FlexTensor,
    eps: f64,
    cast_first: bool,
) -> FlexTensor {
    let weight = weight.to_contiguous();
    let weight: &[E] = typed(&weight);
    for_rows::<E>(
        x,
        #[inline(always)]
        |x, out| {
            let inverse = inverse_rms(x, eps);
            if cast_first {
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = E::narrow(E::narrow(x * inverse).widen() * w.widen());
                }
            } else {
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = E::narrow(x * inverse * w.widen());
                }
            }
        },
    )
}

/// Calls `f(row, out)` with each row of `x` in f32.
fn for_rows<E: Element>(x: FlexTensor, f: impl Fn(&[f32], &mut [E]) + Sync) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let d = last_dim(&x);
    let x = x.to_contiguous();
    let x: &[E] = typed(&x);
    let out = row_blocks(
        x.len(),
        d,
        #[inline(always)]
        |first, block| {
            let mut row = vec![0.0; d];
            for (i, out) in block.chunks_exact_mut(d).enumerate() {
                for (wide, x) in row.iter_mut().zip(&x[(first + i) * d..][..d]) {
                    *wide = x.widen();
                }
                f(&row, out);
            }
        },
    );
    from_vec(out, shape)
}

pub(super) fn rms_norm_backward(
    x: FlexTensor,
    weight: FlexTensor,
    grad: FlexTensor,
    eps: f64,
) -> (FlexTensor, FlexTensor) {
    let (shape, weight_shape) = (x.layout().shape().clone(), weight.layout().shape().clone());
    let d = last_dim(&x);
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let (x, weight) = (values(&x), values(&weight));
    let mut grad = into_vec(grad);
    let sums: Vec<Vec<f32>> = grad
        .par_chunks_mut(ROWS_PER_SUM * d)
        .zip(x.par_chunks(ROWS_PER_SUM * d))
        .map(|(grad, x)| {
            vectorized(
                #[inline(always)]
                || rms_norm_backward_rows(x, weight, grad, eps),
            )
        })
        .collect();
    let mut dweight = vec![0.0; d];
    for sum in &sums {
        for (total, part) in dweight.iter_mut().zip(sum) {
            *total += part;
        }
    }
    (from_vec(grad, shape), from_vec(dweight, weight_shape))
}

/// Turns each row of `grad` into the gradient by `x`; returns the gradient by the weight.
#[inline(always)]
fn rms_norm_backward_rows(x: &[f32], weight: &[f32], grad: &mut [f32], eps: f64) -> Vec<f32> {
    let d = weight.len();
    let mut dweight = vec![0.0; d];
    for (g, x) in grad.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
        let inverse = inverse_rms(x, eps);
        for (((sum, g), x), w) in dweight.iter_mut().zip(g.iter_mut()).zip(x).zip(weight) {
            *sum += *g * (x * inverse);
            *g *= w;
        }
        let along = lanes::sum_pairs(g, x, |h, x| h * (x * inverse)) / d as f32;
        for (g, x) in g.iter_mut().zip(x) {
            *g = (*g - x * inverse * along) * inverse;
        }
    }
    dweight
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f64) -> f32 {
    let mean = lanes::sum(x, |x| x * x) / x.len() as f32;
    1.0 / (mean + eps as f32).sqrt()
}
