//! A batch that grows in the course of a run.
//!
//! Matches `BatchSizeSchedulerCallback` of ai2-olmo-core 2.4.0 where batches grow: before a step, the
//! last mark that is reached says how large the batch should be. Each size is a multiple of the one
//! before, and the larger one begins as soon as the instances seen are whole batches of it, so that
//! the order of instances stays and they are only grouped otherwise. With each size the learning rate
//! is multiplied by `sqrt(new / old)`, unless it is to be kept.
//!
//! Differences: batches do not shrink; and all stages are known before the run begins, so that its
//! length in steps is too, and a schedule in steps is sound with them, which OLMo-core refuses.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::schedule::{whole_number, whole_numbers};

/// How the batch of a run grows.
///
/// ```
/// use olmo_optim::{BatchPlan, BatchWarmup};
///
/// // As planned for OLMo 65B: 2 million tokens, twice as many every 100 billion, up to 16 million.
/// let yaml = r#"{"name": "by_factor", "factor": 2, "every": 100e9, "max_batch_size": 8192}"#;
/// let warmup: BatchWarmup = serde_json::from_str(yaml)?;
/// let plan = BatchPlan::new(1024, 2048, Some(&warmup));
/// let sizes: Vec<usize> = plan.stages().iter().map(|stage| stage.batch_size).collect();
/// assert_eq!(sizes, [1024, 2048, 4096, 8192]);
/// assert_eq!(plan.batch_size(350_000_000_000), 8192);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum BatchWarmup {
    /// Each size from a mark of its own on.
    AtMarks {
        /// Instances of a batch, in order; the first is that of the configuration.
        batch_sizes: Vec<usize>,
        /// Where each begins, the first at 0.
        #[serde(deserialize_with = "whole_numbers")]
        schedule: Vec<u64>,
        /// What marks are counted in.
        #[serde(default)]
        units: BatchUnits,
        /// What becomes of the learning rate.
        #[serde(default)]
        learning_rate: RateAdjustment,
    },
    /// So many times as large after every so many tokens.
    ByFactor {
        /// How many times.
        factor: usize,
        /// After how many tokens, or steps.
        #[serde(deserialize_with = "whole_number")]
        every: u64,
        /// The size at which it stays.
        max_batch_size: usize,
        /// What `every` is counted in.
        #[serde(default)]
        units: BatchUnits,
        /// What becomes of the learning rate.
        #[serde(default)]
        learning_rate: RateAdjustment,
    },
}

/// What marks are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchUnits {
    /// Tokens that the run has seen.
    #[default]
    Tokens,
    /// Steps that it has made.
    Steps,
}

/// What becomes of the learning rate where a batch grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateAdjustment {
    /// It grows with the square root of the batch, as Adam's may (arXiv 2205.10287).
    #[default]
    Sqrt,
    /// Nothing.
    Keep,
}

impl BatchWarmup {
    /// What becomes of the learning rate.
    pub fn learning_rate(&self) -> RateAdjustment {
        match self {
            Self::AtMarks { learning_rate, .. } | Self::ByFactor { learning_rate, .. } => {
                *learning_rate
            }
        }
    }

    /// Checks the settings for a run that begins with batches of `first` instances.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with every problem found.
    pub fn validate(&self, first: usize) -> Result<(), Error> {
        let mut problems = Vec::new();
        match self {
            Self::AtMarks { batch_sizes: sizes, schedule, .. } => {
                if sizes.len() != schedule.len() {
                    let (sizes, marks) = (sizes.len(), schedule.len());
                    problems.push(format!(
                        "batch_sizes has {sizes} items and schedule {marks}, expected as many"
                    ));
                }
                if sizes.first() != Some(&first) {
                    problems.push(format!(
                        "batch_sizes is {sizes:?}, expected its first to be global_train_batch_size = {first}"
                    ));
                }
                let grows = |pair: &[usize]| pair[0] < pair[1] && pair[1].is_multiple_of(pair[0]);
                if sizes.contains(&0) || !sizes.windows(2).all(grows) {
                    problems.push(format!(
                        "batch_sizes is {sizes:?}, expected each to be a multiple of the one before, and larger"
                    ));
                }
                if schedule.first() != Some(&0) || !schedule.is_sorted_by(|a, b| a < b) {
                    problems.push(format!(
                        "schedule is {schedule:?}, expected marks that begin at 0 and grow"
                    ));
                }
            }
            Self::ByFactor { factor, every, max_batch_size: max, .. } => {
                if *factor < 2 {
                    problems.push(format!("factor is {factor}, expected at least 2"));
                }
                if *every == 0 {
                    problems.push("every is 0, expected at least 1".to_owned());
                }
                let mut size = first.max(1);
                while *factor >= 2 && size < *max {
                    size = size.saturating_mul(*factor);
                }
                if *factor >= 2 && (size != *max || *max <= first) {
                    problems.push(format!(
                        "max_batch_size is {max}, expected global_train_batch_size = {first} times a power of {factor}"
                    ));
                }
            }
        }
        Error::unless_valid("batch_size_warmup", problems)
    }

