//! One row as it grows: tokens, text, log-probabilities, and why it ended.

use anyhow::Result;
use olmo_data::{TextStream, Tokenizer};

use super::report::{Report, RowLogProbs, Stopped};
use crate::output;

/// What all rows are continued with.
pub(super) struct Rules<'a> {
    /// Tokens that end a row.
    pub(super) ends: &'a [u32],
    /// Texts that end a row and are left out.
    pub(super) stops: &'a [String],
    /// Special tokens that do so: they leave no text.
    pub(super) stop_tokens: &'a [u32],
    pub(super) tokenizer: Option<&'a Tokenizer>,
    pub(super) max_new_tokens: usize,
    /// How many of the likeliest tokens to note beside each.
    pub(super) n_logprobs: Option<usize>,
    /// Print text as it comes.
    pub(super) streams: bool,
}

pub(super) struct Row<'a> {
    rules: &'a Rules<'a>,
    n_prompt: usize,
    tokens: Vec<u32>,
    text: Option<TextStream>,
    log_probs: RowLogProbs,
    stopped: Option<Stopped>,
}

impl<'a> Row<'a> {
    pub(super) fn new(rules: &'a Rules<'a>, n_prompt: usize) -> Self {
        let stream =
            |tokenizer: &Tokenizer| TextStream::new(tokenizer.clone(), rules.stops.to_vec());
        Self {
            rules,
            n_prompt,
            tokens: Vec::new(),
            text: rules.tokenizer.map(stream),
            log_probs: RowLogProbs::default(),
            stopped: None,
        }
    }

    /// Adds a token that was chosen from `logits`; true where the row ends with it.
    pub(super) fn push(&mut self, token: u32, logits: Option<&[f32]>) -> Result<bool> {
        self.tokens.push(token);
        if let (Some(n), Some(logits)) = (self.rules.n_logprobs, logits) {
            self.log_probs.push(token, logits, n);
        }
        if self.rules.ends.contains(&token) {
            self.stopped = Some(Stopped::Eos);
        } else if self.rules.stop_tokens.contains(&token) {
            self.stopped = Some(Stopped::Stop);
        } else if let Some(text) = &mut self.text {
            let piece = text.push(token)?;
            if self.rules.streams {
                output::piece(piece)?;
            }
            if text.is_stopped() {
                self.stopped = Some(Stopped::Stop);
            }
        }
        Ok(self.stopped.is_some())
    }

    /// Prints what is left to print, and adds the row to the report.
    pub(super) fn finish(mut self, interrupted: bool, report: &mut Report) -> Result<()> {
        let stopped = self.stopped.unwrap_or({
            if self.tokens.len() == self.rules.max_new_tokens {
                Stopped::Length
            } else if interrupted {
                Stopped::Interrupted
            } else {
                Stopped::Context
            }
        });
        if let Some(text) = &mut self.text {
            let rest = text.finish()?;
            if self.rules.streams {
                output::line(rest)?;
            }
            report.text.get_or_insert_default().push(text.text().to_owned());
        }
        report.tokens.push(self.tokens);
        report.prompt_tokens.push(self.n_prompt);
        report.stopped.push(stopped);
        if let Some(n) = self.rules.n_logprobs {
            report.logprobs.get_or_insert_default().push(self.log_probs.chosen);
            if n > 0 {
                report.top_logprobs.get_or_insert_default().push(self.log_probs.top);
            }
        }
        Ok(())
    }
}
