//! Our architecture as the text of `config.json` and `generation_config.json`.

use olmo_model::ModelConfig;
use olmo_model::config::{FeedForwardConfig, NormConfig};
use serde_json::{Map, Value, json};

use super::{HfConfig, Special, rope};
use crate::dtype::Dtype;
use crate::family::Family;

/// The version of `transformers` whose form we write.
const TRANSFORMERS_VERSION: &str = "5.23.0";

pub(super) fn config(config: &HfConfig, family: Family) -> String {
    let HfConfig { model, special, dtype, .. } = config;
    let attention = &model.attention;
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("architectures", json!([family.architecture()]));
    put("model_type", family.model_type().into());
    put("transformers_version", TRANSFORMERS_VERSION.into());
    put("dtype", dtype.map(Dtype::torch_name).into());
    put("vocab_size", model.vocab_size.into());
    put("hidden_size", model.d_model.into());
    put("intermediate_size", model.feed_forward.hidden_size().into());
    put("num_hidden_layers", model.n_layers.into());
    put("num_attention_heads", attention.n_heads.into());
    put("num_key_value_heads", attention.n_kv_heads.into());
    put("max_position_embeddings", model.max_sequence_length.into());
    put("rope_parameters", rope::write(&attention.rope, family));
    put("tie_word_embeddings", model.weight_tying.into());
    put("hidden_act", "silu".into());
    put("attention_bias", false.into());
    put("attention_dropout", 0.0.into());
    put("initializer_range", 0.02.into());
    put("use_cache", true.into());
    put("bos_token_id", special.bos_token_id.into());
    put("eos_token_id", eos(special));
    put("pad_token_id", special.pad_token_id.into());
    if attention.d_query() != model.d_model {
        put("head_dim", attention.head_dim.into());
    }
    if family.has_clip_qkv() {
        put("clip_qkv", attention.clip_qkv.into());
    }
    if let NormConfig::RmsNorm { eps, .. } = model.norm {
        put("rms_norm_eps", eps.into());
    }
    if let FeedForwardConfig::Experts { n_experts, top_k, normalize_top_k, .. } = model.feed_forward
    {
        put("num_experts", n_experts.into());
        put("num_experts_per_tok", top_k.into());
        put("norm_topk_prob", normalize_top_k.into());
        put("output_router_logits", false.into());
        put("router_aux_loss_coef", 0.01.into());
    }
    if let Some(window) = attention.window {
        put("sliding_window", window.size.into());
        put("layer_types", layer_types(model));
    }
    pretty(object)
}

pub(super) fn generation_config(special: &Special) -> String {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("_from_model_config", true.into());
    put("transformers_version", TRANSFORMERS_VERSION.into());
    put("bos_token_id", special.bos_token_id.into());
    put("eos_token_id", eos(special));
    put("pad_token_id", special.pad_token_id.into());
    object.retain(|_, value| !value.is_null());
    pretty(object)
}

fn eos(special: &Special) -> Value {
    match special.eos_token_id.as_slice() {
        [] => Value::Null,
        [id] => (*id).into(),
        ids => ids.into(),
    }
}

fn layer_types(model: &ModelConfig) -> Value {
    let name = |layer| match model.window(layer) {
        Some(_) => "sliding_attention",
        None => "full_attention",
    };
    (0..model.n_layers).map(name).collect()
}

fn pretty(object: Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(object))
}
