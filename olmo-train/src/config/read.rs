//! YAML to values: overrides, presets and what differs from them.

use olmo_model::{ModelConfig, presets};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;

/// Reads an architecture, a preset's fields replaced by those given beside its name.
pub(super) fn model_config<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<ModelConfig, D::Error> {
    let mut given = Value::deserialize(deserializer)?;
    let Some(preset) = given.as_object_mut().and_then(|map| map.remove("preset")) else {
        return serde_json::from_value(given).map_err(D::Error::custom);
    };
    let name = preset.as_str().unwrap_or_default();
    let preset = presets::by_name(name).ok_or_else(|| {
        let known: Vec<_> = presets::all().map(|(name, _)| name).collect();
        D::Error::custom(format!("{preset} is no preset; there are {}", known.join(", ")))
    })?;
    let mut whole = serde_json::to_value(preset).map_err(D::Error::custom)?;
    merge(&mut whole, given);
    serde_json::from_value(whole).map_err(D::Error::custom)
}

/// Replaces the values of `into` by those of `from`, map by map.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Sets the value at a dotted path; missing maps on the way are made.
pub(super) fn apply_override(value: &mut Value, text: &str) -> Result<(), String> {
    let (path, new) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no override, expected key.path=value"))?;
    let new: Value = serde_saphyr::from_str(new)
        .map_err(|error| format!("the value of {path} is no YAML: {error}"))?;
    let mut at = value;
    for key in path.split('.') {
        at = match at {
            Value::Object(map) => {
                map.entry(key).or_insert_with(|| Value::Object(serde_json::Map::new()))
            }
            Value::Array(items) => {
                let n = items.len();
                key.parse::<usize>()
                    .ok()
                    .and_then(|i| items.get_mut(i))
                    .ok_or_else(|| format!("{path}: {key:?} is no index below {n}"))?
            }
            _ => return Err(format!("{path}: there is nothing inside a plain value")),
        };
    }
    *at = new;
    Ok(())
}
