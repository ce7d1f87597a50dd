//! `olmo bench train`: tokens per second and peak memory of training steps.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use olmo_model::config::MAX_SIZE;
use olmo_model::{Costs, InitConfig, Labels, ModelConfig, Transformer, presets};
use olmo_optim::{
    AdamW, AdamWConfig, Optimizer as _, UpdateOptions, clip_coefficient, global_norm,
};
use olmo_train::step::{Activations, Gradients, Precision, StepOptions, micro_batch};
use serde::Serialize;
use serde_json::json;

use super::memory;
use crate::device::DeviceName;
use crate::memory::check_model as memory_check;
use crate::output;

/// Time whole training steps of an OLMo of any size, with random weights and tokens
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo bench train --d-model 512 --n-layers 8 --n-heads 8 --seq-len 512 --micro-batch 4 --json
  olmo bench train --preset olmo2_1b --seq-len 4096 --precision amp-bf16 --peak-tflops 989 --device cuda

A step is forward, backward, clipping and AdamW of one micro-batch. The first is not timed.")]
pub(crate) struct Train {
    /// A released architecture, by its name in `olmo model list`, instead of a size given below
    #[arg(long, value_name = "NAME", conflicts_with_all = ["d_model", "n_layers", "n_heads", "vocab_size"])]
    preset: Option<String>,
    /// Width of the residual stream; the feed-forward layer is four times as wide
    #[arg(long, value_name = "N", default_value_t = 512)]
    d_model: usize,
    /// Blocks
    #[arg(long, value_name = "N", default_value_t = 8)]
    n_layers: usize,
    /// Attention heads
    #[arg(long, value_name = "N", default_value_t = 8)]
    n_heads: usize,
    /// Rows of the embedding
    #[arg(long, value_name = "N", default_value_t = 50_304)]
    vocab_size: usize,
    /// Tokens in an instance
    #[arg(long, value_name = "N", default_value_t = 512)]
    seq_len: usize,
    /// Instances in a step
    #[arg(long, value_name = "N", default_value_t = 4)]
    micro_batch: usize,
    /// Steps that are timed
    #[arg(long, value_name = "N", default_value_t = 4)]
    steps: usize,
    /// What to compute in
    #[arg(long, value_enum, default_value = "fp32")]
    precision: PrecisionName,
    /// What blocks keep for the backward pass: `keep`, `recompute`, `recompute_every=K`,
    /// `keep_every=K`, `keep_last=N` or `budget=BYTES`
    #[arg(long, value_name = "WHAT", default_value = "keep", value_parser = activations)]
    activations: Activations,
    /// 10^12 operations a second that the device can do in this precision, as its maker states;
    /// gives the share of them that went into the model
    #[arg(long, value_name = "N")]
    peak_tflops: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PrecisionName {
    Fp32,
    AmpBf16,
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::Fp32 => Self::F32,
            PrecisionName::AmpBf16 => Self::AmpBf16,
        }
    }
}

/// What makes a model smaller that does not fit.
const SMALLER: &str = "give a smaller --d-model, --n-layers or --vocab-size, or a smaller --preset";

/// `recompute`, or `keep_last=4`.
fn activations(text: &str) -> Result<Activations, String> {
    let value = match text.split_once('=') {
        None => json!(text),
        Some((name, number)) => {
            let number: f64 = number.parse().map_err(|_| format!("{number:?} is no number"))?;
            // A count of blocks is read from whole numbers only.
            let whole = (number.fract() == 0.0 && number > 0.0).then_some(number as u64);
            json!({name: whole.ok_or("expected a whole number above 0")?})
        }
    };
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    params: usize,
    tokens_per_second: f64,
    seconds_per_step: f64,
    /// Six floating-point operations for each parameter and token, as the peers count.
    gflops: f64,
    /// Share of `--peak-tflops` that OLMo's count of the model's own operations takes; what is
    /// computed twice counts once.
    #[serde(skip_serializing_if = "Option::is_none")]
    mfu: Option<f64>,
    /// Of the whole process; `None` where the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<u64>,
    loss: f64,
}

