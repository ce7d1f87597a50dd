//! The nearest matrix whose rows, or columns, are orthogonal and of length 1, roughly.
//!
//! The quintic Newton–Schulz iteration of torch 2.9 (torch/optim/_muon.py) and of Keller Jordan's
//! Muon: with `X` the matrix over its Frobenius norm, wide side last, and `A = X Xᵀ`,
//!
//! ```text
//! X <- 3.4445 X + (-4.7750 A + 2.0315 A A) X
//! ```
//!
//! Singular values go to between 0.7 and 1.2, not to 1. torch iterates in bf16; here it is f32, in
//! which the iteration is the same function with less noise.

use burn::tensor::Tensor;

const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// Keeps the norm of a matrix of zeros from being divided by.
const EPS: f32 = 1e-7;

/// `matrix` after `n_steps` of the iteration.
///
/// # Shapes
///
/// `[rows, columns]`, also of the result.
pub(super) fn orthogonalize(matrix: Tensor<2>, n_steps: usize) -> Tensor<2> {
    let [rows, columns] = matrix.dims();
    if rows > columns {
        return orthogonalize(matrix.transpose(), n_steps).transpose();
    }
    let norm = matrix.clone().powi_scalar(2).sum().sqrt().clamp_min(EPS);
    let mut x = matrix / norm.unsqueeze();
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..n_steps {
        let gram = x.clone().matmul(x.clone().transpose());
        let polynomial = gram.clone().mul_scalar(b) + gram.clone().matmul(gram).mul_scalar(c);
        x = x.clone().mul_scalar(a) + polynomial.matmul(x);
    }
    x
}
