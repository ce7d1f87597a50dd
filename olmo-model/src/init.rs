//! Initial weights: the schemes of OLMo `olmo/initialization.py` and `OLMo.reset_parameters`.
//!
//! Every matrix is drawn from a normal distribution, truncated where a cut-off is given; norm
//! weights are ones. Each parameter has its own stream, seeded by the run's seed and the
//! parameter's path, so a rank that holds a part of the model draws the same values.

use burn::tensor::{Device, TensorData};
use rand_distr::{Distribution as _, StandardNormal};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::{ConfigProblems, Error, Problems};
use crate::parameters::{Parameter, Role};
use crate::transformer::Transformer;

/// An initialisation scheme. Cut-offs are in standard deviations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum InitConfig {
    /// One standard deviation for every matrix. OLMo 2 uses 0.02, cut at 3.
    Normal {
        /// Standard deviation.
        #[serde(default = "default_std")]
        std: f64,
        /// Cut-off; `None` is an untruncated normal distribution.
        #[serde(default)]
        cutoff: Option<f64>,
        /// Standard deviation of the embedding, where it differs.
        #[serde(default)]
        embedding_std: Option<f64>,
    },
    /// `1 / sqrt(d_in)`, output projections also divided by `sqrt(2 (layer + 1))`. OLMo's scheme.
    Mitchell {
        /// Cut-off; 3 by default.
        #[serde(default)]
        cutoff: Option<f64>,
        /// Standard deviation of the embedding, where it differs.
        #[serde(default)]
        embedding_std: Option<f64>,
    },
    /// `std`, output projections divided by `sqrt(2 n_layers)`, head `1 / sqrt(d_model)`.
    FullMegatron {
        /// Standard deviation.
        #[serde(default = "default_std")]
        std: f64,
        /// Cut-off; 3 by default.
        #[serde(default)]
        cutoff: Option<f64>,
        /// Standard deviation of the embedding, where it differs.
        #[serde(default)]
        embedding_std: Option<f64>,
        /// Whether the embedding's standard deviation is multiplied by `sqrt(d_model)`.
        #[serde(default)]
        scale_embedding: bool,
    },
}

/// What one parameter is drawn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// All ones.
    Ones,
    /// Normal with mean zero.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Normal with mean zero, drawn again outside `[-bound, bound]`.
    TruncatedNormal {
        /// Standard deviation before truncation.
        std: f64,
        /// Largest magnitude.
        bound: f64,
    },
}

fn default_std() -> f64 {
    0.02
}

/// The cut-off of the schemes that always truncate.
const DEFAULT_CUTOFF: f64 = 3.0;

/// The smallest cut-off: within it lies one draw of thirteen.
const LEAST_CUTOFF: f64 = 0.1;

impl Default for InitConfig {
    fn default() -> Self {
        Self::Normal { std: default_std(), cutoff: Some(DEFAULT_CUTOFF), embedding_std: None }
    }
}

impl InitConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    ///
    /// [`ConfigProblems`] that name every one that nothing can be drawn with.
    pub fn validate(&self) -> Result<(), ConfigProblems> {
        let mut problems = Problems::default();
        let (std, cutoff, embedding_std) = match *self {
            Self::Normal { std, cutoff, embedding_std }
            | Self::FullMegatron { std, cutoff, embedding_std, .. } => {
                (Some(std), cutoff, embedding_std)
            }
            Self::Mitchell { cutoff, embedding_std } => (None, cutoff, embedding_std),
        };
        let spreads = [("init.std", std), ("init.embedding_std", embedding_std)];
        for (field, std) in spreads.into_iter().filter_map(|(field, std)| Some((field, std?))) {
            problems.positive_real(field, std);
        }
        // What lies outside is drawn again, which would take for ever.
        if let Some(cutoff) = cutoff.filter(|&cutoff| cutoff.is_nan() || cutoff < LEAST_CUTOFF) {
            let expected = format!("a number of standard deviations of at least {LEAST_CUTOFF}");
            problems.push("init.cutoff", cutoff, expected);
        }
        problems.into_result()
    }

    /// What `parameter` of a model of architecture `config` is drawn from.
    pub fn initial(&self, config: &ModelConfig, parameter: &Parameter) -> Initial {
        if parameter.role == Role::Norm {
            return Initial::Ones;
        }
        let std = match *self {
            Self::Normal { std, embedding_std, .. } => match parameter.role {
                Role::Embedding => embedding_std.unwrap_or(std),
                _ => std,
            },
            Self::Mitchell { embedding_std, .. } => mitchell_std(config, parameter, embedding_std),
            Self::FullMegatron { std, embedding_std, scale_embedding, .. } => {
                match parameter.role {
                    Role::Embedding => embedding_std.unwrap_or(if scale_embedding {
                        std * (config.d_model as f64).sqrt()
                    } else {
                        std
                    }),
                    Role::AttentionOut | Role::FeedForwardOut => {
                        std / (2.0 * config.n_layers as f64).sqrt()
                    }
                    Role::Output => 1.0 / (config.d_model as f64).sqrt(),
                    _ => std,
                }
            }
        };
        match self.cutoff() {
            Some(cutoff) => Initial::TruncatedNormal { std, bound: cutoff * std },
            None => Initial::Normal { std },
        }
    }

    fn cutoff(&self) -> Option<f64> {
        match *self {
            Self::Normal { cutoff, .. } => cutoff,
            Self::Mitchell { cutoff, .. } | Self::FullMegatron { cutoff, .. } => {
                Some(cutoff.unwrap_or(DEFAULT_CUTOFF))
            }
        }
    }
}

