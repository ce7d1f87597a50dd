//! `olmo eval ppl`: perplexity and bits per byte of documents.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use olmo_data::{BadRows, Corpus, TokenDtype, Tokenizer};
use olmo_eval::{FirstToken, Perplexity, PerplexityEval, TokenizedDocument};
use olmo_hub::ModelFolder;
use serde::Serialize;

use crate::device::DeviceName;
use crate::input;
use crate::interrupt::Interrupt;
use crate::weights::{self, Weights};
use crate::{output, progress};

/// Measure a model
#[derive(Debug, Subcommand)]
pub(crate) enum Eval {
    Ppl(Ppl),
}

/// Measure perplexity and bits per byte of documents, as Paloma does
///
/// Each document is read after an end-of-text token, so that each of its tokens is scored once.
/// Documents longer than the context are cut into windows that do not overlap, but for the last.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo eval ppl --model OLMo-2-0425-1B --data val.jsonl.gz
  olmo eval ppl --model OLMo-2-0425-1B --data part-0-00000.npy --token-dtype uint32 --json")]
pub(crate) struct Ppl {
    /// Folder of the model, or a repository of the Hub, owner/name[@revision]
    #[arg(long, value_name = "DIR|REPO")]
    model: PathBuf,
    /// Documents (.jsonl, .json, .ndjson or .txt, also .gz or .zst; .parquet with a column text), or raw
    /// tokens (.npy)
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// tokenizer.json; by default the one in the model's folder
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Windows to compute at a time; changes speed and memory, not the result
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_size: usize,
    /// Tokens the model reads at a time; by default its whole context
    #[arg(long, value_name = "T")]
    seq_len: Option<usize>,
    /// Put no end-of-text token before a document, and do not score its first token
    #[arg(long)]
    unscored_first: bool,
    /// Integer type of raw token files
    #[arg(long, value_name = "DTYPE", default_value = "uint16")]
    token_dtype: TokenDtype,
    #[command(flatten)]
    weights: Weights,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    sums: Perplexity,
    loss: f64,
    perplexity: f64,
    bits_per_byte: Option<f64>,
}

impl Eval {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        match self {
            Self::Ppl(ppl) => ppl.run(device),
        }
    }
}

impl Ppl {
    fn run(&self, device: DeviceName) -> Result<()> {
        let folder = input::model_folder(&self.model)?;
        let (token_files, texts): (Vec<_>, Vec<_>) =
            self.data.iter().cloned().partition(|path| is_token_file(path));
        let tokenizer = self.tokenizer(&folder, !texts.is_empty())?;
        let corpus =
            if texts.is_empty() { None } else { Some(Corpus::new(texts, BadRows::Error)?) };
        let first = self.first_token(&folder, tokenizer.as_ref())?;
        let model = weights::load(&folder, device, self.weights)?;
        let mut eval = PerplexityEval::new(&model, first)?.with_batch_size(self.batch_size)?;
        if let Some(seq_len) = self.seq_len {
            eval = eval.with_seq_len(seq_len)?;
        }

        let documents = corpus.iter().zip(&tokenizer).flat_map(|(corpus, tokenizer)| {
            let encode = move |text: &str| TokenizedDocument::encode(text, tokenizer);
            corpus.documents().map(move |document| encode(&document?.text))
        });
        let tokens = token_files
            .iter()
            .map(|path| TokenizedDocument::from_token_file(path, self.token_dtype));
        let interrupt = Interrupt::listen()?;
        let bar = progress::open_ended("scoring");
        let sums = eval.run(documents.chain(tokens), &mut |sums: &Perplexity| {
            let (n_documents, n_tokens) = (sums.n_documents, output::grouped(sums.n_tokens));
            let perplexity = sums.perplexity();
            bar.set_message(format!(
                "{n_documents} documents, {n_tokens} tokens, perplexity {perplexity:.3}"
            ));
            if interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let sums = sums.map_err(|error| self.explained(error, !token_files.is_empty()))?;
        bar.finish_and_clear();
        Report::new(sums).print(self.json)
    }

    /// What is to be done where the model does not know a token.
    fn explained(&self, error: olmo_eval::Error, has_token_files: bool) -> anyhow::Error {
        let advice = match (&self.tokenizer, has_token_files) {
            (Some(path), _) => format!("{} is not the tokenizer of this model", path.display()),
            (None, true) => {
                "the tokens are of another tokenizer, or of another type than --token-dtype".into()
            }
            (None, false) => "tokenizer.json is not that of this model".into(),
        };
        match error {
            olmo_eval::Error::Document { .. } => anyhow!("{error}; {advice}"),
            error => error.into(),
        }
    }

    /// The tokenizer, which texts need.
    fn tokenizer(&self, folder: &ModelFolder, needed: bool) -> Result<Option<Tokenizer>> {
        if let Some(path) = &self.tokenizer {
            return Ok(Some(Tokenizer::from_file(path)?));
        }
        let tokenizer = input::tokenizer(folder)?;
        if needed && tokenizer.is_none() {
            bail!(
                "texts need a tokenizer, and {} is not there; give one with --tokenizer",
                input::tokenizer_path(folder).display()
            );
        }
        Ok(tokenizer)
    }

    /// The end-of-text token that the model was trained with.
    fn first_token(
        &self,
        folder: &ModelFolder,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<FirstToken> {
        if self.unscored_first {
            return Ok(FirstToken::Unscored);
        }
        if let Some(&id) = folder.config().special.eos_token_id.first() {
            return Ok(FirstToken::After(id));
        }
        let id = tokenizer.and_then(|tokenizer| tokenizer.eos_id().ok());
        id.map(FirstToken::After).context(
            "no end-of-text token: config.json has no eos_token_id, nor has the tokenizer \
             <|endoftext|>; --unscored-first does without",
        )
    }
}

impl Report {
    fn new(sums: Perplexity) -> Self {
        let (loss, perplexity) = (sums.loss(), sums.perplexity());
        Self { sums, loss, perplexity, bits_per_byte: sums.bits_per_byte() }
    }

    fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            return Ok(output::json(self)?);
        }
        let Perplexity { n_documents, n_tokens, n_bytes, .. } = self.sums;
        let known = |n: Option<String>| n.unwrap_or_else(|| "not known".to_owned());
        for (label, value) in [
            ("documents", output::grouped(n_documents)),
            ("tokens scored", output::grouped(n_tokens)),
            ("bytes", known(n_bytes.map(output::grouped))),
            ("loss", format!("{:.6} nats per token", self.loss)),
            ("perplexity", format!("{:.6}", self.perplexity)),
            ("bits per byte", known(self.bits_per_byte.map(|bits| format!("{bits:.6}")))),
        ] {
            output::line(format!("{label:<14} {value}"))?;
        }
        Ok(())
    }
}

fn is_token_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "npy")
}
