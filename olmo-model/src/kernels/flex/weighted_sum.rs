//! Sums of rows, each with a weight: what attention makes of values and probabilities.

use super::dot::Strided;

/// Sum rows handled at once.
const ROWS: usize = 4;
/// Vectors of a sum handled at once: with [`ROWS`], sixteen registers of sums.
const VECTORS: usize = 4;

/// Adds `Σ weights[r][i] * values[i]` to each row `r` of `sums`; rows are `length` long.
pub(super) struct WeightedSum<'a> {
    pub(super) weights: Strided<'a, f32>,
    pub(super) values: &'a [f32],
    pub(super) n_values: usize,
    pub(super) sums: &'a mut [f32],
    pub(super) length: usize,
}

impl pulp::WithSimd for WeightedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, simd: S) {
        let n_rows = self.sums.len() / self.length;
        let mut row = 0;
        while row < n_rows {
            if n_rows - row >= ROWS {
                self.rows::<S, ROWS>(simd, row);
                row += ROWS;
            } else {
                self.rows::<S, 1>(simd, row);
                row += 1;
            }
        }
    }
}

impl WeightedSum<'_> {
    #[inline(always)]
    fn rows<S: pulp::Simd, const R: usize>(&mut self, simd: S, row: usize) {
        let whole = self.length - self.length % S::F32_LANES;
        let mut column = 0;
        while column < whole {
            if whole - column >= VECTORS * S::F32_LANES {
                self.part::<S, R, VECTORS>(simd, row, column);
                column += VECTORS * S::F32_LANES;
            } else {
                self.part::<S, R, 1>(simd, row, column);
                column += S::F32_LANES;
            }
        }
        for row in row..row + R {
            let weights = self.weights.row(row, self.n_values);
            for (i, weight) in weights.iter().enumerate() {
                for column in whole..self.length {
                    let sum = &mut self.sums[row * self.length + column];
                    *sum = weight.mul_add(self.values[i * self.length + column], *sum);
                }
            }
        }
    }

    #[inline(always)]
    fn part<S: pulp::Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
    ) {
        let (length, n) = (self.length, V * S::F32_LANES);
        let weights: [_; R] = std::array::from_fn(|r| self.weights.row(row + r, self.n_values));
        let mut sums: [[S::f32s; V]; R] = std::array::from_fn(|r| {
            let out = &self.sums[(row + r) * length + column..][..n];
            let out = S::as_simd_f32s(out).0;
            std::array::from_fn(|v| out[v])
        });
        for (i, values) in self.values.chunks_exact(length).take(self.n_values).enumerate() {
            let values = S::as_simd_f32s(&values[column..column + n]).0;
            let values: [_; V] = std::array::from_fn(|v| values[v]);
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                let weight = simd.splat_f32s(weights[i]);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = simd.mul_add_f32s(weight, value, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut self.sums[(row + r) * length + column..][..n];
            S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
        }
    }
}
