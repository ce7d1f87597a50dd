//! Panels: some rows of a weight side by side, so that a product adds in the order of their length.
//!
//! Each sum is `((x₀w₀ + x₁w₁) + x₂w₂) + …` with fused multiplications, which is the order of the
//! matrix products that PyTorch uses on a CPU: in bf16, where a sum that falls to the other side of
//! the middle is a different number, most results are then equal to the last bit.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::super::lanes::vectorized;
use super::Strided;
use super::layout::strip_rows;
use crate::packed::{Step, WIDTH};

/// Rows of `x` multiplied at once with the vectors of a machine: the sums fill half its registers.
const fn rows_at_once(lanes: usize) -> usize {
    match lanes {
        16 => 8,
        4 => 4,
        _ => 2,
    }
}

/// Writes the elements of up to [`WIDTH`] rows, transposed; rows that are not there are zero.
pub(super) fn pack(w: Strided<'_, f32>, n_rows: usize, out: &mut [Step<f32>]) {
    let length = out.len();
    for c in 0..WIDTH {
        if c < n_rows {
            for (step, x) in out.iter_mut().zip(w.row(c, length)) {
                step.0[c] = *x;
            }
        } else {
            for step in &mut *out {
                step.0[c] = 0.0;
            }
        }
    }
}

/// Steps of f16 as f32.
pub(super) fn widen_f16(steps: &[Step<f16>], out: &mut Vec<Step<f32>>) {
    out.resize(steps.len(), Step([0.0; WIDTH]));
    for (step, out) in steps.iter().zip(out) {
        step.0.convert_to_f32_slice(&mut out.0);
    }
}

/// The first `length` elements of steps of pairs of bf16 as f32.
pub(super) fn widen_pairs(steps: &[Step<u32>], length: usize, out: &mut Vec<Step<f32>>) {
    out.resize(length, Step([0.0; WIDTH]));
    vectorized(
        #[inline(always)]
        || {
            for (step, out) in steps.iter().zip(out.chunks_mut(2)) {
                for (out, shift) in out.iter_mut().zip([0, 16]) {
                    for (out, unit) in out.0.iter_mut().zip(step.0) {
                        *out = f32::from_bits((unit << shift) & 0xFFFF_0000);
                    }
                }
            }
        },
    );
}

/// Adds the products of rows of `x` with a panel to `sums[n_rows, WIDTH]`.
pub(super) struct Multiply<'a> {
    pub(super) x: Strided<'a, f32>,
    pub(super) n_rows: usize,
    pub(super) panel: &'a [Step<f32>],
    pub(super) sums: &'a mut [f32],
}

impl pulp::WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, simd: S) {
        let at_once = rows_at_once(S::F32_LANES);
        let mut row = 0;
        while row < self.n_rows {
            let n = [8, 4, 2, 1].into_iter().find(|n| *n <= at_once && *n <= self.n_rows - row);
            let n = n.unwrap_or(1);
            match (n, S::F32_LANES) {
                (8, 16) => self.rows::<S, 8, 2>(simd, row),
                (4, 16) => self.rows::<S, 4, 2>(simd, row),
                (2, 16) => self.rows::<S, 2, 2>(simd, row),
                (_, 16) => self.rows::<S, 1, 2>(simd, row),
                (2, 8) => self.rows::<S, 2, 4>(simd, row),
                (_, 8) => self.rows::<S, 1, 4>(simd, row),
                (4, 4) => self.rows::<S, 4, 8>(simd, row),
                (2, 4) => self.rows::<S, 2, 8>(simd, row),
                (_, 4) => self.rows::<S, 1, 8>(simd, row),
                (2, _) => self.rows::<S, 2, WIDTH>(simd, row),
                _ => self.rows::<S, 1, WIDTH>(simd, row),
            }
            row += n;
        }
    }
}

/// Rows in [strips](super::layout::strips), from an element on.
#[derive(Clone, Copy)]
pub(super) struct Strips<'a> {
    pub(super) values: &'a [f32],
    /// Elements of a row.
    pub(super) length: usize,
    pub(super) start: usize,
}

/// As [`Multiply`], of rows in strips.
pub(super) struct MultiplyStrips<'a> {
    pub(super) x: Strips<'a>,
    pub(super) n_rows: usize,
    pub(super) panel: &'a [Step<f32>],
    pub(super) sums: &'a mut [f32],
}

impl pulp::WithSimd for MultiplyStrips<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, simd: S) {
        match S::F32_LANES {
            16 => self.all_rows::<S, 2>(simd),
            8 => self.all_rows::<S, 4>(simd),
            4 => self.all_rows::<S, 8>(simd),
            _ => self.all_rows::<S, WIDTH>(simd),
        }
    }
}

