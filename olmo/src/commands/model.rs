//! `olmo model list | show`: sizes, FLOPs and memory, by arithmetic alone.

use std::path::Path;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use olmo_hub::{Dtype, ModelFolder};
use olmo_model::{Costs, ModelConfig, Sharding, presets};
use serde::Serialize;

use crate::{input, output};

/// Show models: sizes, FLOPs per token, memory
#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    List(List),
    Show(Show),
}

/// List the released models by the names of their presets
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  olmo model list --json")]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Show what a model costs: parameters, FLOPs per token, memory to run and to train
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  olmo model show olmo2_1b\n  olmo model show ./OLMo-2-0425-1B\n  \
                  olmo model show olmo2_32b --devices 64 --context 2048 --json"
)]
pub(crate) struct Show {
    /// A preset, a model folder, or a repository of the Hub
    #[arg(value_name = "PRESET|DIR|REPO")]
    model: String,
    /// Devices that sharded training is spread over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// Tokens of context that FLOPs and cache are counted for; the model's own where not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a model costs, as it is printed.
#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    n_parameters: u64,
    n_non_embedding_parameters: u64,
    /// Without the experts that a token is not sent to.
    n_active_parameters: u64,
    n_layers: usize,
    d_model: usize,
    n_heads: usize,
    n_kv_heads: usize,
    vocab_size: usize,
    max_sequence_length: usize,
    /// That FLOPs and cache are counted for.
    context: usize,
    flops_per_token: Flops,
    kv_cache_bytes_per_token: RunBytes,
    /// The same once the windows of windowed layers are full.
    kv_cache_bytes_per_token_beyond_windows: RunBytes,
    /// Of one sequence of the context.
    kv_cache_bytes: RunBytes,
    /// What windowed layers save of that.
    kv_cache_bytes_saved: RunBytes,
    /// Weights alone.
    run_bytes: RunBytes,
    train_bytes: TrainBytes,
    train_bytes_per_device: Sharded,
}

#[derive(Debug, Serialize)]
struct Flops {
    forward: u64,
    backward: u64,
}

#[derive(Debug, Serialize)]
struct RunBytes {
    f32: u64,
    bf16: u64,
}

/// Weights, gradients and both moments of Adam; activations come on top.
#[derive(Debug, Serialize)]
struct TrainBytes {
    f32: u64,
    bf16_mixed: u64,
}

/// [`TrainBytes`] on each of several devices.
#[derive(Debug, Serialize)]
struct Sharded {
    devices: u32,
    zero1: TrainBytes,
    zero2: TrainBytes,
    zero3: TrainBytes,
}

/// A summary with the architecture that it is of.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    config: &'a ModelConfig,
}

impl Model {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
        }
    }
}

impl List {
    fn run(&self) -> Result<()> {
        let summaries: Vec<_> =
            presets::all().map(|(name, config)| Summary::new(name, &config, None, 8)).collect();
        if self.json {
            return Ok(output::json(&summaries)?);
        }
        let row = |cells: [&str; 6]| {
            let [name, size, layers, d_model, heads, context] = cells;
            output::line(format!(
                "{name:<20} {size:>10} {layers:>7} {d_model:>8} {heads:>7} {context:>8}"
            ))
        };
        row(["preset", "parameters", "layers", "d_model", "heads", "context"])?;
        for summary in &summaries {
            row([
                &summary.name,
                &output::scaled(summary.n_parameters),
                &summary.n_layers.to_string(),
                &summary.d_model.to_string(),
                &summary.heads(),
                &summary.max_sequence_length.to_string(),
            ])?;
        }
        Ok(())
    }
}

impl Show {
    fn run(&self) -> Result<()> {
        let config = find(&self.model)?;
        let context = self.context.map(|context| context as usize);
        let summary = Summary::new(&self.model, &config, context, self.devices);
        if self.json {
            return Ok(output::json(&Shown { summary: &summary, config: &config })?);
        }
        for (label, value) in summary.lines() {
            output::line(format!("{label:<24} {value}"))?;
        }
        Ok(())
    }
}

