//! The released models, and three that AI2 has official configurations for, as rows of differences.
//!
//! A checkpoint's own `config.json` is the truth; these are for planning, training and tests.
//! Sources: allenai/OLMo `configs/official-*`, OLMo-core `nn/transformer/config.py`, and the
//! `config.json` of the released checkpoints.

use crate::config::{
    AttentionConfig, FeedForwardConfig, ModelConfig, NormCast, NormConfig, NormPlacement,
    RopeConfig, SlidingWindow, YarnConfig,
};

/// What a table of models needs to know of each.
type Row = (&'static str, fn() -> ModelConfig);

const TABLE: &[Row] = &[
    ("olmo_1b", olmo_1b),
    ("olmo_7b", olmo_7b),
    ("olmo_7b_twin_2t", olmo_7b),
    ("olmo_7b_2t", olmo_7b),
    ("olmo_7b_not_annealed", olmo_7b),
    ("olmo_7b_0424", olmo_7b_0424),
    ("olmo_1b_0724", olmo_1b_0724),
    ("olmo_7b_0724", olmo_7b_0424),
    ("olmo_65b", olmo_65b),
    ("olmo_20m", olmo_20m),
    ("olmo_150m", olmo_150m),
    ("olmo2_1b", olmo2_1b),
    ("olmo2_7b", olmo2_7b),
    ("olmo2_13b", olmo2_13b),
    ("olmo2_32b", olmo2_32b),
    ("olmo3_7b", olmo3_7b),
    ("olmo3_7b_long", olmo3_7b_long),
    ("olmo3_32b", olmo3_32b),
    ("olmo3_32b_long", olmo3_32b_long),
    ("olmoe_1b_7b", olmoe_1b_7b),
];

/// Every preset with its name, oldest family first.
pub fn all() -> impl Iterator<Item = (&'static str, ModelConfig)> {
    TABLE.iter().map(|(name, config)| (*name, config()))
}

/// The preset of that name.
pub fn by_name(name: &str) -> Option<ModelConfig> {
    TABLE.iter().find(|(known, _)| *known == name).map(|(_, config)| config())
}

/// OLMo 1B (2024-02): tied embeddings, context 2048.
pub fn olmo_1b() -> ModelConfig {
    ModelConfig { weight_tying: true, ..olmo(2048, 16, 16, 8192) }
}

/// OLMo 7B (2024-02). Its twin on AMD (`olmo_7b_twin_2t`) and the variants with other data have
/// the same architecture.
pub fn olmo_7b() -> ModelConfig {
    olmo(4096, 32, 32, 11_008)
}

/// OLMo 1.7 7B (2024-04) and OLMo 7B of 2024-07: context 4096, clipped projections.
pub fn olmo_7b_0424() -> ModelConfig {
    clipped(ModelConfig { max_sequence_length: 4096, ..olmo_7b() })
}

/// OLMo 1B of 2024-07: context 4096.
pub fn olmo_1b_0724() -> ModelConfig {
    ModelConfig { max_sequence_length: 4096, ..olmo_1b() }
}

/// The 65B model that the OLMo paper plans; allenai/OLMo `configs/mitchish70-s3.yaml`.
pub fn olmo_65b() -> ModelConfig {
    let mut config = ModelConfig { max_sequence_length: 4096, ..olmo(8192, 80, 64, 28_672) };
    config.attention.n_kv_heads = 8;
    config
}

/// AI2's configuration of 20M parameters, allenai/OLMo `configs/tiny/OLMo-20M.yaml`, of which no model
/// was released. The norms of OLMoE, before attention and without any of queries and keys: no model
/// type of transformers has it, and checkpoints are of type `hf_olmo`.
pub fn olmo_20m() -> ModelConfig {
    tiny(256, 8, 8)
}

/// AI2's configuration of 150M parameters, allenai/OLMo `configs/tiny/OLMo-150M.yaml`, of which no model
/// was released; as [`olmo_20m`].
pub fn olmo_150m() -> ModelConfig {
    tiny(768, 12, 12)
}

/// OLMo 2 1B (2025-04).
pub fn olmo2_1b() -> ModelConfig {
    olmo2(2048, 16, 16, 16, 8192)
}

/// OLMo 2 7B (2024-11).
pub fn olmo2_7b() -> ModelConfig {
    olmo2(4096, 32, 32, 32, 11_008)
}

/// OLMo 2 13B (2024-11).
pub fn olmo2_13b() -> ModelConfig {
    olmo2(5120, 40, 40, 40, 13_824)
}

/// OLMo 2 32B (2025-03): grouped heads.
pub fn olmo2_32b() -> ModelConfig {
    olmo2(5120, 64, 40, 8, 27_648)
}

/// OLMo 3 7B (2025-10) as pretrained: context 8192.
pub fn olmo3_7b() -> ModelConfig {
    windowed(olmo2_7b())
}

/// OLMo 3 7B after its long-context stage: context 65536 by YaRN on the full layers.
pub fn olmo3_7b_long() -> ModelConfig {
    extended(olmo3_7b())
}

/// OLMo 3 32B (2025-10) as pretrained: context 8192.
pub fn olmo3_32b() -> ModelConfig {
    windowed(olmo2_32b())
}

/// OLMo 3 32B after its long-context stage.
pub fn olmo3_32b_long() -> ModelConfig {
    extended(olmo3_32b())
}

/// OLMoE 1B-7B (2024-09 and 2025-01): 64 experts, 8 active.
pub fn olmoe_1b_7b() -> ModelConfig {
    let mut config = ModelConfig {
        max_sequence_length: 4096,
        norm: NormConfig::RmsNorm { eps: 1e-5, cast: NormCast::BeforeWeight },
        feed_forward: FeedForwardConfig::Experts {
            hidden_size: 1024,
            n_experts: 64,
            top_k: 8,
            normalize_top_k: false,
        },
        ..olmo(2048, 16, 16, 1024)
    };
    config.attention.qk_norm = true;
    config.attention.rope.full_precision = false;
    config
}

/// A small OLMo for tests and first runs: untied, layer norm before, every size given.
pub fn small_olmo(
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    vocab_size: usize,
) -> ModelConfig {
    ModelConfig { vocab_size, ..olmo(d_model, n_layers, n_heads, 4 * d_model) }
}

/// A small OLMo 2 for tests and first runs: every size given, no grouped heads.
pub fn small_olmo2(
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    vocab_size: usize,
) -> ModelConfig {
    ModelConfig { vocab_size, ..olmo2(d_model, n_layers, n_heads, n_heads, 4 * d_model) }
}

/// A small OLMo 3 for tests: windows of `window` tokens on three of four layers.
pub fn small_olmo3(
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    vocab_size: usize,
    window: usize,
) -> ModelConfig {
    let mut config = small_olmo2(d_model, n_layers, n_heads, vocab_size);
    config.attention.window = Some(SlidingWindow { size: window, full_every: 4 });
    config
}

/// A small OLMoE for tests: `n_experts`, to `top_k` of which each token goes.
pub fn small_olmoe(
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    vocab_size: usize,
    n_experts: usize,
    top_k: usize,
) -> ModelConfig {
    let mut config = ModelConfig { d_model, n_layers, vocab_size, ..olmoe_1b_7b() };
    config.attention.n_heads = n_heads;
    config.attention.n_kv_heads = n_heads;
    config.attention.head_dim = d_model / n_heads;
    let (hidden_size, normalize_top_k) = (d_model / 2, false);
    config.feed_forward =
        FeedForwardConfig::Experts { hidden_size, n_experts, top_k, normalize_top_k };
    config
}

fn olmo(d_model: usize, n_layers: usize, n_heads: usize, hidden_size: usize) -> ModelConfig {
    ModelConfig {
        d_model,
        n_layers,
        vocab_size: 50_304,
        max_sequence_length: 2048,
        attention: AttentionConfig {
            n_heads,
            n_kv_heads: n_heads,
            head_dim: d_model / n_heads,
            qk_norm: false,
            clip_qkv: None,
            rope: RopeConfig { theta: 10_000.0, yarn: None, full_precision: true },
            window: None,
        },
        feed_forward: FeedForwardConfig::Swiglu { hidden_size },
        norm: NormConfig::LayerNorm { eps: 1e-5 },
        norm_placement: NormPlacement::Before,
        weight_tying: false,
    }
}

fn olmo2(
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    hidden_size: usize,
) -> ModelConfig {
    let mut config = ModelConfig {
        vocab_size: 100_352,
        max_sequence_length: 4096,
        norm: NormConfig::RmsNorm { eps: 1e-6, cast: NormCast::AfterWeight },
        norm_placement: NormPlacement::After,
        ..olmo(d_model, n_layers, n_heads, hidden_size)
    };
    config.attention.n_kv_heads = n_kv_heads;
    config.attention.qk_norm = true;
    config.attention.rope.theta = 500_000.0;
    config
}

fn tiny(d_model: usize, n_layers: usize, n_heads: usize) -> ModelConfig {
    ModelConfig {
        max_sequence_length: 4096,
        norm: NormConfig::RmsNorm { eps: 1e-6, cast: NormCast::BeforeWeight },
        ..olmo(d_model, n_layers, n_heads, 4 * d_model)
    }
}

fn clipped(mut config: ModelConfig) -> ModelConfig {
    config.attention.clip_qkv = Some(8.0);
    config
}

fn windowed(mut config: ModelConfig) -> ModelConfig {
    config.max_sequence_length = 8192;
    config.attention.window = Some(SlidingWindow { size: 4096, full_every: 4 });
    config
}

fn extended(mut config: ModelConfig) -> ModelConfig {
    config.max_sequence_length = 65_536;
    config.attention.rope.yarn = Some(YarnConfig {
        factor: 8.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_sequence_length: 8192,
        attention_factor: None,
    });
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_sound_and_found_by_name() {
        for (name, config) in all() {
            config.validate().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(by_name(name), Some(config));
        }
        assert_eq!(by_name("olmo_8b"), None);
    }
}
