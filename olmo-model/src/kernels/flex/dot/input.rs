//! The left operand of a product, in whatever forms its right operands are multiplied with.

use std::borrow::Cow;
use std::ops::Range;

use half::bf16;

use super::super::lanes::vectorized;
use super::integers::{Blocks, GROUPS, Rounded};
use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::vnni;
use super::{
    BLOCK_UNITS, FEW_ROWS, Rows, Scratch, Strided, Weight, columns, integers, panel, panel_product,
};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx512};
use crate::packed::{Step, Values, WIDTH, pair_of, unit_of};
use crate::quantized::QuantizedSteps;

/// The left operand of a product, `[n_rows, k]`.
pub(in super::super) struct Input<'a> {
    /// In f32; empty where it is multiplied in another form only.
    f32: Cow<'a, [f32]>,
    /// As units of two elements, where the machine multiplies those.
    pairs: Vec<u32>,
    /// In whole numbers, where a weight is quantised.
    rounded: Option<Rounded>,
    n_rows: usize,
    pub(super) k: usize,
    isa: Isa,
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

    /// Products of rows `rows` with the rows `columns` of `w`, of which the first begins a panel,
    /// written to `out[rows.len(), columns.len()]`.
    pub(super) fn multiply(
        &self,
        w: Weight<'_>,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        for first in columns.clone().step_by(WIDTH) {
            let n = WIDTH.min(columns.end - first);
            scratch.sums.clear();
            scratch.sums.resize(rows.len() * WIDTH, 0.0);
            match w {
                Weight::Rows(w) => self.multiply_rows(w, &rows, first..first + n, scratch),
                Weight::Columns(w) => self.multiply_columns(w, &rows, first..first + n, scratch),
                Weight::Packed(panels) => {
                    self.multiply_packed(&panels.values, first / WIDTH, &rows, scratch);
                }
            }
            let out = out[first - columns.start..].chunks_mut(columns.len());
            for (out, sums) in out.zip(scratch.sums.chunks_exact(WIDTH)) {
                out[..n].copy_from_slice(&sums[..n]);
            }
        }
    }

    /// Products with a panel, added to the sums in `scratch`.
    fn multiply_packed(
        &self,
        values: &Values,
        index: usize,
        rows: &Range<usize>,
        scratch: &mut Scratch,
    ) {
        fn panel<T>(steps: &[Step<T>], index: usize, length: usize) -> &[Step<T>] {
            &steps[index * length..][..length]
        }
        let k = self.k;
        let block = if rows.len() <= FEW_ROWS { usize::MAX } else { BLOCK_UNITS };
        match values {
            Values::F32(steps) => {
                for (i, panel) in panel(steps, index, k).chunks(block).enumerate() {
                    self.multiply_f32(rows, i.saturating_mul(block), panel, &mut scratch.sums);
                }
            }
            Values::F16(steps) => {
                for (i, steps) in panel(steps, index, k).chunks(BLOCK_UNITS).enumerate() {
                    panel::widen_f16(steps, &mut scratch.panel);
                    self.multiply_f32(rows, i * BLOCK_UNITS, &scratch.panel, &mut scratch.sums);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Values::Bf16(steps) if !self.pairs.is_empty() => {
                let units = k.div_ceil(2);
                for (i, panel) in panel(steps, index, units).chunks(block).enumerate() {
                    let x = Strided::at(&self.pairs, units, rows.start, i.saturating_mul(block));
                    self.multiply_pairs(x, rows.len(), panel, true, &mut scratch.sums);
                }
            }
            Values::Bf16(steps) if rows.len() <= FEW_ROWS => {
                let x = Strided::at(&self.f32, k, rows.start, 0);
                let panel = panel(steps, index, k.div_ceil(2));
                let (n_rows, sums) = (rows.len(), &mut scratch.sums);
                pulp::Arch::new().dispatch(panel::MultiplyPairs { x, n_rows, k, panel, sums });
            }
            Values::Bf16(steps) => {
                let blocks = panel(steps, index, k.div_ceil(2)).chunks(BLOCK_UNITS / 2);
                for (i, steps) in blocks.enumerate() {
                    let start = i * BLOCK_UNITS;
                    let length = (2 * steps.len()).min(k - start);
                    panel::widen_pairs(steps, length, &mut scratch.panel);
                    self.multiply_f32(rows, start, &scratch.panel, &mut scratch.sums);
                }
            }
            Values::Quantized(steps) => {
                self.multiply_quantized(steps, index, rows, &mut scratch.sums);
            }
        }
    }

    /// Products with a panel of whole numbers.
    fn multiply_quantized(
        &self,
        steps: &QuantizedSteps,
        index: usize,
        rows: &Range<usize>,
        sums: &mut [f32],
    ) {
        let x = self.rounded.as_ref().expect("made where a weight is quantised");
        let (n_blocks, n_steps) = (x.n_blocks, steps.quantization.steps());
        let at_once = if rows.len() <= FEW_ROWS { n_blocks } else { BLOCK_UNITS / GROUPS };
        for start in (0..n_blocks).step_by(at_once.max(1)) {
            let n = at_once.min(n_blocks - start);
            let first = index * n_blocks + start;
            let w = Blocks {
                quantization: steps.quantization,
                groups: &steps.groups[first * n_steps..][..n * n_steps],
                scales: &steps.scales[first..][..n],
            };
            let x = x.at(rows.start, start);
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the instructions were found.
                Isa::Avx512 { vnni: true, .. } => unsafe {
                    vnni::multiply(x, rows.len(), w, sums);
                },
                _ => integers::multiply(x, rows.len(), w, sums),
            }
        }
    }

    /// Products of rows of `pairs` with a part of a panel, behind which the next part lies where that
    /// `is_next`.
    #[cfg(target_arch = "x86_64")]
    fn multiply_pairs(
        &self,
        x: Strided<'_, u32>,
        n_rows: usize,
        panel: &[Step<u32>],
        is_next: bool,
        sums: &mut [f32],
    ) {
        match self.isa {
            // SAFETY: the registers were found to be available.
            Isa::Avx512 { amx: true, .. } => unsafe {
                amx::multiply(x, n_rows, panel, is_next, sums);
            },
            // SAFETY: pairs are made where the instructions were found.
            _ => unsafe { avx512::multiply_bf16(x, n_rows, panel, sums) },
        }
    }

    /// Products with a part of a panel that begins at element `start` of its rows.
    fn multiply_f32(
        &self,
        rows: &Range<usize>,
        start: usize,
        panel: &[Step<f32>],
        sums: &mut [f32],
    ) {
        let x = Strided::at(&self.f32, self.k, rows.start, start);
        pulp::Arch::new().dispatch(panel::Multiply { x, n_rows: rows.len(), panel, sums });
    }

    /// Products with up to [`WIDTH`] rows of `w`, added to the sums in `scratch`.
    fn multiply_rows(
        &self,
        w: Rows<'_>,
        rows: &Range<usize>,
        columns: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let k = self.k;
        #[cfg(target_arch = "x86_64")]
        if let (Rows::Bf16(w), true) = (w, !self.pairs.is_empty()) {
            let units = k.div_ceil(2);
            for start in (0..units).step_by(BLOCK_UNITS) {
                let n_units = BLOCK_UNITS.min(units - start);
                let w = Strided::at(w, k, columns.start, 2 * start);
                let x = Strided::at(&self.pairs, units, rows.start, start);
                let length = (2 * n_units).min(k - 2 * start);
                scratch.pairs.resize(n_units, Step([0; WIDTH]));
                // SAFETY: pairs are made where the instructions were found.
                unsafe { avx512::pack_bf16(w, columns.len(), length, &mut scratch.pairs) };
                self.multiply_pairs(x, rows.len(), &scratch.pairs, false, &mut scratch.sums);
            }
            return;
        }
        for start in (0..k).step_by(BLOCK_UNITS) {
            let length = BLOCK_UNITS.min(k - start);
            let w = match w {
                Rows::F32(w) => Strided::at(w, k, columns.start, start),
                other => {
                    scratch.widened.resize(columns.len() * length, 0.0);
                    for (row, out) in columns.clone().zip(scratch.widened.chunks_exact_mut(length))
                    {
                        other.widen(row * k + start..row * k + start + length, out);
                    }
                    Strided { values: &scratch.widened, stride: length }
                }
            };
            let x = Strided::at(&self.f32, k, rows.start, start);
            let sizes = [rows.len(), columns.len(), length];
            panel_product(self.isa, x, w, sizes, &mut scratch.panel, &mut scratch.sums);
        }
    }

    /// Products with up to [`WIDTH`] columns of a matrix, `[k, n_columns]`, added to the sums in
    /// `scratch` part by part: gradients are sums over a batch or a vocabulary, and of 50,000
    /// products added one by one in f32 the fifth digit is wrong.
    fn multiply_columns(
        &self,
        w: Rows<'_>,
        rows: &Range<usize>,
        columns: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let (k, stride) = (self.k, w.len() / self.k);
        let units = if self.pairs.is_empty() { k } else { k.div_ceil(2) };
        for start in (0..units).step_by(BLOCK_UNITS) {
            let n_units = BLOCK_UNITS.min(units - start);
            scratch.part.clear();
            scratch.part.resize(rows.len() * WIDTH, 0.0);
            match w {
                #[cfg(target_arch = "x86_64")]
                Rows::Bf16(w) if !self.pairs.is_empty() => {
                    let w = &w[2 * start * stride..(2 * (start + n_units)).min(k) * stride];
                    scratch.pairs.resize(n_units, Step([0; WIDTH]));
                    columns::pack_pairs(w, stride, columns.clone(), &mut scratch.pairs);
                    let x = Strided::at(&self.pairs, units, rows.start, start);
                    self.multiply_pairs(x, rows.len(), &scratch.pairs, false, &mut scratch.part);
                }
                w => {
                    scratch.panel.resize(n_units, Step([0.0; WIDTH]));
                    for (i, step) in scratch.panel.iter_mut().enumerate() {
                        let first = (start + i) * stride + columns.start;
                        w.widen(first..first + columns.len(), &mut step.0[..columns.len()]);
                        step.0[columns.len()..].fill(0.0);
                    }
                    self.multiply_f32(rows, start, &scratch.panel, &mut scratch.part);
                }
            }
            for (sum, part) in scratch.sums.iter_mut().zip(&scratch.part) {
                *sum += part;
            }
        }
    }
}

/// Rows as units of two elements; an odd row ends in a zero.
fn pairs_of(values: &[bf16], k: usize) -> Vec<u32> {
    let length = k.div_ceil(2);
    let mut units = vec![0; values.len().checked_div(k).unwrap_or(0) * length];
    vectorized(
        #[inline(always)]
        || {
            let rows = units.chunks_exact_mut(length.max(1)).zip(values.chunks_exact(k.max(1)));
            for (units, row) in rows {
                let (pairs, rest) = row.as_chunks::<2>();
                for (unit, [a, b]) in units.iter_mut().zip(pairs) {
                    *unit = pair_of(*a, *b);
                }
                if let ([last], Some(unit)) = (rest, units.last_mut()) {
                    *unit = unit_of(&[*last]);
                }
            }
        },
    );
    units
}
