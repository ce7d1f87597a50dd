//! One transformer block: attention and feed-forward, each with its norm and residual.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::attention::Attention;
use crate::cache::LayerCache;
use crate::config::NormPlacement;
use crate::feed_forward::FeedForward;
use crate::moe::{MixtureOfExperts, RouterLosses};
use crate::norm::{Norm, normed};
use crate::rope::Positions;

/// A transformer block.
///
/// Norm before (OLMo): `h = x + attention(norm(x))`, `h + feed_forward(norm(h))`.
/// Norm after (OLMo 2): `h = x + norm(attention(x))`, `h + norm(feed_forward(h))`.
#[derive(Module, Debug)]
pub struct Block {
    /// Self-attention.
    pub attention: Attention,
    /// Norm of attention's input or output.
    pub attention_norm: Norm,
    /// Feed-forward layer, or a mixture of them.
    pub feed_forward: BlockFeedForward,
    /// Norm of the feed-forward layer's input or output.
    pub feed_forward_norm: Norm,
    #[module(skip)]
    pub(crate) norm_placement: NormPlacement,
}

/// The second half of a block.
#[allow(clippy::large_enum_variant, reason = "a model has a few dozen, and none is moved")]
#[derive(Module, Debug)]
pub enum BlockFeedForward {
    /// One SwiGLU layer for every token.
    Swiglu(FeedForward),
    /// Many, to some of which each token is sent.
    Experts(MixtureOfExperts),
}

impl Block {
    /// Applies the block; `cache` holds the keys and values of the tokens before `x`.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, seq, d_model]`
    pub fn forward(
        &self,
        x: Tensor<3>,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        self.through(x, positions, cache, |x, norm| self.feed_forward.of_normed(x, norm))
    }

    /// As [`forward`](Self::forward) without a cache, with the losses of the block's router if it
    /// has one.
    pub fn forward_with_losses(
        &self,
        x: Tensor<3>,
        positions: &Positions,
    ) -> (Tensor<3>, Option<RouterLosses>) {
        let mut losses = None;
        let y = self.through(x, positions, None, |x, norm| match &self.feed_forward {
            BlockFeedForward::Swiglu(layer) => layer.of_normed(x, norm),
            BlockFeedForward::Experts(layer) => {
                let (y, of_router) = layer.forward_with_losses(normed(x, norm));
                losses = Some(of_router);
                y
            }
        });
        (y, losses)
    }

    fn through(
        &self,
        x: Tensor<3>,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
        feed_forward: impl FnOnce(Tensor<3>, Option<&Norm>) -> Tensor<3>,
    ) -> Tensor<3> {
        match self.norm_placement {
            NormPlacement::Before => {
                let norm = Some(&self.attention_norm);
                let h = x.clone() + self.attention.of_normed(x, norm, positions, cache);
                h.clone() + feed_forward(h, Some(&self.feed_forward_norm))
            }
            NormPlacement::After => {
                let attended = self.attention.forward(x.clone(), positions, cache);
                let h = self.attention_norm.add_to(x, attended);
                let fed = feed_forward(h.clone(), None);
                self.feed_forward_norm.add_to(h, fed)
            }
        }
    }
}

impl BlockFeedForward {
    /// Applies the layer to each token.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, seq, d_model]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.of_normed(x, None)
    }

    /// The same of the norm of `x`.
    fn of_normed(&self, x: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
        match self {
            Self::Swiglu(layer) => layer.of_normed(x, norm),
            Self::Experts(layer) => layer.forward(normed(x, norm)),
        }
    }
}
