//! `silu(gate) * up`, the activation between the feed-forward projections: `silu` in f32, cast back,
//! then the product in the dtype of the operands, as `torch` computes both.

use burn::backend::ops::ActivationOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::FloatDType;

pub(super) fn forward<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = gate.dtype();
    let gate = B::float_cast(gate, FloatDType::F32);
    let sigmoid = <B as ActivationOps<B>>::sigmoid(gate.clone());
    let silu = B::float_cast(B::float_mul(gate, sigmoid), dtype.into());
    B::float_mul(silu, up)
}

/// Gradients by `gate`, `g up s (1 + gate (1 - s))`, and by `up`, `g gate s`; `s` is the sigmoid.
pub(super) fn backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let sigmoid = <B as ActivationOps<B>>::sigmoid(gate.clone());
    let silu = B::float_mul(gate.clone(), sigmoid.clone());
    let dup = B::float_mul(grad.clone(), silu);
    let rest = B::float_add_scalar(B::float_neg(sigmoid.clone()), 1.into());
    let slope = B::float_add_scalar(B::float_mul(gate, rest), 1.into());
    let slope = B::float_mul(sigmoid, slope);
    (B::float_mul(B::float_mul(grad, up), slope), dup)
}
