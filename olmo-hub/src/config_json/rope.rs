//! Rotary positions in `config.json`, in each of the ways that `transformers` has spelt them.
//!
//! Up to version 4 there are `rope_theta` and `rope_scaling` (null, or the scaling with its
//! `rope_type`, formerly `type`). From version 5 on there is `rope_parameters`, which holds both;
//! for OLMo 3 it holds one such object for each layer type. `modeling_rope_utils.py` and
//! `configuration_olmo3.py` of `transformers` say how the old becomes the new.
//!
//! Two deliberate differences for OLMo 3: an old `rope_theta` counts for every layer, where
//! transformers 5.23 gives the windowed layers its default instead; and a `rope_parameters`
//! without layer types is the full layers' rather than ignored, which is how versions before the
//! split wrote it.

use olmo_model::config::{RopeConfig, YarnConfig};
use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::family::Family;

/// Takes the rotary positions out of the fields of a `config.json`.
pub(super) fn read(fields: &mut Fields, family: Family, max_position: usize) -> RopeConfig {
    let rope = parameters(fields, family, max_position);
    RopeConfig { full_precision: family.has_rope_in_f32(), ..rope }
}

fn parameters(fields: &mut Fields, family: Family, max_position: usize) -> RopeConfig {
    let top_theta = fields.optional_real("rope_theta");
    let theta = top_theta.unwrap_or(default_theta(family));
    if fields.contains("rope_scaling") && fields.contains("rope_parameters") {
        let expected = "to be absent beside rope_parameters, which holds all that it may say";
        fields.problem("rope_scaling", "there", expected);
        fields.ignore(&["rope_scaling"]);
    }
    let scaling = fields.object("rope_scaling").map(|inner| (inner, "rope_scaling"));
    let parameters = || fields.object("rope_parameters").map(|inner| (inner, "rope_parameters"));
    let Some((mut inner, name)) = scaling.or_else(parameters) else {
        return plain(theta);
    };
    let rope = if inner.contains("full_attention") || inner.contains("sliding_attention") {
        read_by_layer_type(&mut inner, family, theta, max_position)
    } else {
        read_one(&mut inner, theta, max_position)
    };
    if top_theta.is_some_and(|theta| differ(theta, rope.theta)) {
        inner.problem("rope_theta", rope.theta, format!("the rope_theta beside it, {theta}"));
    }
    fields.absorb(inner, name);
    rope
}

/// The object `rope_parameters` as transformers 5 writes it.
pub(super) fn write(rope: &RopeConfig, family: Family) -> Value {
    let plain = json!({ "rope_theta": rope.theta, "rope_type": "default" });
    let full = match &rope.yarn {
        None => plain.clone(),
        Some(yarn) => write_yarn(yarn, rope.theta),
    };
    match family {
        Family::Olmo3 => json!({ "full_attention": full, "sliding_attention": plain }),
        _ => full,
    }
}

fn plain(theta: f64) -> RopeConfig {
    RopeConfig { theta, yarn: None, full_precision: true }
}

fn default_theta(family: Family) -> f64 {
    match family {
        Family::Olmo3 => 500_000.0,
        _ => 10_000.0,
    }
}

/// Exact: both stand in the same file, or one of them is a default.
fn differ(a: f64, b: f64) -> bool {
    a.to_bits() != b.to_bits()
}

fn read_by_layer_type(
    fields: &mut Fields,
    family: Family,
    theta: f64,
    max_position: usize,
) -> RopeConfig {
    let mut read_type = |name: &str| {
        let Some(mut inner) = fields.object(name) else { return plain(theta) };
        let rope = read_one(&mut inner, theta, max_position);
        fields.absorb(inner, "rope_parameters");
        rope
    };
    let full = read_type("full_attention");
    let sliding = read_type("sliding_attention");
    if family != Family::Olmo3 {
        let expected = "the parameters themselves: only olmo3 has them by layer type";
        fields.problem("full_attention", "there", expected);
    }
    if sliding.yarn.is_some() {
        let expected = "rope_type \"default\": windowed layers keep plain positions";
        fields.problem("sliding_attention", "of rope_type \"yarn\"", expected);
    }
    if differ(sliding.theta, full.theta) {
        let expected = format!("that of full_attention, {}", full.theta);
        fields.problem("sliding_attention.rope_theta", sliding.theta, expected);
    }
    full
}

/// One set of parameters, `theta` being what holds where it names none.
fn read_one(fields: &mut Fields, theta: f64, max_position: usize) -> RopeConfig {
    let theta = fields.real("rope_theta", theta);
    fields.only("partial_rotary_factor", 1.0);
    let old_spelling = fields.text("type");
    let rope_type = fields.text("rope_type").or(old_spelling);
    let yarn = match rope_type.as_deref() {
        None | Some("default") => None,
        Some("yarn") => Some(read_yarn(fields, max_position)),
        Some(other) => {
            fields.problem("rope_type", format!("{other:?}"), "\"default\" or \"yarn\"");
            // Its parameters are not wrong in themselves.
            fields.ignore(&[
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
                "short_factor",
                "long_factor",
                "attention_factor",
            ]);
            None
        }
    };
    RopeConfig { yarn, ..plain(theta) }
}

fn read_yarn(fields: &mut Fields, max_position: usize) -> YarnConfig {
    let factor = fields.optional_real("factor");
    if factor.is_none() {
        fields.problem("factor", "absent", "the new context length over the original one");
    }
    let attention_factor = fields.optional_real("attention_factor");
    // They only matter where `attention_factor` is absent and both of them are there.
    let scale = fields.optional_real("mscale").filter(|&scale| scale != 0.0);
    let scale_all = fields.optional_real("mscale_all_dim").filter(|&scale| scale != 0.0);
    if let (None, Some(scale), Some(_)) = (attention_factor, scale, scale_all) {
        let expected = "to be absent, or attention_factor to be there in its place";
        fields.problem("mscale", scale, expected);
    }
    fields.only("truncate", true);
    // Zero is as good as absent: transformers reads `get("beta_fast") or 32`.
    let beta = |beta: Option<f64>, default| beta.filter(|&beta| beta != 0.0).unwrap_or(default);
    YarnConfig {
        factor: factor.unwrap_or(1.0),
        beta_fast: beta(fields.optional_real("beta_fast"), 32.0),
        beta_slow: beta(fields.optional_real("beta_slow"), 1.0),
        original_max_sequence_length: fields.size("original_max_position_embeddings", max_position),
        attention_factor,
    }
}

fn write_yarn(yarn: &YarnConfig, theta: f64) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("rope_theta", theta.into());
    put("rope_type", "yarn".into());
    put("factor", yarn.factor.into());
    put("beta_fast", yarn.beta_fast.into());
    put("beta_slow", yarn.beta_slow.into());
    put("original_max_position_embeddings", yarn.original_max_sequence_length.into());
    if let Some(factor) = yarn.attention_factor {
        put("attention_factor", factor.into());
    }
    Value::Object(object)
}
