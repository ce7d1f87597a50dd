//! Rows of a matrix in the types that weights are held in.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::super::element::Element;
use crate::quantized::{BLOCK, Q4_ZERO};

/// The values of a contiguous matrix, row after row.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Rows<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    /// Whole numbers, and the scale of each [`BLOCK`] of them.
    Q8 {
        values: &'a [i8],
        scales: &'a [bf16],
    },
    /// Two of four bits to a byte: the first half of a block in the low ones.
    Q4 {
        values: &'a [u8],
        scales: &'a [bf16],
    },
}

impl Rows<'_> {
    /// Elements of all rows.
    pub(in super::super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Q8 { values, .. } => values.len(),
            Self::Q4 { values, .. } => 2 * values.len(),
        }
    }

    /// Writes the elements of `range` as f32. Of quantised rows it begins and ends between blocks.
    pub(in super::super) fn widen(&self, range: Range<usize>, out: &mut [f32]) {
        match *self {
            Self::F32(values) => out.copy_from_slice(&values[range]),
            Self::F16(values) => values[range].convert_to_f32_slice(out),
            Self::Bf16(values) => pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (out, x) in out.iter_mut().zip(&values[range]) {
                        *out = Element::widen(*x);
                    }
                },
            ),
            Self::Q8 { values, scales } => {
                let scales = &scales[range.start / BLOCK..range.end / BLOCK];
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || widen_q8(&values[range], scales, out),
                );
            }
            Self::Q4 { values, scales } => {
                let scales = &scales[range.start / BLOCK..range.end / BLOCK];
                let values = &values[range.start / 2..range.end / 2];
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || widen_q4(values, scales, out),
                );
            }
        }
    }
}

#[inline(always)]
fn widen_q8(values: &[i8], scales: &[bf16], out: &mut [f32]) {
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(scales);
    for (out, (values, scale)) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(blocks) {
        let scale = Element::widen(*scale);
        for (out, value) in out.iter_mut().zip(values) {
            *out = f32::from(*value) * scale;
        }
    }
}

#[inline(always)]
fn widen_q4(values: &[u8], scales: &[bf16], out: &mut [f32]) {
    const HALF: usize = BLOCK / 2;
    let blocks = values.as_chunks::<HALF>().0.iter().zip(scales);
    for (out, (values, scale)) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(blocks) {
        let scale = Element::widen(*scale);
        let (low, high) = out.split_at_mut(HALF);
        for ((low, high), pair) in low.iter_mut().zip(high).zip(values) {
            *low = (i32::from(pair & 15) - Q4_ZERO) as f32 * scale;
            *high = (i32::from(pair >> 4) - Q4_ZERO) as f32 * scale;
        }
    }
}
