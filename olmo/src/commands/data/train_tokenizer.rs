//! `olmo data train-tokenizer`: a byte-level BPE tokenizer from documents.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use olmo_data::{BadRows, BpeTraining, Corpus, Documents, Error};
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::{output, progress};

/// Train a byte-level BPE tokenizer on documents
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo data train-tokenizer docs-*.jsonl --vocab-size 32000 --out tokenizer.json")]
pub(crate) struct TrainTokenizer {
    /// Documents: .jsonl, .json, .ndjson or .txt, also .gz or .zst; .parquet with a column text
    #[arg(required = true, value_name = "INPUTS")]
    inputs: Vec<PathBuf>,
    /// Tokens, special ones included
    #[arg(long, value_name = "N")]
    vocab_size: usize,
    /// tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Special token; by default <|endoftext|> and <|padding|>; can be given more than once
    #[arg(long, value_name = "TOKEN")]
    special: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    vocab_size: usize,
}

impl TrainTokenizer {
    pub(crate) fn run(&self) -> Result<()> {
        let corpus = Corpus::new(&self.inputs, BadRows::Error)?;
        let mut training = BpeTraining::new(self.vocab_size);
        if !self.special.is_empty() {
            training = training.with_special_tokens(&self.special);
        }
        let interrupt = Interrupt::listen()?;
        let bar = progress::bytes(corpus.n_bytes(), "reading");
        let texts = Texts { documents: corpus.documents(), interrupt, bar: bar.clone() };
        let tokenizer = training.train(texts)?;
        bar.finish_and_clear();
        tokenizer.save(&self.out)?;
        let report =
            Report { file: self.out.display().to_string(), vocab_size: tokenizer.vocab_size() };
        if self.json {
            return Ok(output::json(&report)?);
        }
        let n = output::grouped(report.vocab_size as u64);
        if report.vocab_size < self.vocab_size {
            output::complain(&format!(
                "fewer tokens than the {} asked for: the documents have no more pairs to merge",
                output::grouped(self.vocab_size as u64)
            ));
        }
        Ok(output::line(format!("{n} tokens in {}", report.file))?)
    }
}

/// The texts of documents, until the user asks to stop.
struct Texts<'a> {
    documents: Documents<'a>,
    interrupt: Interrupt,
    bar: indicatif::ProgressBar,
}

impl Iterator for Texts<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.interrupt.is_asked() {
            return Some(Err(Error::Cancelled));
        }
        let document = self.documents.next();
        self.bar.set_position(self.documents.n_bytes_read());
        Some(document?.map(|document| document.text))
    }
}
