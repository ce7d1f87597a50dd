//! A matrix without bias, and the embedding.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use crate::kernels;

/// `y = x Wᵀ`, with the weight stored `[d_out, d_in]` as in every published checkpoint.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[d_out, d_in]`.
    pub weight: Param<Tensor<2>>,
}

impl Linear {
    /// Applies the matrix to the last dimension.
    ///
    /// # Shapes
    ///
    /// - input: `[batch, seq, d_in]`
    /// - output: `[batch, seq, d_out]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::linear(x, self.weight.val())
    }
}

/// Rows of a matrix by token id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab_size, d_model]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Looks up the row of each token.
    ///
    /// # Shapes
    ///
    /// - input: `[batch, seq]`
    /// - output: `[batch, seq, d_model]`
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.weight.val(), tokens)
    }
}
