//! Rotary positions, writing straight into the layout of heads.

use burn::backend::flex::FlexTensor;

use super::element::Element;
use super::{for_row_blocks, from_vec, typed, values};

/// `[batch, seq, n_heads * head_dim]` to `[batch, n_heads, seq, head_dim]`.
pub(super) fn forward<E: Element>(
    x: FlexTensor,
    cos: FlexTensor,
    sin: FlexTensor,
    n_heads: usize,
) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let (batch, seq, head_dim) = (shape[0], shape[1], shape[2] / n_heads);
    let (x, cos, sin) = (x.to_contiguous(), cos.to_contiguous(), sin.to_contiguous());
    let (x, cos, sin): (&[E], _, _) = (typed(&x), values(&cos), values(&sin));
    let half = head_dim / 2;
    let n_turns = cos.len() / half;
    let mut out = vec![E::default(); x.len()];
    for_row_blocks(
        &mut out,
        head_dim,
        #[inline(always)]
        |first, block| {
            for (i, out) in block.chunks_exact_mut(head_dim).enumerate() {
                let row = first + i;
                let (position, head, sequence) =
                    (row % seq, row / seq % n_heads, row / (seq * n_heads));
                let x = &x[((sequence * seq + position) * n_heads + head) * head_dim..][..head_dim];
                let at = (sequence * seq + position) % n_turns * half;
                turn(x, out, &cos[at..][..half], &sin[at..][..half], 1.0);
            }
        },
    );
    from_vec(out, [batch, n_heads, seq, head_dim])
}

/// The inverse rotation, `[batch, n_heads, seq, head_dim]` to `[batch, seq, n_heads * head_dim]`.
pub(super) fn backward(grad: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
    let shape = grad.layout().shape().clone();
    let (batch, n_heads, seq, head_dim) = (shape[0], shape[1], shape[2], shape[3]);
    let (grad, cos, sin) = (grad.to_contiguous(), cos.to_contiguous(), sin.to_contiguous());
    let (grad, cos, sin) = (values(&grad), values(&cos), values(&sin));
    let half = head_dim / 2;
    let n_turns = cos.len() / half;
    let mut out = vec![0.0; grad.len()];
    for_row_blocks(
        &mut out,
        head_dim,
        #[inline(always)]
        |first, block| {
            for (i, out) in block.chunks_exact_mut(head_dim).enumerate() {
                let row = first + i;
                let (head, position, sequence) =
                    (row % n_heads, row / n_heads % seq, row / (seq * n_heads));
                let g =
                    &grad[((sequence * n_heads + head) * seq + position) * head_dim..][..head_dim];
                let at = (sequence * seq + position) % n_turns * half;
                turn(g, out, &cos[at..][..half], &sin[at..][..half], -1.0);
            }
        },
    );
    from_vec(out, [batch, seq, n_heads * head_dim])
}

#[inline(always)]
fn turn<E: Element>(x: &[E], out: &mut [E], cos: &[f32], sin: &[f32], direction: f32) {
    let half = cos.len();
    let (x1, x2) = x.split_at(half);
    let (out1, out2) = out.split_at_mut(half);
    for i in 0..half {
        let (cos, sin) = (cos[i], direction * sin[i]);
        let (x1, x2) = (x1[i].widen(), x2[i].widen());
        out1[i] = E::narrow(x1 * cos - x2 * sin);
        out2[i] = E::narrow(x2 * cos + x1 * sin);
    }
}
