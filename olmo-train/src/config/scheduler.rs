//! The schedule of a run, and what its steps are counted in.

use olmo_optim::Schedule;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Learning rate and gradient norm over the run. The fields stand side by side, as in OLMo:
/// `{name: cosine_with_warmup, units: tokens, t_warmup: 8388608000, t_max: 5e12}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SchedulerConfig {
    /// The learning rate.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// What warmups and lengths are counted in.
    pub units: ScheduleUnits,
    /// How long the largest gradient norm allowed is another, in `units`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_clip_warmup_steps: Option<u64>,
    /// How many times as large it is then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_clip_warmup_factor: Option<f64>,
}

/// What a schedule is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleUnits {
    /// Steps.
    #[default]
    Steps,
    /// Tokens.
    Tokens,
}

impl From<Schedule> for SchedulerConfig {
    fn from(schedule: Schedule) -> Self {
        Self {
            schedule,
            units: ScheduleUnits::Steps,
            grad_clip_warmup_steps: None,
            grad_clip_warmup_factor: None,
        }
    }
}

impl<'de> Deserialize<'de> for SchedulerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The fields that are not the schedule's.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Beside {
            units: ScheduleUnits,
            grad_clip_warmup_steps: Option<f64>,
            grad_clip_warmup_factor: Option<f64>,
        }
        // Not flattened, where unknown fields could not be refused.
        let mut given = serde_json::Map::<String, Value>::deserialize(deserializer)?;
        let names = ["units", "grad_clip_warmup_steps", "grad_clip_warmup_factor"];
        let beside: serde_json::Map<_, _> = names
            .into_iter()
            .filter_map(|name| given.remove(name).map(|value| (name.to_owned(), value)))
            .collect();
        let beside: Beside =
            serde_json::from_value(Value::Object(beside)).map_err(D::Error::custom)?;
        let whole = |x: f64| {
            let fine = x.fract() == 0.0 && (0.0..9e15).contains(&x);
            let wrong = || format!("grad_clip_warmup_steps is {x}, expected a whole number");
            if fine { Ok(x as u64) } else { Err(D::Error::custom(wrong())) }
        };
        Ok(Self {
            schedule: serde_json::from_value(Value::Object(given)).map_err(D::Error::custom)?,
            units: beside.units,
            grad_clip_warmup_steps: beside.grad_clip_warmup_steps.map(whole).transpose()?,
            grad_clip_warmup_factor: beside.grad_clip_warmup_factor,
        })
    }
}
