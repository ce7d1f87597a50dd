//! Spikes: a loss or a gradient norm far above those of the steps before, by OLMo-core's rule
//! ([`SkipStep`]).

use olmo_optim::{SkipStep, SkipStepConfig};
use serde::{Deserialize, Serialize};

use super::Action;

/// When a step is a spike, and what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpikeConfig {
    /// Standard deviations above the mean that are a spike: OLMo-core's `sigma_factor`.
    pub std_factor: f64,
    /// Steps that mean and deviation are taken over: OLMo-core's `rolling_interval_length`.
    pub window: usize,
    /// What is done about it.
    pub action: Action,
}

impl Default for SpikeConfig {
    fn default() -> Self {
        let SkipStepConfig { rolling_interval_length, sigma_factor } = SkipStepConfig::default();
        Self { std_factor: sigma_factor, window: rolling_interval_length, action: Action::Skip }
    }
}

impl SpikeConfig {
    /// The rule, with what it has seen so far.
    ///
    /// # Errors
    ///
    /// [`olmo_optim::Error::Invalid`] where a setting is out of range.
    pub fn rule(&self, saved: Option<SkipStep>) -> Result<SkipStep, olmo_optim::Error> {
        let rule = SkipStep::new(&SkipStepConfig {
            rolling_interval_length: self.window,
            sigma_factor: self.std_factor,
        })?;
        Ok(match saved {
            Some(saved) => rule.with_history(saved),
            None => rule,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these steps OLMo-core 2.4.0's `SkipStepOptimizer` skips, with a window of 8 and 2
    /// deviations (`get_step_factor()` after setting `latest_loss` and `latest_grad_norm`).
    #[test]
    fn spikes_are_those_of_olmo_core_with_a_checkpoint_after_every_step() {
        let config = SpikeConfig { std_factor: 2.0, window: 8, action: Action::Skip };
        let mut saved = None;
        let mut spikes = Vec::new();
        for i in 0..40 {
            let x = f64::from(i);
            let loss = 3.0 + (x * 0.7).sin() * 0.3 + if i % 11 == 10 { 1.5 } else { 0.0 };
            let norm = 1.0 + (x * 1.3).cos() * 0.2 + if i % 17 == 16 { 2.0 } else { 0.0 };
            let mut rule = config.rule(saved.take()).expect("sound");
            if !rule.admits(loss, Some(norm)) {
                spikes.push(i);
            }
            let json = serde_json::to_string(&rule).expect("plain data");
            saved = Some(serde_json::from_str(&json).expect("our own"));
        }
        assert_eq!(spikes, [10, 16, 21, 32, 33]);
    }
}