impl MultiplyStrips<'_> {
    /// `V` vectors make up [`WIDTH`] elements.
    #[inline(always)]
    fn all_rows<S: pulp::Simd, const V: usize>(&mut self, simd: S) {
        let mut row = 0;
        while row < self.n_rows {
            let n = strip_rows(self.n_rows - row);
            match n {
                8 => self.strip::<S, 8, V>(simd, row),
                4 => self.strip::<S, 4, V>(simd, row),
                2 => self.strip::<S, 2, V>(simd, row),
                _ => self.strip::<S, 1, V>(simd, row),
            }
            row += n;
        }
    }

    /// The strip of `R` rows from row `row` on.
    #[inline(always)]
    fn strip<S: pulp::Simd, const R: usize, const V: usize>(&mut self, simd: S, row: usize) {
        let first = row * self.x.length + self.x.start * R;
        let x = self.x.values[first..][..self.panel.len() * R].as_chunks::<R>().0;
        let out = S::as_mut_simd_f32s(&mut self.sums[row * WIDTH..(row + R) * WIDTH]).0;
        let mut sums: [[S::f32s; V]; R] =
            std::array::from_fn(|r| std::array::from_fn(|v| out[r * V + v]));
        for (step, x) in self.panel.iter().zip(x) {
            let w: [_; V] = std::array::from_fn(|v| S::as_simd_f32s(&step.0).0[v]);
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = simd.splat_f32s(*x);
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = simd.mul_add_f32s(x, w, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            out[r * V..(r + 1) * V].copy_from_slice(sums);
        }
    }
}

/// As [`Multiply`], for a panel of pairs of bf16 that are widened on the way; for few rows of `x`,
/// each of which reads the panel.
pub(super) struct MultiplyPairs<'a> {
    pub(super) x: Strided<'a, f32>,
    pub(super) n_rows: usize,
    /// Elements of a row.
    pub(super) k: usize,
    pub(super) panel: &'a [Step<u32>],
    pub(super) sums: &'a mut [f32],
}

impl pulp::WithSimd for MultiplyPairs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, simd: S) {
        for row in 0..self.n_rows {
            match S::F32_LANES {
                16 => self.row::<S, 2>(simd, row),
                8 => self.row::<S, 4>(simd, row),
                4 => self.row::<S, 8>(simd, row),
                _ => self.row::<S, WIDTH>(simd, row),
            }
        }
    }
}

impl MultiplyPairs<'_> {
    /// `V` vectors make up [`WIDTH`] elements.
    #[inline(always)]
    fn row<S: pulp::Simd, const V: usize>(&mut self, simd: S, row: usize) {
        let x = self.x.row(row, self.k).chunks_exact(2);
        let (upper, half) = (simd.splat_u32s(0xFFFF_0000), simd.splat_u32s(16));
        let out = S::as_mut_simd_f32s(&mut self.sums[row * WIDTH..][..WIDTH]).0;
        let mut sums: [S::f32s; V] = std::array::from_fn(|v| out[v]);
        let first = |unit| simd.transmute_f32s_u32s(simd.and_u32s(unit, upper));
        let second = |unit| simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(unit, half));
        let units = |step: &Step<u32>| -> [S::u32s; V] {
            let vectors = S::as_simd_u32s(&step.0).0;
            std::array::from_fn(|v| vectors[v])
        };
        for (step, x) in self.panel.iter().zip(x.clone()) {
            let x = [simd.splat_f32s(x[0]), simd.splat_f32s(x[1])];
            for (sum, unit) in sums.iter_mut().zip(units(step)) {
                *sum = simd.mul_add_f32s(x[0], first(unit), *sum);
                *sum = simd.mul_add_f32s(x[1], second(unit), *sum);
            }
        }
        // The last element of an odd row is alone in its unit.
        if let ([last], Some(step)) = (x.remainder(), self.panel.last()) {
            let last = simd.splat_f32s(*last);
            for (sum, unit) in sums.iter_mut().zip(units(step)) {
                *sum = simd.mul_add_f32s(last, first(unit), *sum);
            }
        }
        out.copy_from_slice(&sums);
    }
}

impl Multiply<'_> {
    /// `V` vectors make up [`WIDTH`] elements.
    #[inline(always)]
    fn rows<S: pulp::Simd, const R: usize, const V: usize>(&mut self, simd: S, row: usize) {
        let x: [_; R] = std::array::from_fn(|r| self.x.row(row + r, self.panel.len()));
        let out = S::as_mut_simd_f32s(&mut self.sums[row * WIDTH..(row + R) * WIDTH]).0;
        let mut sums: [[S::f32s; V]; R] =
            std::array::from_fn(|r| std::array::from_fn(|v| out[r * V + v]));
        for (i, step) in self.panel.iter().enumerate() {
            let w: [_; V] = std::array::from_fn(|v| S::as_simd_f32s(&step.0).0[v]);
            for (sums, x) in sums.iter_mut().zip(&x) {
                let x = simd.splat_f32s(x[i]);
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = simd.mul_add_f32s(x, w, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            out[r * V..(r + 1) * V].copy_from_slice(sums);
        }
    }
}
