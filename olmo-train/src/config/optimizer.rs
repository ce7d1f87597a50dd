//! The optimizer of a run.

use olmo_optim::AdamWConfig;
use serde::{Deserialize, Serialize};

/// AdamW and its parameter groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decay of the moving averages of gradients and of their squares.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay, decoupled.
    pub weight_decay: f64,
    /// Whether weights of norms decay too.
    pub decay_norm_and_bias: bool,
    /// Whether the embedding decays too.
    pub decay_embeddings: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        let AdamWConfig { betas, eps, weight_decay } = AdamWConfig::default();
        Self {
            learning_rate: 3e-4,
            betas,
            eps,
            weight_decay,
            decay_norm_and_bias: true,
            decay_embeddings: false,
        }
    }
}
