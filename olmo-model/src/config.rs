//! The architecture of an OLMo model, as data.
//!
//! One description covers OLMo, OLMo 2, OLMo 3 and OLMoE. The families are rows of differences
//! (see [`presets`](crate::presets)), so nothing in this crate asks which family a model is of.
//!
//! | | OLMo | OLMo 2 | OLMo 3 | OLMoE |
//! |---|---|---|---|---|
//! | [`NormPlacement`] | before | after | after | before |
//! | [`NormConfig`] | layer norm without weights | RMS | RMS | RMS, cast before weight |
//! | [`RopeConfig::full_precision`] | yes | yes | yes | no |
//! | [`AttentionConfig::qk_norm`] | no | yes | yes | yes |
//! | [`AttentionConfig::window`] | none | none | 4096, full every 4th | none |
//! | [`FeedForwardConfig`] | SwiGLU | SwiGLU | SwiGLU | 64 experts, 8 active |

use serde::{Deserialize, Serialize};

use crate::error::{ConfigProblems, Problems};

/// The largest size that a configuration may name, and the most columns that the heads may have
/// together. Products of two sizes, summed over the tensors that a checkpoint may have, then stay
/// within 64 bits.
pub const MAX_SIZE: usize = 1 << 23;

/// The architecture of a decoder-only transformer of the OLMo family.
///
/// Sizes are in elements. A configuration says nothing of dtype, device, tokenizer or training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of transformer blocks.
    pub n_layers: usize,
    /// Rows of the embedding matrix: the tokenizer's vocabulary, padded as the release padded it
    /// (50304 for OLMo, 100352 for OLMo 2). Hugging Face's `vocab_size`, OLMo's `embedding_size`.
    pub vocab_size: usize,
    /// The longest sequence the model was made for, in tokens.
    pub max_sequence_length: usize,
    /// Self-attention, the same in every block.
    pub attention: AttentionConfig,
    /// The second half of each block.
    pub feed_forward: FeedForwardConfig,
    /// The norm of blocks, of queries and keys, and before the output projection.
    pub norm: NormConfig,
    /// Where a block applies its norms.
    pub norm_placement: NormPlacement,
    /// Whether the output projection is the embedding matrix itself.
    #[serde(default)]
    pub weight_tying: bool,
}

/// Self-attention with rotary positions and grouped heads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; each serves `n_heads / n_kv_heads` consecutive query heads.
    pub n_kv_heads: usize,
    /// Elements of one head; even, since rotary positions turn pairs.
    pub head_dim: usize,
    /// Whether queries and keys are normalised over their whole projection, before it is split
    /// into heads and before positions are applied.
    #[serde(default)]
    pub qk_norm: bool,
    /// Clamps queries, keys and values to `[-clip_qkv, clip_qkv]`, queries and keys after their
    /// norm where they have one, as `transformers` does. (ai2-olmo clamps before it; no released
    /// model has both.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_qkv: Option<f64>,
    /// Rotary positions.
    pub rope: RopeConfig,
    /// Sliding-window layers; `None` is full causal attention everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<SlidingWindow>,
}

/// Which layers see only the last `size` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlidingWindow {
    /// Tokens a query sees, itself included.
    pub size: usize,
    /// Layer `i` has full attention where `(i + 1) % full_every == 0`.
    pub full_every: usize,
}

/// Rotary position embedding in the half-rotation form (GPT-NeoX, Llama, OLMo).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeConfig {
    /// Base of the geometric progression of wavelengths.
    pub theta: f64,
    /// Extension to longer contexts. Layers with a sliding window keep plain positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yarn: Option<YarnConfig>,
    /// Whether queries and keys are turned in f32 whatever their dtype. Otherwise sine and cosine
    /// are rounded to it first, and so is every product and sum.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub full_precision: bool,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_yes(flag: &bool) -> bool {
    *flag
}

/// YaRN context extension (arXiv 2309.00071), as OLMo 3 uses it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct YarnConfig {
    /// New context length over the original one.
    pub factor: f64,
    /// Wavelengths that turn more often than this within the original context stay as they are.
    pub beta_fast: f64,
    /// Wavelengths that turn less often than this are fully interpolated.
    pub beta_slow: f64,
    /// Context length of the model before its extension, in tokens.
    pub original_max_sequence_length: usize,
    /// Factor on sine and cosine; `None` is `0.1 ln(factor) + 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
}