    fn units(&self) -> BatchUnits {
        match self {
            Self::AtMarks { units, .. } | Self::ByFactor { units, .. } => *units,
        }
    }

    /// Each size after the first, and its mark.
    fn marks(&self, first: usize) -> Vec<(u64, usize)> {
        match self {
            Self::AtMarks { batch_sizes, schedule, .. } => {
                schedule.iter().copied().zip(batch_sizes.iter().copied()).skip(1).collect()
            }
            Self::ByFactor { factor, every, max_batch_size, .. } => {
                let sizes = std::iter::successors(first.checked_mul(*factor), |size| {
                    size.checked_mul(*factor)
                });
                // A factor that is not sound must not go on for ever.
                let sizes = sizes.take_while(|size| size <= max_batch_size).take(64);
                (1..).map(|i: u64| i.saturating_mul(*every)).zip(sizes).collect()
            }
        }
    }
}

/// Steps of a run that have batches of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BatchStage {
    /// Steps before it.
    pub steps_before: u64,
    /// Tokens before it.
    pub tokens_before: u64,
    /// Instances of a batch.
    pub batch_size: usize,
    /// Tokens of a batch.
    pub batch_tokens: u64,
}

/// The sizes of a run's batches, from its first step on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPlan {
    /// In order; the first begins with the run, the last has no end.
    stages: Vec<BatchStage>,
}

impl BatchPlan {
    /// The plan of a run with instances of `sequence_length` tokens whose batches begin with `first`
    /// instances, and grow by a warm-up that is [sound](BatchWarmup::validate) or not at all.
    pub fn new(first: usize, sequence_length: usize, warmup: Option<&BatchWarmup>) -> Self {
        let stage = |steps_before, tokens_before, batch_size: usize| {
            let batch_tokens = (batch_size as u64).saturating_mul(sequence_length as u64);
            BatchStage { steps_before, tokens_before, batch_size, batch_tokens }
        };
        let mut stages = vec![stage(0, 0, first)];
        let Some(warmup) = warmup else { return Self { stages } };
        let marks = warmup.marks(first);
        for (i, (mark, size)) in marks.iter().enumerate() {
            let last = stages[stages.len() - 1];
            let begin = |mark| last.begin_of_next(mark, *size, warmup.units());
            let (steps, tokens) = begin(*mark);
            // One that waits so long that the next mark is reached is passed over.
            let next = marks.get(i + 1).map(|(mark, _)| match warmup.units() {
                BatchUnits::Steps => steps >= *mark,
                BatchUnits::Tokens => tokens >= *mark,
            });
            if next != Some(true) {
                stages.push(stage(steps, tokens, *size));
            }
        }
        Self { stages }
    }

    /// The stages, in order.
    pub fn stages(&self) -> &[BatchStage] {
        &self.stages
    }

    /// Instances of the batch of the step before which the run has seen `tokens_before` tokens.
    pub fn batch_size(&self, tokens_before: u64) -> usize {
        self.stage_at(|stage| stage.tokens_before <= tokens_before).batch_size
    }

    /// Tokens of the first `steps` steps.
    pub fn tokens_of(&self, steps: u64) -> u64 {
        let stage = self.stage_at(|stage| stage.steps_before <= steps);
        let further = (steps - stage.steps_before).saturating_mul(stage.batch_tokens);
        stage.tokens_before.saturating_add(further)
    }

    /// Steps with which `tokens` tokens are reached.
    pub fn steps_for(&self, tokens: u64) -> u64 {
        let stage = self.stage_at(|stage| stage.tokens_before <= tokens);
        let further = (tokens - stage.tokens_before).div_ceil(stage.batch_tokens.max(1));
        stage.steps_before + further
    }

    /// Steps of a run that goes on after `from` tokens until `to` are reached, whether or not its steps
    /// so far were those of the plan.
    pub fn steps_between(&self, from: u64, to: u64) -> u64 {
        let (mut steps, mut at) = (0_u64, from);
        while at < to {
            let begun = self.stages.partition_point(|stage| stage.tokens_before <= at).max(1);
            let end = self.stages.get(begun).map_or(to, |next| next.tokens_before.min(to));
            let per_step = self.stages[begun - 1].batch_tokens.max(1);
            let n = (end - at).div_ceil(per_step);
            steps = steps.saturating_add(n);
            at = at.saturating_add(n.saturating_mul(per_step));
        }
        steps
    }

