//! Products `x wᵀ` of row-major matrices, with weights in the type that they are held in.
//!
//! Weights `[d_out, d_in]` are multiplied a [`panel`] at a time, in the order of additions that PyTorch
//! has. They come row-major, as parameters are, and are transposed a few rows at a time, or packed as
//! panels in memory; quantised ones, which have no such model, are multiplied as [`integers`]. Each
//! element of the result is the same sequence of additions whatever the number of rows, columns and
//! threads, so that a token decoded alone has the bits that it has in a prompt.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod integers;
mod panel;
mod product;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use half::bf16;

use crate::packed::{Panels, Step, Values, WIDTH, unit_of};

use self::integers::{Blocks, GROUPS, Rounded};
use crate::quantized::QuantizedSteps;

pub(super) use product::{gated, linears};
pub(super) use rows::Rows;

/// Rows of `x` multiplied at a time.
const BLOCK_ROWS: usize = 256;
/// Units of a row multiplied at a time, f32 or pairs of bf16: half a first-level cache of panel.
const BLOCK_UNITS: usize = 128;
/// Rows of `x` that a whole panel is read for in one go: there is nothing to keep it in the cache for.
const FEW_ROWS: usize = 2;
/// Rows of equal length with a stride between their starts.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a, T> {
    pub(super) values: &'a [T],
    pub(super) stride: usize,
}

impl<'a, T> Strided<'a, T> {
    fn at(values: &'a [T], stride: usize, row: usize, column: usize) -> Self {
        Self { values: &values[row * stride + column..], stride }
    }

    /// The first `k` elements of a row.
    pub(super) fn row(&self, row: usize, k: usize) -> &'a [T] {
        &self.values[row * self.stride..][..k]
    }

    /// Panics unless `rows` rows hold `k` elements each.
    fn check(&self, rows: usize, k: usize) {
        assert!(rows.saturating_sub(1) * self.stride + k <= self.values.len());
    }
}

/// Memory of a thread's work, kept from one product to the next.
#[derive(Default)]
pub(super) struct Scratch {
    widened: Vec<f32>,
    panel: Vec<Step<f32>>,
    pairs: Vec<Step<u32>>,
    sums: Vec<f32>,
}

/// The right operand of a product, `[n_columns, k]`.
#[derive(Clone, Copy)]
pub(super) enum Weight<'a> {
    Rows(Rows<'a>),
    Packed(&'a Panels),
}

impl Weight<'_> {
    /// Columns of the product, with rows of `k` elements.
    pub(super) fn n_columns(&self, k: usize) -> usize {
        match self {
            Self::Rows(rows) => rows.len().checked_div(k).unwrap_or(0),
            Self::Packed(panels) => panels.d_out,
        }
    }

    fn is_quantized(&self) -> bool {
        matches!(self, Self::Packed(Panels { values: Values::Quantized(_), .. }))
    }
}

/// The left operand of a product, `[n_rows, k]`.
pub(super) struct Input<'a> {
    rows: Rows<'a>,
    /// The same in f32, where the kernels do not take it as it is.
    widened: Vec<f32>,
    /// The same as units of two elements, where the machine multiplies those.
    pairs: Vec<u32>,
    /// The same in whole numbers, where a weight is quantised.
    rounded: Option<Rounded>,
    k: usize,
    isa: Isa,
}

/// The instructions to multiply with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512 {
        /// With products of pairs of bf16.
        bf16: bool,
        /// With products of four numbers of eight bits.
        vnni: bool,
    },
    Portable,
}

impl Isa {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            let bf16 = is_x86_feature_detected!("avx512bf16");
            let vnni = is_x86_feature_detected!("avx512vnni");
            return Self::Avx512 { bf16, vnni };
        }
        Self::Portable
    }

    /// Whether bf16 is multiplied two elements at a time.
    fn pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 { bf16, .. } => bf16,
            Self::Portable => false,
        }
    }
}

