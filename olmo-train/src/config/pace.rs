//! What a configuration says about one step: its learning rate and what its gradients may be.

use olmo_data::Batch;
use olmo_optim::{BoltOnWarmup, GradNormLimit, Schedule};
use serde::{Deserialize, Serialize};

use super::{OptimizerName, ScheduleUnits, TrainConfig};

/// Whose behaviour is followed where ours is another on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// The sound one.
    #[default]
    None,
    /// That of ai2-olmo 0.6.0, mistakes included:
    ///
    /// - losses are divided by all tokens of the batch, where only those with a label have one;
    /// - the z-loss's factor is 1e-4 whatever is configured;
    /// - the limit of the gradient norm is that of the step before, and in the first step knows no
    ///   warmup;
    /// - a warmup after the optimizer began anew is counted in steps, whatever the schedule is in;
    /// - adaptive clipping sees query, key and value as one parameter, and gate and up projection.
    Olmo,
    /// That of ai2-olmo-core 2.4.0, likewise:
    ///
    /// - losses are divided by the tokens of instances that the filter leaves out too, as if they had
    ///   a loss of 0;
    /// - a mixture is not filtered;
    /// - FLOPs, for MFU, are those of attention to all tokens of the instance.
    OlmoCore,
}

/// Where a run stands with a step it is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The step, from 1.
    pub step: u64,
    /// Tokens before it.
    pub tokens_before: u64,
    /// Tokens with it.
    pub tokens: u64,
}

/// The factor that ai2-olmo's z-loss has.
const OLMO_Z_LOSS: f64 = 1e-4;

impl TrainConfig {
    /// The learning rate of a step.
    pub fn learning_rate_at(&self, at: Position) -> f64 {
        let peak = self.optimizer.learning_rate * self.batch_rate_factor(at.tokens_before);
        let (now, end) = match self.scheduler.units {
            ScheduleUnits::Steps => (at.step, self.max_duration.steps),
            ScheduleUnits::Tokens => (at.tokens, self.max_tokens(at)),
        };
        self.scheduler.schedule.at(peak, now, end)
    }

    /// Tokens of the whole run, as they are known at a step.
    fn max_tokens(&self, at: Position) -> u64 {
        let plan = self.batch_plan();
        at.tokens + plan.tokens_of(self.max_duration.steps).saturating_sub(plan.tokens_of(at.step))
    }

    /// Where steps and tokens are on the schedule.
    pub(crate) fn schedule_place(&self, steps: u64, tokens: u64) -> u64 {
        match self.scheduler.units {
            ScheduleUnits::Steps => steps,
            // Whatever the units, the original counts steps there.
            ScheduleUnits::Tokens if self.compat == Compat::Olmo => steps,
            ScheduleUnits::Tokens => tokens,
        }
    }

    /// Puts a warmup into the schedule, from 0 to where it is once its own length has passed.
    pub(crate) fn bolt_on_warmup(&mut self, warmup_start: u64) {
        let end = match self.scheduler.units {
            ScheduleUnits::Steps => self.max_duration.steps,
            ScheduleUnits::Tokens => self.batch_plan().tokens_of(self.max_duration.steps),
        };
        let inner = self.scheduler.schedule.clone();
        let warmup_end = warmup_start + inner.warmup_length(end);
        self.scheduler.schedule = Schedule::BoltOnWarmup(BoltOnWarmup {
            inner: Box::new(inner),
            warmup_start,
            warmup_end,
        });
    }

    /// What is wrong with what is taken of a checkpoint.
    pub(super) fn load_problem(&self) -> Option<String> {
        let takes = !self.reset_optimizer_state || !self.reset_trainer_state;
        (takes && self.load_path.is_none()).then(|| {
            "reset_optimizer_state or reset_trainer_state is false, expected only with a load_path whose state is taken".to_owned()
        })
    }

    /// Whether a step lies behind the warmup of the learning rate.
    pub fn is_warm_at(&self, at: Position) -> bool {
        let warmup = |end| self.scheduler.schedule.warmup_length(end);
        match self.scheduler.units {
            ScheduleUnits::Steps => at.step > warmup(self.max_duration.steps),
            ScheduleUnits::Tokens => at.tokens > warmup(self.max_tokens(at)),
        }
    }

    /// The largest norm of all gradients together in a step.
    pub fn max_grad_norm_at(&self, at: Position) -> Option<f64> {
        self.max_grad_norm.map(|max_norm| self.limit_at(max_norm, at))
    }

    /// How many times its average the norm of one gradient may be in a step.
    pub fn max_grad_norm_ratio_at(&self, at: Position) -> Option<f64> {
        self.max_grad_norm_ratio.map(|ratio| self.limit_at(ratio, at))
    }

    fn limit_at(&self, limit: f64, at: Position) -> f64 {
        let (step, tokens) = match self.compat {
            Compat::None | Compat::OlmoCore => (at.step, at.tokens),
            // Limits are set after the gradients are clipped, for the step that follows.
            Compat::Olmo if at.step > 1 => (at.step - 1, at.tokens_before),
            Compat::Olmo => return limit,
        };
        let now = match self.scheduler.units {
            ScheduleUnits::Steps => step,
            ScheduleUnits::Tokens => tokens,
        };
        self.grad_norm_limit(limit).at(now)
    }

    /// The warmup of a limit.
    pub(super) fn grad_norm_limit(&self, limit: f64) -> GradNormLimit {
        GradNormLimit {
            max_norm: limit,
            warmup_steps: self.scheduler.grad_clip_warmup_steps,
            warmup_factor: self.scheduler.grad_clip_warmup_factor,
        }
    }

