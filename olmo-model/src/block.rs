//! One transformer block: attention and feed-forward, each with its norm and residual.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::attention::Attention;
use crate::cache::LayerCache;
use crate::config::NormPlacement;
use crate::feed_forward::FeedForward;
use crate::norm::Norm;
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
    /// Feed-forward layer.
    pub feed_forward: FeedForward,
    /// Norm of the feed-forward layer's input or output.
    pub feed_forward_norm: Norm,
    #[module(skip)]
    pub(crate) norm_placement: NormPlacement,
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
        match self.norm_placement {
            NormPlacement::Before => {
                let normed = self.attention_norm.forward(x.clone());
                let h = x + self.attention.forward(normed, positions, cache);
                let normed = self.feed_forward_norm.forward(h.clone());
                h + self.feed_forward.forward(normed)
            }
            NormPlacement::After => {
                let attended = self.attention.forward(x.clone(), positions, cache);
                let h = x + self.attention_norm.forward(attended);
                let fed = self.feed_forward.forward(h.clone());
                h + self.feed_forward_norm.forward(fed)
            }
        }
    }
}
