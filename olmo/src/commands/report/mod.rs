//! `olmo report`: runs on one page that needs nothing else.

pub(crate) mod run;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use olmo_data::{SpecialTokens, Tokenizer};
use olmo_model::Sampling;
use serde::Serialize;

use self::run::Run;
use crate::device::DeviceName;
use crate::output;
use crate::page::chart::{Series, chart};
use crate::page::{self, escaped, table};

/// Make one HTML page of one or more runs: curves, configurations, samples, energy
///
/// Curves of all runs lie over the same axes. Of several configurations the fields that differ are
/// shown. With --prompt, the newest checkpoint of each run continues it. Energy is that of the
/// metrics: kWh of the devices, times the power usage effectiveness, times the carbon intensity.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo report runs/small --out report.html
  olmo report runs/small runs/wide --out report.html --prompt \"Once upon a time\"")]
pub(crate) struct Report {
    /// Folders of runs, with config.yaml and metrics.jsonl
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A text that each run's newest checkpoint continues; may be given again
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Tokens of a sample
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_new_tokens: usize,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Curves that come first, in this order; others follow by name.
const FIRST: [&str; 7] = [
    "train/CrossEntropyLoss",
    "optim/total_grad_norm",
    "optim/learning_rate_group0",
    "throughput/device/tokens_per_second",
    "throughput/device/MFU",
    "energy/device_watts",
    "System/Peak Memory (MB)",
];
/// What is no curve, or the same as another.
const LEFT_OUT: [&str; 7] = [
    "step",
    "train/Perplexity",
    "throughput/epoch",
    "throughput/total_tokens",
    "throughput/device/batches_per_second",
    "throughput/total_training_Gflops",
    "throughput/total_training_log_Gflops",
];

/// A run in a line, as in the OLMo paper's table of energy.
#[derive(Debug, Serialize)]
struct Summary {
    run: String,
    folder: String,
    steps: u64,
    tokens: u64,
    loss: Option<f64>,
    gflops: Option<f64>,
    kwh: Option<f64>,
    pue: f64,
    carbon_kg_per_kwh: f64,
    kg_co2e: Option<f64>,
}

impl Report {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let runs: Vec<Run> = self.runs.iter().map(|dir| Run::read(dir)).collect::<Result<_>>()?;
        let summaries: Vec<_> = runs.iter().map(Summary::of).collect();
        let mut body = section("Runs", &summary_table(&summaries));
        body.push_str(&curves(&runs));
        body.push_str(&self.samples(&runs, device)?);
        body.push_str(&configurations(&runs)?);
        let names: Vec<_> = runs.iter().map(|run| run.name.as_str()).collect();
        let html = page::html(&names.join(", "), &body);
        olmo_hub::write_atomic(&self.out, |file| file.put(html.as_bytes()))?;
        if self.json {
            return Ok(output::json(&summaries)?);
        }
        Ok(output::line(self.out.display().to_string())?)
    }

    fn samples(&self, runs: &[Run], device: DeviceName) -> Result<String> {
        let mut html = String::new();
        if self.prompt.is_empty() {
            return Ok(html);
        }
        let device = device.open()?;
        for run in runs {
            let folder = run.folder.join("checkpoints/latest");
            let of_run = || format!("no sample of {}", run.folder.display());
            let model = olmo_hub::ModelFolder::open(&folder)
                .and_then(|folder| folder.load(&device, None))
                .with_context(of_run)?;
            let tokenizer =
                Tokenizer::from_file(folder.join("tokenizer.json")).with_context(of_run)?;
            write!(html, "<h3>{}</h3>", escaped(&run.name))?;
            for prompt in &self.prompt {
                let mut tokens = tokenizer.encode(prompt)?;
                let eos = tokenizer.eos_id().ok();
                let new: Result<Vec<u32>, _> = model
                    .generate(&tokens, Sampling::top_p(0.9, 0.7))?
                    .take_while(|token| {
                        eos.is_none() || !matches!(token, Ok(id) if Some(*id) == eos)
                    })
                    .take(self.max_new_tokens)
                    .collect();
                tokens.extend(new?);
                let text = tokenizer.decode(&tokens, SpecialTokens::Skip)?;
                write!(html, "<pre>{}</pre>", escaped(&text))?;
            }
        }
        Ok(section("Samples", &html))
    }
}

