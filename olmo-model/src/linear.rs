//! Matrices: the projection without bias, and the embedding.

use burn::backend::Dispatch;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor};

use crate::config::ModelConfig;
use crate::kernels::{self, RowNorm};
use crate::norm::{Norm, normed};
use crate::packed::PackedMatrix;
use crate::parameters::{Parameter, Role};
use crate::quantized::Quantization;

/// A matrix `[d_out, d_in]`, as it is stored in every published checkpoint.
///
/// Only a dense one is a parameter; the others take no part in training.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a model has a few hundred, and none is moved")]
pub enum Matrix {
    /// In the dtype of the model.
    Dense(Param<Tensor<2>>),
    /// Laid out for the CPU's kernels, in the dtype of the model or quantised.
    Packed(PackedMatrix),
}

/// How the matrices of a model are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MatrixForm {
    /// As parameters: to train, to save, to visit.
    #[default]
    Dense,
    /// In the same dtype, laid out for the kernels that run a model where the device has such;
    /// elsewhere as parameters. Results are the same to the last bit.
    Packed,
    /// To compute in f32: as [`Packed`](Self::Packed) in the dtype that the values come in, which may
    /// be narrower. A product widens them as it reads them, which is exact, so that half as many bytes
    /// give the same bits. Where the device has no such kernels, and for what is no matrix of a
    /// product, values are widened as they come.
    Widened,
    /// In 8 or 4 bits an element, on the CPU.
    Quantized(Quantization),
}

impl MatrixForm {
    /// Bytes of memory that a parameter takes in a model of this form, whose values come in `dtype`:
    /// what [`build_as`](crate::Transformer::build_as) makes of it on a device.
    pub fn bytes(
        self,
        parameter: &Parameter,
        config: &ModelConfig,
        device: &Device,
        dtype: DType,
    ) -> u64 {
        let n = parameter.n_elements() as u64;
        let bytes_in = |dtype: DType| n.saturating_mul(dtype.size() as u64);
        let is_matrix = parameter.shape.len() == 2;
        match self.on(device).of(parameter, config) {
            Self::Quantized(to) => to.bytes(n),
            Self::Packed if is_matrix => bytes_in(dtype),
            _ if self == Self::Widened => bytes_in(DType::F32),
            _ => bytes_in(dtype),
        }
    }

    /// The form that a device has matrices in.
    pub(crate) fn on(self, device: &Device) -> Self {
        match self {
            Self::Packed | Self::Widened if kernels::takes_packed(device) => Self::Packed,
            Self::Packed | Self::Widened => Self::Dense,
            form => form,
        }
    }

    /// The form of one matrix of a model.
    pub(crate) fn of(self, parameter: &Parameter, config: &ModelConfig) -> Self {
        match self {
            Self::Quantized(_) if !Quantization::applies_to(parameter) => Self::Dense,
            // An embedding that is looked up and not multiplied has its rows side by side.
            Self::Packed if parameter.role == Role::Embedding && !config.weight_tying => {
                Self::Dense
            }
            form => form,
        }
    }
}

impl Matrix {
    /// The values `[d_out, d_in]`; of a packed matrix a copy, of a quantised one in f32.
    pub fn val(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Packed(weight) => {
                Tensor::from_data(weight.unpacked(), (weight.device(), weight.dtype()))
            }
        }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.val().dims(),
            Self::Packed(weight) => weight.shape(),
        }
    }

    /// The device of the values.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.val().device(),
            Self::Packed(weight) => weight.device().clone(),
        }
    }

    /// The dtype of what the matrix is multiplied with.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.val().dtype(),
            Self::Packed(weight) => weight.dtype(),
        }
    }

    /// Multiplies the last dimension, normalised: `[batch, seq, d_in]` to `[batch, seq, d_out]`.
    pub(crate) fn apply(&self, x: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
        match self {
            Self::Dense(weight) => kernels::linear(normed(x, norm), weight.val()),
            Self::Packed(weight) => kernels::packed_linear(x, of_rows(norm), weight),
        }
    }
}

