//! `y = x Wᵀ` with `W` stored `[d_out, d_in]`, as every published checkpoint stores it.
//!
//! Rows of all sequences go through one matrix product, and the weight's gradient is produced in
//! the weight's own layout, so that sums over micro-batches are contiguous.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape};

use super::Kernels;
use crate::packed::PackedMatrix;

pub(super) fn forward<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let d_out = weight.shape()[0];
    let mut shape = x.shape();
    let last = shape.num_dims() - 1;
    shape[last] = d_out;
    let y = B::float_matmul(rows::<B>(x), B::float_transpose(weight));
    B::float_reshape(y, shape)
}

/// The gradient by `x`, in the shape of `grad` with the last dimension of `weight`.
pub(super) fn backward_input<B: Backend>(
    grad: FloatTensor<B>,
    weight: FloatTensor<B>,
) -> FloatTensor<B> {
    let mut shape = grad.shape();
    let last = shape.num_dims() - 1;
    shape[last] = weight.shape()[1];
    B::float_reshape(B::float_matmul(rows::<B>(grad), weight), shape)
}

/// The gradient by `weight`: `gradᵀ x`, `[d_out, d_in]`.
pub(super) fn backward_weight<B: Backend>(
    grad: FloatTensor<B>,
    x: FloatTensor<B>,
) -> FloatTensor<B> {
    B::float_matmul(B::float_transpose(rows::<B>(grad)), rows::<B>(x))
}

/// `gradᵀ x` in f32.
pub(super) fn wide_backward_weight<B: Kernels>(
    grad: FloatTensor<B>,
    x: FloatTensor<B>,
) -> FloatTensor<B> {
    if x.dtype() == DType::F32 {
        return B::olmo_linear_backward_weight(grad, x);
    }
    let d = |x: &FloatTensor<B>| x.shape()[x.shape().num_dims() - 1];
    let sum = B::float_zeros(Shape::new([d(&grad), d(&x)]), &x.device(), FloatDType::F32);
    B::olmo_linear_add_backward_weight(sum, grad, x)
}

/// `sum + gradᵀ x`, with a sum in f32.
pub(super) fn add_backward_weight<B: Backend>(
    sum: FloatTensor<B>,
    grad: FloatTensor<B>,
    x: FloatTensor<B>,
) -> FloatTensor<B> {
    let part = backward_weight::<B>(grad, x);
    B::float_add(sum, B::float_cast(part, FloatDType::F32))
}

/// A packed matrix as a tensor beside `x`.
pub(super) fn unpacked<B: Backend>(weight: &PackedMatrix, x: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_from_data(weight.unpacked(), &x.device())
}

/// All leading dimensions as one.
fn rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let d = shape[shape.num_dims() - 1];
    let n = shape.num_elements() / d.max(1);
    B::float_reshape(x, Shape::new([n, d]))
}