impl Summary {
    fn of(run: &Run) -> Self {
        Self {
            run: run.name.clone(),
            folder: run.folder.display().to_string(),
            steps: run.last("step").unwrap_or(0.0) as u64,
            tokens: run.last("throughput/total_tokens").unwrap_or(0.0) as u64,
            loss: run.last("train/CrossEntropyLoss"),
            gflops: run.last("throughput/total_training_Gflops"),
            kwh: run.last("energy/total_kWh"),
            pue: run.config.energy.pue,
            carbon_kg_per_kwh: run.config.energy.carbon_kg_per_kwh,
            kg_co2e: run.last("energy/total_kgCO2e"),
        }
    }
}

fn section(title: &str, html: &str) -> String {
    format!("<h2>{}</h2>{html}", escaped(title))
}

fn summary_table(summaries: &[Summary]) -> String {
    let head =
        ["run", "steps", "tokens", "loss", "FLOPs", "kWh", "PUE", "kg CO2e per kWh", "kg CO2e"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let known = |value: Option<f64>, digits: usize| {
        value.map_or("not known".to_owned(), |value| format!("{value:.digits$}"))
    };
    for summary in summaries {
        rows.push(vec![
            summary.run.clone(),
            summary.steps.to_string(),
            output::scaled(summary.tokens),
            known(summary.loss, 3),
            summary.gflops.map_or("not known".to_owned(), |g| format!("{:.2e}", g * 1e9)),
            known(summary.kwh, 4),
            summary.pue.to_string(),
            summary.carbon_kg_per_kwh.to_string(),
            known(summary.kg_co2e, 4),
        ]);
    }
    table(&rows)
}

/// A chart for each metric that any of the runs has.
fn curves(runs: &[Run]) -> String {
    let all: BTreeSet<String> = runs.iter().flat_map(Run::metrics).collect();
    let is_other = |name: &&str| !FIRST.contains(name) && !LEFT_OUT.contains(name);
    let others = all.iter().map(String::as_str).filter(is_other);
    let named = FIRST.into_iter().filter(|name| all.contains(*name)).chain(others);
    named.map(|metric| section(metric, &metric_chart(runs, metric))).collect()
}

/// The curves of a metric, of all runs.
pub(crate) fn metric_chart(runs: &[Run], metric: &str) -> String {
    let series: Vec<_> =
        runs.iter().map(|run| Series { label: &run.name, points: run.curve(metric) }).collect();
    chart(&series, number)
}

/// A value at an axis, whatever it measures.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 0.01 => format!("{value:.1e}"),
        middle if middle < 100.0 => format!("{value:.2}"),
        large if large < 1e5 => format!("{value:.0}"),
        _ => format!("{value:.1e}"),
    }
}

/// One configuration whole, of several the fields that differ.
fn configurations(runs: &[Run]) -> Result<String> {
    if let [run] = runs {
        let yaml = escaped(&run.config.to_yaml()?);
        return Ok(section("Configuration", &format!("<pre>{yaml}</pre>")));
    }
    let fields = runs.iter().map(Run::fields).collect::<Result<Vec<_>>>()?;
    let keys: BTreeSet<&String> = fields.iter().flat_map(|fields| fields.keys()).collect();
    let head = std::iter::once("field".to_owned()).chain(runs.iter().map(|run| run.name.clone()));
    let mut rows = vec![head.collect::<Vec<_>>()];
    for key in keys {
        let values: Vec<_> = fields.iter().map(|fields| fields.get(key)).collect();
        if values.iter().any(|value| *value != values[0]) {
            let shown = values.iter().map(|value| value.map_or("", String::as_str).to_owned());
            rows.push(std::iter::once(key.clone()).chain(shown).collect());
        }
    }
    Ok(section("Configurations, where they differ", &table(&rows)))
}
