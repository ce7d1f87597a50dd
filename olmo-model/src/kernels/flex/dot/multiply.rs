//! Products of some rows with a panel of the right operand, in whatever form that is held.

use std::ops::Range;

use super::super::lanes::vectorized;
use super::integers::Blocks;
use super::isa::Isa;
use super::part::{Layout, Part};
use super::rounded::GROUPS;
#[cfg(target_arch = "x86_64")]
use super::vnni;
use super::{
    BLOCK_ROWS, BLOCK_UNITS, FEW_ROWS, Rows, Scratch, Strided, Weight, columns, integers,
    pack_panel, panel,
};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx512};
use crate::packed::{Step, Values, WIDTH};
use crate::quantized::QuantizedSteps;

impl Part<'_> {
    /// Lays out a panel of the columns `columns` of the product, where it is to be multiplied with several
    /// blocks of rows and does not lie so already. Otherwise it stays empty.
    pub(super) fn prepare(
        &self,
        w: Weight<'_>,
        columns: &Range<usize>,
        panel: &mut Vec<Step<u32>>,
    ) {
        panel.clear();
        if self.rows.len() > BLOCK_ROWS && !self.pairs.is_empty() {
            self.pack(w, columns, 0..self.k.div_ceil(2), panel);
        }
    }

    /// Lays out some units of pairs of a panel; nothing of a right operand that is packed or is no bf16.
    fn pack(
        &self,
        w: Weight<'_>,
        columns: &Range<usize>,
        units: Range<usize>,
        panel: &mut Vec<Step<u32>>,
    ) {
        let elements = 2 * units.start..(2 * units.end).min(self.k);
        match w {
            #[cfg(target_arch = "x86_64")]
            Weight::Rows(Rows::Bf16(w)) => {
                panel.resize(units.len(), Step([0; WIDTH]));
                let w = Strided::at(w, self.k, columns.start, elements.start);
                // SAFETY: pairs are made where the instructions were found.
                unsafe { avx512::pack_bf16(w, columns.len(), elements.len(), panel) };
            }
            Weight::Columns(Rows::Bf16(w)) => {
                panel.resize(units.len(), Step([0; WIDTH]));
                let stride = w.len() / self.k;
                let w = &w[elements.start * stride..elements.end * stride];
                columns::pack_pairs(w, stride, columns.clone(), panel);
            }
            _ => {}
        }
    }

    /// Products of rows `rows` with the rows `columns` of `w`, which are a panel, or as far as there are
    /// any; `[rows.len(), WIDTH]` sums. `panel` was [prepared](Self::prepare) for them.
    pub(super) fn multiply(
        &self,
        w: Weight<'_>,
        rows: &Range<usize>,
        columns: Range<usize>,
        panel: &[Step<u32>],
        sums: &mut Vec<f32>,
        scratch: &mut Scratch,
    ) {
        sums.clear();
        sums.resize(rows.len() * WIDTH, 0.0);
        match w {
            Weight::Rows(w) => self.multiply_rows(w, rows, columns, panel, sums, scratch),
            Weight::Columns(w) => self.multiply_columns(w, rows, columns, panel, sums, scratch),
            Weight::Packed(panels) => {
                let index = columns.start / WIDTH;
                self.multiply_packed(&panels.values, index, rows, sums, scratch);
            }
        }
    }

    /// Products with a panel of a packed matrix, added to the sums.
    fn multiply_packed(
        &self,
        values: &Values,
        index: usize,
        rows: &Range<usize>,
        sums: &mut [f32],
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
                    self.multiply_f32(rows, i.saturating_mul(block), panel, sums);
                }
            }
            Values::F16(steps) => {
                for (i, steps) in panel(steps, index, k).chunks(BLOCK_UNITS).enumerate() {
                    panel::widen_f16(steps, &mut scratch.panel);
                    self.multiply_f32(rows, i * BLOCK_UNITS, &scratch.panel, sums);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Values::Bf16(steps) if !self.pairs.is_empty() => {
                let units = k.div_ceil(2);
                for (i, panel) in panel(steps, index, units).chunks(block).enumerate() {
                    self.multiply_pairs(rows, i.saturating_mul(block), panel, true, sums);
                }
            }
            Values::Bf16(steps) if rows.len() <= FEW_ROWS => {
                let x = Strided::at(&self.f32, k, rows.start, 0);
                let panel = panel(steps, index, k.div_ceil(2));
                let n_rows = rows.len();
                pulp::Arch::new().dispatch(panel::MultiplyPairs { x, n_rows, k, panel, sums });
            }
            Values::Bf16(steps) => {
                let blocks = panel(steps, index, k.div_ceil(2)).chunks(BLOCK_UNITS / 2);
                for (i, steps) in blocks.enumerate() {
                    let start = i * BLOCK_UNITS;
                    let length = (2 * steps.len()).min(k - start);
                    panel::widen_pairs(steps, length, &mut scratch.panel);
                    self.multiply_f32(rows, start, &scratch.panel, sums);
                }
            }
            Values::Quantized(steps) => {
                self.multiply_quantized(steps, index, rows, sums);
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

    /// Products of pairs with a part of a panel that begins at unit `start` of its rows, behind which the next
    /// part lies where that `is_next`.
    #[cfg(target_arch = "x86_64")]
    fn multiply_pairs(
        &self,
        rows: &Range<usize>,
        start: usize,
        panel: &[Step<u32>],
        is_next: bool,
        sums: &mut [f32],
    ) {
        let units = self.k.div_ceil(2);
        let in_place = || Strided::at(&self.pairs, units, rows.start, start);
        // SAFETY: pairs, and tiles of them, are made where the instructions were found.
        unsafe {
            match (&self.layout, self.isa) {
                (Layout::PairTiles(tiles), _) => {
                    let tiles = &tiles[(rows.start - self.rows.start) * units..];
                    let x = amx::Rows::Tiles { tiles, length: units, start };
                    amx::multiply(x, rows.len(), panel, is_next, sums);
                }
                (Layout::PairStrips(strips), _) => {
                    let strips = &strips[(rows.start - self.rows.start) * units..];
                    avx512::multiply_bf16(
                        strips,
                        units,
                        start,
                        panel,
                        &mut sums[..rows.len() * WIDTH],
                    );
                }
                (_, Isa::Avx512 { amx: true, .. }) => {
                    amx::multiply(amx::Rows::InPlace(in_place()), rows.len(), panel, is_next, sums);
                }
                _ => avx512::multiply_bf16_in_place(in_place(), rows.len(), panel, sums),
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
        let n_rows = rows.len();
        if let Layout::Strips(strips) = &self.layout {
            let values = &strips[(rows.start - self.rows.start) * self.k..];
            let x = panel::Strips { values, length: self.k, start };
            pulp::Arch::new().dispatch(panel::MultiplyStrips { x, n_rows, panel, sums });
        } else {
            let x = Strided::at(&self.f32, self.k, rows.start, start);
            pulp::Arch::new().dispatch(panel::Multiply { x, n_rows, panel, sums });
        }
    }

    /// Products with up to [`WIDTH`] rows of `w`, added to the sums.
    fn multiply_rows(
        &self,
        w: Rows<'_>,
        rows: &Range<usize>,
        columns: Range<usize>,
        panel: &[Step<u32>],
        sums: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let k = self.k;
        #[cfg(target_arch = "x86_64")]
        if matches!(w, Rows::Bf16(_)) && !self.pairs.is_empty() {
            let units = k.div_ceil(2);
            for start in (0..units).step_by(BLOCK_UNITS) {
                let n_units = BLOCK_UNITS.min(units - start);
                let panel = if panel.is_empty() {
                    self.pack(
                        Weight::Rows(w),
                        &columns,
                        start..start + n_units,
                        &mut scratch.pairs,
                    );
                    &scratch.pairs[..]
                } else {
                    &panel[start..start + n_units]
                };
                self.multiply_pairs(rows, start, panel, false, sums);
            }
            return;
        }
        let _ = panel;
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
            pack_panel(self.isa, w, columns.len(), length, &mut scratch.panel);
            self.multiply_f32(rows, start, &scratch.panel, sums);
        }
    }

    /// Products with up to [`WIDTH`] columns of a matrix, `[k, n_columns]`, added to the sums part by
    /// part: gradients are sums over a batch or a vocabulary, and of 50,000 products added one by one in
    /// f32 the fifth digit is wrong.
    fn multiply_columns(
        &self,
        w: Rows<'_>,
        rows: &Range<usize>,
        columns: Range<usize>,
        panel: &[Step<u32>],
        sums: &mut [f32],
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
                Rows::Bf16(_) if !self.pairs.is_empty() => {
                    let panel = if panel.is_empty() {
                        let units = start..start + n_units;
                        self.pack(Weight::Columns(w), &columns, units, &mut scratch.pairs);
                        &scratch.pairs[..]
                    } else {
                        &panel[start..start + n_units]
                    };
                    self.multiply_pairs(rows, start, panel, false, &mut scratch.part);
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
            let part = &scratch.part;
            vectorized(
                #[inline(always)]
                || {
                    for (sum, part) in sums.iter_mut().zip(part) {
                        *sum += part;
                    }
                },
            );
        }
    }
}
