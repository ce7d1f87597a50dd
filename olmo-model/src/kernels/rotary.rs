//! Rotary positions in the half-rotation form, together with the split into heads.
//!
//! With `x = [x1, x2]` the halves of a head: `[x1 cos - x2 sin, x2 cos + x1 sin]`, in the dtype of the
//! tables, cast back. With tables in f32 this is `apply_rotary_pos_emb` of OLMo, OLMo 2 and OLMo 3 in
//! `transformers`, and the original trainer with `rope_full_precision`; with tables in the dtype of
//! `x` it is OLMoE's.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice};

/// `[batch, seq, n_heads * head_dim]` to `[batch, n_heads, seq, head_dim]`.
pub(super) fn forward<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    n_heads: usize,
) -> FloatTensor<B> {
    let (dtype, shape) = (x.dtype(), x.shape());
    let (batch, seq, head_dim) = (shape[0], shape[1], shape[2] / n_heads);
    let x = B::float_reshape(x, Shape::new([batch, seq, n_heads, head_dim]));
    let x = B::float_cast(B::float_swap_dims(x, 1, 2), cos.dtype().into());
    B::float_cast(rotated::<B>(x, cos, sin), dtype.into())
}

/// The gradient of [`forward`]: the inverse rotation, heads joined again.
pub(super) fn backward<B: Backend>(
    grad: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    let (dtype, shape) = (grad.dtype(), grad.shape());
    let (batch, n_heads, seq, head_dim) = (shape[0], shape[1], shape[2], shape[3]);
    let grad = B::float_cast(grad, cos.dtype().into());
    let dx = B::float_swap_dims(rotated::<B>(grad, cos, B::float_neg(sin)), 1, 2);
    let dx = B::float_reshape(dx, Shape::new([batch, seq, n_heads * head_dim]));
    B::float_cast(dx, dtype.into())
}

fn rotated<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = x.shape();
    let half = shape[3] / 2;
    let part = |range: std::ops::Range<usize>| {
        let slices: Vec<Slice> =
            (0..3).map(|at| 0..shape[at]).chain([range]).map(Slice::from).collect();
        B::float_slice(x.clone(), &slices)
    };
    let (x1, x2) = (part(0..half), part(half..2 * half));
    // One table for every sequence, or one for each.
    let table = Shape::new([cos.shape()[0] / shape[2], 1, shape[2], half]);
    let cos = B::float_reshape(cos, table.clone());
    let sin = B::float_reshape(sin, table);
    let turn = |a: FloatTensor<B>, b: FloatTensor<B>| {
        (B::float_mul(a, cos.clone()), B::float_mul(b, sin.clone()))
    };
    let (x1_cos, x2_sin) = turn(x1.clone(), x2.clone());
    let (x2_cos, x1_sin) = turn(x2, x1);
    B::float_cat(vec![B::float_sub(x1_cos, x2_sin), B::float_add(x2_cos, x1_sin)], 3)
}
