//! How long a run is.

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::TrainConfig;

/// The length of a run, which schedules go by: steps, and where it was given in tokens, those.
///
/// Of tokens the steps are counted from where the run goes on, as `Trainer.max_steps` of ai2-olmo 0.6.0
/// and `Trainer._get_max_steps` of ai2-olmo-core 2.4.0 do, so that a run whose batch has changed since
/// ends with the same token. It is written as it was given, `8388608T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLength {
    /// Steps of the whole run.
    pub steps: u64,
    /// Tokens that it was given in.
    pub tokens: Option<u64>,
}

impl RunLength {
    /// What a configuration holds once the steps of `tokens` are known.
    pub(super) fn resolved(steps: u64, tokens: u64) -> Value {
        json!({"steps": steps, "tokens": tokens})
    }
}

impl From<u64> for RunLength {
    fn from(steps: u64) -> Self {
        Self { steps, tokens: None }
    }
}

impl Serialize for RunLength {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.tokens {
            Some(tokens) => serializer.serialize_str(&format!("{tokens}T")),
            None => serializer.serialize_u64(self.steps),
        }
    }
}

impl<'de> Deserialize<'de> for RunLength {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let count = |value: Option<&Value>| value.and_then(Value::as_u64);
        if let Some(steps) = count(Some(&value)) {
            return Ok(steps.into());
        }
        let tokens = count(value.get("tokens"));
        match count(value.get("steps")) {
            Some(steps) if tokens.is_some() => Ok(Self { steps, tokens }),
            _ => {
                let found = value.to_string();
                let expected = &"steps (739_328), tokens (2e12T) or epochs (2ep)";
                Err(D::Error::invalid_value(Unexpected::Other(&found), expected))
            }
        }
    }
}

impl TrainConfig {
    /// Counts the steps of a length in tokens from where the run goes on.
    pub(crate) fn go_on_after(&mut self, steps: u64, tokens: u64) {
        if let Some(end) = self.max_duration.tokens {
            self.max_duration.steps = steps + self.batch_plan().steps_between(tokens, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn a_length_in_tokens_is_written_as_such() {
        let config = parse(&["max_duration=1e4T"]).expect("sound");
        assert_eq!(config.max_duration, RunLength { steps: 20, tokens: Some(10_000) });
        let yaml = config.to_yaml().expect("plain data");
        assert!(yaml.contains("10000T"), "{yaml}");
        let doubled = TrainConfig::parse(&yaml, &["global_train_batch_size=16".to_owned()], "own");
        assert_eq!(doubled.expect("our own").max_duration.steps, 10);
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for wrong in ["-3", "2.5", "[1]", "{steps: 3, tokens: 4}", "soon"] {
            let message = parse(&[&format!("max_duration={wrong}")]).expect_err("none").to_string();
            assert!(message.contains("max_duration") && message.contains("2e12T"), "{message}");
        }
    }
}
