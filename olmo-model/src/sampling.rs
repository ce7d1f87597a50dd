//! Choosing the next token from its logits, as transformers does (`generation/logits_process.py`).
//!
//! Probabilities are f64 here and f32 there, so that a cut which falls within rounding of a sum may
//! fall on its other side.

use std::borrow::Cow;
use std::cmp::Ordering;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How the next token is chosen.
///
/// Settings apply in the order of transformers' logits processors:
///
/// 1. `repetition_penalty`, of tokens in the prompt and the text so far;
/// 2. `temperature`; at 0 the likeliest token is taken, and what follows has no effect;
/// 3. `top_k`;
/// 4. `top_p`, of the distribution that `top_k` leaves;
/// 5. `min_p`.
///
/// What is left is scaled to sum to 1, and a token is drawn from it.
///
/// ```
/// use olmo_model::Sampling;
///
/// let careful = Sampling::top_p(0.9, 0.7).seed(1);
/// let without_a_tail = Sampling { min_p: Some(0.05), ..Sampling::temperature(1.0) };
/// let never_again = Sampling { repetition_penalty: Some(1.2), ..Sampling::greedy() };
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits. 0 is greedy: the likeliest token, of equals the one with the lowest id.
    pub temperature: f64,
    /// Keeps the most likely tokens only, and all that are as likely as the last of them.
    pub top_k: Option<usize>,
    /// Keeps the fewest tokens whose probabilities sum to this much, in `(0, 1]`.
    pub top_p: Option<f64>,
    /// Keeps tokens at least this share as likely as the likeliest, in `[0, 1]`.
    pub min_p: Option<f64>,
    /// Divides positive logits of tokens that were there already, and multiplies negative ones.
    /// Above 1 it avoids them, below 1 it prefers them.
    pub repetition_penalty: Option<f64>,
    /// Seed of the draws. Every row of a batch has a stream of its own from it and its number, so that a text
    /// does not depend on the rows beside it, and rows with the same prompt are several draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self::greedy()
    }
}

impl Sampling {
    /// The most likely token.
    pub fn greedy() -> Self {
        Self::temperature(0.0)
    }

    /// A draw from the whole distribution at `temperature`; at 0, greedy.
    pub fn temperature(temperature: f64) -> Self {
        let (top_k, top_p, min_p, repetition_penalty) = (None, None, None, None);
        Self { temperature, top_k, top_p, min_p, repetition_penalty, seed: 0 }
    }

    /// A draw from the fewest tokens whose probabilities reach `top_p`, at `temperature`.
    pub fn top_p(top_p: f64, temperature: f64) -> Self {
        Self { top_p: Some(top_p), ..Self::temperature(temperature) }
    }

    /// The same with another seed.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::Sampling`], naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |name, found, expected| Err(Error::Sampling { name, found, expected });
        let Self { temperature, top_k, top_p, min_p, repetition_penalty, seed: _ } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return wrong("temperature", temperature, "a number of at least 0");
        }
        if top_k == Some(0) {
            return wrong("top-k", 0.0, "at least 1");
        }
        if let Some(p) = top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            return wrong("top-p", p, "a number above 0, at most 1");
        }
        if let Some(p) = min_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return wrong("min-p", p, "a number from 0 to 1");
        }
        if let Some(x) = repetition_penalty.filter(|&x| !(x.is_finite() && x > 0.0)) {
            return wrong("repetition penalty", x, "a number above 0; 1 changes nothing");
        }
        Ok(())
    }

    /// The tokens that can follow `tokens`, each with its probability.
    ///
    /// # Errors
    ///
    /// [`Error::NonFiniteLogits`] where the logits are no distribution, and those of
    /// [`validate`](Self::validate).
    pub fn distribution(&self, tokens: &[u32], logits: &[f32]) -> Result<Vec<(u32, f64)>, Error> {
        self.validate()?;
        let logits = self.penalised(tokens, logits);
        let best = argmax(&logits).ok_or(Error::NonFiniteLogits)?;
        if self.temperature == 0.0 {
            return Ok(vec![(best as u32, 1.0)]);
        }
        let max = f64::from(logits[best]);
        let weight = |x: f32| ((f64::from(x) - max) / self.temperature).exp();
        let weights = logits.iter().enumerate().map(|(id, &x)| (id as u32, weight(x)));
        let mut kept: Vec<_> = weights.filter(|(_, weight)| *weight > 0.0).collect();
        if let Some(k) = self.top_k.filter(|&k| k < kept.len()) {
            let (_, &mut (_, least), _) = kept.select_nth_unstable_by(k - 1, likelier_first);
            kept.retain(|(_, weight)| *weight >= least);
            kept.sort_unstable_by(likelier_first);
        }
        if let Some(p) = self.top_p.filter(|&p| p < 1.0) {
            keep_nucleus(&mut kept, p);
        }
        if let Some(p) = self.min_p {
            // The likeliest weighs 1.
            kept.retain(|(_, weight)| *weight >= p);
        }
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        for (_, weight) in &mut kept {
            *weight /= total;
        }
        Ok(kept)
    }

    /// The logits with those of `tokens` made smaller, or larger with a penalty below 1.
    fn penalised<'a>(&self, tokens: &[u32], logits: &'a [f32]) -> Cow<'a, [f32]> {
        let Some(penalty) = self.repetition_penalty else { return Cow::Borrowed(logits) };
        let mut penalised = logits.to_vec();
        for &id in tokens {
            // From the logits as they came: a token that is there twice is penalised once.
            let Some(&x) = logits.get(id as usize) else { continue };
            let x = f64::from(x);
            penalised[id as usize] = (if x < 0.0 { x * penalty } else { x / penalty }) as f32;
        }
        Cow::Owned(penalised)
    }
}

