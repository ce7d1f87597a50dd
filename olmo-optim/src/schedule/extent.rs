//! How long something lasts: a number of steps or tokens, or a part of the whole run.

use serde::{Deserialize, Deserializer, Serialize};

/// A number of steps or tokens, or a fraction of the schedule's length.
///
/// Written `2000`, `8.388608e9` or `{fraction: 0.1}`. OLMo-core has two fields for each, such as
/// `warmup` and `warmup_fraction`, of which one must be given.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Extent {
    /// Steps or tokens.
    Count(u64),
    /// A part of the length of the schedule, rounded to a whole number, halves to even as Python
    /// does.
    Fraction {
        /// From 0 to 1.
        fraction: f64,
    },
}

impl Extent {
    /// The number, for a schedule of `length`.
    pub fn of(self, length: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Fraction { fraction } => (length as f64 * fraction).round_ties_even() as u64,
        }
    }

    pub(super) fn collect_problems(self, name: &str, problems: &mut Vec<String>) {
        if let Self::Fraction { fraction } = self
            && !(0.0..=1.0).contains(&fraction)
        {
            problems.push(format!("{name}.fraction is {fraction}, expected a number from 0 to 1"));
        }
    }
}

impl From<u64> for Extent {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a number of steps or tokens, or {fraction: NUMBER}"
        )]
        enum Written {
            Count(Count),
            Fraction(Fraction),
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fraction {
            fraction: f64,
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Count(count) => Self::Count(count.whole()?),
            Written::Fraction(Fraction { fraction }) => Self::Fraction { fraction },
        })
    }
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

pub(crate) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Count::deserialize(deserializer)?.whole()
}

pub(super) fn optional_whole_number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    Option::<Count>::deserialize(deserializer)?.map(Count::whole).transpose()
}

pub(crate) fn whole_numbers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<u64>, D::Error> {
    Vec::<Count>::deserialize(deserializer)?.into_iter().map(Count::whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_rounded_as_python_rounds() {
        let of = |fraction, length| Extent::Fraction { fraction }.of(length);
        assert_eq!(
            [of(0.5, 5), of(0.5, 7), of(0.1, 1234), of(0.0, 9), of(1.0, 9)],
            [2, 4, 123, 0, 9]
        );
    }

    #[test]
    fn both_forms_are_read_and_written() {
        for (json, extent) in [
            ("2000", Extent::Count(2000)),
            (r#"{"fraction":0.25}"#, Extent::Fraction { fraction: 0.25 }),
        ] {
            assert_eq!(serde_json::from_str::<Extent>(json).unwrap(), extent);
            assert_eq!(serde_json::to_string(&extent).unwrap(), json);
        }
        assert_eq!(serde_json::from_str::<Extent>("8.388608e9").unwrap(), 8_388_608_000.into());
        for wrong in ["-1", "0.5", "1e300", r#"{"fraction":0.1,"of":9}"#, "\"10\""] {
            assert!(serde_json::from_str::<Extent>(wrong).is_err(), "{wrong}");
        }
    }
}