fn of_rows(norm: Option<&Norm>) -> RowNorm<Dispatch> {
    norm.map_or(RowNorm::None, Norm::of_rows)
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
    ///
    /// # Panics
    ///
    /// When the last dimension is not `d_in`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.weight.apply(x, None)
    }

    /// Applies three matrices to the same input, normalised, together where the device gains by it.
    pub(crate) fn forward_three(
        linears: [&Self; 3],
        x: Tensor<3>,
        norm: Option<&Norm>,
    ) -> [Tensor<3>; 3] {
        match linears.map(|linear| &linear.weight) {
            [Matrix::Dense(a), Matrix::Dense(b), Matrix::Dense(c)] => {
                kernels::three_linears(normed(x, norm), [a.val(), b.val(), c.val()])
            }
            [Matrix::Packed(a), Matrix::Packed(b), Matrix::Packed(c)] => {
                kernels::three_packed_linears(x, of_rows(norm), [a, b, c])
            }
            mixed => mixed.map(|weight| weight.apply(x.clone(), norm)),
        }
    }

    /// `silu(gate x) * up x`, `x` normalised.
    pub(crate) fn forward_gated(
        gate: &Self,
        up: &Self,
        x: Tensor<3>,
        norm: Option<&Norm>,
    ) -> Tensor<3> {
        match (&gate.weight, &up.weight) {
            (Matrix::Dense(gate), Matrix::Dense(up)) => {
                kernels::gated_linear(normed(x, norm), gate.val(), up.val())
            }
            (Matrix::Packed(gate), Matrix::Packed(up)) => {
                kernels::packed_gated_linear(x, of_rows(norm), gate, up)
            }
            (gate, up) => kernels::swiglu(gate.apply(x.clone(), norm), up.apply(x, norm)),
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
    ///
    /// # Panics
    ///
    /// When a token has no row.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        match &self.weight {
            Matrix::Dense(weight) => burn::tensor::module::embedding(weight.val(), tokens),
            Matrix::Packed(weight) => {
                let [batch, seq] = tokens.dims();
                let ids: Vec<usize> =
                    tokens.into_data().iter::<i64>().map(|id| id as usize).collect();
                let [vocab_size, d_model] = weight.shape();
                let last = ids.iter().max().copied().unwrap_or(0);
                assert!(last < vocab_size, "token {last} of a vocabulary of {vocab_size}");
                let rows = weight.rows(ids.into_iter());
                let x = Tensor::<2>::from_data(rows, (weight.device(), weight.dtype()));
                x.reshape([batch, seq, d_model])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    /// What the table of `docs/src/running.md` says of OLMo 2 1B.
    #[cfg(feature = "flex")]
    #[test]
    fn bytes_are_those_of_each_form() {
        let config = presets::olmo2_1b();
        let total = |form: MatrixForm, dtype| {
            let bytes =
                |parameter: &Parameter| form.bytes(parameter, &config, &Device::flex(), dtype);
            config.parameters().iter().map(bytes).sum::<u64>()
        };
        let (d_model, n_layers) = (2048, 16);
        let embedding = 100_352 * d_model;
        let norms = (4 * n_layers + 1) * d_model;
        let products = 1_484_916_736 - embedding - norms;
        assert_eq!(total(MatrixForm::Dense, DType::F32), 4 * 1_484_916_736);
        assert_eq!(total(MatrixForm::Packed, DType::BF16), 2 * 1_484_916_736);
        // What is no matrix of a product is widened, 3.4 GB in all.
        let widened = 2 * products + 4 * (embedding + norms);
        assert_eq!(total(MatrixForm::Widened, DType::BF16), widened);
        assert_eq!(widened / 10_000_000, 338);
        let quantized = |bytes_of_block| (embedding + products) / 32 * bytes_of_block + 4 * norms;
        assert_eq!(total(MatrixForm::Quantized(Quantization::Q8), DType::F32), quantized(34));
        assert_eq!(total(MatrixForm::Quantized(Quantization::Q4), DType::F32), quantized(18));
    }
}
