//! Moving tokens to the rows of their experts and back, and one expert on its rows.
//!
//! Rows are sorted by expert. Taking rows and summing them are each the other's transpose, so neither
//! backward pass needs a scatter: where a token has `k` rows, both directions know which.

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Slice};

use super::{Kernels, int_dtype};

/// The rows `index` of `x`: `[n, d]` and `[m]` give `[m, d]`.
pub(super) fn take_rows<B: Backend>(x: FloatTensor<B>, index: IntTensor<B>) -> FloatTensor<B> {
    B::float_select(x, 0, index)
}

/// For each token the sum of its rows, one after the other in the dtype of `rows`, as `index_add_`
/// does: `[m, d]` and `[n * k]` give `[n, d]`.
pub(super) fn sum_rows<B: Backend>(
    rows: FloatTensor<B>,
    index: IntTensor<B>,
    rows_per_token: usize,
) -> FloatTensor<B> {
    let (n_rows, d) = (index.shape()[0], rows.shape()[1]);
    let n_tokens = n_rows / rows_per_token;
    let by_token = B::float_select(rows, 0, index);
    let by_token = B::float_reshape(by_token, Shape::new([n_tokens, rows_per_token, d]));
    let part = |i: usize| {
        let slices = [0..n_tokens, i..i + 1, 0..d].map(Slice::from);
        B::float_slice(by_token.clone(), &slices)
    };
    let sum = (1..rows_per_token).fold(part(0), |sum, i| B::float_add(sum, part(i)));
    B::float_reshape(sum, Shape::new([n_tokens, d]))
}

/// As [`sum_rows`], added up in f32 and rounded once: for gradients, which no reference rounds between.
pub(super) fn sum_rows_exactly<B: Backend>(
    rows: FloatTensor<B>,
    index: IntTensor<B>,
    rows_per_token: usize,
) -> FloatTensor<B> {
    let dtype = rows.dtype();
    let sum = sum_rows::<B>(B::float_cast(rows, FloatDType::F32), index, rows_per_token);
    B::float_cast(sum, dtype.into())
}

/// What the backward pass of an expert needs.
#[derive(Debug, Clone)]
pub(super) struct Saved<B: Backend> {
    x: FloatTensor<B>,
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    weights: [FloatTensor<B>; 3],
    range: Range<usize>,
}

/// Replaces the rows `range` by the expert's output for them, in place where there is one handle.
pub(super) fn forward<B: Kernels>(
    rows: FloatTensor<B>,
    weights: [FloatTensor<B>; 3],
    range: Range<usize>,
) -> (FloatTensor<B>, Saved<B>) {
    let x = copied_rows::<B>(&rows, &range);
    let [w1, w2, w3] = weights.clone();
    let (gate, up) = (B::olmo_linear(x.clone(), w1), B::olmo_linear(x.clone(), w3));
    let y = B::olmo_linear(B::olmo_swiglu(gate.clone(), up.clone()), w2);
    (replaced::<B>(rows, &range, y), Saved { x, gate, up, weights, range })
}

/// Gradients by the rows, in which those of the expert take the place of its outputs', and by its
/// three weights.
pub(super) fn backward<B: Kernels>(saved: Saved<B>, grad: FloatTensor<B>) -> [FloatTensor<B>; 4] {
    let Saved { x, gate, up, weights: [w1, w2, w3], range } = saved;
    let g = copied_rows::<B>(&grad, &range);
    let hidden = B::olmo_swiglu(gate.clone(), up.clone());
    let dw2 = B::olmo_linear_backward_weight(g.clone(), hidden);
    let (dgate, dup) = B::olmo_swiglu_backward(gate, up, B::olmo_linear_backward_input(g, w2));
    let dw1 = B::olmo_linear_backward_weight(dgate.clone(), x.clone());
    let dw3 = B::olmo_linear_backward_weight(dup.clone(), x);
    let dx = B::float_add(
        B::olmo_linear_backward_input(dgate, w1),
        B::olmo_linear_backward_input(dup, w3),
    );
    [replaced::<B>(grad, &range, dx), dw1, dw2, dw3]
}

/// A copy and not a view, which would make the next write copy everything.
fn copied_rows<B: Backend>(rows: &FloatTensor<B>, range: &Range<usize>) -> FloatTensor<B> {
    let index = range.start as i64..range.end as i64;
    let index = B::int_arange(index, &rows.device(), int_dtype::<B>(&rows.device()));
    B::float_select(rows.clone(), 0, index)
}

fn replaced<B: Backend>(
    rows: FloatTensor<B>,
    range: &Range<usize>,
    new: FloatTensor<B>,
) -> FloatTensor<B> {
    let d = rows.shape()[1];
    B::float_slice_assign(rows, &[range.clone(), 0..d].map(Slice::from), new)
}
