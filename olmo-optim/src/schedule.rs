//! The learning rate as a function of the step.
//!
//! The scheduler classes of OLMo olmo/optim.py. With step `s`, warmup `W`, end `T` (`t_max`, or the
//! length of the run) and final rate `e = alpha_f * lr`:
//!
//! ```text
//! warmup (s < W)               m + (lr - m) * s / W,  m = warmup_min_lr, or 0.1 * lr
//! cosine_with_warmup           e + (lr - e) * (1 + cos(pi * (s - W) / (T - W))) / 2,  e from T on
//! linear_with_warmup           lr - (lr - e) * (s - W) / (T - W),  e from T on
//! cosine_linear_envelope       e + (1 - x) * (lr - e) * (1 + cos(pi * x)) / 2,  x as in the cosine
//! inverse_sqrt_with_warmup     lr * sqrt(W / s)
//! max_scheduler                the larger of cosine and inverse square root
//! constant_with_warmup         lr
//! constant                     lr, without a warmup
//! bolt_on_warmup               0, then linear up to the inner schedule, then the inner schedule
//! ```
//!
//! Steps are plain numbers, so a schedule in tokens is the same schedule with tokens for steps. The
//! trainers count a step before they ask for its rate: the first step of a run is 1.

use std::f64::consts::PI;

use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;

/// A learning-rate schedule, named as in OLMo's configuration.
///
/// Serialized with the schedule's `name` beside its settings:
///
/// ```
/// use olmo_optim::Schedule;
///
/// let json = r#"{"name": "linear_with_warmup", "t_warmup": 5000, "alpha_f": 0.1}"#;
/// let schedule: Schedule = serde_json::from_str(json)?;
/// assert_eq!(schedule.at(3e-4, 5000, 500_000), 3e-4);
/// assert_eq!(schedule.at(3e-4, 500_000, 500_000), 3e-4 * 0.1);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Half a cosine from the peak to `alpha_f` times it.
    CosineWithWarmup(Decay),
    /// A straight line from the peak to `alpha_f` times it.
    LinearWithWarmup(Decay),
    /// The cosine multiplied by the line, for annealing.
    CosineLinearEnvelope(Decay),
    /// The inverse square root of the step; no end.
    InverseSqrtWithWarmup(Warmup),
    /// At each step the larger of [`Schedule::CosineWithWarmup`] and
    /// [`Schedule::InverseSqrtWithWarmup`].
    MaxScheduler(Decay),
    /// The peak after the warmup.
    ConstantWithWarmup(Warmup),
    /// The peak, from the first step on.
    Constant {},
    /// A second warmup in the middle of another schedule, for a run that goes on with fresh
    /// optimizer state.
    BoltOnWarmup {
        /// The schedule that the warmup leads back to.
        inner: Box<Schedule>,
        /// The rate is 0 before this step and leaves 0 from it on.
        #[serde(deserialize_with = "whole_number")]
        warmup_start: u64,
        /// From this step on the inner schedule holds.
        #[serde(deserialize_with = "whole_number")]
        warmup_end: u64,
    },
}

/// The straight line up to the peak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// The step at which the peak is reached.
    #[serde(deserialize_with = "whole_number")]
    pub t_warmup: u64,
    /// The rate at step 0; `None` for a tenth of the peak.
    #[serde(default)]
    pub warmup_min_lr: Option<f64>,
}

/// A warmup, then a way down to a final rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decay {
    /// The step at which the peak is reached.
    #[serde(deserialize_with = "whole_number")]
    pub t_warmup: u64,
    /// The step at which the final rate is reached; `None` for the end of the run.
    #[serde(default, deserialize_with = "optional_whole_number")]
    pub t_max: Option<u64>,
    /// The final rate is this times the peak.
    #[serde(default = "default_alpha_f")]
    pub alpha_f: f64,
    /// The rate at step 0; `None` for a tenth of the peak.
    #[serde(default)]
    pub warmup_min_lr: Option<f64>,
}

fn default_alpha_f() -> f64 {
    0.1
}

/// A count that may be written as a float, as OLMo's own configurations do: `t_max: 5e12`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Whole(u64),
    Float(f64),
}

impl Count {
    fn whole<E: serde::de::Error>(self) -> Result<u64, E> {
        match self {
            Self::Whole(n) => Ok(n),
            // Below 2^53 every whole float is one number of steps or tokens.
            Self::Float(x) if x.fract() == 0.0 && (0.0..9e15).contains(&x) => Ok(x as u64),
            Self::Float(x) => Err(E::custom(format!("{x} is not a number of steps or tokens"))),
        }
    }
}

fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Count::deserialize(deserializer)?.whole()
}

fn optional_whole_number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    Option::<Count>::deserialize(deserializer)?.map(Count::whole).transpose()
}

impl Schedule {
    /// The cosine of most OLMo runs: to a tenth of the peak at the end of the run.
    pub fn cosine_with_warmup(t_warmup: u64) -> Self {
        Self::CosineWithWarmup(Decay::new(t_warmup))
    }

