//! Rotary positions, writing straight into the layout of heads.

use burn::backend::flex::FlexTensor;

use super::element::Element;
use super::heads::{Heads, with_whole_rows};
use super::row_blocks::row_blocks;
use super::{from_vec, typed, values};

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
    let out = row_blocks(
        x.len(),
        head_dim,
        #[inline(always)]
        |first, block: &mut [E]| {
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
pub(super) fn backward<E: Element>(
    grad: FlexTensor,
    cos: FlexTensor,
    sin: FlexTensor,
) -> FlexTensor {
    let (grad, cos, sin) = (with_whole_rows(grad), cos.to_contiguous(), sin.to_contiguous());
    let (grad, cos, sin) = (Heads::<E>::new(&grad), values(&cos), values(&sin));
    let [batch, n_heads, seq, head_dim] = grad.shape;
    let half = head_dim / 2;
    let n_turns = cos.len() / half;
    let out = row_blocks(
        grad.shape.iter().product(),
        head_dim,
        #[inline(always)]
        |first, block: &mut [E]| {
            for (i, out) in block.chunks_exact_mut(head_dim).enumerate() {
                let row = first + i;
                let (head, position, sequence) =
                    (row % n_heads, row / n_heads % seq, row / (seq * n_heads));
                let at = (sequence * seq + position) % n_turns * half;
                let grad = grad.row(sequence, head, position);
                turn(grad, out, &cos[at..][..half], &sin[at..][..half], -1.0);
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
