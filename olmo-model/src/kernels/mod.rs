//! The operations that decide memory and speed, behind one backend extension trait.
//!
//! Each operation has a body composed of burn's primitives, so it runs on every backend, a
//! hand-written backward pass, so that autodiff keeps only what that pass needs, and where it pays
//! an implementation for one backend (`flex`). The functions here are the tensor-level interface;
//! the rest of the crate calls nothing else that is backend-specific.

#![cfg_attr(
    not(any(feature = "flex", feature = "cube", feature = "tch")),
    allow(unused_variables, dead_code, reason = "without a backend the dispatch has no arms")
)]

mod attention;
mod autodiff;
mod cross_entropy;
mod experts;
#[cfg(feature = "flex")]
mod flex;
mod linear;
mod norm;
mod quantized;
mod rotary;
mod swiglu;
#[cfg(all(test, feature = "flex"))]
mod tests;

use std::ops::Range;

use burn::backend::tensor::{Device as BackendDevice, FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{BoolDType, Device, Int, Tensor};

use crate::quantized::QuantizedMatrix;

pub(crate) use attention::{AttentionRows, AttentionSpan};

/// What every backend of ours can do. Shapes are given on the functions of the same names below.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub(crate) trait Kernels: Backend {
    #[fusion(default)]
    fn olmo_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::forward::<Self>(x, weight)
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

    #[fusion(default)]
    fn olmo_dequantize(values: IntTensor<Self>, scales: FloatTensor<Self>) -> FloatTensor<Self> {
        quantized::dequantize::<Self>(values, scales)
    }

    #[fusion(default)]
    fn olmo_quantized_linear(
        x: FloatTensor<Self>,
        values: IntTensor<Self>,
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::olmo_linear(x, Self::olmo_dequantize(values, scales))
    }

    #[fusion(default)]
    fn olmo_three_quantized_linears(
        x: FloatTensor<Self>,
        a_values: IntTensor<Self>,
        a_scales: FloatTensor<Self>,
        b_values: IntTensor<Self>,
        b_scales: FloatTensor<Self>,
        c_values: IntTensor<Self>,
        c_scales: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let a = Self::olmo_dequantize(a_values, a_scales);
        let b = Self::olmo_dequantize(b_values, b_scales);
        Self::olmo_three_linears(x, a, b, Self::olmo_dequantize(c_values, c_scales))
    }

    #[fusion(default)]
    fn olmo_quantized_gated_linear(
        x: FloatTensor<Self>,
        gate_values: IntTensor<Self>,
        gate_scales: FloatTensor<Self>,
        up_values: IntTensor<Self>,
        up_scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let gate = Self::olmo_dequantize(gate_values, gate_scales);
        Self::olmo_gated_linear(x, gate, Self::olmo_dequantize(up_values, up_scales))
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

    /// Scaled, masked softmax over the last dimension of one chunk's scores, in f32.
    #[fusion(default)]
    fn olmo_masked_softmax(scores: FloatTensor<Self>, rows: AttentionRows) -> FloatTensor<Self> {
        attention::masked_softmax::<Self>(scores, rows)
    }

    /// The gradient by the scores, from the f32 probabilities and the gradient by them.
    #[fusion(default)]
    fn olmo_masked_softmax_backward(
        probabilities: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        attention::masked_softmax_backward::<Self>(probabilities, grad, scale)
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

#[cfg(feature = "cube")]
impl Kernels for burn::backend::Cube {}

/// `x` times the transpose of `weight`: `[batch, seq, d_in]` and `[d_out, d_in]` give
/// `[batch, seq, d_out]`.
pub(crate) fn linear(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::olmo_linear(x.into_dispatch(), weight.into_dispatch()))
}

/// [`linear`] with each of three weights.
pub(crate) fn three_linears(x: Tensor<3>, weights: [Tensor<2>; 3]) -> [Tensor<3>; 3] {
    let [a, b, c] = weights.map(Tensor::into_dispatch);
    let (a, b, c) = Dispatch::olmo_three_linears(x.into_dispatch(), a, b, c);
    [a, b, c].map(Tensor::from_dispatch)
}

/// `silu(x gateᵀ) * (x upᵀ)`: as [`linear`] twice and [`swiglu`].
pub(crate) fn gated_linear(x: Tensor<3>, gate: Tensor<2>, up: Tensor<2>) -> Tensor<3> {
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_gated_linear(x.into_dispatch(), gate, up))
}

/// [`linear`] with a quantised weight.
pub(crate) fn quantized_linear(x: Tensor<3>, weight: &QuantizedMatrix) -> Tensor<3> {
    let (values, scales) = weight.parts();
    Tensor::from_dispatch(Dispatch::olmo_quantized_linear(x.into_dispatch(), values, scales))
}

/// [`three_linears`] with quantised weights.
pub(crate) fn three_quantized_linears(
    x: Tensor<3>,
    weights: [&QuantizedMatrix; 3],
) -> [Tensor<3>; 3] {
    let [(av, a), (bv, b), (cv, c)] = weights.map(QuantizedMatrix::parts);
    let x = x.into_dispatch();
    let (a, b, c) = Dispatch::olmo_three_quantized_linears(x, av, a, bv, b, cv, c);
    [a, b, c].map(Tensor::from_dispatch)
}

/// [`gated_linear`] with quantised weights.
pub(crate) fn quantized_gated_linear(
    x: Tensor<3>,
    gate: &QuantizedMatrix,
    up: &QuantizedMatrix,
) -> Tensor<3> {
    let ((gate_values, gate_scales), (up_values, up_scales)) = (gate.parts(), up.parts());
    Tensor::from_dispatch(Dispatch::olmo_quantized_gated_linear(
        x.into_dispatch(),
        gate_values,
        gate_scales,
        up_values,
        up_scales,
    ))
}

/// The elements of a quantised matrix, `[d_out, d_in]` in f32; see
/// [`QuantizedMatrix`] for the form of `values` and `scales`.
pub(crate) fn dequantize(values: Tensor<2, Int>, scales: Tensor<2>) -> Tensor<2> {
    let (values, scales) = (values.into_dispatch(), scales.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_dequantize(values, scales))
}

/// Whether tensors of single bytes can live on a device.
pub(crate) fn holds_quantized(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    if *device == Device::flex() {
        return true;
    }
    let _ = device;
    false
}

/// Causal attention over grouped heads, softmax in f32.
///
/// `q` is `[batch, n_heads, seq_q, head_dim]`, `k` and `v` are `[batch, n_kv_heads, seq_kv,
/// head_dim]`; the last query sees the last key. Returns the shape of `q`.
pub(crate) fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    span: AttentionSpan,
) -> Tensor<4> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_attention(q, k, v, span))
}

