//! The `config.json` that OLMo-core's trainer leaves with a checkpoint, to [`ModelConfig`].
//!
//! It is the experiment's, of which `model` describes the network, `dataset.tokenizer` the special
//! tokens, and the sequence length is `train_module.max_sequence_length` or
//! `dataset.sequence_length`. Of `model` every field is mapped, without bearing on the network, or an
//! error; the rest of the experiment is how it was trained. Source: `nn/transformer/config.py`,
//! `nn/attention`, `nn/rope.py` and `nn/layer_norm.py` of ai2-olmo-core 2.4.
//!
//! What is read are the models of OLMo 2 and OLMo 3: norms after attention and feed-forward, YaRN, where
//! there are windows, on the full layers alone, which OLMo-core says by overriding those blocks.

use olmo_model::ModelConfig;
use olmo_model::config::{
    AttentionConfig, FeedForwardConfig, RopeConfig, SlidingWindow, YarnConfig,
};
use serde_json::{Map, Value};

use super::fields::{Fields, MAX_SIZE};
use super::{HfConfig, Special};
use crate::error::FieldProblem;
use crate::family::Family;

/// The most layers that are read; the largest model has 80.
const MAX_LAYERS: usize = 4096;

/// Fields of any object that say how it was initialised, trained or computed, not what it is.
const TRAINING: &[&str] = &[
    "_CLASS_",
    "dtype",
    "init_method",
    "init_seed",
    "init_std",
    "freeze_params",
    "dropout",
    "use_flash",
    "backend",
    "loss_implementation",
    "full_precision",
];

/// Whether a `config.json` is one of OLMo-core's experiments.
pub(super) fn is_experiment(object: &Map<String, Value>) -> bool {
    !object.contains_key("model_type")
        && object.get("model").is_some_and(|model| model.get("block").is_some())
}

/// What an experiment says of its model, and what of it cannot be followed.
pub(super) fn config(mut experiment: Map<String, Value>) -> (HfConfig, Vec<FieldProblem>) {
    let special = special(&experiment);
    let max_sequence_length = sequence_length(&experiment);
    let mut problems = Vec::new();
    let model = experiment.remove("model").unwrap_or_default();
    let mut outer = Fields::new(Map::from_iter([("model".to_owned(), model)]));
    let Some(mut fields) = outer.object("model") else {
        problems.extend(outer.into_problems());
        return (HfConfig { special, ..placeholder() }, problems);
    };
    if max_sequence_length.is_none() {
        problems.push(FieldProblem {
            field: "train_module.max_sequence_length".to_owned(),
            found: "not there".to_owned(),
            expected: "it, or dataset.sequence_length, to say for how many tokens the model is"
                .to_owned(),
        });
    }
    let mut model = model_config(&mut fields);
    model.max_sequence_length = max_sequence_length.unwrap_or(1);
    outer.absorb(fields, WHERE);
    problems.extend(outer.into_problems());
    let family = match Family::of(&model) {
        Ok(family) => family,
        Err((family, misfits)) => {
            if problems.is_empty() {
                problems = misfits;
            }
            family
        }
    };
    (HfConfig { family: Some(family), model, special, dtype: None }, problems)
}

const WHERE: &str = "OLMo-core's TransformerConfig";

fn placeholder() -> HfConfig {
    let model = model_config(&mut Fields::new(Map::new()));
    HfConfig { family: None, model, special: Special::default(), dtype: None }
}

fn sequence_length(experiment: &Map<String, Value>) -> Option<usize> {
    let length = |object: &str, field: &str| {
        let length = experiment.get(object)?.get(field)?.as_u64()?;
        usize::try_from(length).ok().filter(|length| (1..=MAX_SIZE).contains(length))
    };
    length("train_module", "max_sequence_length").or_else(|| length("dataset", "sequence_length"))
}

fn special(experiment: &Map<String, Value>) -> Special {
    let tokenizer = ["dataset", "data_loader", "train_module"]
        .iter()
        .find_map(|object| experiment.get(*object)?.get("tokenizer"))
        .or_else(|| experiment.get("tokenizer"));
    let id = |name: &str| tokenizer?.get(name)?.as_u64().and_then(|id| u32::try_from(id).ok());
    Special {
        bos_token_id: id("bos_token_id"),
        eos_token_id: id("eos_token_id").into_iter().collect(),
        pad_token_id: id("pad_token_id"),
    }
}