impl<'a> Input<'a> {
    /// An operand with rows of `k` elements, to be multiplied with `weights`.
    pub(super) fn new(rows: Rows<'a>, k: usize, weights: &[Weight<'_>]) -> Self {
        Self::with_isa(rows, k, weights, Isa::detect())
    }

    fn with_isa(rows: Rows<'a>, k: usize, weights: &[Weight<'_>], isa: Isa) -> Self {
        let (mut widened, mut pairs) = (Vec::new(), Vec::new());
        match rows {
            Rows::F32(_) => {}
            Rows::Bf16(values) if isa.pairs() => pairs = pairs_of(values, k),
            _ => {
                widened.resize(rows.len(), 0.0);
                rows.widen(0..rows.len(), &mut widened);
            }
        }
        let mut input = Self { rows, widened, pairs, rounded: None, k, isa };
        if weights.iter().any(Weight::is_quantized) {
            input.rounded = Some(Rounded::new(input.f32(), k));
        }
        input
    }

    pub(super) fn n_rows(&self) -> usize {
        self.rows.len().checked_div(self.k).unwrap_or(0)
    }

    fn f32(&self) -> &[f32] {
        match self.rows {
            Rows::F32(values) => values,
            _ => &self.widened,
        }
    }

    /// Products of rows `rows` with the rows `columns` of `w`, of which the first begins a panel,
    /// written to `out[rows.len(), columns.len()]`.
    fn multiply(
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
                    // SAFETY: pairs are made where the instructions were found.
                    unsafe { avx512::multiply_bf16(x, rows.len(), panel, &mut scratch.sums) };
                }
            }
            Values::Bf16(steps) if rows.len() <= FEW_ROWS => {
                let x = Strided::at(self.f32(), k, rows.start, 0);
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

    /// Products with a part of a panel that begins at element `start` of its rows.
    fn multiply_f32(
        &self,
        rows: &Range<usize>,
        start: usize,
        panel: &[Step<f32>],
        sums: &mut [f32],
    ) {
        let x = Strided::at(self.f32(), self.k, rows.start, start);
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
                unsafe {
                    avx512::pack_bf16(w, columns.len(), length, &mut scratch.pairs);
                    avx512::multiply_bf16(x, rows.len(), &scratch.pairs, &mut scratch.sums);
                }
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
            let x = Strided::at(self.f32(), k, rows.start, start);
            let sizes = [rows.len(), columns.len(), length];
            panel_product(self.isa, x, w, sizes, &mut scratch.panel, &mut scratch.sums);
        }
    }
}

/// Rows as units of two elements; an odd row ends in a zero.
fn pairs_of(values: &[bf16], k: usize) -> Vec<u32> {
    values.chunks_exact(k.max(1)).flat_map(|row| row.chunks(2).map(unit_of)).collect()
}

/// Products of `n_rows` rows with up to [`WIDTH`] others, `length` long, added to
/// `sums[n_rows, WIDTH]`.
fn panel_product(
    isa: Isa,
    x: Strided<'_, f32>,
    w: Strided<'_, f32>,
    [n_rows, n_columns, length]: [usize; 3],
    panel: &mut Vec<Step<f32>>,
    sums: &mut [f32],
) {
    panel.resize(length, Step([0.0; WIDTH]));
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` found the instructions.
        Isa::Avx512 { .. } => unsafe { avx512::pack_f32(w, n_columns, panel) },
        Isa::Portable => panel::pack(w, n_columns, panel),
    }
    pulp::Arch::new().dispatch(panel::Multiply { x, n_rows, panel, sums });
}

/// Products of `n_rows` rows with `n_columns` others, `k` long, written to rows of `out` that begin
/// `stride` apart, on this thread.
pub(super) fn small(
    x: Strided<'_, f32>,
    w: Strided<'_, f32>,
    [n_rows, n_columns, k]: [usize; 3],
    out: &mut [f32],
    stride: usize,
    scratch: &mut Scratch,
) {
    let isa = Isa::detect();
    for first in (0..n_columns).step_by(WIDTH) {
        let n = WIDTH.min(n_columns - first);
        let w = Strided::at(w.values, w.stride, first, 0);
        scratch.sums.clear();
        scratch.sums.resize(n_rows * WIDTH, 0.0);
        panel_product(isa, x, w, [n_rows, n, k], &mut scratch.panel, &mut scratch.sums);
        let rows = out[first..].chunks_mut(stride);
        for (out, sums) in rows.zip(scratch.sums.chunks_exact(WIDTH)) {
            out[..n].copy_from_slice(&sums[..n]);
        }
    }
}
