//! When a step is not to be made.
//!
//! OLMo-core `optim/skip_step_optimizer.py`: a step whose loss, or whose gradient norm before clipping,
//! is more than `sigma_factor` standard deviations above the mean of the steps before it is skipped:
//! no weight, moment or step count changes. Its loss and norm count for the steps that follow.
//! Deviations are of a sample (divisor `n - 1`); they are computed in f64 from values in f32, which
//! is what the reference computes in.
//!
//! With AdamW this is `SkipStepAdamW`, with [`crate::LionW`] `SkipStepLion`. The reference's train module
//! tells the rule a norm only where gradients are clipped by it; else losses alone are judged.

use serde::{Deserialize, Serialize};

use crate::Error;

/// Settings of [`SkipStep`]. The defaults are OLMo-core's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SkipStepConfig {
    /// Steps that mean and deviation are taken of. No step is skipped before half as many were made.
    pub rolling_interval_length: usize,
    /// Standard deviations above the mean that are allowed.
    pub sigma_factor: f64,
}

impl Default for SkipStepConfig {
    fn default() -> Self {
        Self { rolling_interval_length: 128, sigma_factor: 6.0 }
    }
}

impl SkipStepConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with every problem found.
    pub fn validate(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        // Half of it must hold the newest step and two more, which have a deviation.
        if self.rolling_interval_length < 6 {
            problems.push(format!(
                "rolling_interval_length is {}, expected at least 6",
                self.rolling_interval_length
            ));
        }
        if !(self.sigma_factor.is_finite() && self.sigma_factor > 0.0) {
            problems.push(format!(
                "sigma_factor is {}, expected a finite number above 0",
                self.sigma_factor
            ));
        }
        Error::unless_valid("rule for skipping steps", problems)
    }
}

/// The losses and gradient norms of the last steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SkipStep {
    #[serde(skip)]
    config: SkipStepConfig,
    losses: Vec<f32>,
    grad_norms: Vec<f32>,
}

impl SkipStep {
    /// A rule that has seen no step.
    ///
    /// # Errors
    ///
    /// See [`SkipStepConfig::validate`].
    pub fn new(config: &SkipStepConfig) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self { config: config.clone(), losses: Vec::new(), grad_norms: Vec::new() })
    }

    /// Goes on from the steps that `saved` has seen, such as one read from a checkpoint.
    #[must_use]
    pub fn with_history(mut self, saved: Self) -> Self {
        (self.losses, self.grad_norms) = (saved.losses, saved.grad_norms);
        self
    }

    /// Whether the step with this loss and this gradient norm, where there is one, is to be made;
    /// remembers both.
    pub fn admits(&mut self, loss: f64, grad_norm: Option<f64>) -> bool {
        let length = self.config.rolling_interval_length;
        for (values, value) in [(&mut self.losses, Some(loss)), (&mut self.grad_norms, grad_norm)] {
            values.extend(value.map(|value| value as f32));
            let excess = values.len().saturating_sub(length + 1);
            values.drain(..excess);
        }
        if self.losses.len() < length / 2 {
            return true;
        }
        [&self.losses, &self.grad_norms].into_iter().all(|values| self.is_usual(values))
    }

    /// Whether the newest value is near enough to those before it.
    fn is_usual(&self, values: &[f32]) -> bool {
        let Some((newest, before)) = values.split_last() else { return true };
        let n = before.len() as f64;
        let mean = before.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let squares: f64 = before.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
        let deviation = (squares / (n - 1.0)).sqrt();
        f64::from(*newest) - mean <= self.config.sigma_factor * deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> SkipStep {
        let config = SkipStepConfig { rolling_interval_length: 8, sigma_factor: 3.0 };
        SkipStep::new(&config).unwrap()
    }

    #[test]
    fn a_spike_is_skipped_once_there_is_something_to_compare_with() {
        let mut skip = rule();
        assert!(
            skip.admits(2.0, Some(1.0))
                && skip.admits(100.0, Some(50.0))
                && skip.admits(2.1, Some(1.1))
        );
        let mut skip = rule();
        for i in 0..6 {
            assert!(skip.admits(2.0 + 0.1 * f64::from(i % 2), Some(1.0 + 0.1 * f64::from(i % 3))));
        }
        assert!(!skip.clone().admits(9.0, Some(1.0)), "the loss");
        assert!(!skip.clone().admits(2.0, Some(9.0)), "the norm");
        assert!(!skip.clone().admits(f64::NAN, Some(1.0)), "not a number");
        assert!(skip.admits(-9.0, Some(0.0)), "below the mean is no spike");
    }

    #[test]
    fn what_was_seen_goes_on_from_a_checkpoint() {
        let mut skip = rule();
        (0..20).for_each(|i| {
            skip.admits(2.0 + 0.1 * f64::from(i % 3), Some(1.0));
        });
        let json = serde_json::to_string(&skip).unwrap();
        let saved: SkipStep = serde_json::from_str(&json).unwrap();
        assert_eq!(rule().with_history(saved), skip);
        assert_eq!(skip.losses.len(), 9);
    }

    #[test]
    fn settings_are_checked() {
        let config = SkipStepConfig { rolling_interval_length: 3, sigma_factor: 0.0 };
        let message = SkipStep::new(&config).unwrap_err().to_string();
        assert!(message.contains("is 3") && message.contains("sigma_factor is 0"), "{message}");
    }
}
