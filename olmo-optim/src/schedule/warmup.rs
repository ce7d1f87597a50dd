//! The straight line up to the peak, and the schedule that stays there.

use serde::{Deserialize, Serialize};

use super::extent::Extent;

/// The straight line up to the peak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// The step at which the peak is reached.
    pub t_warmup: Extent,
    /// The rate at step 0; `None` for a tenth of the peak.
    #[serde(default)]
    pub warmup_min_lr: Option<f64>,
}

impl Warmup {
    /// The rate while it rises, `None` from the peak on. `length` is that of the schedule, of which
    /// the warmup may be a part.
    pub(super) fn before_peak(&self, peak: f64, step: u64, length: u64) -> Option<f64> {
        let start = self.warmup_min_lr.unwrap_or(peak * 0.10);
        let t_warmup = self.t_warmup.of(length);
        (step < t_warmup).then(|| start + (peak - start) * step as f64 / t_warmup as f64)
    }

    pub(super) fn collect_problems(&self, peak: f64, problems: &mut Vec<String>) {
        self.t_warmup.collect_problems("t_warmup", problems);
        if let Some(start) = self.warmup_min_lr
            && !(0.0 <= start && start < peak)
        {
            problems.push(format!(
                "warmup_min_lr is {start}, expected at least 0 and below the peak rate {peak}"
            ));
        }
    }
}
