//! Where a checkpoint keeps each parameter: under which name, and in which rows of what tensor.
//!
//! Sources: `state_dict` of the classes in `transformers`; ai2-olmo `olmo/model.py`, whose blocks
//! fuse query, key and value in one tensor and up and gate projection in another; OLMo-core's
//! module names, which are our own.

use std::borrow::Cow;
use std::collections::HashMap;

use olmo_model::config::FeedForwardConfig;
use olmo_model::{ModelConfig, Parameter};

use crate::family::Family;

/// The names and fusions of a kind of checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `model.layers.0.self_attn.q_proj.weight`: Hugging Face's.
    HuggingFace,
    /// Hugging Face's with all experts of a layer in two tensors, `model.layers.0.mlp.experts.gate_up_proj`
    /// and `down_proj`: how transformers 5 holds them, and writes them with `save_original_format=False`.
    PackedExperts,
    /// `transformer.blocks.0.att_proj.weight`: ai2-olmo's.
    Original,
    /// `blocks.0.attention.w_q.weight`: OLMo-core's, and ours.
    Core,
}

/// Where one parameter stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The tensor that it is, or is in.
    pub(crate) name: String,
    /// The shape of that tensor.
    pub(crate) shape: Vec<usize>,
    /// Its first element there; the others follow.
    pub(crate) first: usize,
}

/// A tensor of a checkpoint, with the parameters that it consists of, one after another.
#[derive(Debug, Clone)]
pub(crate) struct Fused {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) parts: Vec<Parameter>,
}

/// Tensors of a block in ai2-olmo that are a parameter of ours as it is.
const BLOCK: &[(&str, &str)] = &[
    ("attention.w_out", "attn_out"),
    ("attention.q_norm", "q_norm"),
    ("attention.k_norm", "k_norm"),
    ("attention_norm", "attn_norm"),
    ("feed_forward.w2", "ff_out"),
    ("feed_forward_norm", "ff_norm"),
];

const OUTSIDE: &[(&str, &str)] =
    &[("embeddings", "wte"), ("lm_head.norm", "ln_f"), ("lm_head.w_out", "ff_out")];

impl Layout {
    /// The layout that these names are of.
    pub(crate) fn of(has: impl Fn(&str) -> bool) -> Self {
        if has("transformer.wte.weight") {
            Self::Original
        } else if has("embeddings.weight") {
            Self::Core
        } else if has("model.layers.0.mlp.experts.gate_up_proj") {
            Self::PackedExperts
        } else {
            Self::HuggingFace
        }
    }

    /// The output projection, which checkpoints of models with tied weights may hold once more, and
    /// the embedding.
    pub(crate) fn ends(self) -> [&'static str; 2] {
        match self {
            Self::HuggingFace | Self::PackedExperts => {
                ["lm_head.weight", "model.embed_tokens.weight"]
            }
            Self::Original => ["transformer.ff_out.weight", "transformer.wte.weight"],
            Self::Core => ["lm_head.w_out.weight", "embeddings.weight"],
        }
    }

    /// Where a parameter stands, `None` where this layout has no place for it. `family` is that of the
    /// model, `None` where `transformers` has none.
    pub(crate) fn place(
        self,
        family: Option<Family>,
        config: &ModelConfig,
        parameter: &Parameter,
    ) -> Option<Place> {
        let whole = |name| Place { name, shape: parameter.shape.clone(), first: 0 };
        match self {
            Self::HuggingFace => family?.hf_name(&parameter.path).map(whole),
            Self::PackedExperts => {
                let name = family?.hf_name(&parameter.path)?;
                packed_expert(&name, config, parameter).or(Some(whole(name)))
            }
            Self::Core => Some(whole(parameter.path.clone())),
            Self::Original => original(config, parameter),
        }
    }

    /// The name of the tensor that a parameter is, or is part of; `None` where this layout has none. Of
    /// Hugging Face's it is that of the model's own family.
    pub fn name(self, config: &ModelConfig, parameter: &Parameter) -> Option<String> {
        self.place(Family::of(config).ok(), config, parameter).map(|place| place.name)
    }

