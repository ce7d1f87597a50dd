//! OLMo-core's schedules that end in a straight line: warmup-stable-decay, once and in periods, and
//! the cosine that is cut short.

use serde::{Deserialize, Serialize};

use super::decay::{Decay, cosine, default_alpha_f};
use super::extent::{Extent, optional_whole_number, whole_numbers};
use super::warmup::Warmup;

/// A warmup, the peak, and a straight line down at the end of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StableDecay {
    /// The step at which the peak is reached.
    pub t_warmup: Extent,
    /// Length of the way down.
    #[serde(default = "tenth")]
    pub t_decay: Extent,
    /// The rate at step 0.
    #[serde(default)]
    pub warmup_min_lr: f64,
    /// The rate at the end.
    #[serde(default)]
    pub decay_min_lr: f64,
}

/// Warmup-stable-decay in periods, each of which ends at the final rate, so that a run may be
/// stopped, or go on, after any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StablePeriods {
    /// Length of each period; the first holds the warmup.
    #[serde(deserialize_with = "whole_numbers")]
    pub period_lengths: Vec<u64>,
    /// The step at which the peak is first reached; a fraction is of the first period.
    pub t_warmup: Extent,
    /// Length of the way down at the end of each period; a fraction is of that period.
    pub t_decay: Extent,
    /// The rate at step 0.
    #[serde(default)]
    pub warmup_min_lr: f64,
    /// The rate at the end of each period.
    #[serde(default)]
    pub decay_min_lr: f64,
}

/// A cosine that is left before its end by a straight line down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosineThenLinear {
    /// The step at which the peak is reached.
    pub t_warmup: Extent,
    /// The step at which the cosine would end; `None` for the end of the run.
    #[serde(default, deserialize_with = "optional_whole_number")]
    pub t_max: Option<u64>,
    /// The cosine would end at this times the peak.
    #[serde(default = "default_alpha_f")]
    pub alpha_f: f64,
    /// Length of the straight line, which ends with the run.
    #[serde(default = "tenth")]
    pub t_decay: Extent,
    /// The rate at step 0.
    #[serde(default)]
    pub warmup_min_lr: f64,
    /// The rate at the end.
    #[serde(default)]
    pub decay_min_lr: f64,
}

fn tenth() -> Extent {
    Extent::Fraction { fraction: 0.1 }
}

impl StableDecay {
    pub(super) fn at(&self, peak: f64, step: u64, max_steps: u64) -> f64 {
        if let Some(rising) = self.warmup().before_peak(peak, step, max_steps) {
            return rising;
        }
        let decay = self.t_decay.of(max_steps);
        // At the end of the warmup the reference gives the peak, also where the decay has begun.
        if step > self.t_warmup.of(max_steps) && step >= max_steps.saturating_sub(decay) {
            return line_down(peak, max_steps.saturating_sub(step), decay, self.decay_min_lr);
        }
        peak
    }

    fn warmup(&self) -> Warmup {
        Warmup { t_warmup: self.t_warmup, warmup_min_lr: Some(self.warmup_min_lr) }
    }

    pub(super) fn collect_problems(&self, peak: f64, problems: &mut Vec<String>) {
        self.warmup().collect_problems(peak, problems);
        self.t_decay.collect_problems("t_decay", problems);
        collect_final_problem(self.decay_min_lr, peak, problems);
    }
}

impl StablePeriods {
    pub(super) fn at(&self, peak: f64, step: u64) -> f64 {
        let first = self.period_lengths.first().copied().unwrap_or(0);
        if let Some(rising) = self.warmup().before_peak(peak, step, first) {
            return rising;
        }
        let t_warmup = self.t_warmup.of(first);
        let mut start = t_warmup;
        for (i, &length) in self.period_lengths.iter().enumerate() {
            let own = if i == 0 { length.saturating_sub(t_warmup) } else { length };
            if step <= start + own && step < self.end() {
                let decay = self.t_decay.of(length);
                let position = step - start;
                return if position < own.saturating_sub(decay) {
                    peak
                } else {
                    line_down(peak, own - position, decay, self.decay_min_lr)
                };
            }
            start += own;
        }
        self.decay_min_lr
    }

    /// The end of the last period.
    fn end(&self) -> u64 {
        self.period_lengths.iter().sum()
    }

    fn warmup(&self) -> Warmup {
        Warmup { t_warmup: self.t_warmup, warmup_min_lr: Some(self.warmup_min_lr) }
    }

    pub(super) fn collect_problems(&self, peak: f64, problems: &mut Vec<String>) {
        self.warmup().collect_problems(peak, problems);
        self.t_decay.collect_problems("t_decay", problems);
        collect_final_problem(self.decay_min_lr, peak, problems);
        if self.period_lengths.is_empty() {
            problems.push("period_lengths is empty, expected at least one length".to_owned());
        }
        for (i, &length) in self.period_lengths.iter().enumerate() {
            let warmup = if i == 0 { self.t_warmup.of(length) } else { 0 };
            let decay = self.t_decay.of(length);
            if length == 0 || warmup.saturating_add(decay) > length {
                problems.push(format!(
                    "period_lengths[{i}] is {length}, expected room for its warmup of {warmup} and its decay of {decay}"
                ));
            }
        }
    }
}

impl CosineThenLinear {
    pub(super) fn at(&self, peak: f64, step: u64, max_steps: u64) -> f64 {
        let decay = self.t_decay.of(max_steps);
        let turn = max_steps.saturating_sub(decay);
        if step < turn {
            return self.cosine().at(peak, step, max_steps, cosine);
        }
        let at_turn = self.cosine().at(peak, turn, max_steps, cosine);
        line_down(at_turn, max_steps.saturating_sub(step), decay, self.decay_min_lr)
    }

    fn cosine(&self) -> Decay {
        Decay {
            t_warmup: self.t_warmup,
            t_max: self.t_max,
            alpha_f: self.alpha_f,
            warmup_min_lr: Some(self.warmup_min_lr),
        }
    }

    pub(super) fn collect_problems(&self, peak: f64, problems: &mut Vec<String>) {
        self.cosine().collect_problems(peak, problems);
        self.t_decay.collect_problems("t_decay", problems);
        collect_final_problem(self.decay_min_lr, peak, problems);
    }
}

/// The rate `left` steps before the end of a straight line from `peak` down to `floor`.
fn line_down(peak: f64, left: u64, decay: u64, floor: f64) -> f64 {
    floor + (peak - floor) * left.min(decay) as f64 / decay.max(1) as f64
}

fn collect_final_problem(decay_min_lr: f64, peak: f64, problems: &mut Vec<String>) {
    if !(0.0 <= decay_min_lr && decay_min_lr < peak) {
        problems.push(format!(
            "decay_min_lr is {decay_min_lr}, expected at least 0 and below the peak rate {peak}"
        ));
    }
}
