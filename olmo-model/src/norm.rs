//! The norm of blocks, of queries and keys, and before the output projection.

use burn::backend::Dispatch;
use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::config::{NormCast, NormConfig};
use crate::kernels::{self, RowNorm};

/// A norm over the last dimension, computed in f32 and cast back to the dtype of its input.
#[derive(Module, Debug)]
pub struct Norm {
    /// `[size]`; layer norm has none.
    pub weight: Option<Param<Tensor<1>>>,
    #[module(skip)]
    config: NormConfig,
}

impl Norm {
    pub(crate) fn new(config: NormConfig, weight: Option<Param<Tensor<1>>>) -> Self {
        Self { weight, config }
    }

    /// Normalises each vector of the last dimension.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, seq, size]`
    ///
    /// # Panics
    ///
    /// When the last dimension is not `size`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::norm(x, self.of_rows())
    }

    /// `x` with the norm of `y` added.
    pub(crate) fn add_to(&self, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        kernels::add_normed(x, y, self.of_rows())
    }

    /// The norm as a part of the operation that takes its output.
    pub(crate) fn of_rows(&self) -> RowNorm<Dispatch> {
        match (self.config, &self.weight) {
            (NormConfig::RmsNorm { eps, cast }, Some(weight)) => {
                let cast_first = cast == NormCast::BeforeWeight;
                RowNorm::Rms { weight: weight.val().into_dispatch(), eps, cast_first }
            }
            (NormConfig::LayerNorm { eps } | NormConfig::RmsNorm { eps, .. }, _) => {
                RowNorm::Layer { eps }
            }
        }
    }
}

/// The norm of `x`, where there is one.
pub(crate) fn normed(x: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
