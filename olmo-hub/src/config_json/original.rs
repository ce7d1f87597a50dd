//! ai2-olmo's `ModelConfig`, in the `config.yaml` of its checkpoints and, flattened, in the
//! `config.json` of model type `hf_olmo`, to [`ModelConfig`] and back.
//!
//! As with the other types, a field is mapped, listed as having no bearing on the network, or an
//! error. What is absent has the default of `olmo/config.py` in ai2-olmo 0.6.0, which are those of
//! GPT-2 and seldom what was trained.
//!
//! There is more here than a model type of `transformers` expresses: RMS norms before attention without
//! norms of queries and keys, as AI2's models of 20M and 150M parameters have them, or another epsilon
//! of a layer norm. What ai2-olmo has and is refused here: norms of several kinds in one model, layer
//! norms with weights, biases, other activations and blocks, and other positions than RoPE.

use olmo_model::ModelConfig;
use olmo_model::config::{
    AttentionConfig, FeedForwardConfig, NormCast, NormConfig, NormPlacement, RopeConfig,
};
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::read::{self, IRRELEVANT};
use super::{HfConfig, Special};
use crate::dtype::Dtype;
use crate::error::FieldProblem;
use crate::family::Family;

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
    fields.only("is_encoder_decoder", false);
    let dtype = read::dtype(fields);
    let norm_placement =
        if fields.flag("norm_after", false) { NormPlacement::After } else { NormPlacement::Before };
    let qk_norm = fields.flag("attention_layer_norm", false);
    let norm = norm(fields, norm_placement, qk_norm);
    expect_supported(fields);
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
    let clip_qkv = fields.optional_real("clip_qkv");
    if let Some(clip) = clip_qkv.filter(|_| qk_norm) {
        let expected = "null with attention_layer_norm, which ai2-olmo applies to what is clipped";
        fields.problem("clip_qkv", clip, expected);
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
            qk_norm,
            clip_qkv,
            rope: RopeConfig {
                theta: fields.real("rope_theta", 10_000.0),
                yarn: None,
                full_precision: fields.flag("rope_full_precision", true),
            },
            window: None,
        },
        feed_forward: feed_forward(fields, d_model),
        norm,
        norm_placement,
        weight_tying: fields.flag("weight_tying", true),
    };
    let family = Family::of(&model).ok();
    HfConfig { family, model, special: special(fields, vocab_size), dtype }
}

/// The most layers that are read; the largest model has 80.
const MAX_LAYERS: usize = 4096;

/// The one norm of a model: of its blocks, of queries and keys, and before the output projection.
fn norm(fields: &mut Fields, placement: NormPlacement, qk_norm: bool) -> NormConfig {
    let eps = fields.real("layer_norm_eps", 1e-5);
    let kind = fields.text("layer_norm_type").unwrap_or_else(|| "default".to_owned());
    if !["default", "low_precision", "rms"].contains(&kind.as_str()) {
        fields.problem("layer_norm_type", &kind, "default, low_precision or rms");
    }
    let is_rms = kind == "rms";
    let mut expect_weights = |name: &str, counts: bool| {
        let has_weights = fields.flag(name, true);
        if counts && has_weights != is_rms {
            let expected = format!("{is_rms} with layer_norm_type {kind}");
            fields.problem(name, has_weights, expected);
        }
    };
    expect_weights("layer_norm_with_affine", true);
    expect_weights("attention_layer_norm_with_affine", qk_norm);
    let include_bias = must_be(fields, "include_bias", true, false);
    let bias = fields.take_set("bias_for_layer_norm").unwrap_or(include_bias.into());
    if is_rms && bias == Value::Bool(true) {
        fields.problem("bias_for_layer_norm", true, "false");
    }
    if is_rms {
        NormConfig::RmsNorm { eps, cast: norm_cast(placement, qk_norm) }
    } else {
        NormConfig::LayerNorm { eps }
    }
}

/// When an RMS norm returns to a narrow dtype: before the product with the weight in ai2-olmo. But a
/// model of OLMo 2 is computed as transformers and OLMo-core compute it.
fn norm_cast(placement: NormPlacement, qk_norm: bool) -> NormCast {
    if placement == NormPlacement::After && qk_norm {
        NormCast::AfterWeight
    } else {
        NormCast::BeforeWeight
    }
}

