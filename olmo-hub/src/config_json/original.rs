//! ai2-olmo's `ModelConfig`, in the `config.yaml` of its checkpoints and, flattened, in the
//! `config.json` of model type `hf_olmo`, to [`ModelConfig`] and back.
//!
//! As with the other types, a field is mapped, listed as having no bearing on the network, or an
//! error. What is absent has the default of `olmo/config.py` in ai2-olmo 0.6.0, which are those of
//! GPT-2 and seldom what was trained.

use olmo_model::ModelConfig;
use olmo_model::config::{AttentionConfig, FeedForwardConfig, NormConfig, RopeConfig};
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::read::IRRELEVANT;
use super::{HfConfig, Special};
use crate::dtype::Dtype;
use crate::family::{Family, OLMO_NORM_EPS};

/// Fields of ai2-olmo that say how a model was initialised, trained or computed, not what it is.
const TRAINING: &[&str] = &[
    "init_device",
    "init_fn",
    "init_std",
    "init_cutoff_factor",
    "scale_emb_init",
    "emb_init_std",
    "precision",
    "flash_attention",
    "rope_full_precision",
    "attention_dropout",
    "residual_dropout",
    "embedding_dropout",
    "block_group_size",
    "alibi_bias_max",
    // What transformers adds; `hf_olmo` ties weights by `weight_tying` alone.
    "tie_word_embeddings",
    "model_type",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
];

/// What early configurations say ends a text, and what in their tokenizer does.
const WRONG_EOS: u64 = 0;
const RIGHT_EOS: u32 = 50_279;
/// The vocabulary of the tokenizer where the mistake was made.
const MISTAKEN_VOCABULARY: u64 = 50_280;

/// Whether a configuration has the mistake that `--fix_eos_token_id` of ai2-olmo's converter
/// mends: in the vocabulary of OLMo, token 0 stands for an address and 50279 ends a text.
fn is_eos_mistake(eos: u64, vocab_size: u64) -> bool {
    eos == WRONG_EOS && vocab_size == MISTAKEN_VOCABULARY
}

/// What is read otherwise than it stands there.
pub(super) fn mended(object: &Map<String, Value>) -> Option<String> {
    let number = |name: &str| object.get(name).and_then(Value::as_u64);
    let is_mistake = is_eos_mistake(number("eos_token_id")?, number("vocab_size")?);
    is_mistake.then(|| {
        format!(
            "eos_token_id is {WRONG_EOS}, a known mistake of early configurations: token \
             {WRONG_EOS} of this vocabulary stands for an address, and {RIGHT_EOS} ends a text; \
             {RIGHT_EOS} is taken"
        )
    })
}

/// Whether a `config.json` is that of `hf_olmo`, which was first called `olmo` too.
pub(super) fn is_flattened(object: &Map<String, Value>) -> bool {
    let model_type = object.get("model_type").and_then(Value::as_str);
    model_type == Some("hf_olmo") || (model_type == Some("olmo") && object.contains_key("d_model"))
}

/// Takes every field; problems are left in `fields`.
pub(super) fn config(fields: &mut Fields) -> HfConfig {
    fields.ignore(TRAINING);
    fields.ignore(IRRELEVANT);
    let norm_after = fields.flag("norm_after", false);
    let family = if norm_after { Family::Olmo2 } else { Family::Olmo };
    expect_family(fields, family);
    let d_model = fields.size("d_model", 768);
    let n_heads = fields.size("n_heads", 12);
    if !d_model.is_multiple_of(n_heads) {
        fields.problem("d_model", d_model, format!("a multiple of n_heads = {n_heads}"));
    }
    let n_layers = fields.size("n_layers", 12);
    if n_layers > MAX_LAYERS {
        fields.problem("n_layers", n_layers, format!("at most {MAX_LAYERS}"));
    }
    let vocab_size = fields.size("vocab_size", 50_257);
    let eps = fields.real("layer_norm_eps", 1e-5);
    if family == Family::Olmo && (eps - OLMO_NORM_EPS).abs() > 1e-12 {
        fields.problem("layer_norm_eps", eps, "1e-5, which Hugging Face's olmo has fixed");
    }
    let model = ModelConfig {
        d_model,
        n_layers,
        vocab_size: embedding_size(fields, vocab_size),
        max_sequence_length: fields.size("max_sequence_length", 1024),
        attention: AttentionConfig {
            n_heads,
            n_kv_heads: n_kv_heads(fields, n_heads),
            head_dim: d_model / n_heads,
            qk_norm: family.has_qk_norm(),
            clip_qkv: fields.optional_real("clip_qkv"),
            rope: RopeConfig {
                theta: fields.real("rope_theta", 10_000.0),
                yarn: None,
                full_precision: family.has_rope_in_f32(),
            },
            window: None,
        },
        feed_forward: feed_forward(fields, d_model),
        norm: family.norm(eps),
        norm_placement: family.norm_placement(),
        weight_tying: fields.flag("weight_tying", true),
    };
    HfConfig { family, model, special: special(fields, vocab_size), dtype: None }
}

