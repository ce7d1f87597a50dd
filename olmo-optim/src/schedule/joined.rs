//! Schedules made of others: one after another, and a second warmup inside one.

use serde::{Deserialize, Serialize};

use super::Schedule;
use super::extent::{whole_number, whole_numbers};

/// Schedules one after another, each beginning from the rate at which the one before ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequential {
    /// The schedules; the peak of each but the first is the final rate of the one before.
    pub schedulers: Vec<Schedule>,
    /// The length of each but the last, which lasts until the end of the run.
    #[serde(deserialize_with = "whole_numbers")]
    pub schedulers_max: Vec<u64>,
}

/// A second warmup in the middle of another schedule, for a run that goes on with fresh optimizer
/// state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoltOnWarmup {
    /// The schedule that the warmup leads back to.
    pub inner: Box<Schedule>,
    /// The rate is 0 before this step and leaves 0 from it on.
    #[serde(deserialize_with = "whole_number")]
    pub warmup_start: u64,
    /// From this step on the inner schedule holds.
    #[serde(deserialize_with = "whole_number")]
    pub warmup_end: u64,
}

impl Sequential {
    pub(super) fn at(&self, mut peak: f64, mut step: u64, mut max_steps: u64) -> f64 {
        let Some((last, firsts)) = self.schedulers.split_last() else { return peak };
        for (schedule, &length) in firsts.iter().zip(&self.schedulers_max) {
            if step <= length {
                return schedule.at(peak, step, max_steps.min(length));
            }
            peak = schedule.at(peak, length, length);
            step -= length;
            max_steps = max_steps.saturating_sub(length);
        }
        last.at(peak, step, max_steps)
    }

    pub(super) fn collect_problems(&self, mut peak: f64, problems: &mut Vec<String>) {
        let (n, n_lengths) = (self.schedulers.len(), self.schedulers_max.len());
        if n == 0 || n_lengths + 1 != n {
            problems.push(format!(
                "there are {n} schedulers with {n_lengths} schedulers_max, expected a length for each but the last"
            ));
            return;
        }
        for (i, schedule) in self.schedulers.iter().enumerate() {
            let mut own = Vec::new();
            schedule.collect_problems(peak, &mut own);
            problems.extend(own.into_iter().map(|problem| format!("schedulers[{i}]: {problem}")));
            if let Some(&length) = self.schedulers_max.get(i) {
                peak = schedule.at(peak, length, length);
            }
        }
    }
}

impl BoltOnWarmup {
    pub(super) fn at(&self, peak: f64, step: u64, max_steps: u64) -> f64 {
        let Self { inner, warmup_start, warmup_end } = self;
        if step < *warmup_start {
            0.0
        } else if step < *warmup_end {
            let at_end = inner.at(peak, *warmup_end, max_steps);
            at_end * (step - warmup_start) as f64 / (warmup_end - warmup_start) as f64
        } else {
            inner.at(peak, step, max_steps)
        }
    }

    pub(super) fn collect_problems(&self, peak: f64, problems: &mut Vec<String>) {
        let Self { inner, warmup_start, warmup_end } = self;
        if warmup_start > warmup_end {
            problems.push(format!(
                "warmup_start is {warmup_start}, after warmup_end, which is {warmup_end}"
            ));
        }
        inner.collect_problems(peak, problems);
    }
}
