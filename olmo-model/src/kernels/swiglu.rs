//! `silu(gate) * up`, the activation between the feed-forward projections.

use burn::backend::Backend;
use burn::backend::ops::ActivationOps;
use burn::backend::tensor::FloatTensor;

pub(super) fn forward<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let sigmoid = <B as ActivationOps<B>>::sigmoid(gate.clone());
    B::float_mul(B::float_mul(gate, sigmoid), up)
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
