//! Choosing the next token from its logits.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How the next token is chosen.
///
/// Filters apply in the order of OLMo-core's `GenerationConfig`: temperature, then the `top_k` most
/// likely, then the fewest tokens whose probabilities reach `top_p`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Sampling {
    /// The most likely token; of equals the one with the lowest id.
    Greedy,
    /// A draw from the filtered distribution.
    Random {
        /// Divides the logits; above 0.
        temperature: f64,
        /// Keeps the most likely tokens only.
        top_k: Option<usize>,
        /// Keeps the fewest tokens whose probabilities sum to this much, in `(0, 1]`.
        top_p: Option<f64>,
        /// Seed of the draws.
        seed: u64,
    },
}

impl Sampling {
    /// A draw from the whole distribution at `temperature`; at 0, greedy.
    pub fn temperature(temperature: f64) -> Self {
        if temperature == 0.0 {
            return Self::Greedy;
        }
        Self::Random { temperature, top_k: None, top_p: None, seed: 0 }
    }

    /// A draw from the fewest tokens whose probabilities reach `top_p`, at `temperature`.
    pub fn top_p(top_p: f64, temperature: f64) -> Self {
        match Self::temperature(temperature) {
            Self::Random { seed, .. } => {
                Self::Random { temperature, top_k: None, top_p: Some(top_p), seed }
            }
            greedy @ Self::Greedy => greedy,
        }
    }

    /// The same with another seed.
    #[must_use]
    pub fn seed(mut self, new: u64) -> Self {
        if let Self::Random { seed, .. } = &mut self {
            *seed = new;
        }
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::Sampling`], naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let Self::Random { temperature, top_k, top_p, .. } = *self else { return Ok(()) };
        let wrong = |name, found, expected| Err(Error::Sampling { name, found, expected });
        if !(temperature.is_finite() && temperature > 0.0) {
            return wrong("temperature", temperature, "a number of at least 0");
        }
        if top_k == Some(0) {
            return wrong("top-k", 0.0, "at least 1");
        }
        match top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => wrong("top-p", p, "a number above 0, at most 1"),
            _ => Ok(()),
        }
    }
}

/// Draws tokens one after another.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    stream: Pcg64,
}

impl Sampler {
    /// A sampler at the start of its stream.
    ///
    /// # Errors
    ///
    /// [`Error::Sampling`] where a setting makes no sense.
    pub fn new(sampling: Sampling) -> Result<Self, Error> {
        sampling.validate()?;
        let seed = match sampling {
            Sampling::Random { seed, .. } => seed,
            Sampling::Greedy => 0,
        };
        Ok(Self { sampling, stream: Pcg64::new(u128::from(seed), 0) })
    }

    /// The next token, given its logits.
    ///
    /// # Errors
    ///
    /// [`Error::NonFiniteLogits`] where the logits are no distribution.
    pub fn next_token(&mut self, logits: &[f32]) -> Result<u32, Error> {
        let best = argmax(logits).ok_or(Error::NonFiniteLogits)?;
        match self.sampling {
            Sampling::Greedy => Ok(best as u32),
            Sampling::Random { temperature, top_k, top_p, .. } => {
                let max = f64::from(logits[best]);
                let weight = |x: f32| ((f64::from(x) - max) / temperature).exp();
                let mut kept: Vec<(usize, f64)> =
                    logits.iter().map(|&x| weight(x)).enumerate().collect();
                // Likelier first, of equals the lower id, so that ties are cut the same way always.
                kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                kept.truncate(top_k.unwrap_or(usize::MAX));
                if let Some(p) = top_p {
                    kept.truncate(nucleus(&kept, p));
                }
                Ok(self.draw(&kept))
            }
        }
    }

    fn draw(&mut self, weights: &[(usize, f64)]) -> u32 {
        let total: f64 = weights.iter().map(|(_, w)| w).sum();
        // 53 random bits, as every double in [0, 1) has.
        let uniform = (self.stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut left = uniform * total;
        for &(id, weight) in weights {
            left -= weight;
            if left < 0.0 {
                return id as u32;
            }
        }
        // Rounding may leave a sliver above zero; it belongs to the last token.
        weights.last().map_or(0, |&(id, _)| id as u32)
    }
}

/// How many of the sorted weights it takes to reach a share `p` of their sum.
fn nucleus(sorted: &[(usize, f64)], p: f64) -> usize {
    let total: f64 = sorted.iter().map(|(_, w)| w).sum();
    let mut sum = 0.0;
    for (i, (_, weight)) in sorted.iter().enumerate() {
        sum += weight;
        if sum >= p * total {
            return i + 1;
        }
    }
    sorted.len()
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
            counts[sampler.next_token(&LOGITS).expect("finite") as usize] += 1.0 / f64::from(n);
        }
        counts
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.01), "{found:?}");
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let mut sampler = Sampler::new(Sampling::Greedy).expect("sound");
        assert_eq!(sampler.next_token(&LOGITS), Ok(1));
    }

    #[test]
    fn draws_follow_the_softmax() {
        let e = std::f64::consts::E;
        let z = 1.0 + 2.0 * e * e + e;
        assert_close(&shares(Sampling::temperature(1.0)), &[1.0 / z, e * e / z, e / z, e * e / z]);
        let z = 1.0 + 2.0 * e + e.sqrt();
        let expected = [1.0 / z, e / z, e.sqrt() / z, e / z];
        assert_close(&shares(Sampling::temperature(2.0)), &expected);
    }

    #[test]
    fn filters_keep_the_likeliest() {
        let top_k = Sampling::Random { temperature: 1.0, top_k: Some(2), top_p: None, seed: 3 };
        assert_close(&shares(top_k), &[0.0, 0.5, 0.0, 0.5]);
        assert_close(&shares(Sampling::top_p(0.3, 1.0)), &[0.0, 1.0, 0.0, 0.0]);
        // 0.41 + 0.41 does not reach 0.9; the token that crosses it is kept.
        let e = std::f64::consts::E;
        let z = 2.0 * e * e + e;
        assert_close(&shares(Sampling::top_p(0.9, 1.0)), &[0.0, e * e / z, e / z, e * e / z]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Sampler::new(Sampling::temperature(-1.0)).is_err());
        assert!(Sampler::new(Sampling::top_p(0.0, 1.0)).is_err());
        assert!(Sampler::new(Sampling::top_p(1.5, 1.0)).is_err());
        let mut sampler = Sampler::new(Sampling::temperature(1.0)).expect("sound");
        assert_eq!(sampler.next_token(&[1.0, f32::NAN]), Err(Error::NonFiniteLogits));
    }
}