/// Everything but the sequence length.
fn model_config(fields: &mut Fields) -> ModelConfig {
    fields.ignore(TRAINING);
    fields.only("name", "default");
    let (d_model, n_layers) = (fields.size("d_model", 1), fields.size("n_layers", 1));
    if n_layers > MAX_LAYERS {
        fields.problem("n_layers", n_layers, format!("at most {MAX_LAYERS}"));
    }
    let vocab_size = fields.size("vocab_size", 1);
    let n_layers = n_layers.min(MAX_LAYERS);
    let overrides = fields.take_set("block_overrides");
    let base = fields.get("block").cloned().unwrap_or_default();
    let (mut attention, hidden_size, eps) = match fields.object("block") {
        Some(mut inner) => {
            let read = block(&mut inner, d_model, n_layers);
            fields.absorb(inner, WHERE);
            read
        }
        None => (no_attention(), 1, 1e-6),
    };
    if let Some(overrides) = overrides {
        let full_layers = (0..n_layers).filter(|layer| is_full(attention.window, *layer));
        match overridden_yarn(&overrides, &base, full_layers) {
            Some(yarn) => attention.rope.yarn = Some(yarn),
            None => fields.problem(
                "block_overrides",
                "there",
                "nothing but the same rope.scaling of YaRN on every full layer",
            ),
        }
    }
    if let Some(mut head) = fields.object("lm_head") {
        head.ignore(TRAINING);
        head.only("name", "default");
        must_be_false(&mut head, "bias");
        norm(&mut head, "layer_norm", Some(eps));
        fields.absorb(head, WHERE);
    }
    ModelConfig {
        d_model,
        n_layers,
        vocab_size,
        max_sequence_length: 1,
        attention,
        feed_forward: FeedForwardConfig::Swiglu { hidden_size },
        norm: Family::Olmo2.norm(eps),
        norm_placement: Family::Olmo2.norm_placement(),
        weight_tying: false,
    }
}

fn no_attention() -> AttentionConfig {
    AttentionConfig {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 2,
        qk_norm: true,
        clip_qkv: None,
        rope: RopeConfig { theta: 10_000.0, yarn: None, full_precision: true },
        window: None,
    }
}

/// Attention, the rows of the feed-forward's matrices, and the epsilon of the norms.
fn block(fields: &mut Fields, d_model: usize, n_layers: usize) -> (AttentionConfig, usize, f64) {
    fields.ignore(TRAINING);
    let name = fields.text("name").unwrap_or_else(|| "default".to_owned());
    if name != "reordered_norm" {
        fields.problem("name", name, "reordered_norm, which OLMo 2 and OLMo 3 have");
    }
    if fields.contains("feed_forward_moe") {
        fields.ignore(&["feed_forward_moe"]);
        fields.problem(
            "feed_forward_moe",
            "there",
            "to be absent: OLMo-core's mixtures are not read",
        );
    }
    let eps = norm(fields, "layer_norm", None);
    let mut hidden_size = 1;
    if let Some(mut inner) = fields.object("feed_forward") {
        inner.ignore(TRAINING);
        inner.only("name", "default");
        inner.only("activation", "silu");
        must_be_false(&mut inner, "bias");
        hidden_size = inner.size("hidden_size", 1);
        fields.absorb(inner, WHERE);
    }
    let mut attention = no_attention();
    if let Some(mut inner) = fields.object("attention") {
        attention = read_attention(&mut inner, d_model, n_layers, eps);
        fields.absorb(inner, WHERE);
    }
    (attention, hidden_size, eps)
}

fn read_attention(
    fields: &mut Fields,
    d_model: usize,
    n_layers: usize,
    eps: f64,
) -> AttentionConfig {
    fields.ignore(TRAINING);
    fields.only("name", "default");
    must_be_false(fields, "bias");
    fields.only("use_head_qk_norm", false);
    let n_heads = fields.size("n_heads", 16);
    if !d_model.is_multiple_of(n_heads) {
        fields.problem("n_heads", n_heads, format!("a divisor of d_model = {d_model}"));
    }
    let qk_norm = fields.contains("qk_norm");
    if qk_norm {
        norm(fields, "qk_norm", Some(eps));
    }
    let mut rope = no_attention().rope;
    match fields.object("rope") {
        Some(mut inner) => {
            inner.only("full_precision", true);
            inner.ignore(TRAINING);
            inner.only("name", "default");
            inner.only("no_global_rope", false);
            rope.theta = inner.real("theta", 500_000.0);
            rope.yarn = inner.take_set("scaling").and_then(|scaling| yarn(&mut inner, scaling));
            fields.absorb(inner, WHERE);
        }
        None => fields.problem("rope", "not there", "rotary positions"),
    }
    let window = fields.object("sliding_window").and_then(|mut inner| {
        let window = window(&mut inner, n_layers);
        fields.absorb(inner, WHERE);
        window
    });
    AttentionConfig {
        n_heads,
        n_kv_heads: fields.size("n_kv_heads", n_heads),
        head_dim: d_model / n_heads,
        qk_norm,
        clip_qkv: fields.optional_real("clip_qkv"),
        rope,
        window,
    }
}