impl Train {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let config = self.config()?;
        let (device, name) = (device.open()?, device);
        memory_check(&config, self.precision.into(), name, SMALLER)?;
        let report = self.measure(&config, &device)?;
        if self.json {
            return Ok(output::json(&report)?);
        }
        let memory = report.peak_bytes.map(output::bytes).unwrap_or_default();
        let mfu = report.mfu.map(|mfu| format!(", MFU {:.1} %", 100.0 * mfu)).unwrap_or_default();
        Ok(output::line(format!(
            "{} parameters: {:.1} tokens/s, {:.2} s a step, {:.1} GFLOP/s{mfu}, peak {memory}",
            output::scaled(report.params as u64),
            report.tokens_per_second,
            report.seconds_per_step,
            report.gflops,
        ))?)
    }

    fn config(&self) -> Result<ModelConfig> {
        let Self { d_model, n_layers, n_heads, vocab_size, seq_len, .. } = *self;
        ensure!(n_heads > 0, "--n-heads is 0, expected at least 1");
        ensure!(seq_len > 1, "--seq-len is {seq_len}, expected at least 2");
        ensure!(self.micro_batch > 0, "--micro-batch is 0, expected at least 1");
        ensure!(self.steps > 0, "--steps is 0, expected at least 1");
        if let Some(peak) = self.peak_tflops {
            ensure!(peak > 0.0, "--peak-tflops is {peak}, expected a positive number");
        }
        let n_tokens = self.micro_batch.saturating_mul(seq_len);
        ensure!(
            n_tokens <= MAX_SIZE,
            "--micro-batch and --seq-len make {n_tokens} tokens, expected at most {MAX_SIZE}"
        );
        let Some(name) = &self.preset else {
            let model = presets::small_olmo(d_model, n_layers, n_heads, vocab_size);
            let model = ModelConfig { max_sequence_length: seq_len, ..model };
            model.validate().map_err(olmo_model::Error::from)?;
            return Ok(model);
        };
        let model = presets::by_name(name)
            .with_context(|| format!("{name:?} is no preset; `olmo model list` names them"))?;
        let longest = model.max_sequence_length;
        ensure!(seq_len <= longest, "--seq-len is {seq_len}, expected at most {longest} of {name}");
        Ok(model)
    }

    fn measure(&self, config: &ModelConfig, device: &Device) -> Result<Report> {
        let options = self.options(self.micro_batch * (self.seq_len - 1));
        options.precision.check(device)?;
        let n_tokens = self.micro_batch * self.seq_len;
        let init = InitConfig::Mitchell { cutoff: None, embedding_std: None };
        let mut run = Run {
            model: Some(Transformer::init(config, &init, 0, device)?),
            optimizer: AdamW::new(&AdamWConfig::default())?,
            // Any tokens do: a step's cost does not depend on which they are.
            tokens: (0..n_tokens).map(|i| (i * 7919 % config.vocab_size) as u32).collect(),
            seq_len: self.seq_len,
            options,
        };
        run.step()?;
        let start = Instant::now();
        let mut loss = 0.0;
        for _ in 0..self.steps {
            loss = run.step()?;
        }
        let seconds_per_step = start.elapsed().as_secs_f64() / self.steps as f64;
        let params = config.n_parameters();
        let tokens_per_second = n_tokens as f64 / seconds_per_step;
        let costs = Costs::at(config, self.seq_len);
        let flops = (costs.forward_flops_per_token + costs.backward_flops_per_token) as f64;
        Ok(Report {
            params,
            tokens_per_second,
            mfu: self.peak_tflops.map(|peak| tokens_per_second * flops / (peak * 1e12)),
            seconds_per_step,
            gflops: 6.0 * (params * n_tokens) as f64 / seconds_per_step / 1e9,
            peak_bytes: memory::peak_bytes(),
            loss,
        })
    }

    fn options(&self, n_labels: usize) -> StepOptions {
        StepOptions {
            precision: self.precision.into(),
            activations: self.activations,
            loss_scale: 1.0 / n_labels as f64,
            ..StepOptions::default()
        }
    }
}

struct Run {
    model: Option<Transformer>,
    optimizer: AdamW,
    tokens: Vec<u32>,
    seq_len: usize,
    options: StepOptions,
}

impl Run {
    /// Forward, backward, clip, update; returns the loss, which waits for all of it.
    fn step(&mut self) -> Result<f64> {
        let model = self.model.take().context("the step before has failed")?;
        let labels = Labels::next_token(&self.tokens, self.seq_len);
        let mut gradients = Gradients::new();
        let losses =
            micro_batch(&model, &self.tokens, self.seq_len, &labels, &self.options, &mut gradients);
        let norm = global_norm(gradients.iter().map(|(_, sum)| sum))?;
        let grad_scale = clip_coefficient(norm.value(), 1.0);
        let options = UpdateOptions { lr: 3e-4, weight_decay: 0.1, grad_scale };
        let model = model.map_parameters(|path, weight| match gradients.take(path) {
            Some(gradient) => self.optimizer.update(path, weight, gradient, &options),
            None => Ok(weight),
        })?;
        model.device().sync()?;
        self.model = Some(model);
        Ok(losses.cross_entropy / labels.count() as f64)
    }
}
