//! Dot products of rows in f32: partial sums along the rows, as wide as the machine's vectors.

use super::Strided;

/// Rows and columns of partial sums that fit sixteen registers beside their operands.
const R: usize = 2;
const C: usize = 3;

/// Adds `x[r] · w[c]` to `out[r * stride + c]`; operands are `k` long.
pub(super) struct Dots<'a> {
    pub(super) x: Strided<'a, f32>,
    pub(super) w: Strided<'a, f32>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) k: usize,
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

impl pulp::WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, simd: S) {
        for row in (0..self.rows).step_by(R) {
            for column in (0..self.columns).step_by(C) {
                let (rows, columns) = (self.rows - row, self.columns - column);
                match (rows >= R, columns >= C) {
                    (true, true) => self.part::<S, R, C>(simd, row, column),
                    (true, false) => (column..column + columns)
                        .for_each(|column| self.part::<S, R, 1>(simd, row, column)),
                    (false, true) => self.part::<S, 1, C>(simd, row, column),
                    (false, false) => (column..column + columns)
                        .for_each(|column| self.part::<S, 1, 1>(simd, row, column)),
                }
            }
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    fn part<S: pulp::Simd, const ROWS: usize, const COLUMNS: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
    ) {
        let x: [_; ROWS] = std::array::from_fn(|r| S::as_simd_f32s(self.x.row(row + r, self.k)));
        let w: [_; COLUMNS] =
            std::array::from_fn(|c| S::as_simd_f32s(self.w.row(column + c, self.k)));
        let n = x[0].0.len();
        let mut sums = [[simd.splat_f32s(0.0); COLUMNS]; ROWS];
        for at in 0..n {
            let ws: [_; COLUMNS] = std::array::from_fn(|c| w[c].0[..n][at]);
            for (sums, x) in sums.iter_mut().zip(&x) {
                let x = x.0[..n][at];
                for (sum, w) in sums.iter_mut().zip(ws) {
                    *sum = simd.mul_add_f32s(x, w, *sum);
                }
            }
        }
        for (r, (sums, x)) in sums.iter().zip(&x).enumerate() {
            for (c, (sum, w)) in sums.iter().zip(&w).enumerate() {
                let rest: f32 = x.1.iter().zip(w.1).map(|(x, w)| x * w).sum();
                self.out[(row + r) * self.stride + column + c] += simd.reduce_sum_f32s(*sum) + rest;
            }
        }
    }
}