/// The most layers that are read; the largest model has 80.
const MAX_LAYERS: usize = 4096;

/// Fields that must be as the family has them; their defaults are often not.
fn expect_family(fields: &mut Fields, family: Family) {
    let is_olmo2 = family == Family::Olmo2;
    let norm_type = if is_olmo2 { &["rms"][..] } else { &["default", "low_precision"] };
    one_of(fields, "layer_norm_type", "default", norm_type);
    one_of(fields, "activation_type", "swiglu", &["swiglu"]);
    one_of(fields, "block_type", "sequential", &["sequential"]);
    let include_bias = must_be(fields, "include_bias", true, false);
    let layer_norm_bias = fields.take_set("bias_for_layer_norm");
    if is_olmo2 && layer_norm_bias.unwrap_or(include_bias.into()) == Value::Bool(true) {
        fields.problem("bias_for_layer_norm", true, "false");
    }
    must_be(fields, "layer_norm_with_affine", true, is_olmo2);
    let qk_norm = must_be(fields, "attention_layer_norm", false, is_olmo2);
    let affine = fields.flag("attention_layer_norm_with_affine", true);
    if qk_norm && is_olmo2 && !affine {
        fields.problem("attention_layer_norm_with_affine", affine, "true");
    }
    must_be(fields, "rope", false, true);
    must_be(fields, "alibi", false, false);
    must_be(fields, "embedding_layer_norm", false, false);
    must_be(fields, "scale_logits", false, false);
}

fn must_be(fields: &mut Fields, name: &str, default: bool, expected: bool) -> bool {
    let found = fields.flag(name, default);
    if found != expected {
        fields.problem(name, found, expected.to_string());
    }
    found
}

fn one_of(fields: &mut Fields, name: &str, default: &str, expected: &[&str]) {
    let found = fields.text(name).unwrap_or_else(|| default.to_owned());
    if !expected.contains(&found.as_str()) {
        fields.problem(name, found, expected.join(" or "));
    }
}

/// Rows of the embedding: `embedding_size`, or the vocabulary where it is null.
fn embedding_size(fields: &mut Fields, vocab_size: usize) -> usize {
    if fields.is_null("embedding_size") {
        fields.take("embedding_size");
        return vocab_size;
    }
    let size = fields.size("embedding_size", 50_304);
    if size < vocab_size {
        fields.problem("embedding_size", size, format!("at least vocab_size = {vocab_size}"));
    }
    size
}

fn n_kv_heads(fields: &mut Fields, n_heads: usize) -> usize {
    let stated = fields.optional_size("n_kv_heads");
    // The older spelling, which must not contradict the newer.
    let from_flag = match fields.take_set("multi_query_attention") {
        None => None,
        Some(Value::Bool(true)) => Some(1),
        Some(Value::Bool(false)) => Some(n_heads),
        Some(other) => {
            fields.problem("multi_query_attention", other, "true, false or null");
            None
        }
    };
    if let (Some(stated), Some(flag)) = (stated, from_flag)
        && stated != flag
    {
        fields.problem("n_kv_heads", stated, format!("{flag}, by multi_query_attention"));
    }
    stated.or(from_flag).unwrap_or(n_heads)
}

