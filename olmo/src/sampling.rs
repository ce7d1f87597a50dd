//! The options that say how a token is chosen, which several verbs share.

use clap::Args;
use olmo_model::Sampling;

/// How tokens are chosen.
#[derive(Debug, Clone, Args)]
pub(crate) struct SamplingOptions {
    /// 0 takes the likeliest token; the default is 0, or 1 where --top-k, --top-p or --min-p is given
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw from the K likeliest tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the fewest tokens whose probabilities reach P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Draw from tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Above 1, avoid tokens that are there already
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// Seed of the draws
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl SamplingOptions {
    /// The settings, checked.
    pub(crate) fn sampling(&self) -> Result<Sampling, olmo_model::Error> {
        let Self { top_k, top_p, min_p, repetition_penalty, seed, .. } = *self;
        let filtered = top_k.is_some() || top_p.is_some() || min_p.is_some();
        let temperature = self.temperature.unwrap_or(if filtered { 1.0 } else { 0.0 });
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed };
        sampling.validate()?;
        Ok(sampling)
    }
}
