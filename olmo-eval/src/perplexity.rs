//! Perplexity and bits per byte of documents under a model.
//!
//! `perplexity = exp(nll / n_tokens)` and `bits per byte = nll / (n_bytes ln 2)`, where `nll` is the
//! summed cross-entropy in nats over all scored tokens of all documents, as in Paloma (catwalk
//! `metrics/perplexity.py`, micro-averaged). Documents are never joined; long ones are cut as
//! [`windows`](crate::windows) says. Bytes are those of the text in UTF-8, before the tokenizer's
//! own normalisation.
//!
//! Difference: a model whose logits are damaged gives an error, where Paloma counts 1e30.

use std::ops::ControlFlow;
use std::path::Path;

use olmo_data::{TokenDtype, TokenFile, Tokenizer};
use olmo_model::loss::IGNORE_INDEX;
use olmo_model::{Labels, Transformer, token_tensor};
use serde::Serialize;

use crate::windows::windows;
use crate::{Error, Result};

/// What comes before the first token of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstToken {
    /// The model reads this token first, the end-of-text token in Paloma, so that every token of
    /// the document is scored.
    After(u32),
    /// Nothing: the first token is read but not scored, and bytes are not counted.
    Unscored,
}

/// A document as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedDocument {
    /// Its tokens, without any put around them.
    pub tokens: Vec<u32>,
    /// Bytes of its text in UTF-8, where the text is known.
    pub n_bytes: Option<u64>,
}

/// Sums over the documents scored so far, and what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Perplexity {
    /// Documents read, those without any token included.
    pub n_documents: u64,
    /// Tokens scored.
    pub n_tokens: u64,
    /// UTF-8 bytes of the text scored; `None` where a text is not known or not scored as a whole.
    pub n_bytes: Option<u64>,
    /// Summed cross-entropy of the scored tokens, in nats.
    pub nll_nats: f64,
}

/// Scores documents with a model.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::ops::ControlFlow;
/// use burn::tensor::Device;
/// use olmo_data::Tokenizer;
/// use olmo_eval::{FirstToken, PerplexityEval, TokenizedDocument};
/// use olmo_model::{InitConfig, Transformer, presets};
///
/// let model = presets::small_olmo2(64, 2, 2, 512);
/// let model = Transformer::init(&model, &InitConfig::default(), 0, &Device::flex())?;
/// let tokenizer = Tokenizer::from_file("tokenizer.json")?;
/// let documents = ["A text.", "Another."].map(|text| TokenizedDocument::encode(text, &tokenizer));
/// let eval = PerplexityEval::new(&model, FirstToken::After(tokenizer.eos_id()?))?;
/// let sums = eval.run(documents, &mut |_| ControlFlow::Continue(()))?;
/// println!("{} {:?}", sums.perplexity(), sums.bits_per_byte());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PerplexityEval<'a> {
    model: &'a Transformer,
    first: FirstToken,
    seq_len: usize,
    batch_size: usize,
}

impl TokenizedDocument {
    /// Tokenizes a text.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] where the tokenizer has no token for a part of it.
    pub fn encode(text: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let tokens = tokenizer.encode(text)?;
        Ok(Self { tokens, n_bytes: Some(text.len() as u64) })
    }

    /// Reads a raw token file as one document, whatever documents it was made of.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] where it cannot be read as tokens of that type.
    pub fn from_token_file(path: impl AsRef<Path>, dtype: TokenDtype) -> Result<Self> {
        let file = TokenFile::open(path, dtype)?;
        Ok(Self { tokens: file.read(0..file.len())?, n_bytes: None })
    }
}

impl Perplexity {
    /// Mean cross-entropy of a token, in nats.
    pub fn loss(&self) -> f64 {
        self.nll_nats / self.n_tokens as f64
    }

    /// `exp` of the [`loss`](Self::loss).
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }

    /// Bits that a byte of text costs, which compares models with different tokenizers.
    pub fn bits_per_byte(&self) -> Option<f64> {
        let n_bytes = self.n_bytes.filter(|&n| n > 0)?;
        Some(self.nll_nats / (n_bytes as f64 * std::f64::consts::LN_2))
    }
}

impl<'a> PerplexityEval<'a> {
    /// Windows of the model's whole context, eight at a time.
    ///
    /// # Errors
    ///
    /// [`Error::ContextToken`] where the model does not know the token before documents.
    pub fn new(model: &'a Transformer, first: FirstToken) -> Result<Self> {
        let vocab_size = model.config().vocab_size;
        if let FirstToken::After(id) = first
            && id as usize >= vocab_size
        {
            return Err(Error::ContextToken { id, vocab_size });
        }
        let seq_len = model.config().max_sequence_length;
        Ok(Self { model, first, seq_len, batch_size: 8 })
    }

