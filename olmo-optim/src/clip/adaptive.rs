//! Clipping each gradient by what its norm has been.
//!
//! OLMo `olmo/optim.py`, `_do_adaptive_clipping`. With norm `n` of one parameter's gradient and the
//! moving average `a` of its clipped norms, in f32:
//!
//! ```text
//! coefficient <- min(1, ratio * a / (n + 1e-6))
//! a           <- a + (1 - max(beta1, beta2)) * (n * coefficient - a)
//! ```
//!
//! An average begins as the norm of step 2: what step 1 gives is not kept there, because torch's
//! optimizers have no state then. A parameter here may be several of one fused parameter of the
//! original, as query, key and value; give their joint norm under one name to clip as it does.

use std::collections::BTreeMap;

/// Moving averages of gradient norms, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdaptiveClip {
    averages: BTreeMap<String, f32>,
}

impl AdaptiveClip {
    /// No averages yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The averages so far, for a checkpoint.
    pub fn averages(&self) -> &BTreeMap<String, f32> {
        &self.averages
    }

    /// Goes on from the averages of a checkpoint.
    pub fn from_averages(averages: BTreeMap<String, f32>) -> Self {
        Self { averages }
    }

    /// What the gradient of norm `norm` is multiplied by, at most 1, and takes it into the average.
    ///
    /// `ratio` is how many times the average a norm may be; `betas` are the optimizer's, of which the
    /// larger decays the average; `step` counts from 1.
    pub fn coefficient(
        &mut self,
        name: &str,
        norm: f64,
        ratio: f64,
        betas: [f64; 2],
        step: u64,
    ) -> f64 {
        let norm = norm as f32;
        let average = self.averages.get(name).copied().unwrap_or(norm);
        let coefficient = ratio as f32 * average / (norm + 1e-6);
        // Not `min`, which would turn NaN into 1.
        let coefficient = if coefficient > 1.0 { 1.0 } else { coefficient };
        if step > 1 {
            let weight = (1.0 - betas[0].max(betas[1])) as f32;
            let average = average + weight * (norm * coefficient - average);
            self.averages.insert(name.to_owned(), average);
        }
        f64::from(coefficient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_held_to_the_ratio() {
        let mut clip = AdaptiveClip::new();
        let mut at = |norm, step| clip.coefficient("w", norm, 2.0, [0.9, 0.95], step);
        assert!((at(1.0, 1) - 1.0).abs() < 1e-12);
        assert!((at(1.0, 2) - 1.0).abs() < 1e-12);
        let burst = at(100.0, 3);
        assert!((burst - 0.02).abs() < 1e-6, "{burst}");
        // The average took the clipped norm of 2 in, not 100.
        let average = clip.averages()["w"];
        assert!((average - 1.05).abs() < 1e-6, "{average}");
    }

    #[test]
    fn averages_go_on_from_a_checkpoint() {
        let mut clip = AdaptiveClip::new();
        (1..5).for_each(|step| {
            clip.coefficient("w", f64::from(step as u32), 1.5, [0.9, 0.99], step);
        });
        let mut again = AdaptiveClip::from_averages(clip.averages().clone());
        let both = [&mut clip, &mut again].map(|c| c.coefficient("w", 9.0, 1.5, [0.9, 0.99], 5));
        assert_eq!(both[0].to_bits(), both[1].to_bits());
        assert_eq!(clip, again);
    }
}