/// The feed-forward half of a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FeedForwardConfig {
    /// `w2(silu(w1 x) * w3 x)`.
    Swiglu {
        /// Rows of `w1` and of `w3`.
        hidden_size: usize,
    },
    /// A router that sends each token to `top_k` of `n_experts` SwiGLU experts.
    Experts {
        /// Rows of each expert's `w1` and `w3`.
        hidden_size: usize,
        /// Experts in each block.
        n_experts: usize,
        /// Experts that each token is sent to.
        top_k: usize,
        /// Whether the weights of a token's experts are scaled to sum to one.
        #[serde(default)]
        normalize_top_k: bool,
    },
}

/// The kind of norm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NormConfig {
    /// `(x - mean) / sqrt(var + eps)`, without weight or bias.
    LayerNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// `weight * x / sqrt(mean(x²) + eps)`.
    RmsNorm {
        /// Added to the mean of squares.
        eps: f64,
        /// Whether the product with the weight is taken before the cast back to `x`'s dtype.
        #[serde(default)]
        cast: NormCast,
    },
}

/// When a norm that computes in f32 returns to the dtype of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormCast {
    /// After the product with the weight, as OLMo 2 and 3 do.
    #[default]
    AfterWeight,
    /// Before the product with the weight, as OLMoE and Llama do.
    BeforeWeight,
}

/// Where a block applies its two norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// `x + attention(norm(x))`.
    Before,
    /// `x + norm(attention(x))`, OLMo 2's reordered norm.
    After,
}

impl ModelConfig {
    /// Checks every field against every other, and reports all problems at once.
    ///
    /// # Errors
    ///
    /// The list of problems, each naming its field, what was found and what would work.
    pub fn validate(&self) -> Result<(), ConfigProblems> {
        let mut problems = Problems::default();
        problems.positive("d_model", self.d_model);
        problems.positive("n_layers", self.n_layers);
        problems.positive("vocab_size", self.vocab_size);
        problems.positive("max_sequence_length", self.max_sequence_length);
        self.attention.validate(&mut problems);
        self.feed_forward.validate(&mut problems);
        let (NormConfig::LayerNorm { eps } | NormConfig::RmsNorm { eps, .. }) = self.norm;
        problems.positive_real("norm.eps", eps);
        problems.into_result()
    }

    /// The attention window of layer `layer` in tokens, `None` where attention is full.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let window = self.attention.window?;
        (!(layer + 1).is_multiple_of(window.full_every)).then_some(window.size)
    }
}

impl AttentionConfig {
    /// Columns of the query projection: `n_heads * head_dim`.
    pub fn d_query(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Columns of the key and of the value projection: `n_kv_heads * head_dim`.
    pub fn d_key_value(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    fn validate(&self, problems: &mut Problems) {
        problems.positive("attention.n_heads", self.n_heads);
        problems.positive("attention.n_kv_heads", self.n_kv_heads);
        problems.positive("attention.head_dim", self.head_dim);
        if !self.head_dim.is_multiple_of(2) {
            problems.push("attention.head_dim", self.head_dim, "an even number, for rotary pairs");
        } else if self.head_dim <= MAX_SIZE && self.n_heads.saturating_mul(self.head_dim) > MAX_SIZE
        {
            let expected = format!("at most {MAX_SIZE} divided by n_heads = {}", self.n_heads);
            problems.push("attention.head_dim", self.head_dim, expected);
        }
        if self.n_kv_heads > 0 && !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of attention.n_heads = {}", self.n_heads);
            problems.push("attention.n_kv_heads", self.n_kv_heads, expected);
        }
        if let Some(clip) = self.clip_qkv {
            problems.positive_real("attention.clip_qkv", clip);
        }
        if let Some(window) = self.window {
            problems.positive("attention.window.size", window.size);
            problems.positive("attention.window.full_every", window.full_every);
        }
        self.rope.validate(problems);
    }
}

impl RopeConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.positive_real("attention.rope.theta", self.theta);
        let Some(yarn) = &self.yarn else { return };
        problems.positive_real("attention.rope.yarn.beta_slow", yarn.beta_slow);
        if !(yarn.factor.is_finite() && yarn.factor >= 1.0) {
            problems.push("attention.rope.yarn.factor", yarn.factor, "a number of at least 1");
        }
        if !(yarn.beta_fast.is_finite() && yarn.beta_fast > yarn.beta_slow) {
            let expected = format!("a number above beta_slow = {}", yarn.beta_slow);
            problems.push("attention.rope.yarn.beta_fast", yarn.beta_fast, expected);
        }
        problems.positive(
            "attention.rope.yarn.original_max_sequence_length",
            yarn.original_max_sequence_length,
        );
        if let Some(factor) = yarn.attention_factor {
            problems.positive_real("attention.rope.yarn.attention_factor", factor);
        }
    }
}