    /// Every tensor of a checkpoint of this layout, in the order of the parameters; `None` where a
    /// parameter has no place.
    pub(crate) fn tensors(
        self,
        family: Option<Family>,
        config: &ModelConfig,
    ) -> Option<Vec<Fused>> {
        let mut tensors: Vec<(Fused, Vec<usize>)> = Vec::new();
        let mut by_name = HashMap::new();
        for parameter in config.parameters() {
            let Place { name, shape, first } = self.place(family, config, &parameter)?;
            let index = *by_name.entry(name.clone()).or_insert(tensors.len());
            if index == tensors.len() {
                tensors.push((Fused { name, shape, parts: Vec::new() }, Vec::new()));
            }
            let (fused, starts) = &mut tensors[index];
            let at = starts.partition_point(|start| *start < first);
            starts.insert(at, first);
            fused.parts.insert(at, parameter);
        }
        Some(tensors.into_iter().map(|(fused, _)| fused).collect())
    }
}

/// `experts.E.gate_proj.weight` as rows of `experts.gate_up_proj` `[n_experts, 2 * hidden_size, d_model]`,
/// and likewise the others; `None` for what is no expert's.
fn packed_expert(name: &str, config: &ModelConfig, parameter: &Parameter) -> Option<Place> {
    let FeedForwardConfig::Experts { n_experts, .. } = config.feed_forward else { return None };
    let (layer, rest) = name.split_once(".experts.")?;
    let (expert, projection) = rest.split_once('.')?;
    let expert: usize = expert.parse().ok()?;
    let (tensor, n_parts, part) = match projection {
        "gate_proj.weight" => ("gate_up_proj", 2, 0),
        "up_proj.weight" => ("gate_up_proj", 2, 1),
        "down_proj.weight" => ("down_proj", 1, 0),
        _ => return None,
    };
    let [rows, columns] = parameter.shape[..] else { return None };
    Some(Place {
        name: format!("{layer}.experts.{tensor}"),
        shape: vec![n_experts, n_parts * rows, columns],
        first: (expert * n_parts + part) * rows * columns,
    })
}

fn original(config: &ModelConfig, parameter: &Parameter) -> Option<Place> {
    let path = parameter.path.strip_suffix(".weight")?;
    let whole = |name: String| Place { name, shape: parameter.shape.clone(), first: 0 };
    let Some(inner) = path.strip_prefix("blocks.") else {
        let (_, name) = OUTSIDE.iter().find(|(ours, _)| *ours == path)?;
        return Some(whole(format!("transformer.{name}.weight")));
    };
    let (layer, path) = inner.split_once('.')?;
    let block = |name: &str| format!("transformer.blocks.{layer}.{name}.weight");
    if let Some((_, name)) = BLOCK.iter().find(|(ours, _)| *ours == path) {
        return Some(whole(block(name)));
    }
    let FeedForwardConfig::Swiglu { hidden_size } = config.feed_forward else { return None };
    let (d_query, d_kv) = (config.attention.d_query(), config.attention.d_key_value());
    let (name, n_rows, first_row) = match path {
        "attention.w_q" => ("att_proj", d_query + 2 * d_kv, 0),
        "attention.w_k" => ("att_proj", d_query + 2 * d_kv, d_query),
        "attention.w_v" => ("att_proj", d_query + 2 * d_kv, d_query + d_kv),
        // `x, gate = ff_proj(x).chunk(2); silu(gate) * x`: what is gated comes first.
        "feed_forward.w3" => ("ff_proj", 2 * hidden_size, 0),
        "feed_forward.w1" => ("ff_proj", 2 * hidden_size, hidden_size),
        _ => return None,
    };
    let shape = vec![n_rows, config.d_model];
    Some(Place { name: block(name), shape, first: first_row * config.d_model })
}

