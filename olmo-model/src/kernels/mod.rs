//! The operations that decide memory and speed, behind one backend extension trait.
//!
//! Each operation has a body composed of burn's primitives, so it runs on every backend, a
//! hand-written backward pass, so that autodiff keeps only what that pass needs, and where it pays
//! an implementation for one backend (`flex`). The functions of [`call`] are the tensor-level
//! interface; the rest of the crate calls nothing else that is backend-specific.

#![cfg_attr(
    not(any(feature = "flex", feature = "_cube", feature = "tch")),
    allow(unused_variables, dead_code, reason = "without a backend the dispatch has no arms")
)]

mod attention;
mod autodiff;
#[cfg(feature = "flex")]
mod awake;
mod call;
mod cross_entropy;
mod experts;
#[cfg(feature = "flex")]
mod flex;
mod linear;
mod norm;
mod rotary;
mod swiglu;
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(all(test, feature = "flex"))]
pub(crate) use flex::multiplies_tiles;

use std::ops::Range;

use burn::backend::tensor::{Device as BackendDevice, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata as _, backend_extension};
use burn::tensor::{BoolDType, FloatDType, IntDType, Shape};

use crate::packed::PackedMatrix;

pub(crate) use attention::AttentionSpan;
pub(crate) use call::{
    RowMap, add_normed, attention, cast, cross_entropy, expert, for_each_chunk, gated_linear,
    linear, norm, on_workers, packed_gated_linear, packed_linear, rotary, seed, sum_rows, swiglu,
    take_rows, takes_packed, three_linears, three_packed_linears, token_losses,
};
pub(crate) use cross_entropy::loss_chunks;
pub(crate) use norm::RowNorm;

