//! Tensors of heads, read where they lie and written token by token.

use std::ops::Range;

use burn::backend::flex::FlexTensor;

use super::element::Element;
use super::from_vec;
use super::lanes::vectorized;

/// A tensor `[batch, n_heads, seq, head_dim]` of elements that lie token by token, as those who concatenate
/// the heads of a token want them.
pub(super) fn by_token<E: Element>(
    values: Vec<E>,
    [batch, n_heads, seq, head_dim]: [usize; 4],
) -> FlexTensor {
    let by_token = from_vec(values, [batch, seq, n_heads, head_dim]);
    let by_head = by_token.layout().transpose(1, 2);
    by_token.with_layout(by_head)
}

/// The elements of a head and token side by side.
pub(super) fn with_whole_rows(x: FlexTensor) -> FlexTensor {
    match *x.layout().strides() {
        [.., 1] if x.layout().has_positive_strides() => x,
        _ => x.to_contiguous(),
    }
}

/// `[batch, n_heads, seq, head_dim]` with any strides but the last.
pub(super) struct Heads<'a, E> {
    values: &'a [E],
    pub(super) shape: [usize; 4],
    strides: [usize; 4],
}

impl<'a, E: Element> Heads<'a, E> {
    /// Of a tensor [`with_whole_rows`].
    pub(super) fn new(x: &'a FlexTensor) -> Self {
        let strides = x.layout().strides();
        Self {
            values: &x.storage::<E>()[x.layout().start_offset()..],
            shape: x.layout().shape().dims(),
            strides: std::array::from_fn(|dim| strides[dim].unsigned_abs()),
        }
    }

    /// The elements of a head and token.
    pub(super) fn row(&self, sequence: usize, head: usize, token: usize) -> &'a [E] {
        let [by_sequence, by_head, by_token, _] = self.strides;
        let start = sequence * by_sequence + head * by_head + token * by_token;
        &self.values[start..][..self.shape[3]]
    }

    /// Appends the rows of some tokens of a head as f32.
    pub(super) fn widen(
        &self,
        sequence: usize,
        head: usize,
        tokens: Range<usize>,
        out: &mut Vec<f32>,
    ) {
        let (start, head_dim) = (out.len(), self.shape[3]);
        out.resize(start + tokens.len() * head_dim, 0.0);
        let out = &mut out[start..];
        vectorized(
            #[inline(always)]
            || {
                for (token, out) in tokens.clone().zip(out.chunks_exact_mut(head_dim.max(1))) {
                    for (out, x) in out.iter_mut().zip(self.row(sequence, head, token)) {
                        *out = x.widen();
                    }
                }
            },
        );
    }
}