    /// Whether the norm of all gradients may be a spike: with `skip_step_adamw` only where they are
    /// clipped, as in OLMo-core (`TransformerTrainModule.optim_step`).
    pub(crate) fn judges_norm(&self) -> bool {
        let is_clipped = self.max_grad_norm.is_some() || self.max_grad_norm_ratio.is_some();
        is_clipped || self.optimizer.name != OptimizerName::SkipStepAdamw
    }

    /// Whether a step was skipped, as the metric has it: at every step where the optimizer skips some.
    pub(crate) fn step_skipped(&self, is_skipped: bool) -> Option<f64> {
        let is_told = is_skipped || self.optimizer.name == OptimizerName::SkipStepAdamw;
        is_told.then(|| f64::from(u8::from(is_skipped)))
    }

    /// The factor of the z-loss in the objective.
    pub fn z_loss_factor(&self) -> f64 {
        match self.compat {
            Compat::Olmo if self.z_loss > 0.0 => OLMO_Z_LOSS,
            _ => self.z_loss,
        }
    }

    /// What the summed losses of a batch are divided by, which has so many labels.
    pub fn loss_divisor(&self, n_labels: usize, batch: &Batch) -> f64 {
        match self.compat {
            Compat::None => n_labels as f64,
            Compat::Olmo => batch.tokens.len() as f64,
            Compat::OlmoCore => (n_labels + batch.n_filtered * batch.seq_len) as f64,
        }
    }

    /// The last step to be made by a process that begins after `start` steps.
    pub fn last_step(&self, start: u64) -> u64 {
        let stop_after = self.stop_after.map_or(u64::MAX, |n| start.saturating_add(n));
        self.max_duration.steps.min(self.stop_at.unwrap_or(u64::MAX)).min(stop_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    fn at(step: u64, tokens_per_step: u64) -> Position {
        let tokens = step * tokens_per_step;
        Position { step, tokens_before: tokens - tokens_per_step, tokens }
    }

    #[test]
    fn a_schedule_in_tokens_is_that_in_steps() {
        let steps = parse(&["scheduler={name: linear_with_warmup, t_warmup: 5}"]).expect("sound");
        let tokens =
            parse(&["scheduler={name: linear_with_warmup, units: tokens, t_warmup: 2560}"])
                .expect("sound");
        for step in 1..=20 {
            let [a, b] = [&steps, &tokens].map(|config| config.learning_rate_at(at(step, 512)));
            assert!((a - b).abs() <= 1e-15, "step {step}: {a:e} and {b:e}");
            assert_eq!(steps.is_warm_at(at(step, 512)), step > 5);
            assert_eq!(tokens.is_warm_at(at(step, 512)), step > 5);
        }
    }

    #[test]
    fn the_original_trainer_clips_by_the_limit_of_the_step_before() {
        let scheduler =
            "scheduler={name: constant, grad_clip_warmup_steps: 3, grad_clip_warmup_factor: 10}";
        let limits = |compat: &str| -> Vec<u64> {
            let config = parse(&[scheduler, "max_grad_norm=1", compat]).expect("sound");
            let limit = |step| config.max_grad_norm_at(at(step, 512)).expect("a limit") as u64;
            (1..=6).map(limit).collect()
        };
        assert_eq!(limits("compat=none"), [10, 10, 10, 1, 1, 1]);
        assert_eq!(limits("compat=olmo"), [1, 10, 10, 10, 1, 1]);
    }

    #[test]
    fn each_trainer_has_a_divisor_of_its_own_and_the_original_a_z_loss() {
        let batch = Batch { tokens: vec![0; 32], seq_len: 16, n_filtered: 1, ..Batch::default() };
        let config = parse(&["z_loss=1e-5", "compat=olmo"]).expect("sound");
        assert!((config.z_loss_factor() - 1e-4).abs() < 1e-18);
        assert!((config.loss_divisor(14, &batch) - 32.0).abs() < 1e-12);
        let config = parse(&["z_loss=1e-5"]).expect("sound");
        assert!((config.z_loss_factor() - 1e-5).abs() < 1e-18);
        assert!((config.loss_divisor(14, &batch) - 14.0).abs() < 1e-12);
        assert!(parse(&["compat=olmo"]).expect("sound").z_loss_factor().abs() < 1e-18);
        let config = parse(&["z_loss=1e-5", "compat=olmo_core"]).expect("sound");
        assert!((config.z_loss_factor() - 1e-5).abs() < 1e-18);
        assert!((config.loss_divisor(14, &batch) - 30.0).abs() < 1e-12);
    }

    #[test]
    fn steps_are_judged_by_their_norm_where_gradients_are_clipped() {
        let judges = |overrides: &[&str]| parse(overrides).expect("sound").judges_norm();
        assert!(judges(&[]) && judges(&["optimizer.name=skip_step_adamw", "max_grad_norm=1"]));
        assert!(!judges(&["optimizer.name=skip_step_adamw"]));
        let skipped = |name: &str, is_skipped| {
            parse(&[name]).expect("sound").step_skipped(is_skipped).map(|skipped| skipped > 0.5)
        };
        let names = ["optimizer.name=skip_step_adamw", "optimizer.name=adamw"];
        assert_eq!(names.map(|name| skipped(name, true)), [Some(true); 2]);
        assert_eq!(names.map(|name| skipped(name, false)), [Some(false), None]);
    }

    #[test]
    fn a_run_stops_where_it_is_told() {
        let last = |overrides: &[&str], start| parse(overrides).expect("sound").last_step(start);
        assert_eq!(last(&[], 0), 20);
        assert_eq!(last(&["stop_at=7"], 3), 7);
        assert_eq!(last(&["stop_after=7"], 3), 10);
        assert_eq!(last(&["stop_after=7", "stop_at=9"], 3), 9);
        assert_eq!(last(&["stop_at=30"], 0), 20);
    }
}
