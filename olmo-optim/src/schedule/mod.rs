//! The learning rate as a function of the step.
//!
//! The scheduler classes of OLMo olmo/optim.py and of OLMo-core optim/scheduler.py. With step `s`,
//! warmup `W`, end `T` (`t_max`, or the length of the run), final rate `e = alpha_f * lr`, and
//! `x = (s - W) / (T - W)`:
//!
//! ```text
//! warmup (s < W)               m + (lr - m) * s / W,  m = warmup_min_lr, or 0.1 * lr
//! cosine_with_warmup           e + (lr - e) * (1 + cos(pi * x)) / 2,  e from T on
//! linear_with_warmup           lr - (lr - e) * x,  e from T on
//! cosine_linear_envelope       e + (1 - x) * (lr - e) * (1 + cos(pi * x)) / 2
//! half_cosine_with_warmup      the second half of a cosine that is twice as long
//! inverse_sqrt_with_warmup     e + (lr - e) * sqrt(W / s)
//! power_with_warmup            e + (lr - e) * (W / s)^exponent
//! max_scheduler                the larger of cosine and inverse square root
//! constant_with_warmup         lr
//! constant                     lr, without a warmup
//! wsd                          lr, then a line down over the last t_decay of the run
//! wsds                         the same in periods
//! cosine_then_linear           the cosine, left by a line down over the last t_decay of the run
//! sequential                   one schedule after another
//! bolt_on_warmup               0, then linear up to the inner schedule, then the inner schedule
//! ```
//!
//! Steps are plain numbers, so a schedule in tokens is the same schedule with tokens for steps. The
//! trainers count a step before they ask for its rate: the first step of a run is 1.
//!
//! Where both trainers have a schedule it is here once. They differ in defaults: where
//! `warmup_min_lr` is not given, the original trainer begins at a tenth of the peak, OLMo-core at 0.
//! Here the schedules of the original trainer have its default and those that only OLMo-core has
//! have 0. Beyond the end of the run OLMo-core's lines go on below 0; here they stay.

mod decay;
mod extent;
mod joined;
mod power;
mod stable;
mod warmup;

use serde::{Deserialize, Serialize};

use crate::Error;