fn mitchell_std(config: &ModelConfig, parameter: &Parameter, embedding_std: Option<f64>) -> f64 {
    let d_model = config.d_model as f64;
    let depth = 2.0 * (parameter.layer.unwrap_or(0) + 1) as f64;
    match parameter.role {
        Role::Embedding => embedding_std.unwrap_or(1.0 / d_model.sqrt()),
        Role::AttentionOut => 1.0 / (d_model * depth).sqrt(),
        Role::FeedForwardOut => 1.0 / (config.feed_forward.hidden_size() as f64 * depth).sqrt(),
        _ => 1.0 / d_model.sqrt(),
    }
}

impl Initial {
    /// Draws `n` values.
    pub fn draw(self, n: usize, seed: u64, path: &str) -> Vec<f32> {
        let mut stream = stream(seed, path);
        let mut normal = || -> f64 { StandardNormal.sample(&mut stream) };
        match self {
            Self::Ones => vec![1.0; n],
            Self::Normal { std } => (0..n).map(|_| (std * normal()) as f32).collect(),
            Self::TruncatedNormal { std, bound } => {
                let mut truncated = || loop {
                    let value = std * normal();
                    if value.abs() <= bound {
                        return value as f32;
                    }
                };
                (0..n).map(|_| truncated()).collect()
            }
        }
    }
}

/// The stream of one parameter: the path selects it by its 64-bit FNV-1a hash.
fn stream(seed: u64, path: &str) -> Pcg64 {
    let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Pcg64::new(u128::from(seed), u128::from(hash))
}

impl Transformer {
    /// A model with fresh f32 weights. The same seed gives the same weights on every device.
    ///
    /// # Errors
    ///
    /// As [`InitConfig::validate`] and [`Transformer::build`].
    pub fn init(
        config: &ModelConfig,
        init: &InitConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        init.validate()?;
        Self::build(config, device, |parameter| {
            let initial = init.initial(config, parameter);
            let values = initial.draw(parameter.n_elements(), seed, &parameter.path);
            Ok(TensorData::new(values, parameter.shape.clone()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_stated_spread_and_bound() {
        let n = 200_000;
        let moments = |values: &[f32]| {
            let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
            (mean, square.sqrt())
        };
        let (mean, std) = moments(&Initial::Normal { std: 0.02 }.draw(n, 1, "a"));
        assert!(mean.abs() < 2e-4 && (std / 0.02 - 1.0).abs() < 0.01, "{mean} {std}");
        let cut = Initial::TruncatedNormal { std: 0.02, bound: 0.02 }.draw(n, 1, "a");
        // The spread of a normal distribution cut at one standard deviation is 0.5397 of it.
        let (mean, std) = moments(&cut);
        assert!(mean.abs() < 2e-4 && (std / 0.02 - 0.5397).abs() < 0.01, "{mean} {std}");
        assert!(cut.iter().all(|x| x.abs() <= 0.02));
    }

    #[test]
    fn numbers_that_nothing_can_be_drawn_with_are_refused() {
        let normal = |std, cutoff, embedding_std| InitConfig::Normal { std, cutoff, embedding_std };
        for (init, problem) in [
            (normal(-0.02, None, None), "init.std is -0.02, expected a positive finite number"),
            (normal(f64::NAN, None, None), "init.std is NaN"),
            (normal(0.02, Some(0.0), None), "init.cutoff is 0, expected a number of standard"),
            (normal(0.02, Some(f64::NAN), None), "init.cutoff is NaN"),
            (normal(0.02, None, Some(0.0)), "init.embedding_std is 0"),
            (InitConfig::Mitchell { cutoff: Some(-1.0), embedding_std: None }, "init.cutoff is -1"),
        ] {
            let found = init.validate().expect_err(problem).to_string();
            assert!(found.contains(problem), "{found}");
            let model = crate::presets::small_olmo2(32, 1, 4, 100);
            assert!(Transformer::init(&model, &init, 0, &Device::default()).is_err());
        }
        assert_eq!(InitConfig::default().validate(), Ok(()));
    }

    #[test]
    fn streams_differ_by_seed_and_by_path() {
        let draw = |seed, path| Initial::Normal { std: 1.0 }.draw(4, seed, path);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }
}
