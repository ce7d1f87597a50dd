//! What is left of a distribution against `transformers`' logits processors.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::read_json;
use crate::Sampling;

/// Of probabilities, relative; the reference computes them in f32. Measured: 1.4e-6.
const PROBABILITIES: f64 = 3e-6;

#[derive(Deserialize)]
struct Golden {
    logits: Vec<Vec<f32>>,
    tokens: Vec<Vec<u32>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    settings: Sampling,
    group: usize,
    left: Vec<(u32, f64)>,
}

#[test]
fn filters_leave_what_transformers_leaves() {
    let golden: Golden = serde_json::from_value(read_json("sampling/filters.json"))
        .expect("as the script writes it");
    let mut worst = 0.0_f64;
    for Case { settings, group, left } in &golden.cases {
        let (tokens, logits) = (&golden.tokens[*group], &golden.logits[*group]);
        let found = settings.distribution(tokens, logits).expect("finite logits");
        let found: BTreeMap<u32, f64> = found.into_iter().collect();
        let ids: Vec<u32> = left.iter().map(|(id, _)| *id).collect();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), ids, "{settings:?}");
        for (id, expected) in left {
            worst = worst.max((found[id] / expected - 1.0).abs());
        }
    }
    assert!(golden.cases.len() > 700 && worst <= PROBABILITIES, "{worst:.1e}");
}
