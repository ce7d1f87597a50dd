//! Errors of this crate.

use std::fmt;

use crate::config::MAX_SIZE;

/// What can go wrong in building or running a model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// A prompt is empty, or the rows of a batch are.
    #[error("the prompt has no tokens; give at least one, such as the end-of-text token")]
    EmptyPrompt,
    /// One of several prompts cannot be continued.
    #[error("row {row}: {source}")]
    Row {
        /// Its number, from 1.
        row: usize,
        /// Why.
        source: Box<Error>,
    },
    /// A token id has no row in the embedding.
    #[error("token id {id} at position {position} is past the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Its index in the prompt.
        position: usize,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A sequence is longer than the cache or the model's context.
    #[error("{length} tokens do not fit the {limit} that there is room for")]
    SequenceTooLong {
        /// Tokens asked for, those already there included.
        length: usize,
        /// Tokens there is room for.
        limit: usize,
    },
    /// A cache was to go back further than its windowed layers remember.
    #[error(
        "the cache cannot go back to {length} tokens: its windowed layers forgot what those need; \
         {earliest} or more would work, or 0 and giving the tokens again"
    )]
    CacheForgot {
        /// Tokens to go back to.
        length: usize,
        /// The fewest, other than none, that can be gone back to.
        earliest: usize,
    },
    /// A sampling setting makes no sense.
    #[error("{name} is {found}, expected {expected}")]
    Sampling {
        /// The setting.
        name: &'static str,
        /// Its value.
        found: f64,
        /// What would work.
        expected: &'static str,
    },
    /// A matrix cannot be quantised.
    #[error(
        "{found} cannot be quantised, expected rows of a multiple of 32 elements on the device flex"
    )]
    Quantization {
        /// What was asked for.
        found: String,
    },
    /// A device has no arithmetic in a dtype; what it would compute is not to be trusted.
    #[error("{device} does not compute in {dtype}, expected {}", supported.join(" or "))]
    Dtype {
        /// The dtype asked for.
        dtype: &'static str,
        /// The device, as burn names it.
        device: String,
        /// Those that would work.
        supported: Vec<&'static str>,
    },
    /// The logits are not numbers, so no token can be chosen.
    #[error("the logits of the next token are not finite: the weights or the input are damaged")]
    NonFiniteLogits,
}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Dotted path of the field.
    pub field: &'static str,
    /// Its value, as text.
    pub found: String,
    /// What would work.
    pub expected: String,
}

/// Every problem of a configuration, in the order of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblems(pub Vec<ConfigProblem>);

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the model configuration does not hold together")?;
        for ConfigProblem { field, found, expected } in &self.0 {
            write!(f, "\n  {field} is {found}, expected {expected}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

/// Collects problems while a configuration is checked.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<ConfigProblem>);

impl Problems {
    pub(crate) fn push(
        &mut self,
        field: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) {
        self.0.push(ConfigProblem { field, found: found.to_string(), expected: expected.into() });
    }

    pub(crate) fn positive(&mut self, field: &'static str, found: usize) {
        if found == 0 {
            self.push(field, found, "a positive number");
        } else if found > MAX_SIZE {
            self.push(field, found, format!("at most {MAX_SIZE}"));
        }
    }

    pub(crate) fn positive_real(&mut self, field: &'static str, found: f64) {
        if !(found.is_finite() && found > 0.0) {
            self.push(field, found, "a positive finite number");
        }
    }

    pub(crate) fn into_result(self) -> Result<(), ConfigProblems> {
        if self.0.is_empty() { Ok(()) } else { Err(ConfigProblems(self.0)) }
    }
}
