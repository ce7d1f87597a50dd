//! Names that are not known, told with the known one that was meant.

/// The message of serde for a name that is not known, with the known name that is nearest to it, where
/// one is near; other messages as they are.
pub(super) fn with_hint(message: &str) -> String {
    let is_of_names = ["unknown field", "unknown variant"].iter().any(|w| message.starts_with(w));
    // Names stand between backticks: the one that was found, then those that are known.
    let mut names = message.split('`').skip(1).step_by(2);
    let hint = names.next().filter(|_| is_of_names).and_then(|found| {
        let near = names.map(|known| (strsim::levenshtein(found, known), known)).min()?;
        (near.0 * 3 <= found.chars().count()).then_some(near.1)
    });
    match (hint, message.split_once(", expected")) {
        (Some(known), Some((what, _))) => {
            format!("{what}, did you mean `{known}`?{}", &message[what.len() + 1..])
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_meant_is_named_where_one_is_near() {
        let hint = |found: &str| {
            with_hint(&format!("unknown field `{found}`, expected one of `max_duration`, `seed`"))
        };
        assert_eq!(
            hint("max_durations"),
            "unknown field `max_durations`, did you mean `max_duration`? expected one of `max_duration`, `seed`"
        );
        assert!(hint("sed").contains("did you mean `seed`?"));
        assert!(!hint("batch").contains("did you mean"));
        assert_eq!(with_hint("missing field `seed`"), "missing field `seed`");
        assert_eq!(
            with_hint("unknown field `x`, there are no fields"),
            "unknown field `x`, there are no fields"
        );
    }
}