/// Fields of which one value is supported, which is often not the default.
fn expect_supported(fields: &mut Fields) {
    one_of(fields, "activation_type", "swiglu", &["swiglu"]);
    one_of(fields, "block_type", "sequential", &["sequential"]);
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
    let mut id = |name: &str| match fields.take(name) {
        None => Some(50_256),
        Some(Value::Null) => None,
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

/// Every field that keeps ai2-olmo from having a model.
pub(super) fn misfits(model: &ModelConfig) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    let mut expect = |fits: bool, field: &str, found: String, expected: &str| {
        if !fits {
            let (field, expected) = (field.to_owned(), expected.to_owned());
            problems.push(FieldProblem { field, found, expected });
        }
    };
    let ModelConfig { attention, feed_forward, norm, .. } = model;
    let is_dense = matches!(feed_forward, FeedForwardConfig::Swiglu { .. });
    expect(is_dense, "feed_forward", "a mixture of experts".to_owned(), "one layer for all tokens");
    if let NormConfig::RmsNorm { cast, .. } = norm {
        let expected = norm_cast(model.norm_placement, attention.qk_norm);
        let found = format!("{cast:?}");
        expect(*cast == expected, "norm.cast", found, &format!("{expected:?}, with such blocks"));
    }
    let fills = attention.d_query() == model.d_model;
    let expected = "d_model divided by attention.n_heads";
    expect(fills, "attention.head_dim", attention.head_dim.to_string(), expected);
    if let Some(clip) = attention.clip_qkv {
        let fits = !attention.qk_norm;
        expect(fits, "attention.clip_qkv", clip.to_string(), "none with attention.qk_norm");
    }
    if let Some(window) = attention.window {
        expect(false, "attention.window", format!("{window:?}"), "none");
    }
    let rope = &attention.rope;
    expect(rope.yarn.is_none(), "attention.rope.yarn", "there".to_owned(), "none");
    let is_whole = rope.theta.fract() == 0.0 && rope.theta < 1e15;
    expect(is_whole, "attention.rope.theta", rope.theta.to_string(), "a whole number");
    problems
}

/// The `config.json` of model type `hf_olmo`.
pub(super) fn flattened(config: &HfConfig) -> String {
    let mut fields = write(config);
    fields.insert("model_type".to_owned(), "hf_olmo".into());
    fields.insert("architectures".to_owned(), json!(["OLMoForCausalLM"]));
    fields.insert("torch_dtype".to_owned(), config.dtype.map(Dtype::torch_name).into());
    fields.insert("use_cache".to_owned(), true.into());
    let Special { eos_token_id, pad_token_id, .. } = &config.special;
    for (name, is_none) in
        [("eos_token_id", eos_token_id.is_empty()), ("pad_token_id", pad_token_id.is_none())]
    {
        // Which a `config.yaml` has no way to say.
        if is_none {
            fields.insert(name.to_owned(), Value::Null);
        }
    }
    format!("{:#}\n", Value::Object(fields))
}

/// The fields of ai2-olmo that describe a model that it has, by [`misfits`].
pub(super) fn write(config: &HfConfig) -> Map<String, Value> {
    let HfConfig { model, special, .. } = config;
    let attention = &model.attention;
    let (eps, is_rms) = match model.norm {
        NormConfig::LayerNorm { eps } => (eps, false),
        NormConfig::RmsNorm { eps, .. } => (eps, true),
    };
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
        "rope_full_precision": attention.rope.full_precision,
        "rope_theta": attention.rope.theta as u64,
        "flash_attention": false,
        "attention_dropout": 0.0,
        "attention_layer_norm": attention.qk_norm,
        "attention_layer_norm_with_affine": attention.qk_norm && is_rms,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "embedding_layer_norm": false,
        "layer_norm_type": if is_rms { "rms" } else { "default" },
        "layer_norm_with_affine": is_rms,
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
        "norm_after": model.norm_placement == NormPlacement::After,
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
