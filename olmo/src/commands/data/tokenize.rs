//! `olmo data tokenize`: documents to the token files that the trainer reads.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use olmo_data::{BadRows, Corpus, TokenDtype, Tokenizer};

use crate::interrupt::Interrupt;
use crate::{output, progress};

/// Turn documents into token files, as Dolma's `tokens` does
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo data tokenize docs-*.jsonl.gz --tokenizer tokenizer.json --out tokens/ --by-file")]
pub(crate) struct Tokenize {
    /// Documents: .jsonl, .json, .ndjson or .txt, also .gz or .zst; .parquet with a column text
    #[arg(required = true, value_name = "INPUTS")]
    inputs: Vec<PathBuf>,
    /// tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// Folder for the token files; made if need be
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// uint16 or uint32 (or uint8, uint64); by default the smaller that holds the vocabulary
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<TokenDtype>,
    /// Token that ends each document; by default <|endoftext|>
    #[arg(long, value_name = "TOKEN")]
    eos: Option<String>,
    /// Skip and count lines that are no documents, and write them to rejected.jsonl with the reason;
    /// by default the first is an error
    #[arg(long)]
    skip_bad_rows: bool,
    /// Files of its own for each input, many at a time; started again, it goes on where it was stopped
    #[arg(long)]
    by_file: bool,
    /// Shuffle documents by this seed, a few thousand at a time; by default they keep their order
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Tokens that a token file stays below
    #[arg(long, value_name = "N", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens_per_file: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Tokenize {
    pub(crate) fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::from_file(&self.tokenizer)?;
        let bad_rows = if self.skip_bad_rows { BadRows::Count } else { BadRows::Error };
        let corpus = Corpus::new(&self.inputs, bad_rows)?;
        let mut tokenize = match &self.eos {
            None => olmo_data::Tokenize::new(&tokenizer)?,
            Some(eos) => {
                let unknown = || olmo_data::Error::UnknownToken { token: eos.clone() };
                let id = tokenizer.token_to_id(eos).ok_or_else(unknown)?;
                olmo_data::Tokenize::with_eos_id(&tokenizer, id)?
            }
        };
        if let Some(dtype) = self.dtype {
            tokenize = tokenize.with_dtype(dtype)?;
        }
        if let Some(seed) = self.shuffle {
            tokenize = tokenize.with_shuffle_seed(seed);
        }
        tokenize = tokenize.with_max_tokens_per_file(self.max_tokens_per_file);

        let interrupt = Interrupt::listen()?;
        let bar = progress::bytes(corpus.n_bytes(), "tokenizing");
        let mut progress = |now: olmo_data::Progress| {
            bar.set_position(now.n_bytes_read);
            if interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let report = if self.by_file {
            tokenize.run_by_file(&corpus, &self.out, &mut progress)?
        } else {
            tokenize.run_with(&corpus, &self.out, &mut progress)?
        };
        bar.finish_and_clear();
        if self.json {
            return Ok(output::json(&report)?);
        }
        output::line(format!(
            "{} tokens of {} documents as {}, from {} of text",
            output::grouped(report.n_tokens),
            output::grouped(report.n_documents),
            report.dtype,
            output::bytes(report.n_text_bytes),
        ))?;
        for (n, what) in [
            (report.n_empty_documents, "documents without text"),
            (report.n_bad_rows, "lines that are no documents"),
        ] {
            if n > 0 {
                output::line(format!("left out: {} {what}", output::grouped(n)))?;
            }
        }
        for file in &report.files {
            output::line(file.display().to_string())?;
        }
        Ok(())
    }
}
