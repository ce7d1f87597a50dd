//! `olmo generate`: a prompt, continued.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use olmo_data::{SpecialTokens, TokenStream, Tokenizer};
use olmo_hub::ModelFolder;
use olmo_model::{Sampling, Transformer};
use serde::Serialize;

use crate::device::DeviceName;
use crate::input::{self, ComputeDtype};
use crate::output;

/// Continue a prompt, or rows of tokens
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo generate --model OLMo-2-0425-1B --prompt \"The capital of France is\"
  olmo generate --model OLMo-2-0425-1B --prompt \"Once\" --temperature 0.7 --top-p 0.9 --seed 1
  olmo generate --model OLMo-2-0425-1B --tokens tokens.json --json")]
pub(crate) struct Generate {
    /// Folder of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    input: Input,
    /// Tokens to generate at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token; the default is 0, or 1 where --top-k or --top-p is given
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw from the K likeliest tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the fewest tokens whose probabilities reach P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Seed of the draws
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// End where this text appears, and leave it out; can be given more than once
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Print JSON: new tokens, their text, why each row ended
    #[arg(long)]
    json: bool,
    /// What to compute in; bf16 halves the memory
    #[arg(long, value_enum, default_value = "f32")]
    dtype: ComputeDtype,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// Text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// JSON [[ids], …]: rows to continue, one after another
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
}

/// What is printed; every list has an entry for each row.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// New tokens only, the end-of-text token included where it came.
    tokens: Vec<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Vec<String>>,
    /// Tokens of each prompt.
    prompt_tokens: Vec<usize>,
    stopped: Vec<Stopped>,
    /// Time of all rows, without loading the model.
    seconds: f64,
}

/// Why a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Stopped {
    Eos,
    Length,
    Stop,
}

impl Generate {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let sampling = self.sampling();
        sampling.validate()?;
        ensure!(!self.stop.iter().any(String::is_empty), "--stop is empty, expected a text");
        let folder = input::model_folder(&self.model)?;
        let tokenizer = input::tokenizer(&folder)?;
        if tokenizer.is_none() && !self.stop.is_empty() {
            bail!("--stop needs {}, which is not there", input::tokenizer_path(&folder).display());
        }
        let rows = self.rows(&folder, tokenizer.as_ref())?;
        let model = input::load(&folder, device, self.dtype)?;
        let eos = if self.ignore_eos { &[][..] } else { &folder.special().eos_token_id };
        let row = Row { command: self, model: &model, eos, sampling, tokenizer };
        let mut report = Report { text: row.tokenizer.as_ref().map(|_| vec![]), ..<_>::default() };
        let start = Instant::now();
        for prompt in &rows {
            row.run(prompt, &mut report)?;
        }
        report.seconds = start.elapsed().as_secs_f64();
        if self.json { Ok(output::json(&report)?) } else { Ok(()) }
    }

    fn sampling(&self) -> Sampling {
        let filtered = self.top_k.is_some() || self.top_p.is_some();
        let temperature = self.temperature.unwrap_or(if filtered { 1.0 } else { 0.0 });
        let Self { top_k, top_p, seed, .. } = *self;
        Sampling { top_k, top_p, seed, ..Sampling::temperature(temperature) }
    }

    fn rows(&self, folder: &ModelFolder, tokenizer: Option<&Tokenizer>) -> Result<Vec<Vec<u32>>> {
        let vocab_size = folder.model_config().vocab_size;
        if let Some(path) = &self.input.tokens {
            return input::token_rows(path, vocab_size);
        }
        let prompt = self.input.prompt.as_deref().unwrap_or_default();
        let Some(tokenizer) = tokenizer else {
            bail!(
                "--prompt needs {}, which is not there; give token ids with --tokens",
                input::tokenizer_path(folder).display()
            );
        };
        let tokens = tokenizer.encode(prompt)?;
        ensure!(!tokens.is_empty(), "the prompt is empty, expected a text");
        Ok(vec![tokens])
    }
}

