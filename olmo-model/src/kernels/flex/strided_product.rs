//! Products of matrices of f32 that lie in memory in any order, with those that burn has for f32.

use gemm::Parallelism;

/// A matrix `[n_rows, n_columns]`, in row-major order or transposed.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Rows side by side.
    pub(super) fn new(values: &'a [f32], shape: [usize; 2]) -> Self {
        assert!(values.len() >= shape[0] * shape[1], "{} values of {shape:?}", values.len());
        Self { values, shape, strides: [shape[1], 1] }
    }

    pub(super) fn transposed(self) -> Self {
        let ([m, n], [by_row, by_column]) = (self.shape, self.strides);
        Self { values: self.values, shape: [n, m], strides: [by_column, by_row] }
    }
}

/// Writes `a b` to a matrix in row-major order, on this thread.
pub(super) fn product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    multiply(out, a, b, false, Parallelism::None);
}

/// Adds `a b` to a matrix in row-major order, on this thread.
pub(super) fn add_product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    multiply(out, a, b, true, Parallelism::None);
}

/// Adds `a b` to a matrix in row-major order, on all threads where that pays.
pub(super) fn add_large_product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    /// Multiplications of a product that are worth more than one thread.
    const PARALLEL_PRODUCT: usize = 192 * 192 * 192;
    let is_small = a.shape[0] * a.shape[1] * b.shape[1] < PARALLEL_PRODUCT;
    let threads = if is_small { Parallelism::None } else { Parallelism::Rayon(0) };
    multiply(out, a, b, true, threads);
}

fn multiply(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, adds: bool, threads: Parallelism) {
    let ([m, k], [b_rows, n]) = (a.shape, b.shape);
    assert!(b_rows == k && out.len() >= m * n, "{:?} times {:?}", a.shape, b.shape);
    let [a_strides, b_strides] = [a.strides, b.strides].map(|strides| strides.map(|n| n as isize));
    // SAFETY: the elements that sizes and strides name are those of the slices: `Matrix::new` and the
    // assertion above hold that.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            adds,
            a.values.as_ptr(),
            a_strides[1],
            a_strides[0],
            b.values.as_ptr(),
            b_strides[1],
            b_strides[0],
            1.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_matrices_and_their_transposes() {
        // Small whole numbers, so that every order of additions gives the same bits.
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 2.0, 1.0, 1.0, 3.0];
        let expected = [8.0, 11.0, 20.0, 23.0];
        let a = Matrix::new(&a, [2, 3]);
        let b_transposed = [1.0, 2.0, 1.0, 0.0, 1.0, 3.0];
        for b in [Matrix::new(&b, [3, 2]), Matrix::new(&b_transposed, [2, 3]).transposed()] {
            let mut out = [9.0; 4];
            product(&mut out, a, b);
            assert_eq!(out.map(f32::to_bits), expected.map(f32::to_bits));
            add_product(&mut out, a, b);
            add_large_product(&mut out, a, b);
            assert_eq!(out.map(f32::to_bits), expected.map(|x| f32::to_bits(3.0 * x)));
        }
    }
}
