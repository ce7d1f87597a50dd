//! Perplexity of the configured sets of documents, measured while the model is trained.
//!
//! Documents are read after an end-of-text token, as `olmo eval ppl` reads them. Sets of token files
//! are measured by the trainer.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::{Context as _, Result};
use olmo_data::{BadRows, Corpus, Tokenizer};
use olmo_eval::{FirstToken, PerplexityEval, TokenizedDocument};
use olmo_model::Transformer;
use olmo_train::TrainConfig;
use olmo_train::evaluation::EvaluatorConfig;

use crate::interrupt::Interrupt;

/// The sets of a run, read once.
pub(super) struct Evaluators {
    sets: Vec<Set>,
    seq_len: usize,
}

struct Set {
    label: String,
    batch_size: usize,
    documents: Vec<TokenizedDocument>,
    /// What comes before each.
    first: FirstToken,
}

impl Evaluators {
    pub(super) fn open(config: &TrainConfig) -> Result<Self> {
        let mut of_documents =
            config.evaluators.iter().filter(|set| !set.is_of_tokens()).peekable();
        let tokenizer = match &config.tokenizer {
            Some(path) if of_documents.peek().is_some() => Some(Tokenizer::from_file(path)?),
            _ => None,
        };
        let seq_len = config.data.sequence_length;
        let open = |set| {
            Set::open(set, tokenizer.as_ref(), config.eos_token_id)
                .with_context(|| format!("evaluator {}", set.label))
        };
        let sets = of_documents.map(open).collect::<Result<_>>()?;
        Ok(Self { sets, seq_len })
    }

    /// Loss, perplexity and bits per byte of each set. Where the user asks to stop there
    /// are no scores: the run stops and saves, and measures again when it goes on.
    pub(super) fn run(
        &self,
        model: &Transformer,
        interrupt: &Interrupt,
    ) -> Result<BTreeMap<String, f64>> {
        let mut scores = BTreeMap::new();
        for set in &self.sets {
            match set.measure(model, self.seq_len, interrupt) {
                Ok(found) => scores.extend(found),
                Err(olmo_eval::Error::Cancelled) => return Ok(BTreeMap::new()),
                Err(error) => {
                    return Err(error).with_context(|| format!("evaluator {}", set.label));
                }
            }
        }
        Ok(scores)
    }
}

impl Set {
    fn open(
        config: &EvaluatorConfig,
        tokenizer: Option<&Tokenizer>,
        eos: Option<u32>,
    ) -> Result<Self> {
        let tokenizer = tokenizer.context("texts need a tokenizer; give `tokenizer`")?;
        let eos = match eos {
            Some(eos) => eos,
            None => tokenizer.eos_id().context("texts need `eos_token_id`")?,
        };
        let mut documents = Vec::new();
        for document in Corpus::new(config.paths.clone(), BadRows::Error)?.documents() {
            documents.push(TokenizedDocument::encode(&document?.text, tokenizer)?);
        }
        Ok(Self {
            label: config.label.clone(),
            batch_size: config.device_eval_batch_size,
            documents,
            first: FirstToken::After(eos),
        })
    }

    fn measure(
        &self,
        model: &Transformer,
        seq_len: usize,
        interrupt: &Interrupt,
    ) -> olmo_eval::Result<BTreeMap<String, f64>> {
        let eval = PerplexityEval::new(model, self.first)?
            .with_seq_len(seq_len)?
            .with_batch_size(self.batch_size)?;
        let sums = eval.run(self.documents.iter().cloned().map(Ok), &mut |_| {
            if interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let name = |what: &str| format!("eval/{}/{what}", self.label);
        let mut scores = BTreeMap::from([
            (name("CrossEntropyLoss"), sums.loss()),
            (name("Perplexity"), sums.perplexity()),
        ]);
        scores.extend(sums.bits_per_byte().map(|bits| (name("BitsPerByte"), bits)));
        Ok(scores)
    }
}
