//! Beam search, as the original `OLMo.generate` does it (ai2-olmo `olmo/beam_search.py`, with its
//! `DeterministicSampler`).
//!
//! At each step, each beam proposes its likeliest next tokens, and of all proposals those with the
//! largest summed log-probability become the beams. A beam that ended proposes only itself. Beams
//! that go on are rows of one batch, whose cache is reordered with them.
//!
//! Differences: log-probabilities are summed in f64; what ended is not run any more; and a beam's
//! tokens end with its end token, where the original fills them up with more of it.

use std::cmp::Ordering;

use crate::cache::KvCache;
use crate::error::Error;
use crate::log_probs::LogProbs;
use crate::transformer::Transformer;

/// How to search.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamSearch {
    /// Beams kept at each step, and found in the end.
    pub beam_size: usize,
    /// Next tokens that each beam proposes; `None` is `beam_size`. Fewer make beams more diverse.
    pub per_node_beam_size: Option<usize>,
    /// Tokens of a beam at most.
    pub max_steps: usize,
    /// Tokens of a beam at least, its end token not counted.
    pub min_steps: usize,
    /// Divides the final score by the number of tokens, the end token included, to this power;
    /// `None` leaves the sum of log-probabilities as it is. 1 is the mean.
    pub length_penalty: Option<f64>,
    /// A beam ends after any of these.
    pub end_tokens: Vec<u32>,
}

/// One of the texts that were found.
#[derive(Debug, Clone, PartialEq)]
pub struct Beam {
    /// New tokens, with the end token where there is one.
    pub tokens: Vec<u32>,
    /// Sum of their log-probabilities, divided as [`BeamSearch::length_penalty`] says.
    pub score: f64,
}

/// A beam that grows.
#[derive(Debug, Clone)]
struct Growing {
    beam: Beam,
    ended: bool,
}

/// A beam with one token more, if it has not ended.
struct Proposal {
    parent: usize,
    token: Option<u32>,
    score: f64,
}

impl BeamSearch {
    /// A search for `beam_size` texts of up to `max_steps` tokens that may end with `end_token`.
    pub fn new(beam_size: usize, max_steps: usize, end_token: u32) -> Self {
        let (per_node_beam_size, length_penalty) = (None, None);
        let end_tokens = vec![end_token];
        Self { beam_size, per_node_beam_size, max_steps, min_steps: 0, length_penalty, end_tokens }
    }

    /// Checks the settings for a model with `vocab_size` tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Sampling`], naming the setting.
    pub fn validate(&self, vocab_size: usize) -> Result<(), Error> {
        let wrong = |name, found: usize, expected| {
            Err(Error::Sampling { name, found: found as f64, expected })
        };
        let within = |n: usize| n > 0 && n <= vocab_size;
        if !within(self.beam_size) {
            return wrong("beam size", self.beam_size, "1 up to the size of the vocabulary");
        }
        if let Some(n) = self.per_node_beam_size.filter(|&n| !within(n)) {
            return wrong("per-node beam size", n, "1 up to the size of the vocabulary");
        }
        if self.max_steps == 0 {
            return wrong("max steps", 0, "at least 1");
        }
        if self.min_steps > self.max_steps {
            return wrong("min steps", self.min_steps, "at most the max steps");
        }
        match self.length_penalty {
            Some(found) if !found.is_finite() => {
                let (name, expected) = ("length penalty", "a finite number");
                Err(Error::Sampling { name, found, expected })
            }
            _ => Ok(()),
        }
    }

    /// The likeliest next tokens of a beam.
    fn proposals(&self, parent: usize, growing: &Growing, logits: &[f32]) -> Vec<Proposal> {
        let log_probs = LogProbs::new(logits);
        // The end token is no choice before its time.
        let blocked = growing.beam.tokens.len() < self.min_steps;
        let n = self.per_node_beam_size.unwrap_or(self.beam_size);
        let n_blocked = if blocked { self.end_tokens.len() } else { 0 };
        let top = log_probs.top(n + n_blocked).into_iter();
        top.filter(|(id, _)| !(blocked && self.end_tokens.contains(id)))
            .take(n)
            .map(|(id, log_prob)| Proposal {
                parent,
                token: Some(id),
                score: growing.beam.score + log_prob,
            })
            .collect()
    }

    fn grown(&self, parent: &Growing, proposal: &Proposal) -> Growing {
        let Some(token) = proposal.token else { return parent.clone() };
        let mut tokens = parent.beam.tokens.clone();
        tokens.push(token);
        let ended = self.end_tokens.contains(&token);
        Growing { beam: Beam { tokens, score: proposal.score }, ended }
    }

