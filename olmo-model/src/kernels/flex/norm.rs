//! Layer norm without weights and RMS norm, one pass over each row.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps as _;
use burn::tensor::DType;
use half::{bf16, f16};
use rayon::prelude::*;

use super::super::RowNorm;
use super::element::Element;
use super::lanes::vectorized;
use super::row_blocks::{for_row_blocks, row_blocks};
use super::widen::is_float;
use super::{from_vec, into_vec, lanes, last_dim, typed, values};

/// Rows whose contributions to a weight's gradient are summed together; fixed, so that the sum does
/// not depend on the number of threads.
const ROWS_PER_SUM: usize = 64;

/// A norm of rows whose elements are `E`.
#[derive(Clone, Copy)]
pub(super) enum Normalize<'a, E> {
    /// Layer norm without weights.
    Layer { eps: f64 },
    /// `cast_first` rounds to `E` before the product with the weight too.
    Rms { weight: &'a [E], eps: f64, cast_first: bool },
}

impl RowNorm<Flex> {
    /// Whether rows of a type are normalised here: the weight is of the same.
    pub(super) fn takes(&self, dtype: DType) -> bool {
        match self {
            Self::Rms { weight, .. } => is_float(dtype) && weight.dtype() == dtype,
            _ => is_float(dtype),
        }
    }

    pub(super) fn to_contiguous(&self) -> Self {
        let mut norm = self.clone();
        if let Self::Rms { weight, .. } = &mut norm {
            *weight = weight.to_contiguous();
        }
        norm
    }

    /// The norm of rows of the type that it [`takes`](Self::takes), from contiguous weights.
    pub(super) fn of<E: Element>(&self) -> Option<Normalize<'_, E>> {
        match self {
            Self::None => None,
            Self::Layer { eps } => Some(Normalize::Layer { eps: *eps }),
            Self::Rms { weight, eps, cast_first } => {
                let (weight, eps, cast_first) = (typed(weight), *eps, *cast_first);
                Some(Normalize::Rms { weight, eps, cast_first })
            }
        }
    }
}

impl<E: Element> Normalize<'_, E> {
    /// Writes the norm of a row, widened, as `form` makes of each element.
    #[inline(always)]
    pub(super) fn write<T>(&self, x: &[f32], out: &mut [T], form: impl Fn(E) -> T) {
        match *self {
            Self::Layer { eps } => {
                let (mean, inverse) = mean_and_inverse_sigma(x, eps);
                for (out, x) in out.iter_mut().zip(x) {
                    *out = form(E::narrow((x - mean) * inverse));
                }
            }
            Self::Rms { weight, eps, cast_first: true } => {
                let inverse = inverse_rms(x, eps);
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = form(E::narrow(E::narrow(x * inverse).widen() * w.widen()));
                }
            }
            Self::Rms { weight, eps, cast_first: false } => {
                let inverse = inverse_rms(x, eps);
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = form(E::narrow(x * inverse * w.widen()));
                }
            }
        }
    }
}

/// The norm of each row.
pub(super) fn normed(x: FlexTensor, norm: RowNorm<Flex>) -> FlexTensor {
    fn run<E: Element>(x: FlexTensor, norm: &RowNorm<Flex>) -> FlexTensor {
        match norm.to_contiguous().of::<E>() {
            Some(norm) => normed_rows(&x, norm),
            None => x,
        }
    }
    match x.dtype() {
        dtype if !norm.takes(dtype) => composed(x, norm),
        DType::F16 => run::<f16>(x, &norm),
        DType::BF16 => run::<bf16>(x, &norm),
        _ => run::<f32>(x, &norm),
    }
}

/// The same of burn's operations.
fn composed(x: FlexTensor, norm: RowNorm<Flex>) -> FlexTensor {
    match norm {
        RowNorm::None => x,
        RowNorm::Layer { eps } => super::super::norm::layer_norm::<Flex>(x, eps),
        RowNorm::Rms { weight, eps, cast_first } => {
            super::super::norm::rms_norm::<Flex>(x, weight, eps, cast_first)
        }
    }
}

fn normed_rows<E: Element>(x: &FlexTensor, norm: Normalize<'_, E>) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let d = last_dim(x);
    let x = x.to_contiguous();
    let x: &[E] = typed(&x);
    let out = row_blocks(
        x.len(),
        d,
        #[inline(always)]
        |first, block: &mut [E]| {
            let mut row = vec![0.0; d];
            for (i, out) in block.chunks_exact_mut(d).enumerate() {
                widen_row(&x[(first + i) * d..][..d], &mut row);
                norm.write(&row, out, |x| x);
            }
        },
    );
    from_vec(out, shape)
}

/// `x` with the norm of `y` added, in the memory of `x` where nothing else needs it.
pub(super) fn add_normed(x: FlexTensor, y: FlexTensor, norm: RowNorm<Flex>) -> FlexTensor {
    let dtype = x.dtype();
    let norm = norm.to_contiguous();
    match dtype {
        _ if y.dtype() != dtype || !norm.takes(dtype) => Flex::float_add(x, normed(y, norm)),
        DType::F16 => add_normed_rows::<f16>(x, y, norm.of()),
        DType::BF16 => add_normed_rows::<bf16>(x, y, norm.of()),
        _ => add_normed_rows::<f32>(x, y, norm.of()),
    }
}

fn add_normed_rows<E: Element>(
    x: FlexTensor,
    y: FlexTensor,
    norm: Option<Normalize<'_, E>>,
) -> FlexTensor {
    let Some(norm) = norm else { return Flex::float_add(x, y) };
    let shape = x.layout().shape().clone();
    let d = last_dim(&x);
    let y = y.to_contiguous();
    let y: &[E] = typed(&y);
    let mut sums: Vec<E> = x.into_data().try_into_vec().expect("callers hold tensors of `E`");
    for_row_blocks(
        &mut sums,
        d,
        #[inline(always)]
        |first, block| {
            let (mut row, mut normed) = (vec![0.0; d], vec![0.0; d]);
            for (i, sums) in block.chunks_exact_mut(d).enumerate() {
                widen_row(&y[(first + i) * d..][..d], &mut row);
                norm.write(&row, &mut normed, E::widen);
                for (sum, y) in sums.iter_mut().zip(&normed) {
                    *sum = E::narrow(sum.widen() + y);
                }
            }
        },
    );
    from_vec(sums, shape)
}

#[inline(always)]
pub(super) fn widen_row<E: Element>(x: &[E], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = x.widen();
    }
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
