//! What a configuration says about the sizes of batches.

use olmo_data::BatchOrder;
use olmo_optim::{BatchPlan, RateAdjustment};

use super::{OptimizerName, TrainConfig};
use crate::error::Error;
use crate::step::ActivationCosts;

impl TrainConfig {
    /// Tokens in one step; in the first where the batch grows.
    pub fn tokens_per_step(&self) -> u64 {
        self.global_train_batch_size as u64 * self.data.sequence_length as u64
    }

    /// What the activations of a micro-batch take.
    pub fn activation_costs(&self) -> ActivationCosts {
        let rows = self.device_train_microbatch_size;
        let n_tokens = rows.saturating_mul(self.data.sequence_length);
        ActivationCosts::new(&self.model, n_tokens, self.precision)
    }

    /// The sizes of the run's batches.
    pub fn batch_plan(&self) -> BatchPlan {
        let seq = self.data.sequence_length;
        BatchPlan::new(self.global_train_batch_size, seq, self.batch_size_warmup.as_ref())
    }

    /// What the learning rate is multiplied by for the batch of a step that begins after
    /// `tokens_before` tokens.
    pub fn batch_rate_factor(&self, tokens_before: u64) -> f64 {
        match self.batch_size_warmup.as_ref().map(olmo_optim::BatchWarmup::learning_rate) {
            None | Some(RateAdjustment::Keep) => 1.0,
            Some(RateAdjustment::Sqrt) => {
                let size = self.batch_plan().batch_size(tokens_before);
                (size as f64 / self.global_train_batch_size as f64).sqrt()
            }
        }
    }

    /// Checks that batches grow where the order of `n_instances` instances allows it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where a batch of OLMo-core's order grows after the first epoch: batches there
    /// have their places in an epoch, and a larger one might begin between two.
    pub(crate) fn check_growth(&self, n_instances: usize) -> Result<(), Error> {
        if self.batch_size_warmup.is_none() || self.data.batch_order() == BatchOrder::Olmo {
            return Ok(());
        }
        let plan = self.batch_plan();
        let seq = self.data.sequence_length as u64;
        for pair in plan.stages().windows(2) {
            let (size, seen) = (pair[0].batch_size, pair[1].tokens_before / seq.max(1));
            let of_epoch = n_instances - n_instances % size.max(1);
            if seen > of_epoch as u64 {
                return Err(Error::Config {
                    origin: "batch_size_warmup".to_owned(),
                    message: format!(
                        "the batch grows to {} after {seen} instances, expected within the first epoch of {of_epoch} with data.order: olmo_core",
                        pair[1].batch_size
                    ),
                });
            }
        }
        Ok(())
    }

    /// What is wrong with the warm-up of the batch.
    pub(super) fn batch_problems(&self) -> Vec<String> {
        let Some(warmup) = &self.batch_size_warmup else { return Vec::new() };
        let first = self.global_train_batch_size;
        let mut problems: Vec<String> =
            warmup.validate(first).err().map(|e| e.to_string()).into_iter().collect();
        if matches!(self.data.batch_order(), BatchOrder::OlmoCoreVsl { .. }) {
            problems.push(
                "batch_size_warmup is there, expected none with instances of several lengths, whose order depends on the batch".to_owned(),
            );
        }
        let is_adam = [OptimizerName::Adamw, OptimizerName::SkipStepAdamw];
        if warmup.learning_rate() == RateAdjustment::Sqrt && !is_adam.contains(&self.optimizer.name)
        {
            problems.push(
                "batch_size_warmup.learning_rate is sqrt, which is Adam's rule, expected keep with another optimizer".to_owned(),
            );
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::parse;

    const GROWING: &str =
        "batch_size_warmup={name: by_factor, factor: 2, every: 2048, max_batch_size: 32}";

    #[test]
    fn durations_and_rates_go_by_the_stages() {
        // 4 steps of 512 tokens, 2 of 1024, then 2048.
        let config = parse(&[GROWING, "max_duration=10e3T"]).expect("sound");
        assert_eq!(config.max_duration.steps, 4 + 2 + 3);
        assert_eq!(config.batch_plan().tokens_of(9), 10_240);
        let factor = |tokens| config.batch_rate_factor(tokens);
        assert!((factor(2047) - 1.0).abs() < 1e-15 && (factor(4096) - 2.0).abs() < 1e-15);
        let kept = parse(&[
            "batch_size_warmup={name: by_factor, factor: 2, every: 2048, max_batch_size: 32, learning_rate: keep}",
        ]);
        assert!((kept.expect("sound").batch_rate_factor(4096) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn marks_may_be_parts_of_the_run() {
        let plan = |overrides: &[&str]| {
            let stages = parse(overrides).expect("sound").batch_plan().stages().to_vec();
            stages.iter().map(|stage| (stage.steps_before, stage.batch_size)).collect::<Vec<_>>()
        };
        let every = "batch_size_warmup={name: by_factor, factor: 2, every: {fraction: 0.25}, max_batch_size: 32}";
        assert_eq!(plan(&[every, "max_duration=8192T"]), [(0, 8), (4, 16), (6, 32)]);
        let marks = "batch_size_warmup={name: at_marks, batch_sizes: [8, 16], schedule: [0, {fraction: 0.1}], units: steps}";
        assert_eq!(plan(&[marks]), [(0, 8), (2, 16)]);
        let message = |overrides: &[&str]| parse(overrides).expect_err("wrong").to_string();
        assert!(message(&[every]).contains("expected max_duration in tokens"));
        assert!(message(&[marks, "max_duration=1e4T"]).contains("max_duration in steps"));
        let beyond = message(&[&every.replace("0.25", "x"), "max_duration=8192T"]);
        assert!(beyond.contains("batch_size_warmup") && beyond.contains("fraction"), "{beyond}");
    }

    #[test]
    fn what_cannot_grow_is_refused() {
        let message = |overrides: &[&str]| parse(overrides).expect_err("wrong").to_string();
        assert!(message(&[GROWING, "optimizer.name=lionw"]).contains("expected keep"));
        assert!(message(&[GROWING, "global_train_batch_size=12"]).contains("a power of 2"));
        assert!(message(&[GROWING, "max_duration=2ep"]).contains("expected steps or tokens"));
        let marks = "batch_size_warmup={name: at_marks, batch_sizes: [8, 12], schedule: [0]}";
        let message = message(&[marks]);
        assert!(message.contains("multiple of the one before") && message.contains("as many"));
    }

    #[test]
    fn in_the_order_of_olmo_core_batches_grow_in_the_first_epoch() {
        let config = parse(&[GROWING, "data.order=olmo_core"]).expect("sound");
        config.check_growth(64).expect("both marks are within");
        let error = config.check_growth(63).expect_err("the second is not").to_string();
        assert!(error.contains("after 64 instances") && error.contains("of 48"), "{error}");
        parse(&[GROWING]).expect("sound").check_growth(63).expect("any order of the original");
    }
}
