//! The fields of `config.json`, one by one.

use std::path::Path;

use olmo_model::ModelConfig;
use olmo_model::config::{AttentionConfig, FeedForwardConfig, NormConfig, SlidingWindow};
use serde_json::{Map, Value, json};

use super::fields::{Fields, MAX_SIZE};
use super::{HfConfig, Special, rope};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::family::{Family, OLMO_NORM_EPS};

/// The most tensors that a configuration may ask for; OLMoE has 3219.
const MAX_TENSORS: usize = 1 << 17;

/// Fields that say nothing of what the network computes: notes of the software that wrote the
/// file, settings of training, the outputs of Python objects, and defaults of text generation,
/// which have a file of their own.
pub(super) const IRRELEVANT: &[&str] = &[
    "transformers_version",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "use_cache",
    "pretraining_tp",
    "chunk_size_feed_forward",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "torchscript",
    "tokenizer_class",
    "initializer_range",
    "output_router_logits",
    "router_aux_loss_coef",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "max_length",
    "min_length",
    "max_new_tokens",
    "do_sample",
    "early_stopping",
    "num_beams",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "num_return_sequences",
];

/// What is known of model types that are near ours.
const RELATIVES: &[(&str, &str)] = &[
    ("flex_olmo", "; flex_olmo mixes experts trained apart, which this version cannot run"),
    ("olmo_hybrid", "; olmo_hybrid has recurrent layers, which this version cannot run"),
];

/// The family that a `config.json` says it is of.
pub(super) fn family(object: &Map<String, Value>, path: &Path) -> Result<Family> {
    let model_type = object.get("model_type").unwrap_or(&Value::Null);
    let name = model_type.as_str().unwrap_or_default();
    Family::from_model_type(name).ok_or_else(|| Error::ModelType {
        path: path.to_owned(),
        found: model_type.to_string(),
        note: RELATIVES.iter().find(|(known, _)| *known == name).map_or("", |(_, note)| note),
    })
}

/// Takes every field that is known of the family; problems are left in `fields`.
pub(super) fn config(fields: &mut Fields, family: Family) -> HfConfig {
    fields.ignore(&["model_type"]);
    fields.ignore(IRRELEVANT);
    fields.only("architectures", json!([family.architecture()]));
    fields.only("hidden_act", "silu");
    fields.only("attention_bias", false);
    fields.only("mlp_bias", false);
    fields.only("attention_dropout", 0.0);
    fields.only("is_encoder_decoder", false);
    let sizes = Sizes::read(fields, family);
    let model = ModelConfig {
        d_model: sizes.d_model,
        n_layers: sizes.n_layers,
        vocab_size: fields.size("vocab_size", 50_304),
        max_sequence_length: sizes.max_sequence_length,
        attention: attention(fields, family, &sizes),
        feed_forward: feed_forward(fields, family, &sizes),
        norm: norm(fields, family),
        norm_placement: family.norm_placement(),
        weight_tying: fields.flag("tie_word_embeddings", false),
    };
    let special = special(fields, &default_special());
    HfConfig { family: Some(family), model, special, dtype: dtype(fields) }
}

/// The three ids, those that are absent from `default`.
pub(super) fn special(fields: &mut Fields, default: &Special) -> Special {
    let mut one = |name: &str, default: Option<u32>| match fields.take(name) {
        None => default,
        Some(Value::Null) => None,
        Some(value) => {
            let id = token_id(&value);
            if id.is_none() {
                fields.problem(name, value, "a token id or null");
            }
            id
        }
    };
    let bos_token_id = one("bos_token_id", default.bos_token_id);
    let pad_token_id = one("pad_token_id", default.pad_token_id);
    let eos_token_id = match fields.take("eos_token_id") {
        None => default.eos_token_id.clone(),
        Some(Value::Null) => Vec::new(),
        Some(value) => {
            let ids: Option<Vec<u32>> = match &value {
                Value::Array(ids) => ids.iter().map(token_id).collect(),
                id => token_id(id).map(|id| vec![id]),
            };
            if ids.is_none() {
                fields.problem("eos_token_id", value, "a token id, a list of them, or null");
            }
            ids.unwrap_or_default()
        }
    };
    Special { bos_token_id, eos_token_id, pad_token_id }
}

/// Sizes that other fields are checked against.
struct Sizes {
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_size: usize,
    max_sequence_length: usize,
}

impl Sizes {
    fn read(fields: &mut Fields, family: Family) -> Self {
        let [d_model, n_layers, n_heads, hidden_size, max_sequence_length] = match family {
            Family::Olmo | Family::Olmo2 | Family::Olmo3 => [4096, 32, 32, 11_008, 2048],
            Family::Olmoe => [2048, 16, 16, 2048, 4096],
        };
        Self {
            d_model: fields.size("hidden_size", d_model),
            n_layers: fields.size("num_hidden_layers", n_layers),
            n_heads: fields.size("num_attention_heads", n_heads),
            hidden_size: fields.size("intermediate_size", hidden_size),
            max_sequence_length: fields.size("max_position_embeddings", max_sequence_length),
        }
    }
}

