//! `olmo quickstart`: text in, a trained model out, offline.

mod corpus;
mod recipe;
mod report;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use burn::tensor::Device;
use clap::Args;
use olmo_data::{BadRows, Corpus, SpecialTokens, Tokenizer};
use olmo_eval::{FirstToken, PerplexityEval, TokenizedDocument};
use olmo_model::{Sampling, Transformer};
use olmo_train::Trainer;
use serde::Serialize;

use self::report::Page;
use super::report::run::Run;
use crate::device::DeviceName;
use crate::interrupt::Interrupt;
use crate::output;

/// Train a small model on this project's own sources, and let it write some
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo quickstart --out runs/quickstart

Takes about two minutes on two cores and no network. Ctrl-C saves; the same command goes on.")]
pub(crate) struct Quickstart {
    /// Folder for everything it makes
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    out: PathBuf,
    /// Training steps; fewer make a worse model sooner
    #[arg(long, value_name = "N", default_value_t = recipe::STEPS, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    bits_per_byte: BitsPerByte,
    /// The prompt, and what the model made of it.
    samples: Vec<String>,
    model: String,
    seconds: f64,
}

/// On files that the model has not seen.
#[derive(Debug, Clone, Copy, Serialize)]
struct BitsPerByte {
    /// With initial weights.
    before: f64,
    /// With trained weights.
    after: f64,
}

/// Name of the page in the run's folder.
const PAGE: &str = "report.html";
/// Tokens of a sample.
const N_NEW: usize = 160;
const PROMPTS: [&str; 2] = ["//! The learning rate", "    pub fn new("];

impl Quickstart {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let start = Instant::now();
        ensure!(
            self.out.to_str().is_some(),
            "--out {} is not UTF-8, which config.yaml needs; give another folder",
            self.out.display()
        );
        let device = device.open()?;
        let interrupt = Interrupt::listen()?;
        let data = self.out.join("data");
        self.say("1  corpus, tokenizer, tokens", &data)?;
        if !data.exists() {
            recipe::make_data(&data)?;
        }
        let tokenizer = Tokenizer::from_file(data.join(recipe::TOKENIZER))?;
        let config = recipe::config(&self.out, self.steps, tokenizer.vocab_size())?;
        let untrained = Transformer::init(&config.model, &config.init, config.seed, &device)?;
        let held_out = data.join(recipe::HELD_OUT);
        let before = bits_per_byte(&untrained, &tokenizer, &held_out)?;
        drop(untrained);

        self.say(&format!("2  training, {} steps", self.steps), &self.out)?;
        let mut trainer = Trainer::new(config, &device)?;
        super::train::run(&mut trainer, &interrupt, false)?;
        let model = trainer.last_checkpoint().context("a run ends with a checkpoint")?.to_owned();
        drop(trainer);

        self.say("3  what the saved model says", &model)?;
        let report = judged(&model, &tokenizer, &device, &held_out, before)?;
        let report = Report { seconds: start.elapsed().as_secs_f64(), ..report };
        self.write_page(&report)?;
        self.print(&report)
    }

    fn say(&self, what: &str, path: &Path) -> Result<()> {
        if self.json {
            return Ok(());
        }
        Ok(output::line(format!("{what:<34} {}", path.display()))?)
    }

    fn print(&self, report: &Report) -> Result<()> {
        if self.json {
            return Ok(output::json(report)?);
        }
        for sample in &report.samples {
            output::line(format!("\n{sample}"))?;
        }
        let (model, data) = (&report.model, self.out.join("data"));
        output::line(format!(
            "\n{}\nreport: {}\n\nnext:\n  \
             olmo generate --model \"{model}\" --prompt \"impl \" --temperature 0.8\n  \
             olmo eval ppl --model \"{model}\" --data \"{}\"\n  \
             olmo train \"{}\" max_duration={}",
            report.summary(),
            self.out.join(PAGE).display(),
            data.join(recipe::HELD_OUT).display(),
            self.out.join("config.yaml").display(),
            2 * self.steps,
        ))?;
        Ok(())
    }

    /// Writes `report.html` from the run's folder as it stands.
    fn write_page(&self, report: &Report) -> Result<()> {
        let read = |name: &str| {
            let path = self.out.join(name);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let page = Page {
            summary: report.summary(),
            run: Run::read(&self.out)?,
            samples: &report.samples,
            config: &read("config.yaml")?,
        };
        let html = page.html();
        Ok(olmo_hub::write_atomic(&self.out.join(PAGE), |file| file.put(html.as_bytes()))?)
    }
}

impl Report {
    fn summary(&self) -> String {
        let BitsPerByte { before, after } = self.bits_per_byte;
        format!(
            "bits per byte of files it has not seen: {before:.2} before, {after:.2} after {:.0} seconds",
            self.seconds
        )
    }
}

/// Loads the checkpoint as any user would, measures it and lets it speak.
fn judged(
    folder: &Path,
    tokenizer: &Tokenizer,
    device: &Device,
    held_out: &Path,
    before: f64,
) -> Result<Report> {
    let model = olmo_hub::ModelFolder::open(folder)?.load_to_run(device, None)?;
    let after = bits_per_byte(&model, tokenizer, held_out)?;
    let samples = PROMPTS.iter().map(|prompt| told(&model, tokenizer, prompt));
    Ok(Report {
        bits_per_byte: BitsPerByte { before, after },
        samples: samples.collect::<Result<_>>()?,
        model: folder.display().to_string(),
        seconds: 0.0,
    })
}

/// What follows a prompt, up to the end of the file.
fn told(model: &Transformer, tokenizer: &Tokenizer, prompt: &str) -> Result<String> {
    let eos = tokenizer.eos_id()?;
    let mut tokens = tokenizer.encode(prompt)?;
    let new: Result<Vec<u32>, _> = model
        .generate(&tokens, Sampling::top_p(0.9, 0.7))?
        .take_while(|token| !matches!(token, Ok(id) if *id == eos))
        .take(N_NEW)
        .collect();
    tokens.extend(new?);
    Ok(tokenizer.decode(&tokens, SpecialTokens::Skip)?)
}

fn bits_per_byte(model: &Transformer, tokenizer: &Tokenizer, held_out: &Path) -> Result<f64> {
    let corpus = Corpus::new([held_out], BadRows::Error)?;
    let documents =
        corpus.documents().map(|document| TokenizedDocument::encode(&document?.text, tokenizer));
    let eval = PerplexityEval::new(model, FirstToken::After(tokenizer.eos_id()?))?;
    let perplexity = eval.run(documents, &mut |_| ControlFlow::Continue(()))?;
    perplexity.bits_per_byte().context("text has bytes")
}
