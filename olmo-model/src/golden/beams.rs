//! Beam search against the original `OLMo.generate`.

use burn::tensor::Device;
use serde::Deserialize;

use super::{Vectors, model_config, read_json};
use crate::beam_search::BeamSearch;
use crate::{Error, Transformer};

/// Of scores, relative. Measured: 2.5e-6.
const SCORES: f64 = 5e-6;

#[derive(Deserialize)]
struct Case {
    model: String,
    prompts: Vec<Vec<u32>>,
    beam_size: usize,
    per_node_beam_size: Option<usize>,
    max_steps: usize,
    min_steps: Option<usize>,
    length_penalty: Option<f64>,
    beams: Vec<Vec<Expected>>,
}

#[derive(Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    score: f64,
}

fn model(name: &str) -> Transformer {
    let file = Vectors::read(&format!("beams/{name}.safetensors"));
    file.model(&model_config(&file.config), &Device::flex())
}

#[test]
fn beams_are_those_of_the_original() {
    let cases: Vec<Case> =
        serde_json::from_value(read_json("beams/cases.json")).expect("as the script writes it");
    let mut worst = 0.0_f64;
    for case in &cases {
        let model = model(&case.model);
        let search = BeamSearch {
            beam_size: case.beam_size,
            per_node_beam_size: case.per_node_beam_size,
            max_steps: case.max_steps,
            min_steps: case.min_steps.unwrap_or(0),
            length_penalty: case.length_penalty,
            end_tokens: vec![0],
        };
        for (prompt, expected) in case.prompts.iter().zip(&case.beams) {
            let found = model.beam_search(prompt, &search).expect("sound");
            let tokens = |beam: &crate::beam_search::Beam| beam.tokens.clone();
            let expected_tokens: Vec<_> = expected.iter().map(|beam| beam.tokens.clone()).collect();
            let found_tokens: Vec<_> = found.iter().map(tokens).collect();
            assert_eq!(found_tokens, expected_tokens, "{} {search:?}", case.model);
            for (found, expected) in found.iter().zip(expected) {
                worst = worst.max((found.score / expected.score - 1.0).abs());
            }
        }
    }
    assert!(cases.len() > 20 && worst <= SCORES, "{worst:.1e}");
}

#[test]
fn nonsense_is_refused() {
    let model = model("olmo");
    let search = || BeamSearch::new(2, 4, 0);
    let refused = [
        BeamSearch { beam_size: 0, ..search() },
        BeamSearch { beam_size: 65, ..search() },
        BeamSearch { per_node_beam_size: Some(0), ..search() },
        BeamSearch { max_steps: 0, ..search() },
        BeamSearch { min_steps: 5, ..search() },
        BeamSearch { length_penalty: Some(f64::NAN), ..search() },
    ];
    for search in refused {
        let error = model.beam_search(&[1], &search).expect_err("nonsense");
        assert!(matches!(error, Error::Sampling { .. }), "{search:?}");
    }
    let long = BeamSearch { max_steps: 63, ..search() };
    assert!(model.beam_search(&[1, 2], &long).is_ok());
    assert!(matches!(
        model.beam_search(&[1, 2, 3], &long),
        Err(Error::SequenceTooLong { length: 65, limit: 64 })
    ));
}
