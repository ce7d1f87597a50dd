//! What is to be continued: texts and rows of token ids.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use olmo_data::Tokenizer;
use olmo_hub::ModelFolder;
use serde_json::Value;

use crate::input;

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Prompts {
    /// Text to continue; can be given more than once
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Vec<String>,
    /// Texts to continue: JSONL of strings or of objects with "prompt" or "text"; in a file of
    /// another name than *.jsonl, one a line
    #[arg(long = "prompts", value_name = "FILE")]
    file: Option<PathBuf>,
    /// JSON [[ids], …]: rows to continue
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
}

impl Prompts {
    /// The tokens of each row; none is empty or longer than the model's context.
    pub(super) fn rows(
        &self,
        folder: &ModelFolder,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Vec<Vec<u32>>> {
        let config = folder.model_config();
        let rows = match (&self.tokens, &self.file) {
            (Some(path), _) => input::token_rows(path, config.vocab_size)?,
            (None, Some(path)) => encoded(&read(path)?, folder, tokenizer)?,
            (None, None) => encoded(&self.prompt, folder, tokenizer)?,
        };
        let context = config.max_sequence_length;
        for (i, row) in rows.iter().enumerate() {
            let (number, length) = (i + 1, row.len());
            ensure!(
                length <= context,
                "row {number} has {length} tokens, more than the model's context of {context}"
            );
        }
        Ok(rows)
    }
}

fn encoded(
    texts: &[String],
    folder: &ModelFolder,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<Vec<u32>>> {
    let Some(tokenizer) = tokenizer else {
        bail!(
            "a text needs {}, which is not there; give token ids with --tokens",
            input::tokenizer_path(folder).display()
        );
    };
    let mut rows = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let row = tokenizer.encode(text)?;
        ensure!(!row.is_empty(), "prompt {} is empty, expected a text", i + 1);
        let vocab_size = folder.model_config().vocab_size;
        if let Some(id) = row.iter().find(|&&id| id as usize >= vocab_size) {
            bail!("the tokenizer's id {id} is past the model's vocabulary of {vocab_size}");
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The texts of a file; lines without text are none.
fn read(path: &Path) -> Result<Vec<String>> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    // Some editors begin a file with a mark that is no part of its text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let is_jsonl =
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
    let prompts: Vec<String> = if is_jsonl {
        lines
            .map(|(i, line)| prompt_of(line).with_context(|| format!("line {} of {shown}", i + 1)))
            .collect::<Result<_>>()?
    } else {
        lines.map(|(_, line)| line.to_owned()).collect()
    };
    ensure!(!prompts.is_empty(), "{shown} has no prompts");
    Ok(prompts)
}

fn prompt_of(line: &str) -> Result<String> {
    let value: Value = serde_json::from_str(line).context("it is no JSON")?;
    let text = value.get("prompt").or_else(|| value.get("text")).unwrap_or(&value);
    let text =
        text.as_str().context("expected a string, or an object with \"prompt\" or \"text\"")?;
    Ok(text.to_owned())
}