    /// Sets the tokens that the model reads at a time, at most its context.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where it is zero or past the context.
    pub fn with_seq_len(mut self, seq_len: usize) -> Result<Self> {
        let max = self.model.config().max_sequence_length;
        if seq_len == 0 || seq_len > max {
            let expected = format!("between 1 and the model's context of {max}");
            return Err(Error::Setting { name: "seq-len", found: seq_len, expected });
        }
        self.seq_len = seq_len;
        Ok(self)
    }

    /// Sets the windows that are computed at a time; it changes speed and memory, not the result.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where it is zero.
    pub fn with_batch_size(mut self, batch_size: usize) -> Result<Self> {
        if batch_size == 0 {
            let expected = "at least 1".to_owned();
            return Err(Error::Setting { name: "batch-size", found: 0, expected });
        }
        self.batch_size = batch_size;
        Ok(self)
    }

    /// Scores documents as they come. After each batch `progress` is told the sums so far, and can
    /// stop the work.
    ///
    /// # Errors
    ///
    /// The first error among the documents; [`Error::Document`] where the model does not know a
    /// token; [`Error::NonFiniteLoss`]; [`Error::NothingToScore`]; [`Error::Cancelled`].
    pub fn run(
        &self,
        documents: impl IntoIterator<Item = Result<TokenizedDocument>>,
        progress: &mut dyn FnMut(&Perplexity) -> ControlFlow<()>,
    ) -> Result<Perplexity> {
        let counts_bytes = self.first != FirstToken::Unscored;
        let n_bytes = counts_bytes.then_some(0);
        let mut sums = Perplexity { n_documents: 0, n_tokens: 0, n_bytes, nll_nats: 0.0 };
        let mut rows = Vec::with_capacity(self.batch_size);
        for document in documents {
            let TokenizedDocument { tokens, n_bytes } = document?;
            sums.n_documents += 1;
            sums.n_bytes = sums.n_bytes.zip(n_bytes).map(|(sum, n)| sum + n);
            self.check(&tokens, sums.n_documents)?;
            let tokens = self.with_context(tokens);
            for window in windows(tokens.len(), self.seq_len) {
                let scored = |at: usize| at + 1 >= window.first_scored;
                let label = |at| if scored(at) { i64::from(tokens[at + 1]) } else { IGNORE_INDEX };
                rows.push(Row {
                    tokens: tokens[window.start..window.end].to_vec(),
                    labels: (window.start..window.end).map(label).collect(),
                    document: sums.n_documents,
                });
                if rows.len() == self.batch_size {
                    self.score(&mut rows, &mut sums, progress)?;
                }
            }
        }
        if !rows.is_empty() {
            self.score(&mut rows, &mut sums, progress)?;
        }
        if sums.n_tokens == 0 {
            return Err(Error::NothingToScore { n_documents: sums.n_documents });
        }
        Ok(sums)
    }

    fn check(&self, tokens: &[u32], document: u64) -> Result<()> {
        self.model.check_tokens(tokens).map_err(|source| Error::Document { document, source })
    }

    fn with_context(&self, tokens: Vec<u32>) -> Vec<u32> {
        match self.first {
            FirstToken::Unscored => tokens,
            FirstToken::After(id) => std::iter::once(id).chain(tokens).collect(),
        }
    }

    /// Adds the rows of a batch to the sums and empties it.
    fn score(
        &self,
        rows: &mut Vec<Row>,
        sums: &mut Perplexity,
        progress: &mut dyn FnMut(&Perplexity) -> ControlFlow<()>,
    ) -> Result<()> {
        let seq_len = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        // Padding stands at the right, where attention does not reach it from the tokens scored.
        let padded = |row: &Row| {
            let tokens = row.tokens.iter().copied();
            tokens.chain(std::iter::repeat(0)).take(seq_len).collect::<Vec<_>>()
        };
        let tokens: Vec<u32> = rows.iter().flat_map(padded).collect();
        let labels = Labels::new(rows.iter().flat_map(|row| {
            row.labels.iter().copied().chain(std::iter::repeat(IGNORE_INDEX)).take(seq_len)
        }));
        let tokens = token_tensor(&tokens, [rows.len(), seq_len], &self.model.device());
        let nll = self.model.loss(tokens, &labels, 0.0).into_values().cross_entropy;
        if !nll.is_finite() {
            let (first, last) = (rows.first(), rows.last());
            let number = |row: Option<&Row>| row.map_or(0, |row| row.document);
            return Err(Error::NonFiniteLoss { first: number(first), last: number(last) });
        }
        sums.nll_nats += nll;
        sums.n_tokens += labels.count() as u64;
        rows.clear();
        if progress(sums).is_break() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// One window of a document.
#[derive(Debug)]
struct Row {
    tokens: Vec<u32>,
    labels: Vec<i64>,
    document: u64,
}

#[cfg(test)]
mod tests;
