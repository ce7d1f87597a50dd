//! `olmo quickstart`: text in, a trained model out, offline.

mod fables;
mod recipe;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use clap::Args;
use olmo_data::{SpecialTokens, Tokenizer};
use olmo_eval::{FirstToken, PerplexityEval, TokenizedDocument};
use olmo_model::{Sampling, Transformer};
use olmo_train::Trainer;
use serde::Serialize;

use self::fables::Fables;
use crate::device::DeviceName;
use crate::interrupt::Interrupt;
use crate::output;

/// Make a corpus, a tokenizer and a small model, and let it tell a story
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo quickstart --out runs/quickstart

Takes about two minutes on two cores and no network. Ctrl-C saves; the same command goes on.")]
pub(crate) struct Quickstart {
    /// Folder for everything it makes
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    out: PathBuf,
    /// Training steps; fewer make a worse model sooner
    #[arg(long, value_name = "N", default_value_t = recipe::STEPS)]
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
    model: PathBuf,
    seconds: f64,
}

/// On fables that the model has not seen.
#[derive(Debug, Clone, Copy, Serialize)]
struct BitsPerByte {
    /// With initial weights.
    before: f64,
    /// With trained weights.
    after: f64,
}

const PROMPTS: [&str; 2] = ["There was once a clever", "One morning in spring, Ada lost"];

impl Quickstart {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let start = Instant::now();
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
        let before = bits_per_byte(&untrained, &tokenizer)?;
        drop(untrained);

        self.say(&format!("2  training, {} steps", self.steps), &self.out)?;
        let mut trainer = Trainer::new(config, &device)?;
        super::train::run(&mut trainer, &interrupt, false)?;
        let model = trainer.last_checkpoint().context("a run ends with a checkpoint")?.to_owned();
        drop(trainer);

        self.say("3  what the saved model says", &model)?;
        let report = Report { seconds: 0.0, ..judged(&model, &tokenizer, &device, before)? };
        self.print(&Report { seconds: start.elapsed().as_secs_f64(), ..report })
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
            output::line(format!("\n   {sample}"))?;
        }
        let BitsPerByte { before, after } = report.bits_per_byte;
        let model = report.model.display();
        output::line(format!(
            "\nbits per byte of fables it has not seen: {before:.2} before, {after:.2} after\n\
             {:.0} seconds; the folder also opens in `transformers`\n\n\
             next:\n  olmo generate --model {model} --prompt \"There was once\" --temperature 0.8\n  \
             olmo train {} max_duration={}",
            report.seconds,
            self.out.join("config.yaml").display(),
            2 * self.steps,
        ))?;
        Ok(())
    }
}

/// Loads the checkpoint as any user would, measures it and lets it speak.
fn judged(folder: &Path, tokenizer: &Tokenizer, device: &Device, before: f64) -> Result<Report> {
    let model = olmo_hub::ModelFolder::open(folder)?.load(device, None)?;
    let after = bits_per_byte(&model, tokenizer)?;
    let samples = PROMPTS.iter().map(|prompt| told(&model, tokenizer, prompt));
    Ok(Report {
        bits_per_byte: BitsPerByte { before, after },
        samples: samples.collect::<Result<_>>()?,
        model: folder.to_owned(),
        seconds: 0.0,
    })
}

/// A fable from its beginning to the end-of-text token.
fn told(model: &Transformer, tokenizer: &Tokenizer, prompt: &str) -> Result<String> {
    let eos = tokenizer.eos_id()?;
    let mut tokens = tokenizer.encode(prompt)?;
    let new: Result<Vec<u32>, _> = model
        .generate(&tokens, Sampling::top_p(0.9, 0.7))?
        .take_while(|token| !matches!(token, Ok(id) if *id == eos))
        .take(recipe::SEQUENCE_LENGTH)
        .collect();
    tokens.extend(new?);
    Ok(tokenizer.decode(&tokens, SpecialTokens::Skip)?)
}

fn bits_per_byte(model: &Transformer, tokenizer: &Tokenizer) -> Result<f64> {
    let documents = Fables::new(recipe::HELD_OUT_SEED)
        .take(recipe::N_HELD_OUT)
        .map(|fable| TokenizedDocument::encode(&fable, tokenizer));
    let eval = PerplexityEval::new(model, FirstToken::After(tokenizer.eos_id()?))?;
    let perplexity = eval.run(documents, &mut |_| ControlFlow::Continue(()))?;
    perplexity.bits_per_byte().context("text has bytes")
}
