//! Matrices: the projection without bias, and the embedding.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor};

use crate::kernels;
use crate::quantized::QuantizedMatrix;

/// A matrix `[d_out, d_in]`, as it is stored in every published checkpoint.
///
/// Only a dense one is a parameter; a quantised one takes no part in training.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a model has a few hundred, and none is moved")]
pub enum Matrix {
    /// In the dtype of the model.
    Dense(Param<Tensor<2>>),
    /// In 8 or 4 bits an element.
    Quantized(QuantizedMatrix),
}

impl Matrix {
    /// The values `[d_out, d_in]`; of a quantised matrix a copy in f32.
    pub fn val(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Quantized(weight) => weight.dequantize(),
        }
    }

    /// The device of the values.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.val().device(),
            Self::Quantized(weight) => weight.scales.device(),
        }
    }

    /// The dtype of what the matrix is multiplied with.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.val().dtype(),
            Self::Quantized(_) => DType::F32,
        }
    }

    /// Multiplies the last dimension: `[batch, seq, d_in]` to `[batch, seq, d_out]`.
    pub(crate) fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Dense(weight) => kernels::linear(x, weight.val()),
            Self::Quantized(weight) => kernels::quantized_linear(x, weight),
        }
    }
}

/// `y = x Wᵀ`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[d_out, d_in]`.
    pub weight: Matrix,
}

impl Linear {
    /// Applies the matrix to the last dimension.
    ///
    /// # Shapes
    ///
    /// - input: `[batch, seq, d_in]`
    /// - output: `[batch, seq, d_out]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.weight.apply(x)
    }

    /// Applies three matrices to the same input, together where the device gains by it.
    pub(crate) fn forward_three(linears: [&Self; 3], x: Tensor<3>) -> [Tensor<3>; 3] {
        match linears.map(|linear| &linear.weight) {
            [Matrix::Dense(a), Matrix::Dense(b), Matrix::Dense(c)] => {
                kernels::three_linears(x, [a.val(), b.val(), c.val()])
            }
            [Matrix::Quantized(a), Matrix::Quantized(b), Matrix::Quantized(c)] => {
                kernels::three_quantized_linears(x, [a, b, c])
            }
            mixed => mixed.map(|weight| weight.apply(x.clone())),
        }
    }

    /// `silu(gate x) * up x`.
    pub(crate) fn forward_gated(gate: &Self, up: &Self, x: Tensor<3>) -> Tensor<3> {
        match (&gate.weight, &up.weight) {
            (Matrix::Dense(gate), Matrix::Dense(up)) => {
                kernels::gated_linear(x, gate.val(), up.val())
            }
            (Matrix::Quantized(gate), Matrix::Quantized(up)) => {
                kernels::quantized_gated_linear(x, gate, up)
            }
            _ => kernels::swiglu(gate.forward(x.clone()), up.forward(x)),
        }
    }
}

/// Rows of a matrix by token id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab_size, d_model]`.
    pub weight: Matrix,
}

impl Embedding {
    /// Looks up the row of each token.
    ///
    /// # Shapes
    ///
    /// - input: `[batch, seq]`
    /// - output: `[batch, seq, d_model]`
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        match &self.weight {
            Matrix::Dense(weight) => burn::tensor::module::embedding(weight.val(), tokens),
            Matrix::Quantized(weight) => {
                let [batch, seq] = tokens.dims();
                let rows = tokens.reshape([batch * seq]);
                let values = weight.values.clone().select(0, rows.clone());
                let x = kernels::dequantize(values, weight.scales.clone().select(0, rows));
                let [_, d_model] = x.dims();
                x.reshape([batch, seq, d_model])
            }
        }
    }
}
