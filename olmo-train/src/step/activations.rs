//! What blocks keep between their forward and their backward pass, and what that takes.
//!
//! [`ActivationCosts`] counts what the autodiff graph of a block holds. With `d` the width of the
//! model, `q` and `k` those of all queries and of all keys, `h` that of the feed-forward layer, a token
//! has in a block
//!
//! ```text
//! 4 d           its input, the residual in the middle, inputs or outputs of both norms
//! 2 q + 2 k     queries, keys, values; what attention gives
//! q + k         queries and keys before their norm, where there is one
//! q + 2 k       the same before they are clipped, where they are
//! 3 h           gate, up, and their product
//! ```
//!
//! and in a mixture of `e` experts, of which each token has `t`, `3 t d + 2 t h + 4 e` instead of `3 h`.
//! In mixed precision an element has two bytes, and a graph has the bf16 copies of its block's weights.

use olmo_model::config::FeedForwardConfig;
use olmo_model::{ModelConfig, Role};
use serde::{Deserialize, Deserializer, Serialize};

use super::Precision;

/// What blocks keep between their forward and their backward pass. A block that keeps nothing but its
/// input is computed again. Gradients are the same to the last bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// Every block everything its backward pass needs: fastest.
    #[default]
    Keep,
    /// No block anything but its input: least memory, a quarter to a third more work.
    Recompute,
    /// Every k-th block, from the first on, is computed again, and the others keep all.
    RecomputeEvery(usize),
    /// Every k-th block, from the first on, keeps all, and the others are computed again.
    KeepEvery(usize),
    /// The last so many blocks keep all: as their backward passes come first, what they keep is gone
    /// before another block is computed again.
    KeepLast(usize),
    /// As [`KeepLast`](Self::KeepLast) of as many blocks as fit into so many bytes by
    /// [`ActivationCosts`], for a micro-batch.
    Budget(#[serde(deserialize_with = "bytes")] u64),
}

impl Activations {
    /// Whether a block keeps all, of `n_layers`. A budget is [resolved](Self::resolved) before;
    /// where it is not, no block does.
    pub fn keeps(self, layer: usize, n_layers: usize) -> bool {
        match self {
            Self::Keep => true,
            Self::Recompute | Self::Budget(_) => false,
            Self::RecomputeEvery(k) => !layer.is_multiple_of(k),
            Self::KeepEvery(k) => layer.is_multiple_of(k),
            Self::KeepLast(n) => layer + n >= n_layers,
        }
    }

    /// A budget as a number of blocks; anything else as it is.
    #[must_use]
    pub fn resolved(self, costs: &ActivationCosts) -> Self {
        let Self::Budget(bytes) = self else { return self };
        let left = bytes.saturating_sub(costs.bytes(Self::Recompute));
        let more = costs.block_bytes.saturating_sub(costs.input_bytes).max(1);
        Self::KeepLast((left / more).min(costs.n_layers as u64) as usize)
    }

    /// What is wrong with the setting, for micro-batches of such costs.
    pub(crate) fn problem(self, costs: &ActivationCosts) -> Option<String> {
        match self {
            Self::RecomputeEvery(0) | Self::KeepEvery(0) => {
                Some("activations are of every 0th block, expected at least 1".to_owned())
            }
            Self::Budget(bytes) if bytes < costs.bytes(Self::Recompute) => Some(format!(
                "activations.budget is {bytes}, expected at least {}, which the inputs of all blocks take for a micro-batch",
                costs.bytes(Self::Recompute)
            )),
            _ => None,
        }
    }
}

/// Bytes that may be written as `8e9`.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    let fine = number.fract() == 0.0 && (0.0..9e15).contains(&number);
    let wrong = || serde::de::Error::custom(format!("{number} is no number of bytes"));
    if fine { Ok(number as u64) } else { Err(wrong()) }
}

/// Bytes that the blocks of a model hold for a micro-batch between the passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivationCosts {
    /// Blocks.
    pub n_layers: usize,
    /// Of a block that keeps all, its input included.
    pub block_bytes: u64,
    /// Of a block that keeps its input.
    pub input_bytes: u64,
}