/// The names of a checkpoint's tensors as [`Layout`] has them.
///
/// ai2-olmo's come with prefixes of the wrappers around a model, and with blocks in groups:
/// `transformer.block_groups.1.0.` is block `1 * n + 0` where groups have `n` blocks.
pub(crate) fn plain_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    const GROUPS: &str = "transformer.block_groups.";
    let unwrapped = |name: &'a str| -> Cow<'a, str> {
        // What DDP puts before them.
        let name = name.strip_prefix("module.").unwrap_or(name);
        let name = match name.strip_prefix("model.") {
            Some(rest) if rest.starts_with("transformer.") => rest,
            _ => name,
        };
        if name.contains(WRAPPER) { name.replace(WRAPPER, "").into() } else { name.into() }
    };
    // Numbers past 32 bits are no block's, and the name stays as it is: told as one without a place.
    let numbers = |name: &str| -> Option<(u64, u64, String)> {
        let mut parts = name.strip_prefix(GROUPS)?.splitn(3, '.');
        let mut number = || parts.next()?.parse::<u32>().ok().map(u64::from);
        let (group, block) = (number()?, number()?);
        Some((group, block, parts.next()?.to_owned()))
    };
    let group_size = names
        .clone()
        .filter_map(|name| numbers(&unwrapped(name)))
        .filter_map(|(group, block, _)| (group == 0).then_some(block + 1))
        .max()
        .unwrap_or(1);
    names
        .map(|name| {
            let name = unwrapped(name);
            match numbers(&name) {
                Some((group, block, rest)) => {
                    let block = group * group_size + block;
                    format!("transformer.blocks.{block}.{rest}")
                }
                None => name.into_owned(),
            }
        })
        .collect()
}

/// What FSDP puts into the names of what it wraps.
pub(crate) const WRAPPER: &str = "_fsdp_wrapped_module.";

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_model::presets;

    #[test]
    fn the_parts_of_every_tensor_fill_it() {
        for (name, config) in presets::all() {
            let family = Family::of(&config).ok();
            for layout in
                [Layout::HuggingFace, Layout::PackedExperts, Layout::Original, Layout::Core]
            {
                let Some(tensors) = layout.tensors(family, &config) else {
                    let is_hugging_face = !matches!(layout, Layout::Original | Layout::Core);
                    let has_none = (family.is_none() && is_hugging_face)
                        || (family, layout) == (Some(Family::Olmoe), Layout::Original);
                    assert!(has_none, "{name}: {layout:?}");
                    continue;
                };
                let mut n_parts = 0;
                for Fused { name, shape, parts } in tensors {
                    let mut end = 0;
                    for part in &parts {
                        let place = layout.place(family, &config, part).unwrap();
                        assert_eq!((&place.name, &place.shape, place.first), (&name, &shape, end));
                        end += part.n_elements();
                        n_parts += 1;
                    }
                    assert_eq!(end, shape.iter().product::<usize>(), "{name}");
                }
                assert_eq!(n_parts, config.parameters().len());
            }
        }
    }

    #[test]
    fn names_are_freed_of_wrappers_and_groups() {
        let names = [
            "_fsdp_wrapped_module.transformer.wte.weight",
            "transformer.block_groups.0.0.att_proj.weight",
            "transformer.block_groups.0.1.att_proj.weight",
            "transformer.block_groups.3.1.att_proj.weight",
            "model.transformer.ff_out.weight",
            "model.embed_tokens.weight",
            "transformer.block_groups.x.1.att_proj.weight",
            "module.transformer.ff_out.weight",
            "transformer.block_groups.0.18446744073709551615.att_proj.weight",
            "transformer.block_groups.18446744073709551615.0.att_proj.weight",
        ];
        assert_eq!(
            plain_names(names.iter().copied()),
            [
                "transformer.wte.weight",
                "transformer.blocks.0.att_proj.weight",
                "transformer.blocks.1.att_proj.weight",
                "transformer.blocks.7.att_proj.weight",
                "transformer.ff_out.weight",
                "model.embed_tokens.weight",
                "transformer.block_groups.x.1.att_proj.weight",
                "transformer.ff_out.weight",
                names[8],
                names[9],
            ]
        );
        let largest = "transformer.block_groups.4294967295.4294967295.w";
        let names = ["transformer.block_groups.0.4294967295.w", largest];
        let plain = plain_names(names.into_iter());
        assert_eq!(plain[1], "transformer.blocks.18446744073709551615.w");
    }
}
