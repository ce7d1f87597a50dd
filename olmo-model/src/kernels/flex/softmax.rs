//! Masked softmax of one chunk of attention scores, in place.

use burn::backend::flex::FlexTensor;

use super::super::AttentionRows;
use super::element::Element;
use super::{for_row_blocks, from_vec, into_vec, lanes, last_dim, values};

/// Of scores in f32 that are rounded to `E` once they are scaled.
pub(super) fn masked<E: Element>(scores: FlexTensor, rows: AttentionRows) -> FlexTensor {
    let shape = scores.layout().shape().clone();
    let n_keys = last_dim(&scores);
    let (n_kv_heads, rows_per_head) = (shape[1], shape[2]);
    let scale = rows.scale as f32;
    let mut scores = into_vec(scores);
    for_row_blocks(
        &mut scores,
        n_keys,
        #[inline(always)]
        |first, block| {
            for (i, row) in block.chunks_exact_mut(n_keys).enumerate() {
                let sequence = (first + i) / (n_kv_heads * rows_per_head);
                let visible = rows.visible(sequence, (first + i) % rows_per_head, n_keys);
                row[..visible.start].fill(0.0);
                row[visible.end..].fill(0.0);
                let row = &mut row[visible];
                // The scale is positive, so the largest score is the largest before scaling too.
                let scaled = |x: f32| E::narrow(x * scale).widen();
                let max = scaled(lanes::max(row));
                for x in row.iter_mut() {
                    *x = lanes::exp(scaled(*x) - max);
                }
                let inverse = 1.0 / lanes::sum(row, |x| x);
                for x in row.iter_mut() {
                    *x *= inverse;
                }
            }
        },
    );
    from_vec(scores, shape)
}

/// `scale p (g - sum(p g))`.
pub(super) fn masked_backward(p: FlexTensor, grad: FlexTensor, scale: f64) -> FlexTensor {
    let shape = grad.layout().shape().clone();
    let n_keys = last_dim(&grad);
    let p = p.to_contiguous();
    let p = values(&p);
    let scale = scale as f32;
    let mut grad = into_vec(grad);
    for_row_blocks(
        &mut grad,
        n_keys,
        #[inline(always)]
        |first, block| {
            for (i, g) in block.chunks_exact_mut(n_keys).enumerate() {
                let p = &p[(first + i) * n_keys..][..n_keys];
                let inner = lanes::sum_pairs(p, g, |p, g| p * g);
                for (g, p) in g.iter_mut().zip(p) {
                    *g = scale * (p * (*g - inner));
                }
            }
        },
    );
    from_vec(grad, shape)
}
