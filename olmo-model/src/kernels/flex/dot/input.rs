//! The left operand of a product, in whatever forms its right operands are multiplied with.

use std::borrow::Cow;

use half::bf16;

use super::super::row_blocks::row_blocks;
use super::isa::Isa;
use super::rounded::Rounded;
use super::{Rows, Weight, columns};
use crate::packed::{pair_of, unit_of};

/// The left operand of a product, `[n_rows, k]`.
pub(in super::super) struct Input<'a> {
    /// In f32; empty where it is multiplied in another form only.
    pub(super) f32: Cow<'a, [f32]>,
    /// As units of two elements, where the machine multiplies those.
    pub(super) pairs: Vec<u32>,
    /// In whole numbers, where a weight is quantised.
    pub(super) rounded: Option<Rounded>,
    pub(super) n_rows: usize,
    pub(super) k: usize,
    pub(super) isa: Isa,
}

impl<'a> Input<'a> {
    /// An operand with rows of `k` elements, to be multiplied with `weights`.
    pub(in super::super) fn new(rows: Rows<'a>, k: usize, weights: &[Weight<'_>]) -> Self {
        Self::with_isa(rows, k, weights, Isa::detect())
    }

    pub(super) fn with_isa(rows: Rows<'a>, k: usize, weights: &[Weight<'_>], isa: Isa) -> Self {
        let (mut f32, mut pairs) = (Cow::default(), Vec::new());
        match rows {
            Rows::F32(values) => f32 = Cow::Borrowed(values),
            Rows::Bf16(values) if isa.pairs() => pairs = pairs_of(values, k),
            _ => {
                let mut widened = vec![0.0; rows.len()];
                rows.widen(0..rows.len(), &mut widened);
                f32 = Cow::Owned(widened);
            }
        }
        let n_quantized = weights.iter().filter(|w| w.is_quantized()).count();
        let rounded = (n_quantized > 0).then(|| Rounded::new(&f32, k));
        if n_quantized > 0 && n_quantized == weights.len() {
            f32 = Cow::default();
        }
        let n_rows = rows.len().checked_div(k).unwrap_or(0);
        Self { f32, pairs, rounded, n_rows, k, isa }
    }

    /// Whether rows that it was made of are multiplied as they are, and not a copy in another form.
    pub(in super::super) fn borrows(&self) -> bool {
        matches!(self.f32, Cow::Borrowed([_, ..]))
    }

    /// The same, with a copy of what it borrows.
    pub(in super::super) fn into_owned(self) -> Input<'static> {
        let Self { f32, pairs, rounded, n_rows, k, isa } = self;
        Input { f32: Cow::Owned(f32.into_owned()), pairs, rounded, n_rows, k, isa }
    }

    /// The transpose of a matrix `[k, n_rows]`.
    pub(in super::super) fn transposed(matrix: Rows<'_>, n_rows: usize) -> Self {
        Self::transposed_with_isa(matrix, n_rows, Isa::detect())
    }

    pub(super) fn transposed_with_isa(matrix: Rows<'_>, n_rows: usize, isa: Isa) -> Self {
        let k = matrix.len().checked_div(n_rows).unwrap_or(0);
        let (mut f32, mut pairs) = (Cow::default(), Vec::new());
        match matrix {
            Rows::Bf16(values) if isa.pairs() => {
                pairs = columns::transposed(n_rows, k.div_ceil(2), |row, unit| {
                    let first = 2 * unit * n_rows + row;
                    let second = values.get(first + n_rows).copied().unwrap_or(bf16::ZERO);
                    pair_of(values[first], second)
                });
            }
            _ => f32 = Cow::Owned(columns::transposed_f32(matrix, n_rows, k)),
        }
        Self { f32, pairs, rounded: None, n_rows, k, isa }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }
}

/// Rows as units of two elements; an odd row ends in a zero.
fn pairs_of(values: &[bf16], k: usize) -> Vec<u32> {
    let length = k.div_ceil(2);
    let n_rows = values.len().checked_div(k).unwrap_or(0);
    row_blocks(
        n_rows * length,
        length.max(1),
        #[inline(always)]
        |first, units: &mut [u32]| {
            let rows = values[first * k..].chunks_exact(k.max(1));
            for (units, row) in units.chunks_exact_mut(length.max(1)).zip(rows) {
                pair_row(row, units);
            }
        },
    )
}

/// One of them.
#[inline(always)]
pub(super) fn pair_row(row: &[bf16], units: &mut [u32]) {
    let (pairs, rest) = row.as_chunks::<2>();
    for (unit, [a, b]) in units.iter_mut().zip(pairs) {
        *unit = pair_of(*a, *b);
    }
    if let ([last], Some(unit)) = (rest, units.last_mut()) {
        *unit = unit_of(&[*last]);
    }
}