/// `mlp_hidden_size` counts both halves of SwiGLU.
fn feed_forward(fields: &mut Fields, d_model: usize) -> FeedForwardConfig {
    let ratio = fields.size("mlp_ratio", 4);
    let both = fields.optional_size("mlp_hidden_size").unwrap_or(ratio.saturating_mul(d_model));
    if !both.is_multiple_of(2) {
        fields.problem("mlp_hidden_size", both, "an even number, for its two halves");
    }
    if both / 2 > super::fields::MAX_SIZE {
        fields.problem("mlp_ratio", ratio, "a smaller number");
    }
    FeedForwardConfig::Swiglu { hidden_size: both / 2 }
}

fn special(fields: &mut Fields, vocab_size: usize) -> Special {
    let mut id = |name: &str| match fields.take_set(name) {
        None => Some(50_256),
        Some(value) => {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            if id.is_none() {
                fields.problem(name, value, "a token id");
            }
            id
        }
    };
    let (eos, pad) = (id("eos_token_id"), id("pad_token_id"));
    let is_mistake = |eos: u32| is_eos_mistake(eos.into(), vocab_size as u64);
    let mended = eos.map(|eos| if is_mistake(eos) { RIGHT_EOS } else { eos });
    Special {
        bos_token_id: None,
        eos_token_id: mended.into_iter().collect(),
        pad_token_id: pad.filter(|&pad| (pad as usize) < vocab_size),
    }
}

/// The `config.json` of model type `hf_olmo`, from the fields of [`write`].
pub(super) fn flattened(mut fields: Map<String, Value>, dtype: Option<Dtype>) -> String {
    fields.insert("model_type".to_owned(), "hf_olmo".into());
    fields.insert("architectures".to_owned(), json!(["OLMoForCausalLM"]));
    fields.insert("torch_dtype".to_owned(), dtype.map(Dtype::torch_name).into());
    fields.insert("use_cache".to_owned(), true.into());
    format!("{:#}\n", Value::Object(fields))
}

/// The fields of ai2-olmo that describe a model; `None` where it has no such model.
pub(super) fn write(config: &HfConfig) -> Option<Map<String, Value>> {
    let HfConfig { family, model, special, .. } = config;
    let attention = &model.attention;
    let is_olmo2 = match family {
        Family::Olmo => false,
        Family::Olmo2 => true,
        _ => return None,
    };
    let fits = attention.rope.yarn.is_none()
        && attention.d_query() == model.d_model
        && attention.rope.theta.fract() == 0.0;
    if !fits {
        return None;
    }
    let (NormConfig::LayerNorm { eps } | NormConfig::RmsNorm { eps, .. }) = model.norm;
    let eos = special.eos_token_id.first().copied().unwrap_or(0);
    let value = json!({
        "d_model": model.d_model,
        "n_heads": attention.n_heads,
        "n_kv_heads": attention.n_kv_heads,
        "clip_qkv": attention.clip_qkv,
        "n_layers": model.n_layers,
        "mlp_ratio": 4,
        "mlp_hidden_size": 2 * model.feed_forward.hidden_size(),
        "activation_type": "swiglu",
        "block_type": "sequential",
        "block_group_size": 1,
        "alibi": false,
        "rope": true,
        "rope_full_precision": true,
        "rope_theta": attention.rope.theta as u64,
        "flash_attention": false,
        "attention_dropout": 0.0,
        "attention_layer_norm": is_olmo2,
        "attention_layer_norm_with_affine": is_olmo2,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "embedding_layer_norm": false,
        "layer_norm_type": if is_olmo2 { "rms" } else { "default" },
        "layer_norm_with_affine": is_olmo2,
        "layer_norm_eps": eps,
        "max_sequence_length": model.max_sequence_length,
        "include_bias": false,
        "bias_for_layer_norm": false,
        "scale_logits": false,
        "vocab_size": model.vocab_size,
        "embedding_size": model.vocab_size,
        "weight_tying": model.weight_tying,
        "eos_token_id": eos,
        "pad_token_id": special.pad_token_id.unwrap_or(eos),
        "init_device": "cpu",
        "init_fn": "normal",
        "norm_after": is_olmo2,
    });
    if let Value::Object(fields) = value { Some(fields) } else { None }
}
