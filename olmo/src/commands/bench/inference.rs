//! `olmo bench prefill` and `decode`: how fast a model reads a prompt and writes on.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use olmo_hub::ModelFolder;
use olmo_model::{Costs, ModelConfig, Parameter, Role, Sampling, Transformer};
use serde::Serialize;

use super::memory;
use crate::device::DeviceName;
use crate::input;
use crate::output;
use crate::weights::{self, Weights};

/// Time the tokens of one prompt
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo bench prefill --model OLMo-2-0425-1B --dtype bf16 --json")]
pub(crate) struct Prefill {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    tokens: usize,
}

/// Time new tokens, one after another
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo bench decode --model OLMo-2-0425-1B --quantize q8 --json")]
pub(crate) struct Decode {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens that are there before the first that is timed
    #[arg(long, value_name = "N", default_value_t = 128)]
    context: usize,
    /// New tokens that are timed
    #[arg(long, value_name = "N", default_value_t = 24)]
    tokens: usize,
}

#[derive(Debug, Args)]
struct ModelArgs {
    /// Folder of the model, or a repository of the Hub, owner/name[@revision]
    #[arg(long, value_name = "DIR|REPO")]
    model: PathBuf,
    #[command(flatten)]
    weights: Weights,
    /// How often to measure; the best counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeat: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    tokens_per_second: f64,
    /// Bytes of weights, keys and values that are read for a token.
    bytes_per_token: u64,
    /// What reading those takes, of what the machine's memory gives when nothing else is done.
    bandwidth_share: f64,
    /// Bytes a second that all threads read from memory.
    memory_bandwidth: f64,
    /// Bytes of the weights as they are held.
    weight_bytes: u64,
    /// Of the whole process; `None` where the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<u64>,
}

impl Prefill {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        ensure!(self.tokens > 0, "--tokens is 0, expected at least 1");
        let (folder, model) = self.model.open(device, |limit| {
            (self.tokens > limit).then(|| format!("--tokens is {}, more than", self.tokens))
        })?;
        let prompt = prompt(&model, self.tokens);
        let mut best = f64::INFINITY;
        for _ in 0..self.model.repeat {
            // The token that follows takes no place.
            let mut generator = model.generate_up_to(&prompt, Sampling::greedy(), self.tokens)?;
            let start = Instant::now();
            generator.next().context("the prompt has no continuation")??;
            best = best.min(start.elapsed().as_secs_f64());
        }
        // The weights are read once for all of them.
        let bytes = self.model.read_bytes(&folder, &model)? / self.tokens as u64;
        self.model.report(&folder, &model, self.tokens as f64 / best, bytes)
    }
}

impl Decode {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        ensure!(self.context > 0, "--context is 0, expected at least 1");
        ensure!(self.tokens > 0, "--tokens is 0, expected at least 1");
        let n_all = self.context.saturating_add(self.tokens);
        let (folder, model) = self.model.open(device, |limit| {
            let Self { context, tokens, .. } = self;
            let told =
                || format!("--context {context} and --tokens {tokens} make {n_all}, more than");
            (n_all > limit).then(told)
        })?;
        // The last token before those that are timed is run alone, as they are.
        let prompt = prompt(&model, (self.context - 1).max(1));
        let n_before = self.context.min(2);
        let mut best = f64::INFINITY;
        for _ in 0..self.model.repeat {
            let mut generator = model.generate_up_to(&prompt, Sampling::greedy(), n_all)?;
            for _ in 0..n_before {
                generator.next().context("the context is full")??;
            }
            let start = Instant::now();
            for _ in 0..self.tokens {
                generator.next().context("the context is full")??;
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let cached = cached_bytes(&model, self.context + self.tokens / 2);
        let bytes = self.model.read_bytes(&folder, &model)? + cached;
        self.model.report(&folder, &model, self.tokens as f64 / best, bytes)
    }
}

impl ModelArgs {
    /// Loads the model; `too_long` says what is more than its context.
    fn open(
        &self,
        device: DeviceName,
        too_long: impl FnOnce(usize) -> Option<String>,
    ) -> Result<(ModelFolder, Transformer)> {
        ensure!(self.repeat > 0, "--repeat is 0, expected at least 1");
        let folder = input::model_folder(&self.model)?;
        let limit = folder.model_config().max_sequence_length;
        if let Some(what) = too_long(limit) {
            bail!("{what} the model's context of {limit}");
        }
        let model = weights::load(&folder, device, self.weights)?;
        Ok((folder, model))
    }

    /// Bytes of the weights that a token passes: an embedding that is not the output projection too
    /// is looked up, and of the experts only the chosen are read.
    fn read_bytes(&self, folder: &ModelFolder, model: &Transformer) -> Result<u64> {
        let config = folder.model_config();
        let is_read = |parameter: &Parameter| !is_looked_up(parameter, config);
        let all = self.weights.bytes(folder, &model.device(), is_read)?;
        let costs = Costs::new(config);
        Ok((all as f64 * costs.n_active_parameters as f64 / costs.n_parameters as f64) as u64)
    }

    fn report(
        &self,
        folder: &ModelFolder,
        model: &Transformer,
        tokens_per_second: f64,
        bytes: u64,
    ) -> Result<()> {
        let peak_bytes = memory::peak_bytes();
        let memory_bandwidth = memory::bandwidth();
        let report = Report {
            tokens_per_second,
            bytes_per_token: bytes,
            bandwidth_share: tokens_per_second * bytes as f64 / memory_bandwidth,
            memory_bandwidth,
            weight_bytes: self.weights.bytes(folder, &model.device(), |_| true)?,
            peak_bytes,
        };
        if self.json {
            return Ok(output::json(&report)?);
        }
        let peak = report.peak_bytes.map(output::bytes).unwrap_or_default();
        Ok(output::line(format!(
            "{:.1} tokens/s; {} a token, {:.0} % of the {}/s that memory gives; weights {}, peak {peak}",
            report.tokens_per_second,
            output::bytes(report.bytes_per_token),
            100.0 * report.bandwidth_share,
            output::bytes(report.memory_bandwidth as u64),
            output::bytes(report.weight_bytes),
        ))?)
    }
}

/// Whether only rows of a matrix are read: an embedding that is not the output projection too.
fn is_looked_up(parameter: &Parameter, config: &ModelConfig) -> bool {
    parameter.role == Role::Embedding && !config.weight_tying
}

/// Bytes of keys and values that a token reads after `n` others: a windowed layer reads no more than its
/// window.
fn cached_bytes(model: &Transformer, n: usize) -> u64 {
    let config = model.config();
    let tokens = (0..config.n_layers).map(|layer| config.window(layer).map_or(n, |w| n.min(w)));
    let of_layer = Costs::new(config).kv_bytes_per_token(model.cache_dtype().size());
    tokens.sum::<usize>() as u64 * of_layer / config.n_layers as u64
}

/// Any tokens do: the cost does not depend on which they are.
fn prompt(model: &Transformer, n: usize) -> Vec<u32> {
    let vocab_size = model.config().vocab_size;
    (0..n).map(|i| (i * 7919 % vocab_size) as u32).collect()
}