/// Draws tokens one after another.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    stream: Pcg64,
}

impl Sampler {
    /// A sampler at the start of the first row's stream.
    ///
    /// # Errors
    ///
    /// [`Error::Sampling`] where a setting makes no sense.
    pub fn new(sampling: Sampling) -> Result<Self, Error> {
        sampling.validate()?;
        let stream = stream(sampling.seed, 0);
        Ok(Self { sampling, stream })
    }

    /// The same at the start of the stream of row `row`.
    #[must_use]
    pub fn of_row(self, row: usize) -> Self {
        Self { stream: stream(self.sampling.seed, row as u64), ..self }
    }

    /// The token that follows `tokens`, given its logits.
    ///
    /// # Errors
    ///
    /// [`Error::NonFiniteLogits`] where the logits are no distribution.
    pub fn next_token(&mut self, tokens: &[u32], logits: &[f32]) -> Result<u32, Error> {
        let distribution = self.sampling.distribution(tokens, logits)?;
        if let [(only, _)] = *distribution {
            return Ok(only);
        }
        // 53 random bits, as every double in [0, 1) has.
        let mut left = (self.stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        for &(id, probability) in &distribution {
            left -= probability;
            if left < 0.0 {
                return Ok(id);
            }
        }
        // Rounding may leave a sliver above zero; it belongs to the last token.
        distribution.last().map(|&(id, _)| id).ok_or(Error::NonFiniteLogits)
    }
}

/// The draws of a row; those of rows and seeds next to each other have nothing in common.
fn stream(seed: u64, row: u64) -> Pcg64 {
    let mut apart = 0;
    if row > 0 {
        let mut of_row = Pcg64::new(u128::from(row), 1);
        apart = u128::from(of_row.next_u64()) << 64 | u128::from(of_row.next_u64());
    }
    Pcg64::new(u128::from(seed) ^ apart, 0)
}

/// Of equals the lower id first, so that ties are cut the same way always.
fn likelier_first(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the fewest tokens that have a share `p` of all weights, likelier first.
fn keep_nucleus(kept: &mut Vec<(u32, f64)>, p: f64) {
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    // All tokens this light have less than the share that is left out, so each of them is left out.
    // Most of a vocabulary goes this way, and need not be sorted.
    let light = (1.0 - p) * total / kept.len() as f64;
    kept.retain(|(_, weight)| *weight >= light);
    kept.sort_unstable_by(likelier_first);
    let mut sum = 0.0;
    let reached = kept.iter().position(|(_, weight)| {
        sum += weight;
        sum >= p * total
    });
    kept.truncate(reached.map_or(kept.len(), |last| last + 1));
}

/// Index of the largest logit; `None` where one is NaN or all are infinitely small.
fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &x) in logits.iter().enumerate() {
        if x.is_nan() || x == f32::INFINITY {
            return None;
        }
        if best.is_none_or(|(_, max)| x > max) {
            best = Some((i, x));
        }
    }
    best.filter(|(_, max)| max.is_finite()).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, 2.0];

    fn shares(sampling: Sampling) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling).expect("sound settings");
        let n = 40_000;
        let mut counts = vec![0.0; LOGITS.len()];
        for _ in 0..n {
            counts[sampler.next_token(&[], &LOGITS).expect("finite") as usize] +=
                1.0 / f64::from(n);
        }
        counts
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.01), "{found:?}");
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let mut sampler = Sampler::new(Sampling::greedy()).expect("sound");
        assert_eq!(sampler.next_token(&[], &LOGITS), Ok(1));
        let penalty = Sampling { repetition_penalty: Some(1.5), ..Sampling::greedy() };
        let mut sampler = Sampler::new(penalty).expect("sound");
        assert_eq!(sampler.next_token(&[1, 1, 0], &LOGITS), Ok(3));
    }

    #[test]
    fn draws_follow_the_distribution() {
        let e = std::f64::consts::E;
        let z = 1.0 + 2.0 * e * e + e;
        assert_close(&shares(Sampling::temperature(1.0)), &[1.0 / z, e * e / z, e / z, e * e / z]);
        let z = 1.0 + 2.0 * e + e.sqrt();
        let expected = [1.0 / z, e / z, e.sqrt() / z, e / z];
        assert_close(&shares(Sampling::temperature(2.0)), &expected);
        let top_k = Sampling { top_k: Some(2), seed: 3, ..Sampling::temperature(1.0) };
        assert_close(&shares(top_k), &[0.0, 0.5, 0.0, 0.5]);
    }

    /// Streams of different rows and seeds have nothing in common.
    #[test]
    fn every_row_draws_for_itself() {
        let draws = |seed, row| {
            let any = Sampling::temperature(1.0).seed(seed);
            let mut sampler = Sampler::new(any).expect("sound settings").of_row(row);
            let next = |_| sampler.next_token(&[], &[0.0; 64]).expect("finite");
            (0..400).map(next).collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..4).flat_map(|seed| (0..4).map(move |row| draws(seed, row))).collect();
        for (i, a) in all.iter().enumerate() {
            for b in &all[..i] {
                let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
                // One of 64 by chance: 6.25, give or take 2.5.
                assert!(same < 20, "{same} of 400");
            }
        }
    }

    /// The reference keeps all of equals where a cut falls between them, except in the nucleus.
    #[test]
    fn ties_at_a_cut() {
        let kept = |sampling: Sampling| {
            let kept = sampling.distribution(&[], &LOGITS).expect("finite");
            kept.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        let any = Sampling::temperature(1.0);
        assert_eq!(kept(Sampling { top_k: Some(1), ..any.clone() }), [1, 3]);
        assert_eq!(kept(Sampling { top_p: Some(0.3), ..any.clone() }), [1]);
        assert_eq!(kept(Sampling { min_p: Some(1.0), ..any.clone() }), [1, 3]);
        // 0.41 + 0.41 does not reach 0.9; the token that crosses it is kept.
        assert_eq!(kept(Sampling { top_p: Some(0.9), ..any }), [1, 3, 2]);
    }

    #[test]
    fn nonsense_is_refused() {
        let one = || Sampling::temperature(1.0);
        let refused = [
            Sampling::temperature(-1.0),
            Sampling::temperature(f64::NAN),
            Sampling::top_p(0.0, 1.0),
            Sampling::top_p(1.5, 1.0),
            Sampling { top_k: Some(0), ..one() },
            Sampling { min_p: Some(-0.1), ..one() },
            Sampling { min_p: Some(f64::NAN), ..one() },
            Sampling { repetition_penalty: Some(0.0), ..one() },
            Sampling { repetition_penalty: Some(f64::INFINITY), ..one() },
        ];
        for sampling in refused {
            assert!(Sampler::new(sampling.clone()).is_err(), "{sampling:?}");
        }
        let mut sampler = Sampler::new(one()).expect("sound");
        assert_eq!(sampler.next_token(&[], &[1.0, f32::NAN]), Err(Error::NonFiniteLogits));
    }
}
