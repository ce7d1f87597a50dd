//! Measuring a run on the way: when, what by the trainer, what by who watches it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Trainer;
use crate::error::Error;
use crate::observer::Observer;

impl Trainer {
    /// Measures what the run goes on from, once, where the configuration says so, or where the run was
    /// stopped while it measured.
    pub(super) fn measure_on_load(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        if !std::mem::take(&mut self.measures_on_load) || self.global_step == 0 {
            return Ok(());
        }
        let scores = self.measure(observer, stop)?;
        if !scores.is_empty() {
            self.metrics.amend(self.global_step, &scores)?;
            observer.on_scores(self.global_step, &scores);
        }
        Ok(())
    }

    /// Measures the model where the step is one of `eval_interval`, or the last.
    pub(super) fn measure_if_due(
        &self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<BTreeMap<String, f64>, Error> {
        if is_due(self.config.eval_interval, self.global_step, self.last_step) {
            self.measure(observer, stop)
        } else {
            Ok(BTreeMap::new())
        }
    }

    /// The scores of all sets; none where `stop` is set on the way: the run then saves, and measures when
    /// it goes on.
    fn measure(
        &self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<BTreeMap<String, f64>, Error> {
        let (step, model) = (self.global_step, self.model());
        let failed = |source| Error::Evaluation { step, source };
        let of_tokens = self.sets.measure(model, stop).map_err(|error| failed(error.into()))?;
        let Some(mut scores) = of_tokens else { return Ok(BTreeMap::new()) };
        scores.extend(observer.evaluate(step, model).map_err(failed)?);
        Ok(if stop.load(Ordering::Relaxed) { BTreeMap::new() } else { scores })
    }
}

/// Whether a step is one of `eval_interval`, or the last.
pub(super) fn is_due(eval_interval: Option<u64>, step: u64, last_step: u64) -> bool {
    eval_interval.is_some_and(|interval| step.is_multiple_of(interval) || step == last_step)
}
