//! The Hugging Face model types, and which of them expresses a configuration.

use olmo_model::ModelConfig;
use olmo_model::config::{FeedForwardConfig, NormCast, NormConfig, NormPlacement};

use crate::error::FieldProblem;

/// A model type of `transformers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `olmo`: OLMo of 2024-02 to 2024-07.
    Olmo,
    /// `olmo2`.
    Olmo2,
    /// `olmo3`.
    Olmo3,
    /// `olmoe`.
    Olmoe,
}

/// The epsilon that `transformers` has fixed in its layer norm for `olmo`.
pub(crate) const OLMO_NORM_EPS: f64 = 1e-5;

impl Family {
    /// Every family, oldest first.
    pub const ALL: [Self; 4] = [Self::Olmo, Self::Olmo2, Self::Olmo3, Self::Olmoe];

    /// The `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Olmo => "olmo",
            Self::Olmo2 => "olmo2",
            Self::Olmo3 => "olmo3",
            Self::Olmoe => "olmoe",
        }
    }

    /// The class in `config.json`'s `architectures`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Olmo => "OlmoForCausalLM",
            Self::Olmo2 => "Olmo2ForCausalLM",
            Self::Olmo3 => "Olmo3ForCausalLM",
            Self::Olmoe => "OlmoeForCausalLM",
        }
    }

    /// The family of that `model_type`.
    pub fn from_model_type(model_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.model_type() == model_type)
    }

    /// The family that expresses a configuration.
    ///
    /// # Errors
    ///
    /// The family that comes closest, and every field that keeps it from fitting.
    pub fn of(config: &ModelConfig) -> Result<Self, (Self, Vec<FieldProblem>)> {
        let family = Self::closest_to(config);
        let problems = family.misfits(config);
        if problems.is_empty() { Ok(family) } else { Err((family, problems)) }
    }

    /// By what no other family has: experts, a norm without weights, windows.
    fn closest_to(config: &ModelConfig) -> Self {
        match (&config.feed_forward, config.norm, config.attention.window) {
            (FeedForwardConfig::Experts { .. }, _, _) => Self::Olmoe,
            (_, NormConfig::LayerNorm { .. }, _) => Self::Olmo,
            (_, _, Some(_)) => Self::Olmo3,
            _ => Self::Olmo2,
        }
    }

    /// Where norms stand in a block.
    pub(crate) fn norm_placement(self) -> NormPlacement {
        match self {
            Self::Olmo | Self::Olmoe => NormPlacement::Before,
            Self::Olmo2 | Self::Olmo3 => NormPlacement::After,
        }
    }

    /// The norm, with this epsilon where the family does not fix it.
    pub(crate) fn norm(self, eps: f64) -> NormConfig {
        match self {
            Self::Olmo => NormConfig::LayerNorm { eps: OLMO_NORM_EPS },
            Self::Olmo2 | Self::Olmo3 => NormConfig::RmsNorm { eps, cast: NormCast::AfterWeight },
            Self::Olmoe => NormConfig::RmsNorm { eps, cast: NormCast::BeforeWeight },
        }
    }

    pub(crate) fn has_qk_norm(self) -> bool {
        self != Self::Olmo
    }

    /// Whether rotary positions are applied in f32 to queries and keys of any dtype.
    pub(crate) fn has_rope_in_f32(self) -> bool {
        self != Self::Olmoe
    }

    pub(crate) fn has_clip_qkv(self) -> bool {
        matches!(self, Self::Olmo | Self::Olmoe)
    }

    fn misfits(self, config: &ModelConfig) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        let mut expect = |fits: bool, field: &str, found: String, expected: String| {
            if !fits {
                problems.push(FieldProblem { field: field.to_owned(), found, expected });
            }
        };
        let (NormConfig::LayerNorm { eps } | NormConfig::RmsNorm { eps, .. }) = config.norm;
        let (placement, norm) = (self.norm_placement(), self.norm(eps));
        let attention = &config.attention;
        expect(
            config.norm_placement == placement,
            "norm_placement",
            format!("{:?}", config.norm_placement),
            format!("{placement:?}"),
        );
        expect(config.norm == norm, "norm", format!("{:?}", config.norm), format!("{norm:?}"));
        expect(
            attention.qk_norm == self.has_qk_norm(),
            "attention.qk_norm",
            attention.qk_norm.to_string(),
            self.has_qk_norm().to_string(),
        );
        expect(
            attention.rope.full_precision == self.has_rope_in_f32(),
            "attention.rope.full_precision",
            attention.rope.full_precision.to_string(),
            self.has_rope_in_f32().to_string(),
        );
        if let Some(clip) = attention.clip_qkv {
            let expected = "none".to_owned();
            expect(self.has_clip_qkv(), "attention.clip_qkv", clip.to_string(), expected);
        }
        if let Some(window) = attention.window {
            let expected = "none".to_owned();
            expect(self == Self::Olmo3, "attention.window", format!("{window:?}"), expected);
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_model::presets;

    #[test]
    fn every_preset_has_its_family_or_none() {
        for (name, config) in presets::all() {
            let model_type = name.split('_').next().unwrap();
            let found = Family::of(&config).map(Family::model_type);
            if ["olmo_20m", "olmo_150m"].contains(&name) {
                let (closest, misfits) = found.unwrap_err();
                assert_eq!((closest, misfits.len()), (Family::Olmo2, 3), "{name}: {misfits:?}");
            } else {
                assert_eq!(found, Ok(model_type), "{name}");
            }
        }
    }

    #[test]
    fn what_no_family_expresses_is_listed() {
        let mut config = presets::olmo2_1b();
        config.norm_placement = NormPlacement::Before;
        config.attention.qk_norm = false;
        config.attention.clip_qkv = Some(8.0);
        config.norm = NormConfig::RmsNorm { eps: 1e-6, cast: NormCast::BeforeWeight };
        let (family, problems) = Family::of(&config).unwrap_err();
        assert_eq!(family, Family::Olmo2);
        let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["norm_placement", "norm", "attention.qk_norm", "attention.clip_qkv"]);
        let mut config = presets::olmo_1b();
        config.norm = NormConfig::LayerNorm { eps: 1e-6 };
        let (family, problems) = Family::of(&config).unwrap_err();
        assert_eq!(family, Family::Olmo);
        assert!(problems[0].to_string().contains("expected LayerNorm { eps: 1e-5 }"));
    }
}