/// The epsilon of an RMS norm with weights and without bias.
fn norm(fields: &mut Fields, name: &str, expected: Option<f64>) -> f64 {
    let Some(mut inner) = fields.object(name) else {
        fields.problem(name, "not there", "an RMS norm");
        return expected.unwrap_or(1e-6);
    };
    inner.only("full_precision", true);
    inner.only("elementwise_affine", true);
    inner.ignore(TRAINING);
    must_be_false(&mut inner, "bias");
    let kind = inner.text("name").unwrap_or_else(|| "default".to_owned());
    if kind != "rms" {
        inner.problem("name", kind, "rms");
    }
    let eps = inner.real("eps", 1e-5);
    if expected.is_some_and(|expected| expected.to_bits() != eps.to_bits()) {
        inner.problem("eps", eps, format!("that of block.layer_norm, {}", expected.unwrap_or(eps)));
    }
    fields.absorb(inner, WHERE);
    eps
}

/// What is a bias where the field is absent.
fn must_be_false(fields: &mut Fields, name: &str) {
    if fields.flag(name, true) {
        fields.problem(name, true, "false");
    }
}

fn yarn(fields: &mut Fields, scaling: Value) -> Option<YarnConfig> {
    let found = read_yarn(&scaling);
    if found.is_none() {
        fields.problem("scaling", scaling, "one of YaRNRoPEScalingConfig");
    }
    found
}

fn read_yarn(scaling: &Value) -> Option<YarnConfig> {
    const KNOWN: [&str; 6] = [
        "_CLASS_",
        "attention_rescale_factor",
        "factor",
        "beta_fast",
        "beta_slow",
        "old_context_len",
    ];
    let object = scaling.as_object()?;
    let class = object.get("_CLASS_").and_then(Value::as_str)?;
    let is_known = class.ends_with(".YaRNRoPEScalingConfig")
        && object.keys().all(|name| KNOWN.contains(&name.as_str()));
    let real = |name: &str, default: f64| match object.get(name) {
        None => Some(default),
        Some(value) => value.as_f64(),
    };
    let old = real("old_context_len", 8192.0).filter(|n| n.fract() == 0.0 && *n >= 1.0)?;
    is_known.then_some(YarnConfig {
        factor: real("factor", 8.0)?,
        beta_fast: real("beta_fast", 32.0)?,
        beta_slow: real("beta_slow", 1.0)?,
        original_max_sequence_length: old as usize,
        attention_factor: None,
    })
}

/// The windows of a pattern, where the full layers are every so many.
fn window(fields: &mut Fields, n_layers: usize) -> Option<SlidingWindow> {
    fields.ignore(TRAINING);
    let first_is_full = fields.flag("force_full_attention_on_first_layer", true);
    let last_is_full = fields.flag("force_full_attention_on_last_layer", true);
    let pattern = fields.take_set("pattern").unwrap_or_default();
    let sizes: Option<Vec<i64>> =
        pattern.as_array().and_then(|sizes| sizes.iter().map(Value::as_i64).collect());
    let size_of = |layer: usize| -> Option<i64> {
        if (first_is_full && layer == 0) || (last_is_full && layer + 1 == n_layers) {
            return Some(-1);
        }
        let sizes = sizes.as_ref().filter(|sizes| !sizes.is_empty())?;
        Some(sizes[(layer - usize::from(first_is_full)) % sizes.len()])
    };
    let layers: Option<Vec<i64>> = (0..n_layers).map(size_of).collect();
    let layers = layers.unwrap_or_default();
    let size = layers.iter().copied().find(|size| *size != -1);
    let full_every = layers.iter().position(|size| *size == -1).map_or(n_layers + 1, |at| at + 1);
    let size = size.filter(|size| {
        let expected =
            |layer: usize| if (layer + 1).is_multiple_of(full_every) { -1 } else { *size };
        *size > 0 && layers.iter().enumerate().all(|(layer, found)| *found == expected(layer))
    });
    let found = size.and_then(|size| usize::try_from(size).ok());
    if found.is_none() {
        let expected = "windows of one size, with every so many-th layer full";
        fields.problem("pattern", pattern, expected);
    }
    found.map(|size| SlidingWindow { size, full_every })
}

fn is_full(window: Option<SlidingWindow>, layer: usize) -> bool {
    window.is_none_or(|window| (layer + 1).is_multiple_of(window.full_every))
}

/// The YaRN that these overrides give to each of these layers, and nothing else to any.
fn overridden_yarn(
    overrides: &Value,
    base: &Value,
    layers: impl Iterator<Item = usize>,
) -> Option<YarnConfig> {
    let overrides = overrides.as_object()?;
    let mut found: Option<YarnConfig> = None;
    let mut n_layers = 0;
    for layer in layers {
        let mut block = overrides.get(&layer.to_string())?.clone();
        let rope = block.get_mut("attention")?.get_mut("rope")?.as_object_mut()?;
        let yarn = read_yarn(&rope.remove("scaling")?)?;
        if block != *base || found.as_ref().is_some_and(|first| *first != yarn) {
            return None;
        }
        found = Some(yarn);
        n_layers += 1;
    }
    found.filter(|_| n_layers == overrides.len())
}