fn default_special() -> Special {
    Special { bos_token_id: None, eos_token_id: vec![50_279], pad_token_id: Some(1) }
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

pub(super) fn dtype(fields: &mut Fields) -> Option<Dtype> {
    // The newer spelling counts where both are there, as in transformers.
    let old = fields.text("torch_dtype");
    let name = fields.text("dtype").or(old)?;
    let dtype = Dtype::from_torch_name(&name);
    if dtype.is_none() {
        fields.problem("dtype", format!("{name:?}"), "float32, float16 or bfloat16");
    }
    dtype
}

fn attention(fields: &mut Fields, family: Family, sizes: &Sizes) -> AttentionConfig {
    let &Sizes { d_model, n_layers, n_heads, max_sequence_length, .. } = sizes;
    let head_dim = fields.optional_size("head_dim").unwrap_or_else(|| {
        if !d_model.is_multiple_of(n_heads) {
            let expected = format!("a multiple of num_attention_heads = {n_heads}, or head_dim");
            fields.problem("hidden_size", d_model, expected);
        }
        d_model / n_heads
    });
    if n_heads.saturating_mul(head_dim) > MAX_SIZE {
        let expected = format!("at most {MAX_SIZE} divided by num_attention_heads = {n_heads}");
        fields.problem("head_dim", head_dim, expected);
    }
    let n_kv_heads = fields.size("num_key_value_heads", n_heads);
    let clip_qkv = if family.has_clip_qkv() { fields.optional_real("clip_qkv") } else { None };
    AttentionConfig {
        n_heads,
        n_kv_heads,
        head_dim,
        qk_norm: family.has_qk_norm(),
        clip_qkv,
        rope: rope::read(fields, family, max_sequence_length),
        window: if family == Family::Olmo3 { window(fields, n_layers) } else { None },
    }
}

fn feed_forward(fields: &mut Fields, family: Family, sizes: &Sizes) -> FeedForwardConfig {
    let hidden_size = sizes.hidden_size;
    let (n_experts, feed_forward) = if family == Family::Olmoe {
        let alias = fields.optional_size("num_local_experts");
        let n_experts = fields.size("num_experts", alias.unwrap_or(64));
        if let Some(alias) = alias.filter(|&alias| alias != n_experts) {
            fields.problem("num_local_experts", alias, format!("num_experts = {n_experts}"));
        }
        let top_k = fields.size("num_experts_per_tok", 8);
        let normalize_top_k = fields.flag("norm_topk_prob", false);
        (n_experts, FeedForwardConfig::Experts { hidden_size, n_experts, top_k, normalize_top_k })
    } else {
        (1, FeedForwardConfig::Swiglu { hidden_size })
    };
    // Three matrices an expert, and up to nine other tensors a block.
    if sizes.n_layers.saturating_mul(3 * n_experts + 9) > MAX_TENSORS {
        let expected =
            format!("so few, with {n_experts} experts, as to give {MAX_TENSORS} tensors");
        fields.problem("num_hidden_layers", sizes.n_layers, expected);
    }
    feed_forward
}

fn norm(fields: &mut Fields, family: Family) -> NormConfig {
    match family {
        Family::Olmo => family.norm(OLMO_NORM_EPS),
        _ => family.norm(fields.real("rms_norm_eps", 1e-5)),
    }
}

/// OLMo 3's windowed layers, which must come at a period: all but every n-th.
fn window(fields: &mut Fields, n_layers: usize) -> Option<SlidingWindow> {
    let is_null = fields.is_null("sliding_window");
    let size = fields.size("sliding_window", 4096);
    let default = SlidingWindow { size, full_every: 4 };
    let Some(layer_types) = fields.take_set("layer_types") else {
        return (!is_null).then_some(default);
    };
    let full: Option<Vec<bool>> = layer_types.as_array().and_then(|types| {
        let is_full = |name: &Value| match name.as_str()? {
            "full_attention" => Some(true),
            "sliding_attention" => Some(false),
            _ => None,
        };
        types.iter().map(is_full).collect()
    });
    let Some(full) = full.filter(|full| full.len() == n_layers) else {
        let expected = format!("{n_layers} of \"full_attention\" and \"sliding_attention\"");
        fields.problem("layer_types", layer_types, expected);
        return None;
    };
    if full.iter().all(|&full| full) {
        return None;
    }
    if is_null {
        fields.problem("sliding_window", "null", "a size, for layer_types has windowed layers");
    }
    // Four is OLMo 3's period, which a model of fewer layers does not show.
    let first_full = full.iter().position(|&full| full).unwrap_or(n_layers);
    let fits =
        |every: &usize| full.iter().enumerate().all(|(i, &full)| full == ((i + 1) % every == 0));
    let Some(full_every) = [4, first_full + 1].into_iter().find(fits) else {
        let expected = "full attention on every n-th layer and windows on all others";
        fields.problem("layer_types", layer_types, expected);
        return None;
    };
    Some(SlidingWindow { size, full_every })
}