/// What every backend of ours can do. Shapes are given on the functions of [`call`].
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(feature = "_cube"),
    Fusion: cfg(feature = "_fusion")
)]
pub(crate) trait Kernels: Backend {
    #[fusion(default)]
    fn olmo_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::forward::<Self>(x, weight)
    }

    /// The gradient of a product by its input.
    #[fusion(default)]
    fn olmo_linear_backward_input(
        grad: FloatTensor<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::backward_input::<Self>(grad, weight)
    }

    /// The gradient of a product by its weight.
    #[fusion(default)]
    fn olmo_linear_backward_weight(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::backward_weight::<Self>(grad, x)
    }

    /// The same in f32.
    #[fusion(default)]
    fn olmo_linear_wide_backward_weight(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::wide_backward_weight::<Self>(grad, x)
    }

    /// The same, added to a sum in f32.
    #[fusion(default)]
    fn olmo_linear_add_backward_weight(
        sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::add_backward_weight::<Self>(sum, grad, x)
    }

    /// Three products of one input.
    #[fusion(default)]
    fn olmo_three_linears(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        (Self::olmo_linear(x.clone(), a), Self::olmo_linear(x.clone(), b), Self::olmo_linear(x, c))
    }

    #[fusion(default)]
    fn olmo_gated_linear(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let gate = Self::olmo_linear(x.clone(), gate);
        Self::olmo_swiglu(gate, Self::olmo_linear(x, up))
    }

    /// The product of `x`, normalised, with a packed matrix; the next two likewise.
    #[fusion(default)]
    fn olmo_packed_linear(
        x: FloatTensor<Self>,
        #[extension_type] norm: RowNorm<Self>,
        weight: PackedMatrix,
    ) -> FloatTensor<Self> {
        let x = norm::normed::<Self>(x, norm);
        let weight = linear::unpacked::<Self>(&weight, &x);
        Self::olmo_linear(x, weight)
    }

    #[fusion(default)]
    fn olmo_three_packed_linears(
        x: FloatTensor<Self>,
        #[extension_type] norm: RowNorm<Self>,
        weights: [PackedMatrix; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let x = norm::normed::<Self>(x, norm);
        let [a, b, c] = weights.map(|weight| linear::unpacked::<Self>(&weight, &x));
        Self::olmo_three_linears(x, a, b, c)
    }

    #[fusion(default)]
    fn olmo_packed_gated_linear(
        x: FloatTensor<Self>,
        #[extension_type] norm: RowNorm<Self>,
        gate: PackedMatrix,
        up: PackedMatrix,
    ) -> FloatTensor<Self> {
        let x = norm::normed::<Self>(x, norm);
        let [gate, up] = [gate, up].map(|weight| linear::unpacked::<Self>(&weight, &x));
        Self::olmo_gated_linear(x, gate, up)
    }

    #[fusion(default)]
    fn olmo_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        span: AttentionSpan,
    ) -> FloatTensor<Self> {
        attention::forward::<Self>(q, k, v, span)
    }

    /// The gradients by queries, keys and values.
    #[fusion(default)]
    fn olmo_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        span: AttentionSpan,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        attention::backward::<Self>(q, k, v, grad, span).into()
    }

    #[fusion(default)]
    fn olmo_rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        n_heads: usize,
    ) -> FloatTensor<Self> {
        rotary::forward::<Self>(x, cos, sin, n_heads)
    }

    #[fusion(default)]
    fn olmo_rotary_backward(
        grad: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        rotary::backward::<Self>(grad, cos, sin)
    }

    #[fusion(default)]
    fn olmo_layer_norm(x: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        norm::layer_norm::<Self>(x, eps)
    }

    #[fusion(default)]
    fn olmo_layer_norm_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        norm::layer_norm_backward::<Self>(x, grad, eps)
    }

    #[fusion(default)]
    fn olmo_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
        cast_first: bool,
    ) -> FloatTensor<Self> {
        norm::rms_norm::<Self>(x, weight, eps, cast_first)
    }

    #[fusion(default)]
    fn olmo_rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm::rms_norm_backward::<Self>(x, weight, grad, eps)
    }

    /// `x` with the norm of `y` added.
    #[fusion(default)]
    fn olmo_add_normed(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        #[extension_type] norm: RowNorm<Self>,
    ) -> FloatTensor<Self> {
        Self::float_add(x, norm::normed::<Self>(y, norm))
    }

    #[fusion(default)]
    fn olmo_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        swiglu::forward::<Self>(gate, up)
    }

    #[fusion(default)]
    fn olmo_swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        swiglu::backward::<Self>(gate, up, grad)
    }

    #[fusion(default)]
    fn olmo_take_rows(
        x: FloatTensor<Self>,
        token_of_row: IntTensor<Self>,
        rows_of_token: IntTensor<Self>,
        rows_per_token: usize,
    ) -> FloatTensor<Self> {
        let _ = (rows_of_token, rows_per_token);
        experts::take_rows::<Self>(x, token_of_row)
    }

    #[fusion(default)]
    fn olmo_sum_rows(
        rows: FloatTensor<Self>,
        token_of_row: IntTensor<Self>,
        rows_of_token: IntTensor<Self>,
        rows_per_token: usize,
    ) -> FloatTensor<Self> {
        let _ = token_of_row;
        experts::sum_rows::<Self>(rows, rows_of_token, rows_per_token)
    }

    #[fusion(default)]
    fn olmo_expert(
        rows: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        w3: FloatTensor<Self>,
        range: Range<usize>,
    ) -> FloatTensor<Self> {
        experts::forward::<Self>(rows, [w1, w2, w3], range).0
    }

    /// Losses of one chunk of tokens and their gradient by the logits.
    #[fusion(default)]
    fn olmo_token_losses(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        z_loss: f64,
        with_gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cross_entropy::token_losses::<Self>(logits, targets, z_loss, with_gradient)
    }

    /// The values in another dtype of floats.
    #[fusion(default)]
    fn olmo_cast(x: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        Self::float_cast(x, dtype)
    }

    /// Every element times a number, `[1, 1]` and of the same dtype.
    #[fusion(default)]
    fn olmo_scaled(x: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_mul(x, scale)
    }

    /// Zero, with `upstream` for a gradient by `output`, whatever its own.
    #[fusion(default)]
    fn olmo_seed(output: FloatTensor<Self>, upstream: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = upstream;
        Self::float_zeros(Shape::new([1]), &output.device(), FloatDType::F32)
    }

    #[fusion(default)]
    fn olmo_cross_entropy(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        z_loss: f64,
    ) -> FloatTensor<Self> {
        cross_entropy::forward::<Self>(x, weight, targets, z_loss)
    }
}

#[cfg(feature = "tch")]
#[allow(deprecated, reason = "burn marks its LibTorch backend as deprecated; we still offer it")]
impl Kernels for burn::backend::LibTorch {}

#[cfg(feature = "_cube")]
impl Kernels for burn::backend::Cube {}

/// How the device stores truth values: GPUs have no type of one byte for them.
fn bool_dtype<B: Backend>(device: &BackendDevice<B>) -> BoolDType {
    burn::backend::get_or_init_device_settings::<B>(device).bool_dtype
}

/// What the device indexes with: libtorch knows 64 bits only.
fn int_dtype<B: Backend>(device: &BackendDevice<B>) -> IntDType {
    burn::backend::get_or_init_device_settings::<B>(device).int_dtype
}
