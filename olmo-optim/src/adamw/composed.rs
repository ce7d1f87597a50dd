//! The update in burn's tensor operations, for any device. Fusing backends make one kernel of it.

use burn::tensor::Tensor;

use super::Scalars;

/// Weight, first and second moment after the update; see [`super::apply`].
pub(super) fn update(
    weight: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    grad: Tensor<1>,
    s: &Scalars,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let grad = grad.mul_scalar(s.grad_scale);
    let weight = weight.mul_scalar(s.keep);

    let change = grad.clone() - exp_avg.clone();
    let exp_avg = if s.lerp_from_grad() {
        change.mul_scalar(s.lerp - 1.0) + grad.clone()
    } else {
        change.mul_scalar(s.lerp) + exp_avg
    };

    let squared = grad.clone().mul_scalar(s.one_minus_beta2) * grad;
    let exp_avg_sq = exp_avg_sq.mul_scalar(s.beta2) + squared;

    let denominator =
        exp_avg_sq.clone().sqrt().div_scalar(s.bias_correction2_sqrt).add_scalar(s.eps);
    let weight = weight + exp_avg.clone().mul_scalar(s.minus_step_size) / denominator;
    (weight, exp_avg, exp_avg_sq)
}