    fn scored(&self, growing: Growing) -> Beam {
        let Beam { tokens, score } = growing.beam;
        let divisor = self.length_penalty.map_or(1.0, |power| (tokens.len() as f64).powf(power));
        Beam { score: score / divisor, tokens }
    }
}

impl Transformer {
    /// The likeliest continuations of a prompt that a beam search finds, the best first.
    ///
    /// # Errors
    ///
    /// [`Error::Sampling`] where a setting makes no sense, [`Error::NonFiniteLogits`], and those of
    /// [`generate`](Transformer::generate); [`Error::SequenceTooLong`] also where prompt and
    /// `max_steps` together do not fit the model's context.
    pub fn beam_search(&self, prompt: &[u32], search: &BeamSearch) -> Result<Vec<Beam>, Error> {
        self.beam_search_while(prompt, search, || true)
    }

    /// The same, for as long as `goes_on` says so before each token: the beams are then as far as they came.
    ///
    /// # Errors
    ///
    /// As [`beam_search`](Self::beam_search).
    pub fn beam_search_while(
        &self,
        prompt: &[u32],
        search: &BeamSearch,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<Vec<Beam>, Error> {
        let config = self.config();
        search.validate(config.vocab_size)?;
        self.check_prompt(prompt, config.max_sequence_length)?;
        // The last token is not run.
        let length = prompt.len().saturating_add(search.max_steps - 1);
        let limit = config.max_sequence_length;
        if length > limit {
            return Err(Error::SequenceTooLong { length, limit });
        }
        let mut cache = self.new_cache(1, length);
        // Before the first step there is one beam, the prompt, without tokens of its own.
        let start = Beam { tokens: Vec::new(), score: 0.0 };
        let mut beams = vec![Growing { beam: start, ended: false }];
        let mut logits = self.last_logits([prompt].into_iter(), &mut cache)?;
        for step in 0..search.max_steps {
            if step > 0 {
                let last = beams.iter().filter(|beam| !beam.ended);
                let last = last.filter_map(|beam| beam.beam.tokens.last_chunk::<1>());
                let last: Vec<&[u32]> = last.map(<[u32; 1]>::as_slice).collect();
                if last.is_empty() || !goes_on() {
                    break;
                }
                logits = self.last_logits(last.into_iter(), &mut cache)?;
            }
            beams = advance(search, &beams, &logits, &mut cache)?;
        }
        let mut found: Vec<Beam> = beams.into_iter().map(|beam| search.scored(beam)).collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(found)
    }
}

/// The beams of the next step, and the cache in the order of those that go on.
fn advance(
    search: &BeamSearch,
    beams: &[Growing],
    logits: &[Vec<f32>],
    cache: &mut KvCache,
) -> Result<Vec<Growing>, Error> {
    if logits.iter().flatten().any(|x| x.is_nan() || *x == f32::INFINITY) {
        return Err(Error::NonFiniteLogits);
    }
    // Which row of the cache a beam has; those that ended have none.
    let mut n_rows = 0;
    let mut proposals = Vec::new();
    let mut row_of = vec![0; beams.len()];
    for (parent, growing) in beams.iter().enumerate() {
        if growing.ended {
            proposals.push(Proposal { parent, token: None, score: growing.beam.score });
            continue;
        }
        // The first step has one beam, which must propose as many as there will be.
        if growing.beam.tokens.is_empty() {
            let first = BeamSearch { per_node_beam_size: None, ..search.clone() };
            proposals.extend(first.proposals(parent, growing, &logits[n_rows]));
        } else {
            proposals.extend(search.proposals(parent, growing, &logits[n_rows]));
        }
        row_of[parent] = n_rows;
        n_rows += 1;
    }
    // Stable: of equals the one of the better beam comes first.
    proposals.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal));
    proposals.truncate(search.beam_size);
    let grown: Vec<Growing> =
        proposals.iter().map(|proposal| search.grown(&beams[proposal.parent], proposal)).collect();
    let going = proposals.iter().zip(&grown).filter(|(_, beam)| !beam.ended);
    let rows: Vec<usize> = going.map(|(proposal, _)| row_of[proposal.parent]).collect();
    if !rows.is_empty() && !rows.iter().copied().eq(0..n_rows) {
        cache.select(&rows);
    }
    Ok(grown)
}
