//! Kernels for burn's CPU backend, in f32.
//!
//! Composed of burn's operations, a norm or a softmax reads and writes its tensor five to ten
//! times; here it is one pass over rows that are in cache, shared among the threads. Where the
//! operand is not f32, the composed form is used. Results do not depend on the number of threads.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined into the dispatched function is compiled without its instructions"
)]

mod dot;
mod element;
mod lanes;
mod linear;
mod norm;
mod rotary;
mod softmax;
mod swiglu;
mod token_losses;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape, TensorData};
use rayon::prelude::*;

use super::{AttentionRows, Kernels};

impl Kernels for Flex {
    fn olmo_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let [y] = linear::linears(x, [weight]);
        y
    }

    fn olmo_three_linears(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        linear::linears(x, [a, b, c]).into()
    }

    fn olmo_gated_linear(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::gated(x, gate, up)
    }

    fn olmo_dequantize(values: IntTensor<Self>, scales: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::dequantize(values, scales)
    }

    fn olmo_quantized_linear(
        x: FloatTensor<Self>,
        values: IntTensor<Self>,
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [y] = linear::quantized_linears(x, [(values, scales)]);
        y
    }

    fn olmo_three_quantized_linears(
        x: FloatTensor<Self>,
        a_values: IntTensor<Self>,
        a_scales: FloatTensor<Self>,
        b_values: IntTensor<Self>,
        b_scales: FloatTensor<Self>,
        c_values: IntTensor<Self>,
        c_scales: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let weights = [(a_values, a_scales), (b_values, b_scales), (c_values, c_scales)];
        linear::quantized_linears(x, weights).into()
    }

    fn olmo_quantized_gated_linear(
        x: FloatTensor<Self>,
        gate_values: IntTensor<Self>,
        gate_scales: FloatTensor<Self>,
        up_values: IntTensor<Self>,
        up_scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::quantized_gated(x, [(gate_values, gate_scales), (up_values, up_scales)])
    }

    fn olmo_masked_softmax(scores: FloatTensor<Self>, rows: AttentionRows) -> FloatTensor<Self> {
        if !all_f32(&[&scores]) {
            return super::attention::masked_softmax::<Self>(scores, rows);
        }
        softmax::masked(scores, rows)
    }

    fn olmo_masked_softmax_backward(
        probabilities: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&probabilities, &grad]) {
            return super::attention::masked_softmax_backward::<Self>(probabilities, grad, scale);
        }
        softmax::masked_backward(probabilities, grad, scale)
    }

    fn olmo_rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        n_heads: usize,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&x, &cos, &sin]) {
            return super::rotary::forward::<Self>(x, cos, sin, n_heads);
        }
        rotary::forward(x, cos, sin, n_heads)
    }

    fn olmo_rotary_backward(
        grad: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&grad, &cos, &sin]) {
            return super::rotary::backward::<Self>(grad, cos, sin);
        }
        rotary::backward(grad, cos, sin)
    }

    fn olmo_layer_norm(x: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return super::norm::layer_norm::<Self>(x, eps);
        }
        norm::layer_norm(x, eps)
    }

    fn olmo_layer_norm_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&x, &grad]) {
            return super::norm::layer_norm_backward::<Self>(x, grad, eps);
        }
        norm::layer_norm_backward(x, grad, eps)
    }

    fn olmo_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
        cast_first: bool,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&x, &weight]) {
            return super::norm::rms_norm::<Self>(x, weight, eps, cast_first);
        }
        norm::rms_norm(x, weight, eps)
    }

    fn olmo_rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&x, &weight, &grad]) {
            return super::norm::rms_norm_backward::<Self>(x, weight, grad, eps);
        }
        norm::rms_norm_backward(x, weight, grad, eps)
    }

    fn olmo_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&gate, &up]) {
            return super::swiglu::forward::<Self>(gate, up);
        }
        swiglu::forward(gate, up)
    }

    fn olmo_swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&gate, &up, &grad]) {
            return super::swiglu::backward::<Self>(gate, up, grad);
        }
        swiglu::backward(gate, up, grad)
    }

    fn olmo_token_losses(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        z_loss: f64,
        with_gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&logits]) || targets.dtype() != DType::I32 {
            return super::cross_entropy::token_losses::<Self>(
                logits,
                targets,
                z_loss,
                with_gradient,
            );
        }
        token_losses::token_losses(logits, targets, z_loss, with_gradient)
    }
}

/// Elements below which a second thread costs more than it saves.
const PARALLEL_ELEMENTS: usize = 16 * 1024;

fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The elements in row-major order, without a copy where the tensor has the only handle to them.
fn into_vec(x: FlexTensor) -> Vec<f32> {
    x.into_data().try_into_vec().expect("callers hold f32 tensors")
}

/// The elements in row-major order, to read.
fn values(x: &FlexTensor) -> &[f32] {
    x.as_slice().expect("callers hold contiguous f32 tensors")
}

fn from_vec<E: element::Element>(values: Vec<E>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

fn last_dim(x: &FlexTensor) -> usize {
    let shape = x.layout().shape();
    shape[shape.num_dims() - 1]
}

/// Calls `f(first_row, rows)` for blocks of whole rows of `out`, in parallel where that pays.
///
/// `f` runs with the widest vector instructions of the machine enabled.
fn for_row_blocks(out: &mut [f32], row: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.is_empty() {
        return;
    }
    let rows_per_block = (PARALLEL_ELEMENTS / row).max(1);
    let run = |(block, rows): (usize, &mut [f32])| {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || f(block * rows_per_block, rows),
        );
    };
    if out.len() < 2 * PARALLEL_ELEMENTS {
        out.chunks_mut(rows_per_block * row).enumerate().for_each(run);
    } else {
        out.par_chunks_mut(rows_per_block * row).enumerate().for_each(run);
    }
}
