//! Saving a run on the way and at its end.

use super::Trainer;
use crate::checkpoint::{Contents, Kept, STATE_VERSION, Saved, TrainState};
use crate::error::Error;
use crate::observer::Observer;

impl Trainer {
    /// Saves the step unless it is saved, once the save before is done.
    pub(super) fn begin_save(
        &mut self,
        kept: Kept,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        if let Some(saved) = self.saver.wait() {
            self.report_saved(saved, observer)?;
        }
        if self.saver.has(self.global_step) {
            return Ok(());
        }
        self.saver.begin(self.contents(kept))?;
        match self.saver.poll() {
            Some(saved) => self.report_saved(saved, observer),
            None => Ok(()),
        }
    }

    /// Where the run ends or stops there is no next save that could make up for this one.
    pub(super) fn save_at_the_end(&mut self, observer: &mut dyn Observer) -> Result<(), Error> {
        let rules = self.config.save_rules();
        let kept = rules.at(self.global_step, self.last_step).unwrap_or(Kept::Ephemeral);
        if let Some(saved) = self.saver.wait() {
            self.report_saved(saved, observer)?;
        }
        if !self.saver.has(self.global_step) {
            self.saver.begin(self.contents(kept))?;
            if let Some(saved) = self.saver.wait() {
                tell(&saved?, observer);
            }
        }
        Ok(())
    }

    pub(super) fn report_saved(
        &mut self,
        saved: Result<Saved, Error>,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let failed_before = std::mem::replace(&mut self.last_save_failed, saved.is_err());
        match saved {
            Ok(saved) => tell(&saved, observer),
            Err(error) if failed_before => return Err(error),
            Err(error) => observer.on_save_failed(&error),
        }
        Ok(())
    }

    /// The run as it is now, by handles.
    fn contents(&self, kept: Kept) -> Contents {
        let state = TrainState {
            version: STATE_VERSION,
            global_step: self.global_step,
            global_train_tokens_seen: self.total_tokens,
            loader: self.loader.state(),
            data: self.data.clone(),
            optimizer_steps: self.optimizer.steps().into_iter().collect(),
            grad_norm_exp_avg: self.averages.averages().clone(),
            spikes: self.faults.spikes(),
            warmup_start: self.warmup_start,
        };
        Contents {
            model: self.model().clone(),
            optimizer: self.optimizer.named_tensors(),
            state,
            special: self.config.special(),
            tokenizer: self.config.tokenizer.clone(),
            kept,
        }
    }
}

fn tell(saved: &Saved, observer: &mut dyn Observer) {
    observer.on_checkpoint(&saved.path);
    if let Some(error) = &saved.not_pruned {
        observer.on_prune_failed(error);
    }
}