/// Splits `[batch, seq, n_heads * head_dim]` into heads `[batch, n_heads, seq, head_dim]` and turns
/// them by their positions. `cos` and `sin` are `[seq, head_dim / 2]` in f32, or `[batch * seq,
/// head_dim / 2]` where the rows of the batch have positions of their own.
pub(crate) fn rotary(x: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>, n_heads: usize) -> Tensor<4> {
    let (cos, sin) = (cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_rotary(x.into_dispatch(), cos, sin, n_heads))
}

/// Layer norm without weights over the last dimension, computed in f32.
pub(crate) fn layer_norm(x: Tensor<3>, eps: f64) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::olmo_layer_norm(x.into_dispatch(), eps))
}

/// RMS norm over the last dimension, computed in f32; `cast_first` returns to the dtype of `x`
/// before the product with `weight`.
pub(crate) fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64, cast_first: bool) -> Tensor<3> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_rms_norm(x, weight, eps, cast_first))
}

/// `silu(gate) * up`, elementwise.
pub(crate) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::olmo_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// Which rows the tokens of a mixture of experts have.
#[derive(Debug, Clone)]
pub(crate) struct RowMap {
    /// The token of each row, `[n_rows]`.
    pub(crate) token_of_row: Tensor<1, Int>,
    /// The rows of each token, one token after the other, `[n_rows]`.
    pub(crate) rows_of_token: Tensor<1, Int>,
    /// How many rows each token has.
    pub(crate) rows_per_token: usize,
}

/// The row of its token for each row of `map`: `[n_tokens, d]` gives `[n_rows, d]`.
pub(crate) fn take_rows(x: Tensor<2>, map: &RowMap) -> Tensor<2> {
    let RowMap { token_of_row, rows_of_token, rows_per_token } = map.clone();
    let (of_row, of_token) = (token_of_row.into_dispatch(), rows_of_token.into_dispatch());
    let x = x.into_dispatch();
    Tensor::from_dispatch(Dispatch::olmo_take_rows(x, of_row, of_token, rows_per_token))
}

/// The sum of its rows for each token of `map`: `[n_rows, d]` gives `[n_tokens, d]`.
pub(crate) fn sum_rows(rows: Tensor<2>, map: &RowMap) -> Tensor<2> {
    let RowMap { token_of_row, rows_of_token, rows_per_token } = map.clone();
    let (of_row, of_token) = (token_of_row.into_dispatch(), rows_of_token.into_dispatch());
    let rows = rows.into_dispatch();
    Tensor::from_dispatch(Dispatch::olmo_sum_rows(rows, of_row, of_token, rows_per_token))
}

/// `rows` with those of `range` replaced by `w2(silu(w1 x) * w3 x)` of them.
pub(crate) fn expert(
    rows: Tensor<2>,
    [w1, w2, w3]: [Tensor<2>; 3],
    range: Range<usize>,
) -> Tensor<2> {
    let (w1, w2, w3) = (w1.into_dispatch(), w2.into_dispatch(), w3.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_expert(rows.into_dispatch(), w1, w2, w3, range))
}

/// Summed cross-entropy of the logits `x weightᵀ`, computed in chunks of tokens.
///
/// `x` is `[n, d_model]`, `weight` `[vocab, d_model]`, `targets` `[n]` with negative values where a
/// token has no label. Returns three f32 sums over the labelled tokens: the objective
/// `ce + z_loss * lse²`, the cross-entropy alone, and `lse²`. Only the first is differentiable.
pub(crate) fn cross_entropy(
    x: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    z_loss: f64,
) -> Tensor<1> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_cross_entropy(x, weight, targets.into_dispatch(), z_loss))
}

/// How the device stores truth values: GPUs have no type of one byte for them.
fn bool_dtype<B: Backend>(device: &BackendDevice<B>) -> BoolDType {
    burn::backend::get_or_init_device_settings::<B>(device).bool_dtype
}