impl FeedForwardConfig {
    /// Rows of `w1`: of the layer, or of one expert.
    pub fn hidden_size(&self) -> usize {
        let (Self::Swiglu { hidden_size } | Self::Experts { hidden_size, .. }) = *self;
        hidden_size
    }

    fn validate(&self, problems: &mut Problems) {
        problems.positive("feed_forward.hidden_size", self.hidden_size());
        if let Self::Experts { n_experts, top_k, .. } = *self {
            problems.positive("feed_forward.n_experts", n_experts);
            if top_k == 0 || top_k > n_experts {
                let expected = format!("between 1 and n_experts = {n_experts}");
                problems.push("feed_forward.top_k", top_k, expected);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    #[test]
    fn every_problem_is_listed_at_once() {
        let mut config = presets::olmo2_1b();
        config.d_model = 0;
        config.attention.n_kv_heads = 3;
        config.attention.head_dim = 5;
        config.norm = NormConfig::LayerNorm { eps: f64::NAN };
        config.feed_forward = FeedForwardConfig::Experts {
            hidden_size: 8,
            n_experts: 4,
            top_k: 5,
            normalize_top_k: true,
        };
        let problems = config.validate().expect_err("five fields are wrong");
        let fields: Vec<_> = problems.0.iter().map(|p| p.field).collect();
        assert_eq!(
            fields,
            [
                "d_model",
                "attention.head_dim",
                "attention.n_kv_heads",
                "feed_forward.top_k",
                "norm.eps"
            ]
        );
        let text = problems.to_string();
        assert!(
            text.contains(
                "attention.n_kv_heads is 3, expected a divisor of attention.n_heads = 16"
            )
        );
    }

    #[test]
    fn sizes_that_no_model_folder_could_name_are_refused() {
        let mut config = presets::olmo2_1b();
        config.max_sequence_length = MAX_SIZE + 1;
        config.attention.head_dim = MAX_SIZE;
        let text = config.validate().expect_err("two fields are wrong").to_string();
        for part in [
            "max_sequence_length is 8388609, expected at most 8388608",
            "attention.head_dim is 8388608, expected at most 8388608 divided by n_heads = 16",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        config.max_sequence_length = MAX_SIZE;
        config.attention.head_dim = MAX_SIZE / 16;
        config.validate().expect("both are the largest there are");
    }

    #[test]
    fn serde_round_trips_and_refuses_unknown_fields() {
        for (name, config) in presets::all() {
            let text = serde_json::to_string(&config).expect("a config is plain data");
            assert_eq!(serde_json::from_str::<ModelConfig>(&text).expect(name), config);
        }
        let mut value = serde_json::to_value(presets::olmo_1b()).expect("plain data");
        value["d_mode"] = 3.into();
        let error = serde_json::from_value::<ModelConfig>(value).expect_err("a misspelt field");
        assert!(error.to_string().contains("d_mode"), "{error}");
    }

    #[test]
    fn windows_follow_the_published_pattern() {
        let config = presets::olmo3_7b();
        let windows: Vec<_> = (0..8).map(|layer| config.window(layer)).collect();
        let slide = Some(4096);
        assert_eq!(windows, [slide, slide, slide, None, slide, slide, slide, None]);
        assert_eq!(presets::olmo2_7b().window(0), None);
    }
}