    /// The last stage that has begun; the first always has.
    fn stage_at(&self, has_begun: impl FnMut(&BatchStage) -> bool) -> BatchStage {
        self.stages[self.stages.partition_point(has_begun).max(1) - 1]
    }
}

impl BatchStage {
    /// Steps and tokens before the first step at which a mark is reached and the instances seen are
    /// whole batches of `size`.
    fn begin_of_next(&self, mark: u64, size: usize, units: BatchUnits) -> (u64, u64) {
        let per_step = self.batch_tokens.max(1);
        let steps = match units {
            BatchUnits::Steps => mark.saturating_sub(self.steps_before),
            BatchUnits::Tokens => mark.saturating_sub(self.tokens_before).div_ceil(per_step),
        };
        // What was seen before the stage are whole batches of it, and `size` is a multiple of one.
        let seen = self.tokens_before / per_step + steps;
        let factor = (size / self.batch_size.max(1)).max(1) as u64;
        let steps = steps + (seen.next_multiple_of(factor) - seen);
        (
            self.steps_before + steps,
            self.tokens_before.saturating_add(steps.saturating_mul(per_step)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_marks(batch_sizes: &[usize], schedule: &[u64], units: BatchUnits) -> BatchWarmup {
        let (batch_sizes, schedule) = (batch_sizes.to_vec(), schedule.to_vec());
        BatchWarmup::AtMarks { batch_sizes, schedule, units, learning_rate: RateAdjustment::Sqrt }
    }

    #[test]
    fn steps_tokens_and_sizes_tell_the_same() {
        for warmup in [
            at_marks(&[2, 4, 8, 16], &[0, 48, 96, 200], BatchUnits::Tokens),
            at_marks(&[2, 6, 12], &[0, 4, 9], BatchUnits::Steps),
            at_marks(&[2, 16, 32], &[0, 5, 7], BatchUnits::Steps),
        ] {
            warmup.validate(2).unwrap();
            let plan = BatchPlan::new(2, 4, Some(&warmup));
            for step in 0..60 {
                let (before, after) = (plan.tokens_of(step), plan.tokens_of(step + 1));
                assert_eq!(after - before, 4 * plan.batch_size(before) as u64, "{warmup:?}");
                assert_eq!(before % (after - before), 0, "whole batches came before");
                assert_eq!(plan.steps_for(before), step);
                assert_eq!(plan.steps_for(before + 1), step + 1);
                assert_eq!(plan.steps_between(before, plan.tokens_of(60)), 60 - step);
                assert_eq!(plan.steps_between(before + 1, before), 0);
            }
        }
        let plan = BatchPlan::new(8, 16, None);
        assert_eq!((plan.stages().len(), plan.tokens_of(10), plan.steps_for(1281)), (1, 1280, 11));
    }

    #[test]
    fn a_size_that_waits_too_long_is_passed_over() {
        let warmup = at_marks(&[1, 8, 16], &[0, 5, 7], BatchUnits::Steps);
        let plan = BatchPlan::new(1, 1, Some(&warmup));
        let stages: Vec<_> = plan.stages().iter().map(|s| (s.steps_before, s.batch_size)).collect();
        assert_eq!(stages, [(0, 1), (16, 16)]);
    }

    #[test]
    fn what_is_not_sound_is_named_and_ends() {
        let problems = |warmup: &BatchWarmup| warmup.validate(8).unwrap_err().to_string();
        assert!(problems(&at_marks(&[8, 4], &[0, 5], BatchUnits::Tokens)).contains("and larger"));
        assert!(problems(&at_marks(&[4, 8], &[0, 5], BatchUnits::Tokens)).contains("= 8"));
        assert!(problems(&at_marks(&[8, 16], &[1, 5], BatchUnits::Tokens)).contains("begin at 0"));
        let by_factor = |factor| BatchWarmup::ByFactor {
            factor,
            every: 0,
            max_batch_size: 24,
            units: BatchUnits::Tokens,
            learning_rate: RateAdjustment::Keep,
        };
        let all = problems(&by_factor(2));
        assert!(all.contains("every is 0") && all.contains("a power of 2"), "{all}");
        assert!(problems(&by_factor(1)).contains("factor is 1"));
        BatchPlan::new(8, 16, Some(&by_factor(1)));
        BatchPlan::new(0, 0, Some(&by_factor(0)));
    }
}