    /// A straight line to a tenth of the peak at the end of the run.
    pub fn linear_with_warmup(t_warmup: u64) -> Self {
        Self::LinearWithWarmup(Decay::new(t_warmup))
    }

    /// Checks the settings against each other and against the peak rate.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with every problem found.
    pub fn validate(&self, initial_lr: f64) -> Result<(), Error> {
        let mut problems = Vec::new();
        if !(initial_lr.is_finite() && initial_lr > 0.0) {
            problems
                .push(format!("the peak rate is {initial_lr}, expected a finite number above 0"));
        }
        self.collect_problems(initial_lr, &mut problems);
        Error::unless_valid("schedule", problems)
    }

    fn collect_problems(&self, initial_lr: f64, problems: &mut Vec<String>) {
        match self {
            Self::CosineWithWarmup(decay)
            | Self::LinearWithWarmup(decay)
            | Self::CosineLinearEnvelope(decay) => decay.collect_problems(initial_lr, problems),
            Self::MaxScheduler(decay) => {
                decay.collect_problems(initial_lr, problems);
                collect_inverse_sqrt_problems(decay.t_warmup, problems);
            }
            Self::InverseSqrtWithWarmup(warmup) => {
                warmup.collect_problems(initial_lr, problems);
                collect_inverse_sqrt_problems(warmup.t_warmup, problems);
            }
            Self::ConstantWithWarmup(warmup) => warmup.collect_problems(initial_lr, problems),
            Self::Constant {} => {}
            Self::BoltOnWarmup { inner, warmup_start, warmup_end } => {
                if warmup_start > warmup_end {
                    problems.push(format!(
                        "warmup_start is {warmup_start}, after warmup_end, which is {warmup_end}"
                    ));
                }
                inner.collect_problems(initial_lr, problems);
            }
        }
    }

    /// The learning rate of a step.
    ///
    /// `initial_lr` is the peak, `max_steps` the length of the run. `step` and `max_steps` may both
    /// count tokens instead. The first step of a run is 1.
    pub fn at(&self, initial_lr: f64, step: u64, max_steps: u64) -> f64 {
        match self {
            Self::CosineWithWarmup(decay) => decay.at(initial_lr, step, max_steps, cosine),
            Self::LinearWithWarmup(decay) => decay.at(initial_lr, step, max_steps, linear),
            Self::CosineLinearEnvelope(decay) => decay.at(initial_lr, step, max_steps, envelope),
            Self::MaxScheduler(decay) => {
                let cosine = decay.at(initial_lr, step, max_steps, cosine);
                cosine.max(inverse_sqrt(&decay.warmup(), initial_lr, step))
            }
            Self::InverseSqrtWithWarmup(warmup) => inverse_sqrt(warmup, initial_lr, step),
            Self::ConstantWithWarmup(warmup) => {
                warmup.before_peak(initial_lr, step).unwrap_or(initial_lr)
            }
            Self::Constant {} => initial_lr,
            Self::BoltOnWarmup { inner, warmup_start, warmup_end } => {
                if step < *warmup_start {
                    0.0
                } else if step < *warmup_end {
                    let peak = inner.at(initial_lr, *warmup_end, max_steps);
                    peak * (step - warmup_start) as f64 / (warmup_end - warmup_start) as f64
                } else {
                    inner.at(initial_lr, step, max_steps)
                }
            }
        }
    }
}

impl Warmup {
    /// The rate while it rises, `None` from the peak on.
    fn before_peak(&self, initial_lr: f64, step: u64) -> Option<f64> {
        let start = self.warmup_min_lr.unwrap_or(initial_lr * 0.10);
        (step < self.t_warmup)
            .then(|| start + (initial_lr - start) * step as f64 / self.t_warmup as f64)
    }

    fn collect_problems(&self, initial_lr: f64, problems: &mut Vec<String>) {
        if let Some(start) = self.warmup_min_lr
            && !(0.0 <= start && start < initial_lr)
        {
            problems.push(format!(
                "warmup_min_lr is {start}, expected at least 0 and below the peak rate {initial_lr}"
            ));
        }
    }
}

impl Decay {
    /// A decay to a tenth of the peak at the end of the run, after a warmup from a tenth.
    pub fn new(t_warmup: u64) -> Self {
        Self { t_warmup, t_max: None, alpha_f: default_alpha_f(), warmup_min_lr: None }
    }

    /// The rate of a step, with `shape(peak, final rate, steps since the peak, steps of decay)` for
    /// the way down.
    fn at(
        &self,
        initial_lr: f64,
        step: u64,
        max_steps: u64,
        shape: fn(f64, f64, f64, f64) -> f64,
    ) -> f64 {
        let end = self.t_max.unwrap_or(max_steps);
        let final_lr = initial_lr * self.alpha_f;
        if let Some(rising) = self.warmup().before_peak(initial_lr, step) {
            rising
        } else if step >= end {
            final_lr
        } else {
            let (since_peak, length) = (step - self.t_warmup, end - self.t_warmup);
            shape(initial_lr, final_lr, since_peak as f64, length as f64)
        }
    }

