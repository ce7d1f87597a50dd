//! `olmo generate`: prompts, continued.

mod beams;
mod heading;
mod prompts;
mod report;
mod row;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use olmo_data::{SpecialTokens, Tokenizer};
use olmo_model::{Sampling, Transformer};

use self::beams::BeamOptions;
use self::prompts::Prompts;
use self::report::Report;
use self::row::{Row, Rules};
use crate::device::DeviceName;
use crate::input;
use crate::interrupt::Interrupt;
use crate::output;
use crate::sampling::SamplingOptions;
use crate::weights::{self, Weights};

/// Continue prompts, or rows of tokens
///
/// The text of each of several rows has a line above it, which says which row it is and how its prompt begins.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo generate --model OLMo-2-0425-1B --prompt \"The capital of France is\"
  olmo generate --model OLMo-2-0425-1B --prompt \"Once\" --temperature 0.7 --top-p 0.9 --seed 1
  olmo generate --model OLMo-2-0425-1B --prompt \"Once\" --beams 4 --length-penalty 1
  olmo generate --model OLMo-2-0425-1B --prompts prompts.jsonl --batch-size 8 --json
  olmo generate --model OLMo-2-0425-1B --tokens tokens.json --logprobs 5 --json

Ctrl-C ends the text; what is there is printed.")]
pub(crate) struct Generate {
    /// Folder of the model, or a repository of the Hub, owner/name[@revision]
    #[arg(long, value_name = "DIR|REPO")]
    model: PathBuf,
    #[command(flatten)]
    prompts: Prompts,
    /// Tokens to generate at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    beams: BeamOptions,
    /// Rows to continue at once; each is continued as if it were alone
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch_size: usize,
    /// End where this text appears, or the special token of this name, and leave it out; can be given
    /// more than once
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// End after this token, as after an end-of-text token; can be given more than once
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,
    /// Go on after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Add the log-probability of each new token, and of the N likeliest in its place
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<usize>,
    /// Print JSON: new tokens, their text, why each row ended
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: Weights,
}

impl Generate {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let sampling = self.sampling.sampling()?;
        self.check()?;
        let folder = input::model_folder(&self.model)?;
        let vocab_size = folder.model_config().vocab_size;
        if let Some(id) = self.stop_id.iter().find(|&&id| id as usize >= vocab_size) {
            bail!("--stop-id {id} is past the model's vocabulary of {vocab_size}");
        }
        let tokenizer = input::tokenizer(&folder)?;
        if tokenizer.is_none() && !self.stop.is_empty() {
            bail!("--stop needs {}, which is not there", input::tokenizer_path(&folder).display());
        }
        let stop_tokens = special_tokens(&self.stop, tokenizer.as_ref())?;
        let mut ends = self.stop_id.clone();
        if !self.ignore_eos {
            ends.extend(&folder.special().eos_token_id);
        }
        let search = self.beams.search(self.max_new_tokens, ends.clone(), vocab_size)?;
        let prompts = self.prompts.rows(&folder, tokenizer.as_ref())?;
        let model = weights::load(&folder, device, self.weights)?;

        let interrupt = Interrupt::listen()?;
        let mut report = Report::default();
        let start = Instant::now();
        if let Some(search) = search {
            for prompt in &prompts {
                if interrupt.is_asked() {
                    break;
                }
                beams::run(&model, &search, prompt, tokenizer.as_ref(), &interrupt, &mut report)?;
                self.print_from(report.tokens.len() - 1, &report, &prompts, tokenizer.as_ref())?;
            }
        } else {
            let rules = Rules {
                ends: &ends,
                stops: &self.stop,
                stop_tokens: &stop_tokens,
                tokenizer: tokenizer.as_ref(),
                max_new_tokens: self.max_new_tokens,
                n_logprobs: self.logprobs,
                // Rows that grow together cannot be printed as they do.
                streams: !self.json && self.batch_size == 1 && tokenizer.is_some(),
            };
            for batch in prompts.chunks(self.batch_size) {
                if interrupt.is_asked() {
                    break;
                }
                let first = report.tokens.len();
                if let Some(tokenizer) = tokenizer.as_ref().filter(|_| rules.streams) {
                    heading::print(first, &prompts, tokenizer)?;
                }
                run_batch(&model, batch, &sampling, &rules, &interrupt, &mut report)?;
                if !rules.streams {
                    self.print_from(first, &report, &prompts, tokenizer.as_ref())?;
                }
            }
        }
        report.seconds = start.elapsed().as_secs_f64();
        if self.json { Ok(output::json(&report)?) } else { Ok(()) }
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.stop.iter().any(String::is_empty), "--stop is empty, expected a text");
        ensure!(self.max_new_tokens > 0, "--max-new-tokens is 0, expected at least 1");
        ensure!(self.batch_size > 0, "--batch-size is 0, expected at least 1");
        Ok(())
    }

    /// Prints the rows of a report that are not printed yet, where it will not be printed as a whole.
    fn print_from(
        &self,
        first: usize,
        report: &Report,
        prompts: &[Vec<u32>],
        tokenizer: Option<&Tokenizer>,
    ) -> Result<()> {
        if self.json {
            return Ok(());
        }
        for row in first..report.tokens.len() {
            match (&report.text, tokenizer) {
                (Some(texts), Some(tokenizer)) => {
                    heading::print(row, prompts, tokenizer)?;
                    output::line(&texts[row])?;
                }
                _ => output::json(&report.tokens[row])?,
            }
        }
        Ok(())
    }
}

/// The ids of those texts that are special tokens, which a text is shown without.
fn special_tokens(texts: &[String], tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    let Some(tokenizer) = tokenizer else { return Ok(Vec::new()) };
    let mut special = Vec::new();
    for id in texts.iter().filter_map(|text| tokenizer.token_to_id(text)) {
        if tokenizer.decode(&[id], SpecialTokens::Skip)?.is_empty() {
            special.push(id);
        }
    }
    Ok(special)
}

/// Continues some rows together.
fn run_batch(
    model: &Transformer,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    rules: &Rules<'_>,
    interrupt: &Interrupt,
    report: &mut Report,
) -> Result<()> {
    let steps = model.generate_batch(prompts, sampling.clone(), rules.max_new_tokens)?;
    let mut steps = steps.behind(report.tokens.len());
    let mut rows: Vec<Row<'_>> =
        prompts.iter().map(|prompt| Row::new(rules, prompt.len())).collect();
    while !interrupt.is_asked()
        && let Some(step) = steps.next()
    {
        let cannot = || format!("cannot continue rows {} on", report.tokens.len() + 1);
        for new in step.with_context(cannot)? {
            if rows[new.row].push(new.token, steps.logits(new.row))? {
                steps.finish(new.row);
            }
        }
    }
    rows.into_iter().try_for_each(|row| row.finish(interrupt.is_asked(), report))
}
