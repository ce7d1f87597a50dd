//! The operations on tensors: what the rest of the crate calls.

use std::ops::Range;

use burn::backend::{Dispatch, TensorMetadata as _};
use burn::tensor::{Device, FloatDType, Int, Tensor};
#[cfg(feature = "flex")]
use rayon::prelude::*;

use super::norm::{RowNorm, normed};
use super::{AttentionSpan, Kernels as _};
use crate::packed::PackedMatrix;

/// `x` times the transpose of `weight`: `[batch, seq, d_in]` and `[d_out, d_in]` give
/// `[batch, seq, d_out]`.
pub(crate) fn linear(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    check_width(&x, weight.dims()[1]);
    Tensor::from_dispatch(Dispatch::olmo_linear(x.into_dispatch(), weight.into_dispatch()))
}

/// [`linear`] with each of three weights.
pub(crate) fn three_linears(x: Tensor<3>, weights: [Tensor<2>; 3]) -> [Tensor<3>; 3] {
    for weight in &weights {
        check_width(&x, weight.dims()[1]);
    }
    let [a, b, c] = weights.map(Tensor::into_dispatch);
    let (a, b, c) = Dispatch::olmo_three_linears(x.into_dispatch(), a, b, c);
    [a, b, c].map(Tensor::from_dispatch)
}

/// `silu(x gateᵀ) * (x upᵀ)`: as [`linear`] twice and [`swiglu`].
pub(crate) fn gated_linear(x: Tensor<3>, gate: Tensor<2>, up: Tensor<2>) -> Tensor<3> {
    for weight in [&gate, &up] {
        check_width(&x, weight.dims()[1]);
    }
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_gated_linear(x.into_dispatch(), gate, up))
}

/// [`linear`] of normalised rows with a packed weight.
pub(crate) fn packed_linear(
    x: Tensor<3>,
    norm: RowNorm<Dispatch>,
    weight: &PackedMatrix,
) -> Tensor<3> {
    check_norm(&x, &norm);
    check_width(&x, weight.shape()[1]);
    Tensor::from_dispatch(Dispatch::olmo_packed_linear(x.into_dispatch(), norm, weight.clone()))
}

/// [`three_linears`] of normalised rows with packed weights.
pub(crate) fn three_packed_linears(
    x: Tensor<3>,
    norm: RowNorm<Dispatch>,
    weights: [&PackedMatrix; 3],
) -> [Tensor<3>; 3] {
    check_norm(&x, &norm);
    for weight in weights {
        check_width(&x, weight.shape()[1]);
    }
    let weights = weights.map(PackedMatrix::clone);
    let (a, b, c) = Dispatch::olmo_three_packed_linears(x.into_dispatch(), norm, weights);
    [a, b, c].map(Tensor::from_dispatch)
}

/// [`gated_linear`] of normalised rows with packed weights.
pub(crate) fn packed_gated_linear(
    x: Tensor<3>,
    norm: RowNorm<Dispatch>,
    gate: &PackedMatrix,
    up: &PackedMatrix,
) -> Tensor<3> {
    check_norm(&x, &norm);
    for weight in [gate, up] {
        check_width(&x, weight.shape()[1]);
    }
    let (gate, up) = (gate.clone(), up.clone());
    Tensor::from_dispatch(Dispatch::olmo_packed_gated_linear(x.into_dispatch(), norm, gate, up))
}

/// Panics unless rows of `x` are as long as those of a weight: the CPU's kernels go by the length of one.
fn check_width(x: &Tensor<3>, d_in: usize) {
    let [_, _, width] = x.dims();
    assert_eq!(width, d_in, "rows of {width} elements and a weight for rows of {d_in}");
}

/// The same for the norm of rows.
fn check_norm(x: &Tensor<3>, norm: &RowNorm<Dispatch>) {
    if let RowNorm::Rms { weight, .. } = norm {
        check_width(x, weight.shape()[0]);
    }
}

/// Whether a device multiplies packed matrices as they are.
pub(crate) fn takes_packed(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    if *device == Device::flex() {
        return true;
    }
    let _ = device;
    false
}

/// Calls `f(index, chunk)` for chunks of a slice, on every thread of the CPU's kernels where there
/// are any.
pub(crate) fn for_each_chunk<T: Send>(
    values: &mut [T],
    length: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    #[cfg(feature = "flex")]
    values.par_chunks_mut(length).enumerate().for_each(|(index, chunk)| f(index, chunk));
    #[cfg(not(feature = "flex"))]
    values.chunks_mut(length).enumerate().for_each(|(index, chunk)| f(index, chunk));
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

/// The norm of each row, over the last dimension, computed in f32.
pub(crate) fn norm(x: Tensor<3>, norm: RowNorm<Dispatch>) -> Tensor<3> {
    check_norm(&x, &norm);
    Tensor::from_dispatch(normed::<Dispatch>(x.into_dispatch(), norm))
}

/// `x` with the norm of `y` added, in their dtype.
pub(crate) fn add_normed(x: Tensor<3>, y: Tensor<3>, norm: RowNorm<Dispatch>) -> Tensor<3> {
    check_norm(&y, &norm);
    assert_eq!(x.dims(), y.dims(), "what is added has the shape of what it is added to");
    let (x, y) = (x.into_dispatch(), y.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_add_normed(x, y, norm))
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

/// The sums of [`cross_entropy`] for logits `[n, vocab]` that are there, without gradients.
pub(crate) fn token_losses(logits: Tensor<2>, targets: Tensor<1, Int>, z_loss: f64) -> Tensor<1> {
    let (logits, targets) = (logits.into_dispatch(), targets.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_token_losses(logits, targets, z_loss, false).0)
}

/// The values in another dtype; the tensor itself where it is of that.
pub(crate) fn cast<const D: usize>(x: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    if x.dtype() == dtype.into() {
        return x;
    }
    Tensor::from_dispatch(Dispatch::olmo_cast(x.into_dispatch(), dtype))
}

/// Zero, whose gradient by `output` is `upstream` and whose own is taken to be one.
pub(crate) fn seed<const D: usize>(output: Tensor<D>, upstream: Tensor<D>) -> Tensor<1> {
    let (output, upstream) = (output.into_dispatch(), upstream.into_dispatch());
    Tensor::from_dispatch(Dispatch::olmo_seed(output, upstream))
}

/// Runs `f` on one of the threads that the CPU's kernels share their work among: each kernel then
/// starts without waking another thread first.
pub(crate) fn on_workers<R: Send>(device: &Device, f: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "flex")]
    if *device == Device::flex() {
        return super::awake::on_awake_workers(f);
    }
    // A GPU has a queue for each thread; changing threads would cost more than it saves.
    let _ = device;
    f()
}