    fn warmup(&self) -> Warmup {
        Warmup { t_warmup: self.t_warmup, warmup_min_lr: self.warmup_min_lr }
    }

    fn collect_problems(&self, initial_lr: f64, problems: &mut Vec<String>) {
        self.warmup().collect_problems(initial_lr, problems);
        if !(self.alpha_f.is_finite() && self.alpha_f >= 0.0) {
            problems
                .push(format!("alpha_f is {}, expected a finite number, 0 or more", self.alpha_f));
        }
        if let Some(t_max) = self.t_max
            && t_max < self.t_warmup
        {
            problems.push(format!(
                "t_max is {t_max}, before the end of the warmup, t_warmup {}",
                self.t_warmup
            ));
        }
    }
}

fn collect_inverse_sqrt_problems(t_warmup: u64, problems: &mut Vec<String>) {
    if t_warmup == 0 {
        problems.push("t_warmup is 0, and so is the rate of an inverse square root".to_owned());
    }
}

fn cosine(initial_lr: f64, final_lr: f64, since_peak: f64, length: f64) -> f64 {
    final_lr + (initial_lr - final_lr) * (1.0 + (PI * since_peak / length).cos()) / 2.0
}

fn linear(initial_lr: f64, final_lr: f64, since_peak: f64, length: f64) -> f64 {
    initial_lr - (initial_lr - final_lr) * (since_peak / length)
}

fn envelope(initial_lr: f64, final_lr: f64, since_peak: f64, length: f64) -> f64 {
    let falling = (initial_lr - final_lr) * (1.0 + (PI * since_peak / length).cos()) / 2.0;
    final_lr + (1.0 - since_peak / length) * falling
}

fn inverse_sqrt(warmup: &Warmup, initial_lr: f64, step: u64) -> f64 {
    warmup.before_peak(initial_lr, step).unwrap_or_else(|| {
        // Step 0 of a schedule without warmup, which `validate` refuses.
        let since = warmup.t_warmup.max(step).max(1);
        initial_lr * (warmup.t_warmup as f64 / since as f64).sqrt()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_round_trip_with_their_name() {
        let schedule = Schedule::BoltOnWarmup {
            inner: Box::new(Schedule::cosine_with_warmup(7)),
            warmup_start: 3,
            warmup_end: 9,
        };
        let json = serde_json::to_string(&schedule).unwrap();
        assert!(
            json.starts_with(r#"{"name":"bolt_on_warmup","inner":{"name":"cosine_with_warmup""#)
        );
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
        assert_eq!(
            serde_json::from_str::<Schedule>(r#"{"name":"constant"}"#).unwrap(),
            Schedule::Constant {}
        );
    }

    #[test]
    fn unknown_settings_are_errors() {
        for json in [
            r#"{"name":"cosine_with_warmup","t_warmup":5,"t_end":9}"#,
            r#"{"name":"cosine","t_warmup":5}"#,
            r#"{"name":"cosine_with_warmup","t_warmup":-5}"#,
            r#"{"name":"cosine_with_warmup","t_warmup":0.5}"#,
            r#"{"name":"cosine_with_warmup","t_warmup":1e300}"#,
            r#"{"name":"constant","t_warmup":5}"#,
            r#"{"name":"constant_with_warmup","t_warmup":5,"alpha_f":0.1}"#,
        ] {
            assert!(serde_json::from_str::<Schedule>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn counts_may_be_written_as_floats() {
        let json = r#"{"name":"cosine_with_warmup","t_warmup":8.388608e9,"t_max":5e12}"#;
        let expected = Decay { t_max: Some(5_000_000_000_000), ..Decay::new(8_388_608_000) };
        assert_eq!(
            serde_json::from_str::<Schedule>(json).unwrap(),
            Schedule::CosineWithWarmup(expected)
        );
    }

    #[test]
    fn every_problem_is_listed() {
        let schedule = Schedule::MaxScheduler(Decay {
            t_warmup: 0,
            t_max: None,
            alpha_f: f64::NAN,
            warmup_min_lr: Some(1.0),
        });
        let Err(Error::Invalid { problems, .. }) = schedule.validate(1e-3) else {
            panic!("the settings are invalid");
        };
        assert_eq!(problems.len(), 3, "{problems:?}");

        let late = Schedule::CosineWithWarmup(Decay { t_max: Some(9), ..Decay::new(10) });
        assert!(late.validate(1e-3).unwrap_err().to_string().contains("t_max is 9"));
        assert!(Schedule::Constant {}.validate(0.0).is_err());
        assert_eq!(Schedule::linear_with_warmup(10).validate(1e-3), Ok(()));
    }
}
