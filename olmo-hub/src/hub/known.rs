//! Names that may have been meant.

use super::error::Near;

/// The released models, for when a name has a slip in it.
const RELEASED: [&str; 24] = [
    "allenai/OLMo-1B",
    "allenai/OLMo-1B-hf",
    "allenai/OLMo-7B",
    "allenai/OLMo-7B-hf",
    "allenai/OLMo-7B-Twin-2T",
    "allenai/OLMo-7B-Twin-2T-hf",
    "allenai/OLMo-7B-Instruct",
    "allenai/OLMo-7B-Instruct-hf",
    "allenai/OLMo-1B-0724-hf",
    "allenai/OLMo-7B-0424-hf",
    "allenai/OLMo-7B-0724-hf",
    "allenai/OLMo-2-0425-1B",
    "allenai/OLMo-2-0425-1B-Instruct",
    "allenai/OLMo-2-1124-7B",
    "allenai/OLMo-2-1124-7B-Instruct",
    "allenai/OLMo-2-1124-13B",
    "allenai/OLMo-2-1124-13B-Instruct",
    "allenai/OLMo-2-0325-32B",
    "allenai/OLMo-2-0325-32B-Instruct",
    "allenai/Olmo-3-1025-7B",
    "allenai/Olmo-3-1125-32B",
    "allenai/Olmo-3-7B-Instruct",
    "allenai/OLMoE-1B-7B-0924",
    "allenai/OLMoE-1B-7B-0125",
];

/// The names most like one, from the released models and from those that the Hub gave.
pub(super) fn near_names(name: &str, others: &[String]) -> Near {
    let all = RELEASED.iter().copied().chain(others.iter().map(String::as_str));
    nearest(name, all.filter(|other| *other != name))
}

/// The released models that are most like a name without an owner.
pub(super) fn near_released(name: &str) -> Near {
    nearest(&format!("allenai/{name}"), RELEASED.into_iter())
}

/// Up to three names most like one, the likest first, by the letters that would have to change.
pub(super) fn nearest<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Near {
    /// The least part of a name that is right.
    const RIGHT: f64 = 0.7;
    /// How much farther than the likest another may be.
    const BEHIND: f64 = 0.1;
    let lower = name.to_lowercase();
    let score = |other: &str| strsim::normalized_damerau_levenshtein(&lower, &other.to_lowercase());
    let mut scored: Vec<(f64, &str)> =
        others.map(|other| (score(other), other)).filter(|(score, _)| *score >= RIGHT).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.dedup();
    let best = scored.first().map_or(0.0, |(score, _)| *score);
    scored.retain(|(score, _)| *score >= best - BEHIND);
    Near(scored.into_iter().take(3).map(|(_, name)| name.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_what_was_meant() {
        assert_eq!(near_names("allenai/OLMo-7b-hf", &[]).0[0], "allenai/OLMo-7B-hf");
        assert_eq!(near_names("alenai/OLMo-2-0425-1B", &[]).0[0], "allenai/OLMo-2-0425-1B");
        assert_eq!(near_names("alenai/Olmo-2-1124-7B", &[]).0[0], "allenai/OLMo-2-1124-7B");
        assert_eq!(near_names("allenai/OLMo2-7B", &[]).0[0], "allenai/OLMo-7B");
        assert_eq!(near_names("someone/gpt", &[]), Near::default());
        assert_eq!(near_released("OLMo-7B-hf").0[0], "allenai/OLMo-7B-hf");
        assert_eq!(near_released("runs"), Near::default());
        let others = ["me/small-model".to_owned()];
        assert_eq!(near_names("me/smal-model", &others).0, others);
        // Nothing that is much farther than the likest.
        let others = ["allenai/OLMo-2-small".to_owned()];
        assert_eq!(near_names("allenai/OLMo-2-smal", &others).0, others);
        assert_eq!(near_names("alenai/OLMo-2-small", &others).0, others);
    }
}