impl ActivationCosts {
    /// Those of micro-batches of `n_tokens` tokens.
    pub fn new(model: &ModelConfig, n_tokens: usize, precision: Precision) -> Self {
        let product = |factors: &[usize]| {
            factors.iter().fold(1_u64, |product, factor| product.saturating_mul(*factor as u64))
        };
        let attention = &model.attention;
        let d = product(&[model.d_model]);
        let q = product(&[attention.n_heads, attention.head_dim]);
        let k = product(&[attention.n_kv_heads, attention.head_dim]);
        let normed = if attention.qk_norm { [q, k] } else { [0, 0] };
        let clipped = if attention.clip_qkv.is_some() { [q, k, k] } else { [0, 0, 0] };
        let fed = match model.feed_forward {
            FeedForwardConfig::Swiglu { hidden_size } => [product(&[3, hidden_size]), 0, 0],
            FeedForwardConfig::Experts { hidden_size, n_experts, top_k, .. } => [
                product(&[3, top_k, model.d_model]),
                product(&[2, top_k, hidden_size]),
                product(&[4, n_experts]),
            ],
        };
        let elements = [d, d, d, d, q, q, k, k].into_iter().chain(normed).chain(clipped).chain(fed);
        let per_token = elements.fold(0, u64::saturating_add);
        let (element, weights) = match precision {
            Precision::F32 => (4, 0),
            Precision::AmpBf16 => (2, product(&[2, block_parameters(model)])),
        };
        let bytes =
            |per_token: u64| per_token.saturating_mul(n_tokens as u64).saturating_mul(element);
        Self {
            n_layers: model.n_layers,
            block_bytes: bytes(per_token).saturating_add(weights),
            input_bytes: bytes(d),
        }
    }

    /// What all blocks together hold.
    pub fn bytes(&self, activations: Activations) -> u64 {
        let activations = activations.resolved(self);
        let n_kept = self.n_kept(activations) as u64;
        let kept = self.block_bytes.saturating_mul(n_kept);
        kept.saturating_add(self.input_bytes.saturating_mul(self.n_layers as u64 - n_kept))
    }

    /// Blocks that keep all.
    pub fn n_kept(&self, activations: Activations) -> usize {
        let activations = activations.resolved(self);
        (0..self.n_layers).filter(|layer| activations.keeps(*layer, self.n_layers)).count()
    }
}

/// Elements of the parameters of one block.
fn block_parameters(model: &ModelConfig) -> usize {
    let one = ModelConfig { n_layers: 1, ..model.clone() };
    let is_inside = |role: &Role| !matches!(role, Role::Embedding | Role::Output);
    let elements = one.parameters().into_iter().filter(|parameter| is_inside(&parameter.role));
    elements.map(|parameter| parameter.shape.iter().product::<usize>()).sum()
}

#[cfg(test)]
mod tests {
    use olmo_model::presets;

    use super::*;

    fn costs(precision: Precision) -> ActivationCosts {
        ActivationCosts::new(&presets::small_olmo(64, 6, 4, 128), 10, precision)
    }

    #[test]
    fn blocks_are_those_of_the_original_strategies() {
        let kept = |activations: Activations| -> Vec<usize> {
            (0..6).filter(|layer| activations.keeps(*layer, 6)).collect()
        };
        assert_eq!(kept(Activations::RecomputeEvery(2)), [1, 3, 5]);
        assert_eq!(kept(Activations::RecomputeEvery(1)), [0; 0]);
        assert_eq!(kept(Activations::KeepEvery(4)), [0, 4]);
        assert_eq!(kept(Activations::KeepLast(2)), [4, 5]);
        assert_eq!(kept(Activations::KeepLast(9)), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_budget_is_as_many_blocks_as_fit() {
        let costs = costs(Precision::F32);
        // 4 + 2 + 2 widths, and 3 of the feed-forward layer of four: 20.
        assert_eq!(costs.block_bytes, 10 * 64 * 20 * 4);
        assert_eq!(costs.input_bytes, 10 * 64 * 4);
        for n in 0..=6 {
            let exact = costs.bytes(Activations::KeepLast(n));
            assert_eq!(Activations::Budget(exact).resolved(&costs), Activations::KeepLast(n));
            let more = Activations::Budget(exact + 1);
            assert_eq!(costs.n_kept(more), n);
            assert!(costs.bytes(more) <= exact + 1);
        }
        let all = costs.bytes(Activations::Keep);
        assert_eq!(Activations::Budget(all * 2).resolved(&costs), Activations::KeepLast(6));
        let least = costs.bytes(Activations::Recompute);
        assert!(Activations::Budget(least).problem(&costs).is_none());
        let problem = Activations::Budget(least - 1).problem(&costs).expect("too little");
        assert!(problem.contains("expected at least"), "{problem}");
        let mixed = self::costs(Precision::AmpBf16);
        assert!(mixed.block_bytes > costs.block_bytes / 2, "copies of weights");
    }

    #[test]
    fn every_form_is_read_and_written() {
        for (json, activations) in [
            ("\"keep\"", Activations::Keep),
            ("\"recompute\"", Activations::Recompute),
            ("{\"recompute_every\":2}", Activations::RecomputeEvery(2)),
            ("{\"budget\":8000000000}", Activations::Budget(8_000_000_000)),
        ] {
            assert_eq!(serde_json::from_str::<Activations>(json).expect("a form"), activations);
            assert_eq!(serde_json::to_string(&activations).expect("plain"), json);
        }
        let float: Activations = serde_json::from_str("{\"budget\": 8e9}").expect("a form");
        assert_eq!(float, Activations::Budget(8_000_000_000));
        assert!(serde_json::from_str::<Activations>("{\"budget\": 0.5}").is_err());
    }
}