/// What all rows are continued with.
struct Row<'a> {
    command: &'a Generate,
    model: &'a Transformer,
    eos: &'a [u32],
    sampling: Sampling,
    tokenizer: Option<Tokenizer>,
}

impl Row<'_> {
    /// Continues one prompt, printing as it goes or adding to the report.
    fn run(&self, prompt: &[u32], report: &mut Report) -> Result<()> {
        let limit = self.command.max_new_tokens;
        let capacity = prompt.len().saturating_add(limit);
        let generator = self
            .model
            .generate_up_to(prompt, self.sampling.clone(), capacity)
            .with_context(|| format!("cannot continue row {}", report.tokens.len() + 1))?;
        let mut text =
            self.tokenizer.clone().map(|tokenizer| Continuation::new(tokenizer, self.command));
        let mut tokens = Vec::new();
        let mut stopped = Stopped::Length;
        for token in generator.take(limit) {
            let token = token?;
            tokens.push(token);
            if let Some(text) = &mut text
                && text.push(token)?
            {
                stopped = Stopped::Stop;
                break;
            }
            if self.eos.contains(&token) {
                stopped = Stopped::Eos;
                break;
            }
        }
        let text = text.map(|text| text.finish(stopped)).transpose()?;
        if !self.command.json {
            match &text {
                Some(_) => output::line("")?,
                None => output::json(&tokens)?,
            }
        }
        report.tokens.push(tokens);
        report.prompt_tokens.push(prompt.len());
        report.stopped.push(stopped);
        if let (Some(texts), Some(text)) = (&mut report.text, text) {
            texts.push(text);
        }
        Ok(())
    }
}

/// The text of a row as it grows, cut before the first stop text.
struct Continuation<'a> {
    stream: TokenStream,
    stops: &'a [String],
    text: String,
    /// Bytes of `text` that are on the terminal.
    n_printed: usize,
    prints: bool,
}

impl<'a> Continuation<'a> {
    fn new(tokenizer: Tokenizer, command: &'a Generate) -> Self {
        let stream = TokenStream::new(tokenizer, SpecialTokens::Skip);
        let (stops, prints) = (command.stop.as_slice(), !command.json);
        Self { stream, stops, text: String::new(), n_printed: 0, prints }
    }

    /// Adds a token; true where a stop text is complete.
    fn push(&mut self, token: u32) -> Result<bool> {
        match self.stream.push(token) {
            Ok(piece) => self.grow(piece.as_deref().unwrap_or_default()),
            // A model's vocabulary is often padded past its tokenizer's; such a token has no text.
            Err(olmo_data::Error::UnknownTokenId { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn grow(&mut self, piece: &str) -> Result<bool> {
        // A stop text may have begun in what came before.
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.text.len().saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text.push_str(piece);
        let found =
            self.stops.iter().filter_map(|stop| self.text[from..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.text.truncate(from + at);
        }
        let held_back = if found.is_some() { 0 } else { self.begun_stop() };
        self.print_up_to(self.text.len() - held_back)?;
        Ok(found.is_some())
    }

    /// Bytes at the end that may turn out to be the beginning of a stop text.
    fn begun_stop(&self) -> usize {
        let begun = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).rev();
            ends.into_iter().find(|&end| self.text.ends_with(&stop[..end])).unwrap_or(0)
        };
        self.stops.iter().map(begun).max().unwrap_or(0)
    }

    fn print_up_to(&mut self, end: usize) -> Result<()> {
        if self.prints && end > self.n_printed {
            output::piece(&self.text[self.n_printed..end])?;
            self.n_printed = end;
        }
        Ok(())
    }

    /// The whole text.
    fn finish(mut self, stopped: Stopped) -> Result<String> {
        if stopped != Stopped::Stop
            && let Some(rest) = self.stream.clone().finish()?
        {
            self.text.push_str(&rest);
        }
        self.print_up_to(self.text.len())?;
        Ok(self.text)
    }
}
