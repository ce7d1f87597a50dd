//! Causal self-attention with grouped heads, rotary positions and optional q/k norm.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::cache::LayerCache;
use crate::kernels::{self, AttentionSpan};
use crate::linear::Linear;
use crate::norm::{Norm, normed};
use crate::rope::Positions;

/// Self-attention of one block.
///
/// `w_out(attention(rope(clip(q_norm(w_q x))), rope(clip(k_norm(w_k x))), clip(w_v x)))`
#[derive(Module, Debug)]
pub struct Attention {
    /// Query projection, `[n_heads * head_dim, d_model]`.
    pub w_q: Linear,
    /// Key projection, `[n_kv_heads * head_dim, d_model]`.
    pub w_k: Linear,
    /// Value projection, `[n_kv_heads * head_dim, d_model]`.
    pub w_v: Linear,
    /// Output projection, `[d_model, n_heads * head_dim]`.
    pub w_out: Linear,
    /// Norm over the whole query projection.
    pub q_norm: Option<Norm>,
    /// Norm over the whole key projection.
    pub k_norm: Option<Norm>,
    #[module(skip)]
    pub(crate) shape: AttentionShape,
}

/// What the weights do not say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionShape {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) clip_qkv: Option<f64>,
    pub(crate) window: Option<usize>,
    /// Whether rotary positions are applied in f32 whatever the dtype.
    pub(crate) rope_full_precision: bool,
}

impl Attention {
    /// Attends from each token of `x` to itself, to those before it, and to those in `cache`,
    /// which then holds `x`'s keys and values too.
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
        self.of_normed(x, None, positions, cache)
    }

    /// The same of the norm of `x`.
    pub(crate) fn of_normed(
        &self,
        x: Tensor<3>,
        norm: Option<&Norm>,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let AttentionShape { n_heads, n_kv_heads, clip_qkv, window, rope_full_precision } =
            self.shape;
        let clip = |x: Tensor<3>| match clip_qkv {
            Some(limit) => x.clamp(-limit, limit),
            None => x,
        };
        let [q, k, v] = Linear::forward_three([&self.w_q, &self.w_k, &self.w_v], x, norm);
        let q = clip(normed(q, self.q_norm.as_ref()));
        let k = clip(normed(k, self.k_norm.as_ref()));
        let v = clip(v);

        let rope = positions.tables(window);
        let dtype = if rope_full_precision { rope.cos.dtype() } else { q.dtype() };
        let table = |table: &Tensor<2>| table.clone().cast(dtype);
        let (cos, sin) = (table(&rope.cos), table(&rope.sin));
        let q = kernels::rotary(q, cos.clone(), sin.clone(), n_heads);
        let k = kernels::rotary(k, cos, sin, n_kv_heads);
        let [batch, seq, d_kv] = v.dims();
        let v = v.reshape([batch, seq, n_kv_heads, d_kv / n_kv_heads]).swap_dims(1, 2);

        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        let ([_, _, _, head_dim], [_, _, n_keys, _]) = (q.dims(), k.dims());
        let span = AttentionSpan { window, padding: positions.padding(n_keys) };
        let y = kernels::attention(q, k, v, span);
        self.w_out.forward(y.swap_dims(1, 2).reshape([batch, seq, n_heads * head_dim]))
    }
}
