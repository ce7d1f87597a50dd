//! The names of a tensor: in our modules, which is OLMo-core's, and in `transformers`.
//!
//! The tables match OLMo-core `nn/hf/convert.py` and the `state_dict` of the classes in
//! `transformers`; `{}` stands for a number, of a layer or an expert.

use crate::family::Family;

/// A name here and there.
type Row = (&'static str, &'static str);

const EVERYWHERE: &[Row] = &[
    ("embeddings.weight", "model.embed_tokens.weight"),
    ("blocks.{}.attention.w_q.weight", "model.layers.{}.self_attn.q_proj.weight"),
    ("blocks.{}.attention.w_k.weight", "model.layers.{}.self_attn.k_proj.weight"),
    ("blocks.{}.attention.w_v.weight", "model.layers.{}.self_attn.v_proj.weight"),
    ("blocks.{}.attention.w_out.weight", "model.layers.{}.self_attn.o_proj.weight"),
    ("lm_head.w_out.weight", "lm_head.weight"),
];

const SWIGLU: &[Row] = &[
    ("blocks.{}.feed_forward.w1.weight", "model.layers.{}.mlp.gate_proj.weight"),
    ("blocks.{}.feed_forward.w2.weight", "model.layers.{}.mlp.down_proj.weight"),
    ("blocks.{}.feed_forward.w3.weight", "model.layers.{}.mlp.up_proj.weight"),
];

const EXPERTS: &[Row] = &[
    (
        "blocks.{}.feed_forward.experts.{}.w1.weight",
        "model.layers.{}.mlp.experts.{}.gate_proj.weight",
    ),
    (
        "blocks.{}.feed_forward.experts.{}.w2.weight",
        "model.layers.{}.mlp.experts.{}.down_proj.weight",
    ),
    (
        "blocks.{}.feed_forward.experts.{}.w3.weight",
        "model.layers.{}.mlp.experts.{}.up_proj.weight",
    ),
    ("blocks.{}.feed_forward.router.weight", "model.layers.{}.mlp.gate.weight"),
];

const RMS_NORMS: &[Row] = &[
    ("blocks.{}.attention.q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    ("blocks.{}.attention.k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    ("lm_head.norm.weight", "model.norm.weight"),
];

/// Norms after attention and feed-forward.
const NORMS_AFTER: &[Row] = &[
    ("blocks.{}.attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    ("blocks.{}.feed_forward_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight"),
];

/// Norms before attention and feed-forward, the second named for what it comes after.
const NORMS_BEFORE: &[Row] = &[
    ("blocks.{}.attention_norm.weight", "model.layers.{}.input_layernorm.weight"),
    ("blocks.{}.feed_forward_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
];

impl Family {
    /// The tables that together name every tensor of the family.
    fn tables(self) -> &'static [&'static [Row]] {
        match self {
            Self::Olmo => &[EVERYWHERE, SWIGLU],
            Self::Olmo2 | Self::Olmo3 => &[EVERYWHERE, SWIGLU, RMS_NORMS, NORMS_AFTER],
            Self::Olmoe => &[EVERYWHERE, EXPERTS, RMS_NORMS, NORMS_BEFORE],
        }
    }

    /// The name in `transformers` of a parameter of ours, `None` where the family has none such.
    ///
    /// `blocks.3.attention.w_q.weight` is `model.layers.3.self_attn.q_proj.weight`.
    pub fn hf_name(self, path: &str) -> Option<String> {
        self.rename(path, |(ours, theirs)| (ours, theirs))
    }

    /// Our path of a tensor of `transformers`, `None` where the family has none such.
    pub fn path(self, hf_name: &str) -> Option<String> {
        self.rename(hf_name, |(ours, theirs)| (theirs, ours))
    }

    fn rename(
        self,
        name: &str,
        way: impl Fn(Row) -> (&'static str, &'static str),
    ) -> Option<String> {
        let is_number =
            |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let pattern: Vec<&str> =
            name.split('.').map(|part| if is_number(&part) { "{}" } else { part }).collect();
        let pattern = pattern.join(".");
        let rows = self.tables().iter().copied().flatten().copied();
        let (_, target) = rows.map(way).find(|(source, _)| *source == pattern)?;
        let mut numbers = name.split('.').filter(is_number);
        let parts: Option<Vec<&str>> = target
            .split('.')
            .map(|part| if part == "{}" { numbers.next() } else { Some(part) })
            .collect();
        Some(parts?.join("."))
    }
}

/// Whether a tensor is a buffer that old checkpoints carry and every version computes afresh.
pub(crate) fn is_buffer(hf_name: &str) -> bool {
    hf_name.ends_with(".rotary_emb.inv_freq")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use olmo_model::presets;

    #[test]
    fn every_parameter_of_every_preset_has_a_name_and_comes_back() {
        for (preset, config) in presets::all() {
            let Ok(family) = Family::of(&config) else { continue };
            let mut names = HashSet::new();
            for parameter in config.parameters() {
                let name = family.hf_name(&parameter.path);
                let name = name.unwrap_or_else(|| panic!("{preset}: {}", parameter.path));
                assert_eq!(family.path(&name).as_ref(), Some(&parameter.path));
                assert!(names.insert(name));
            }
        }
    }

    #[test]
    fn the_same_name_means_another_norm_in_another_family() {
        let name = "model.layers.10.post_attention_layernorm.weight";
        let path = |family: Family| family.path(name);
        assert_eq!(path(Family::Olmo), None);
        assert_eq!(path(Family::Olmo2).unwrap(), "blocks.10.attention_norm.weight");
        assert_eq!(path(Family::Olmoe).unwrap(), "blocks.10.feed_forward_norm.weight");
        let expert = "blocks.3.feed_forward.experts.61.w3.weight";
        let expected = "model.layers.3.mlp.experts.61.up_proj.weight";
        assert_eq!(Family::Olmoe.hf_name(expert).unwrap(), expected);
        for unknown in
            ["", "blocks", "blocks.x.attention.w_q.weight", "blocks..attention.w_q.weight"]
        {
            assert_eq!(Family::Olmo2.hf_name(unknown), None, "{unknown:?}");
        }
    }
}