pub use decay::Decay;
pub use extent::Extent;
pub(crate) use extent::{whole_number, whole_numbers};
pub use joined::{BoltOnWarmup, Sequential};
pub use power::{InverseSqrt, Power};
pub use stable::{CosineThenLinear, StableDecay, StablePeriods};
pub use warmup::Warmup;

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
    /// The second half of a cosine whose peak is given, after a warmup to its middle.
    HalfCosineWithWarmup(Decay),
    /// The inverse square root of the step; no end.
    InverseSqrtWithWarmup(InverseSqrt),
    /// Another power of the step; no end.
    PowerWithWarmup(Power),
    /// At each step the larger of [`Schedule::CosineWithWarmup`] and
    /// [`Schedule::InverseSqrtWithWarmup`].
    MaxScheduler(Decay),
    /// The peak after the warmup.
    ConstantWithWarmup(Warmup),
    /// The peak, from the first step on.
    Constant {},
    /// Warmup, peak, decay.
    Wsd(StableDecay),
    /// The same in periods, for a run that goes on.
    Wsds(StablePeriods),
    /// A cosine cut short by a straight line.
    CosineThenLinear(CosineThenLinear),
    /// One schedule after another.
    Sequential(Sequential),
    /// A second warmup inside another schedule.
    BoltOnWarmup(BoltOnWarmup),
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
            | Self::CosineLinearEnvelope(decay)
            | Self::HalfCosineWithWarmup(decay) => decay.collect_problems(initial_lr, problems),
            Self::MaxScheduler(decay) => {
                decay.collect_problems(initial_lr, problems);
                power::collect_warmup_problem(decay.t_warmup, problems);
            }
            Self::InverseSqrtWithWarmup(root) => root.collect_problems(initial_lr, problems),
            Self::PowerWithWarmup(power) => power.collect_problems(initial_lr, problems),
            Self::ConstantWithWarmup(warmup) => warmup.collect_problems(initial_lr, problems),
            Self::Constant {} => {}
            Self::Wsd(stable) => stable.collect_problems(initial_lr, problems),
            Self::Wsds(periods) => periods.collect_problems(initial_lr, problems),
            Self::CosineThenLinear(cut) => cut.collect_problems(initial_lr, problems),
            Self::Sequential(sequence) => sequence.collect_problems(initial_lr, problems),
            Self::BoltOnWarmup(bolt_on) => bolt_on.collect_problems(initial_lr, problems),
        }
    }

    /// The learning rate of a step.
    ///
    /// `initial_lr` is the peak, `max_steps` the length of the run. `step` and `max_steps` may both
    /// count tokens instead. The first step of a run is 1.
    pub fn at(&self, initial_lr: f64, step: u64, max_steps: u64) -> f64 {
        match self {
            Self::CosineWithWarmup(decay) => decay.at(initial_lr, step, max_steps, decay::cosine),
            Self::LinearWithWarmup(decay) => decay.at(initial_lr, step, max_steps, decay::linear),
            Self::CosineLinearEnvelope(decay) => {
                decay.at(initial_lr, step, max_steps, decay::envelope)
            }
            Self::HalfCosineWithWarmup(decay) => decay.half_cosine_at(initial_lr, step, max_steps),
            Self::MaxScheduler(decay) => {
                let Decay { t_warmup, warmup_min_lr, .. } = *decay;
                let root = InverseSqrt { t_warmup, alpha_f: 0.0, warmup_min_lr };
                let cosine = decay.at(initial_lr, step, max_steps, decay::cosine);
                cosine.max(root.at(initial_lr, step, max_steps))
            }
            Self::InverseSqrtWithWarmup(root) => root.at(initial_lr, step, max_steps),
            Self::PowerWithWarmup(power) => power.at(initial_lr, step, max_steps),
            Self::ConstantWithWarmup(warmup) => {
                warmup.before_peak(initial_lr, step, max_steps).unwrap_or(initial_lr)
            }
            Self::Constant {} => initial_lr,
            Self::Wsd(stable) => stable.at(initial_lr, step, max_steps),
            Self::Wsds(periods) => periods.at(initial_lr, step),
            Self::CosineThenLinear(cut) => cut.at(initial_lr, step, max_steps),
            Self::Sequential(sequence) => sequence.at(initial_lr, step, max_steps),
            Self::BoltOnWarmup(bolt_on) => bolt_on.at(initial_lr, step, max_steps),
        }
    }

    /// Steps of the schedule's own first warmup, in its unit.
    pub fn warmup_length(&self, max_steps: u64) -> u64 {
        match self {
            Self::CosineWithWarmup(decay)
            | Self::LinearWithWarmup(decay)
            | Self::CosineLinearEnvelope(decay)
            | Self::HalfCosineWithWarmup(decay)
            | Self::MaxScheduler(decay) => decay.t_warmup.of(decay.t_max.unwrap_or(max_steps)),
            Self::InverseSqrtWithWarmup(root) => root.t_warmup.of(max_steps),
            Self::PowerWithWarmup(power) => power.t_warmup.of(max_steps),
            Self::ConstantWithWarmup(warmup) => warmup.t_warmup.of(max_steps),
            Self::Constant {} => 0,
            Self::Wsd(stable) => stable.t_warmup.of(max_steps),
            Self::Wsds(periods) => {
                periods.t_warmup.of(periods.period_lengths.first().copied().unwrap_or(0))
            }
            Self::CosineThenLinear(cut) => cut.t_warmup.of(cut.t_max.unwrap_or(max_steps)),
            Self::Sequential(sequence) => match sequence.schedulers.first() {
                Some(first) => first.warmup_length(max_steps),
                None => 0,
            },
            Self::BoltOnWarmup(bolt_on) => bolt_on.inner.warmup_length(max_steps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_round_trip_with_their_name() {
        let schedule = Schedule::BoltOnWarmup(BoltOnWarmup {
            inner: Box::new(Schedule::cosine_with_warmup(7)),
            warmup_start: 3,
            warmup_end: 9,
        });
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
            t_warmup: 0.into(),
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

    #[test]
    fn a_power_of_a_half_is_the_inverse_square_root() {
        let settings = |name: &str, rest: &str| -> Schedule {
            serde_json::from_str(&format!(r#"{{"name":"{name}","t_warmup":9{rest}}}"#)).unwrap()
        };
        let root = settings("inverse_sqrt_with_warmup", r#","alpha_f":0.2"#);
        let power = settings("power_with_warmup", r#","alpha_f":0.2,"exponent":0.5"#);
        for step in 0..100 {
            let (a, b) = (root.at(1e-3, step, 50), power.at(1e-3, step, 50));
            assert!((a - b).abs() <= 1e-15 * a, "step {step}: {a:e} and {b:e}");
        }
        let steep = settings("power_with_warmup", r#","exponent":1.0"#);
        assert!((steep.at(1e-3, 90, 50) - 1e-4).abs() < 1e-18);
    }

    #[test]
    fn parts_of_a_sequence_are_checked_against_the_rate_they_begin_from() {
        let json = r#"{"name":"sequential","schedulers_max":[10],"schedulers":[
            {"name":"linear_with_warmup","t_warmup":2,"alpha_f":0.1},
            {"name":"constant_with_warmup","t_warmup":5,"warmup_min_lr":5e-4}]}"#;
        let schedule: Schedule = serde_json::from_str(json).unwrap();
        let message = schedule.validate(1e-3).unwrap_err().to_string();
        assert!(message.contains("schedulers[1]: warmup_min_lr is 0.0005"), "{message}");

        let json = json.replace("[10]", "[10, 20]");
        let message = serde_json::from_str::<Schedule>(&json).unwrap().validate(1e-3).unwrap_err();
        assert!(message.to_string().contains("2 schedulers with 2 schedulers_max"), "{message}");
    }

    #[test]
    fn periods_must_hold_their_warmup_and_decay() {
        let json = r#"{"name":"wsds","period_lengths":[10,4],"t_warmup":3,"t_decay":8}"#;
        let message = serde_json::from_str::<Schedule>(json).unwrap().validate(1e-3).unwrap_err();
        let message = message.to_string();
        assert!(message.contains("period_lengths[0] is 10"), "{message}");
        assert!(message.contains("period_lengths[1] is 4"), "{message}");
    }

    #[test]
    fn nothing_falls_below_its_end_after_the_run() {
        for json in [
            r#"{"name":"wsd","t_warmup":3,"decay_min_lr":1e-5}"#,
            r#"{"name":"cosine_then_linear","t_warmup":3,"decay_min_lr":1e-5}"#,
        ] {
            let schedule: Schedule = serde_json::from_str(json).unwrap();
            assert!((schedule.at(1e-3, 150, 100) - 1e-5).abs() < 1e-18, "{json}");
        }
    }
}