impl Summary {
    fn new(name: &str, config: &ModelConfig, context: Option<usize>, devices: u32) -> Self {
        let costs = Costs::at(config, context.unwrap_or(config.max_sequence_length));
        let per_device = |sharding| {
            let bytes = |mixed| costs.train_bytes_per_device(sharding, devices as usize, mixed);
            TrainBytes { f32: bytes(false), bf16_mixed: bytes(true) }
        };
        let by_dtype = |bytes: &dyn Fn(usize) -> u64| RunBytes {
            f32: bytes(Dtype::F32.size()),
            bf16: bytes(Dtype::Bf16.size()),
        };
        Self {
            name: name.to_owned(),
            n_parameters: costs.n_parameters,
            n_non_embedding_parameters: costs.n_non_embedding_parameters,
            n_active_parameters: costs.n_active_parameters,
            n_layers: config.n_layers,
            d_model: config.d_model,
            n_heads: config.attention.n_heads,
            n_kv_heads: config.attention.n_kv_heads,
            vocab_size: config.vocab_size,
            max_sequence_length: config.max_sequence_length,
            context: costs.seq_len,
            flops_per_token: Flops {
                forward: costs.forward_flops_per_token,
                backward: costs.backward_flops_per_token,
            },
            kv_cache_bytes_per_token: by_dtype(&|size| costs.kv_bytes_per_token(size)),
            kv_cache_bytes_per_token_beyond_windows: by_dtype(&|size| {
                costs.kv_bytes_per_token_beyond_windows(size)
            }),
            kv_cache_bytes: by_dtype(&|size| costs.kv_bytes(size)),
            kv_cache_bytes_saved: by_dtype(&|size| costs.kv_bytes_saved(size)),
            run_bytes: by_dtype(&|size| costs.weight_bytes(size)),
            train_bytes: per_device(Sharding::Single),
            train_bytes_per_device: Sharded {
                devices,
                zero1: per_device(Sharding::Zero1),
                zero2: per_device(Sharding::Zero2),
                zero3: per_device(Sharding::Zero3),
            },
        }
    }

    /// Query heads, and key and value heads where they are fewer.
    fn heads(&self) -> String {
        match (self.n_heads, self.n_kv_heads) {
            (n, n_kv) if n == n_kv => n.to_string(),
            (n, n_kv) => format!("{n}/{n_kv}"),
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let counted = |n: u64| format!("{} ({})", output::grouped(n), output::scaled(n));
        let flops = &self.flops_per_token;
        let kv_heads = match self.heads() {
            heads if heads.contains('/') => format!("{heads} (queries/keys and values)"),
            heads => heads,
        };
        let both = |bytes: &RunBytes| {
            format!("{} in f32, {} in bf16", output::bytes(bytes.f32), output::bytes(bytes.bf16))
        };
        let train = |bytes: &TrainBytes| {
            let [f32, mixed] = [bytes.f32, bytes.bf16_mixed].map(output::bytes);
            format!("{f32} in f32, {mixed} in mixed bf16")
        };
        let context = self.context;
        let sharded = &self.train_bytes_per_device;
        let mut lines = vec![
            ("model", self.name.clone()),
            ("parameters", counted(self.n_parameters)),
            ("  without embedding", counted(self.n_non_embedding_parameters)),
            ("layers", self.n_layers.to_string()),
            ("d_model", self.d_model.to_string()),
            ("heads", kv_heads),
            ("vocabulary", output::grouped(self.vocab_size as u64)),
            ("context", format!("{} tokens", self.max_sequence_length)),
            ("FLOPs per token", {
                let [forward, backward] = [flops.forward, flops.backward].map(output::scaled);
                format!("{forward} forward, {backward} backward, at {context} tokens of context")
            }),
            ("KV cache per token", both(&self.kv_cache_bytes_per_token)),
            ("  of the context", both(&self.kv_cache_bytes)),
            ("weights to run", both(&self.run_bytes)),
            ("memory to train", format!("{}; activations come on top", train(&self.train_bytes))),
            ("  ZeRO-1, each device", format!("{}, of {}", train(&sharded.zero1), sharded.devices)),
            ("  ZeRO-2", train(&sharded.zero2)),
            ("  ZeRO-3", train(&sharded.zero3)),
        ];
        if self.kv_cache_bytes_saved.f32 > 0 {
            let at = lines.iter().position(|(label, _)| *label == "weights to run").unwrap_or(0);
            let beyond = both(&self.kv_cache_bytes_per_token_beyond_windows);
            lines.insert(at, ("  saved by windows", both(&self.kv_cache_bytes_saved)));
            lines.insert(at, ("  per token beyond them", beyond));
        }
        if self.n_active_parameters != self.n_parameters {
            lines.insert(2, ("  active for a token", counted(self.n_active_parameters)));
        }
        lines
    }
}

/// The configuration of a preset or of a model folder.
fn find(name: &str) -> Result<ModelConfig> {
    if let Some(config) = presets::by_name(name) {
        return Ok(config);
    }
    let dir = Path::new(name);
    if dir.is_dir() {
        return Ok(ModelFolder::read_config(dir)?.model);
    }
    if name.contains('/') {
        return Ok(ModelFolder::read_config(input::model_dir(dir)?)?.model);
    }
    let mut near: Vec<(f64, &str)> =
        presets::all().map(|(known, _)| (strsim::jaro_winkler(name, known), known)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<&str> =
        near.into_iter().take_while(|(score, _)| *score > 0.85).take(3).map(|(_, n)| n).collect();
    let hint = if near.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", near.join(" or "))
    };
    let all: Vec<&str> = presets::all().map(|(known, _)| known).collect();
    bail!("{name:?} is neither a preset nor a folder{hint}\n  presets: {}", all.join(", "))
}
