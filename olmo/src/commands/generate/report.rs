//! What `olmo generate` prints with `--json`.

use olmo_model::LogProbs;
use serde::Serialize;

/// What is printed; every list has an entry for each row.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// New tokens only, the end-of-text token included where it came.
    pub(super) tokens: Vec<Vec<u32>>,
    /// Their text, where the model has a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<Vec<String>>,
    /// Tokens of each prompt.
    pub(super) prompt_tokens: Vec<usize>,
    pub(super) stopped: Vec<Stopped>,
    /// Log-probability of each new token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) logprobs: Option<Vec<Vec<f64>>>,
    /// The likeliest tokens at the place of each new token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_logprobs: Option<Vec<Vec<Vec<TokenLogProb>>>>,
    /// All texts that a beam search found, the best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) beams: Option<Vec<Vec<FoundBeam>>>,
    /// Time of all rows, without loading the model.
    pub(super) seconds: f64,
}

/// Why a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stopped {
    /// An end-of-text token, or one of `--stop-id`.
    Eos,
    /// As many tokens as were asked for.
    Length,
    /// A text of `--stop`.
    Stop,
    /// The model's context is full.
    Context,
    /// Ctrl-C.
    Interrupted,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct TokenLogProb {
    id: u32,
    logprob: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct FoundBeam {
    pub(super) tokens: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    /// Sum of log-probabilities, or as `--length-penalty` says.
    pub(super) score: f64,
}

/// Log-probabilities of a row as it grows.
#[derive(Debug, Default)]
pub(super) struct RowLogProbs {
    pub(super) chosen: Vec<f64>,
    pub(super) top: Vec<Vec<TokenLogProb>>,
}

impl RowLogProbs {
    /// Adds a token that was chosen from `logits`, and the `n` likeliest.
    pub(super) fn push(&mut self, token: u32, logits: &[f32], n: usize) {
        let log_probs = LogProbs::new(logits);
        self.chosen.extend(log_probs.of(token));
        let top = log_probs.top(n).into_iter();
        self.top.push(top.map(|(id, logprob)| TokenLogProb { id, logprob }).collect());
    }
}
