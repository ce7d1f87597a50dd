//! Rows of a matrix in the types that weights are held in.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::super::element::Element;
use super::super::lanes::vectorized;

/// The values of a contiguous matrix, row after row.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Rows<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl Rows<'_> {
    /// Elements of all rows.
    pub(in super::super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the elements of `range` as f32.
    pub(in super::super) fn widen(&self, range: Range<usize>, out: &mut [f32]) {
        match *self {
            Self::F32(values) => out.copy_from_slice(&values[range]),
            Self::F16(values) => values[range].convert_to_f32_slice(out),
            Self::Bf16(values) => vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.iter_mut().zip(&values[range.clone()]) {
                        *out = Element::widen(*x);
                    }
                },
            ),
        }
    }
}
