//! The SwiGLU feed-forward layer.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::linear::Linear;
use crate::norm::Norm;

/// `w2(silu(w1 x) * w3 x)`.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// Gate projection, `[hidden_size, d_model]`.
    pub w1: Linear,
    /// Down projection, `[d_model, hidden_size]`.
    pub w2: Linear,
    /// Up projection, `[hidden_size, d_model]`.
    pub w3: Linear,
}

impl FeedForward {
    /// Applies the layer to each token.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, seq, d_model]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.of_normed(x, None)
    }

    /// The same of the norm of `x`.
    pub(crate) fn of_normed(&self, x: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
        self.w2.forward(Linear::forward_gated(&self.w1, &self.w3, x, norm))
    }
}
