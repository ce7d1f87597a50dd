//! Numbers as Python reads them: `739_328`, `2e12`, `1e-6`, quoted or not.
//!
//! YAML 1.2 takes some of these for text, `PyYAML` takes others; the trainer's schema then makes them
//! numbers. So either form is read here, and what has a fraction is no whole number.

use serde_json::Value;

/// A whole number, or `None` where the value is none.
pub fn python_int(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(whole)),
        Value::String(text) => {
            let text = without_underscores(text)?;
            text.parse().ok().or_else(|| text.parse().ok().and_then(whole))
        }
        _ => None,
    }
}

/// A number, or `None` where the value is none.
pub fn python_float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let text = without_underscores(text)?;
            text.parse().ok().filter(|number: &f64| number.is_finite())
        }
        _ => None,
    }
}

fn whole(number: f64) -> Option<i64> {
    // 2^53: up to there a float is the number that was written.
    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
}

/// Python allows one underscore between two digits.
fn without_underscores(text: &str) -> Option<String> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let fine = |i: usize| i > 0 && digit(i - 1) && digit(i + 1);
    let misplaced = bytes.iter().enumerate().any(|(i, &byte)| byte == b'_' && !fine(i));
    (!misplaced && !text.is_empty()).then(|| text.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        assert_eq!(python_int(&json!("739_328")), Some(739_328));
        assert_eq!(python_int(&json!(" 12 ")), Some(12));
        assert_eq!(python_int(&json!(3e12)), Some(3_000_000_000_000));
        assert_eq!(python_int(&json!("2e12")), Some(2_000_000_000_000));
        assert_eq!(python_float(&json!("1e-6")), Some(1e-6));
        assert_eq!(python_float(&json!("1_0.5")), Some(10.5));
        for wrong in [json!("_1"), json!("1__0"), json!("1_"), json!("1.5"), json!(""), json!(null)]
        {
            assert_eq!(python_int(&wrong), None, "{wrong}");
        }
        assert_eq!(python_float(&json!("inf")), None);
    }
}
