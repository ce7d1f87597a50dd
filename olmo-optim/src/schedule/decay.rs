//! A warmup, then a way down to a part of the peak: cosine, line, both, half a cosine.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::extent::{Extent, optional_whole_number};
use super::warmup::Warmup;

/// A warmup, then a way down to a final rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decay {
    /// The step at which the peak is reached.
    pub t_warmup: Extent,
    /// The step at which the final rate is reached; `None` for the end of the run.
    #[serde(default, deserialize_with = "optional_whole_number")]
    pub t_max: Option<u64>,
    /// The final rate is this times the peak.
    #[serde(default = "default_alpha_f")]
    pub alpha_f: f64,
    /// The rate at step 0; `None` for a tenth of the peak, and for 0 in
    /// [`super::Schedule::HalfCosineWithWarmup`].
    #[serde(default)]
    pub warmup_min_lr: Option<f64>,
}

pub(super) fn default_alpha_f() -> f64 {
    0.1
}

/// A way down: peak, final rate, steps since the peak, steps of decay.
pub(super) type Shape = fn(f64, f64, f64, f64) -> f64;

impl Decay {
    /// A decay to a tenth of the peak at the end of the run, after a warmup from a tenth.
    pub fn new(t_warmup: u64) -> Self {
        Self {
            t_warmup: t_warmup.into(),
            t_max: None,
            alpha_f: default_alpha_f(),
            warmup_min_lr: None,
        }
    }

    /// The rate of a step.
    pub(super) fn at(&self, peak: f64, step: u64, max_steps: u64, shape: Shape) -> f64 {
        let end = self.t_max.unwrap_or(max_steps);
        match self.warmup().before_peak(peak, step, end) {
            Some(rising) => rising,
            None => self.after_peak(peak, step, end, shape),
        }
    }

    /// The second half of the cosine from `peak`, whose middle the warmup leads to.
    pub(super) fn half_cosine_at(&self, peak: f64, step: u64, max_steps: u64) -> f64 {
        let end = self.t_max.unwrap_or(max_steps);
        let final_lr = peak * self.alpha_f;
        let middle = final_lr + (peak - final_lr) / 2.0;
        let warmup = Warmup {
            t_warmup: self.t_warmup,
            warmup_min_lr: Some(self.warmup_min_lr.unwrap_or(0.0)),
        };
        match warmup.before_peak(middle, step, end) {
            Some(rising) => rising,
            None => self.after_peak(peak, step, end, half_cosine),
        }
    }

    fn after_peak(&self, peak: f64, step: u64, end: u64, shape: Shape) -> f64 {
        let final_lr = peak * self.alpha_f;
        if step >= end {
            return final_lr;
        }
        let t_warmup = self.t_warmup.of(end);
        shape(peak, final_lr, (step - t_warmup) as f64, (end - t_warmup) as f64)
    }

    pub(super) fn warmup(&self) -> Warmup {
        Warmup { t_warmup: self.t_warmup, warmup_min_lr: self.warmup_min_lr }
    }

    pub(super) fn collect_problems(&self, peak: f64, problems: &mut Vec<String>) {
        self.warmup().collect_problems(peak, problems);
        if !(self.alpha_f.is_finite() && self.alpha_f >= 0.0) {
            problems
                .push(format!("alpha_f is {}, expected a finite number, 0 or more", self.alpha_f));
        }
        if let (Some(t_max), Extent::Count(t_warmup)) = (self.t_max, self.t_warmup)
            && t_max < t_warmup
        {
            problems.push(format!(
                "t_max is {t_max}, before the end of the warmup, t_warmup {t_warmup}"
            ));
        }
    }
}

pub(super) fn cosine(peak: f64, final_lr: f64, since_peak: f64, length: f64) -> f64 {
    final_lr + (peak - final_lr) * (1.0 + (PI * since_peak / length).cos()) / 2.0
}

pub(super) fn linear(peak: f64, final_lr: f64, since_peak: f64, length: f64) -> f64 {
    peak - (peak - final_lr) * (since_peak / length)
}

pub(super) fn envelope(peak: f64, final_lr: f64, since_peak: f64, length: f64) -> f64 {
    let falling = (peak - final_lr) * (1.0 + (PI * since_peak / length).cos()) / 2.0;
    final_lr + (1.0 - since_peak / length) * falling
}

fn half_cosine(peak: f64, final_lr: f64, since_peak: f64, length: f64) -> f64 {
    cosine(peak, final_lr, since_peak + length, length * 2.0)
}
