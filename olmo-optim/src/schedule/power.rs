//! A warmup, then a power of the step: the inverse square root and others. There is no end.

use serde::{Deserialize, Serialize};

use super::extent::Extent;
use super::warmup::Warmup;

/// The inverse square root of the step. The original trainer's goes to 0; OLMo-core's to `alpha_f`
/// times the peak, which is 0.1 there where not given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InverseSqrt {
    /// The step at which the peak is reached.
    pub t_warmup: Extent,
    /// The rate that is approached is this times the peak.
    #[serde(default)]
    pub alpha_f: f64,
    /// The rate at step 0; `None` for a tenth of the peak.
    #[serde(default)]
    pub warmup_min_lr: Option<f64>,
}

/// A power of the step, of which the inverse square root is one. Neither trainer has it in the
/// versions compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// The step at which the peak is reached.
    pub t_warmup: Extent,
    /// The rate falls with the step to minus this: 0.5 for the inverse square root.
    pub exponent: f64,
    /// The rate that is approached is this times the peak.
    #[serde(default)]
    pub alpha_f: f64,
    /// The rate at step 0; `None` for a tenth of the peak.
    #[serde(default)]
    pub warmup_min_lr: Option<f64>,
}

impl InverseSqrt {
    pub(super) fn at(&self, peak: f64, step: u64, max_steps: u64) -> f64 {
        let Self { t_warmup, alpha_f, warmup_min_lr } = *self;
        falling(&Warmup { t_warmup, warmup_min_lr }, alpha_f, f64::sqrt, peak, step, max_steps)
    }

    pub(super) fn collect_problems(&self, peak: f64, problems: &mut Vec<String>) {
        let Self { t_warmup, alpha_f, warmup_min_lr } = *self;
        collect_problems(&Warmup { t_warmup, warmup_min_lr }, alpha_f, peak, problems);
    }
}

impl Power {
    pub(super) fn at(&self, peak: f64, step: u64, max_steps: u64) -> f64 {
        let Self { t_warmup, exponent, alpha_f, warmup_min_lr } = *self;
        let power = |part: f64| part.powf(exponent);
        falling(&Warmup { t_warmup, warmup_min_lr }, alpha_f, power, peak, step, max_steps)
    }

    pub(super) fn collect_problems(&self, peak: f64, problems: &mut Vec<String>) {
        let Self { t_warmup, exponent, alpha_f, warmup_min_lr } = *self;
        collect_problems(&Warmup { t_warmup, warmup_min_lr }, alpha_f, peak, problems);
        if !(exponent.is_finite() && exponent > 0.0) {
            problems.push(format!("exponent is {exponent}, expected a finite number above 0"));
        }
    }
}

fn falling(
    warmup: &Warmup,
    alpha_f: f64,
    power: impl Fn(f64) -> f64,
    peak: f64,
    step: u64,
    max_steps: u64,
) -> f64 {
    warmup.before_peak(peak, step, max_steps).unwrap_or_else(|| {
        let t_warmup = warmup.t_warmup.of(max_steps);
        let final_lr = peak * alpha_f;
        // Step 0 of a schedule without warmup, which `validate` refuses.
        final_lr + (peak - final_lr) * power(t_warmup as f64 / step.max(1) as f64)
    })
}

fn collect_problems(warmup: &Warmup, alpha_f: f64, peak: f64, problems: &mut Vec<String>) {
    warmup.collect_problems(peak, problems);
    collect_warmup_problem(warmup.t_warmup, problems);
    if !(0.0..=1.0).contains(&alpha_f) {
        problems.push(format!("alpha_f is {alpha_f}, expected a number from 0 to 1"));
    }
}

/// Without a warmup there is no step that the power counts from.
pub(super) fn collect_warmup_problem(t_warmup: Extent, problems: &mut Vec<String>) {
    if t_warmup == Extent::Count(0) {
        problems.push("t_warmup is 0, and so is the rate of an inverse square root".to_owned());
    }
}
