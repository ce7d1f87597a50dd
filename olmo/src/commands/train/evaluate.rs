//! Perplexity of the configured sets, measured while the model is trained.
//!
//! Documents are read after an end-of-text token, as `olmo eval ppl` reads them; a file of raw tokens
//! is cut into instances of the training's length as OLMo's trainer cuts it, and the first token of
//! each is not scored.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use olmo_data::{BadRows, Corpus, TokenDataset, Tokenizer};
use olmo_eval::{FirstToken, PerplexityEval, TokenizedDocument};
use olmo_model::Transformer;
use olmo_train::TrainConfig;
use olmo_train::evaluation::EvaluatorConfig;

use crate::interrupt::Interrupt;

/// The sets of a run, read once.
pub(super) struct Evaluators {
    sets: Vec<Set>,
    seq_len: usize,
    interrupt: Interrupt,
}

struct Set {
    label: String,
    batch_size: usize,
    /// Documents, and what comes before each.
    documents: Vec<TokenizedDocument>,
    first: Option<FirstToken>,
    /// Instances of raw tokens.
    instances: Vec<TokenizedDocument>,
}

impl Evaluators {
    pub(super) fn open(config: &TrainConfig, interrupt: &Interrupt) -> Result<Self> {
        let tokenizer = match &config.tokenizer {
            Some(path) if !config.evaluators.is_empty() => Some(Tokenizer::from_file(path)?),
            _ => None,
        };
        let seq_len = config.data.sequence_length;
        let open = |set| {
            Set::open(set, seq_len, tokenizer.as_ref(), config.eos_token_id)
                .with_context(|| format!("evaluator {}", set.label))
        };
        let sets = config.evaluators.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { sets, seq_len, interrupt: interrupt.clone() })
    }

    /// Loss, perplexity and, of texts, bits per byte of each set. Where the user asks to stop there
    /// are no scores: the run stops and saves, and measures again when it goes on.
    pub(super) fn run(&self, model: &Transformer) -> Result<BTreeMap<String, f64>> {
        let mut scores = BTreeMap::new();
        for set in &self.sets {
            match set.measure(model, self.seq_len, &self.interrupt) {
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
        seq_len: usize,
        tokenizer: Option<&Tokenizer>,
        eos: Option<u32>,
    ) -> Result<Self> {
        let is_tokens = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "npy");
        let (token_files, texts): (Vec<PathBuf>, Vec<PathBuf>) =
            config.paths.iter().cloned().partition(is_tokens);
        let mut set = Self {
            label: config.label.clone(),
            batch_size: config.device_eval_batch_size,
            documents: Vec::new(),
            first: None,
            instances: Vec::new(),
        };
        if !token_files.is_empty() {
            let dataset = TokenDataset::open(&token_files, config.memmap_dtype, seq_len)?;
            for index in 0..dataset.len() {
                let tokens = dataset.get(index)?.tokens;
                set.instances.push(TokenizedDocument { tokens, n_bytes: None });
            }
        }
        if !texts.is_empty() {
            let tokenizer = tokenizer.context("texts need a tokenizer; give `tokenizer`")?;
            let eos = match eos {
                Some(eos) => eos,
                None => tokenizer.eos_id().context("texts need `eos_token_id`")?,
            };
            set.first = Some(FirstToken::After(eos));
            for document in Corpus::new(texts, BadRows::Error)?.documents() {
                set.documents.push(TokenizedDocument::encode(&document?.text, tokenizer)?);
            }
        }
        Ok(set)
    }

    fn measure(
        &self,
        model: &Transformer,
        seq_len: usize,
        interrupt: &Interrupt,
    ) -> olmo_eval::Result<BTreeMap<String, f64>> {
        let (mut nll, mut n_tokens, mut bits_per_byte) = (0.0, 0, None);
        let parts = [(self.first, &self.documents), (Some(FirstToken::Unscored), &self.instances)];
        for (first, documents) in parts {
            let (Some(first), false) = (first, documents.is_empty()) else { continue };
            let eval = PerplexityEval::new(model, first)?
                .with_seq_len(seq_len)?
                .with_batch_size(self.batch_size)?;
            let sums = eval.run(documents.iter().cloned().map(Ok), &mut |_| {
                if interrupt.is_asked() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
            nll += sums.nll_nats;
            n_tokens += sums.n_tokens;
            bits_per_byte = sums.bits_per_byte().filter(|_| self.instances.is_empty());
        }
        let loss = nll / n_tokens as f64;
        let name = |what: &str| format!("eval/{}/{what}", self.label);
        let mut scores =
            BTreeMap::from([(name("CrossEntropyLoss"), loss), (name("Perplexity"), loss.exp())]);
        scores.extend(bits_per_byte.map(|bits| (name("BitsPerByte"), bits)));
        Ok(scores)
    }
}
