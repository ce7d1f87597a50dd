//! The training step: a model as a chain of segments.
//!
//! A model is a chain of embedding, block 0 … block L-1, and head with loss. The forward pass goes
//! segment by segment; each segment's backward pass runs on an autodiff graph of its own, whose
//! leaves are the segment's input and parameters, and hands the gradient of its input to the
//! segment before. The gradients are those of one graph over the whole model, to the last bit.
//!
//! That one mechanism gives activation recomputation ([`Activations`]), mixed precision
//! ([`Precision`]: a segment's weights are cast when it runs, its gradients cast back before they
//! are summed), and the place where sharded training will gather and scatter.

mod activations;
mod batch;
mod chain;
mod clip;
mod gradients;
mod head;
mod losses;

use burn::tensor::{Device, FloatDType};
use olmo_model::{RouterWeights, check_dtype};
use serde::{Deserialize, Serialize};

pub use activations::{ActivationCosts, Activations};
pub(crate) use batch::batch_gradients;
pub use chain::micro_batch;
pub(crate) use clip::{Clipping, clip, clipped_with};
pub use gradients::Gradients;
pub(crate) use losses::row_losses;

/// What a micro-batch's forward and backward pass depend on besides model and data.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepOptions {
    /// Number format of the computation.
    pub precision: Precision,
    /// What is kept for the backward pass.
    pub activations: Activations,
    /// Factor of the squared log of the softmax's denominator in the loss; 0 for none.
    pub z_loss: f64,
    /// Factors of the losses of routers, where the model has any.
    pub routers: RouterWeights,
    /// Factor on the summed loss before it is differentiated: the reciprocal of the labelled
    /// tokens in the whole batch.
    pub loss_scale: f64,
}

/// Number format of the computation. Master weights, gradient sums and optimizer state are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Everything in f32.
    #[default]
    #[serde(rename = "fp32")]
    F32,
    /// Weights and activations in bf16; norms, softmax and loss inside in f32.
    AmpBf16,
}

impl Precision {
    /// What products are computed in.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::AmpBf16 => FloatDType::BF16,
        }
    }

    /// Whether a device computes so.
    ///
    /// # Errors
    ///
    /// [`olmo_model::Error::Dtype`] where it does not.
    pub fn check(self, device: &Device) -> Result<(), olmo_model::Error> {
        check_dtype(device, self.dtype().into())
    }
}
