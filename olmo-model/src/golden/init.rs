//! What each parameter is drawn from, against what ai2-olmo asks of `torch.nn.init`.

use serde_json::Value;

use super::{key, model_config, read_json};
use crate::InitConfig;
use crate::init::Initial;

/// Of standard deviations and bounds, relative.
const TOLERANCE: f64 = 1e-12;

#[test]
fn every_scheme_draws_as_the_reference() {
    let cases = read_json("init/std.json");
    for case in cases.as_array().expect("a list of cases") {
        let (name, config) = (&case["name"], model_config(&case["config"]));
        let init = init_config(&case["init"]);
        let expected = case["parameters"].as_object().expect("an object");
        let parameters = config.parameters();
        assert_eq!(parameters.len(), expected.len(), "{name}");
        for parameter in parameters {
            let expected = &expected[&key(&parameter.path, config.norm_placement)];
            let shape: Vec<u64> = parameter.shape.iter().map(|&n| n as u64).collect();
            assert_eq!(serde_json::json!(shape), expected["shape"], "{name}: {}", parameter.path);
            let found = init.initial(&config, &parameter);
            assert!(
                agree(found, expected),
                "{name}: {} is drawn from {found:?}, expected {expected}",
                parameter.path
            );
        }
    }
}

fn init_config(json: &Value) -> InitConfig {
    let std = json["init_std"].as_f64().expect("init_std");
    let cutoff = json["init_cutoff_factor"].as_f64();
    let embedding_std = json["emb_init_std"].as_f64();
    let scale_embedding = json["scale_emb_init"].as_bool().expect("scale_emb_init");
    match json["init_fn"].as_str() {
        Some("normal") => InitConfig::Normal { std, cutoff, embedding_std },
        Some("mitchell") => InitConfig::Mitchell { cutoff, embedding_std },
        Some("full_megatron") => {
            InitConfig::FullMegatron { std, cutoff, embedding_std, scale_embedding }
        }
        other => panic!("no such scheme: {other:?}"),
    }
}

fn agree(found: Initial, expected: &Value) -> bool {
    let near = |found: f64, field: &str| {
        let expected = expected[field].as_f64().expect(field);
        (found - expected).abs() <= TOLERANCE * expected.abs()
    };
    let centred = || near(0.0, "mean");
    match (found, expected["kind"].as_str()) {
        (Initial::Ones, Some("ones")) => true,
        (Initial::Normal { std }, Some("normal")) => centred() && near(std, "std"),
        (Initial::TruncatedNormal { std, bound }, Some("trunc_normal")) => {
            centred() && near(std, "std") && near(-bound, "a") && near(bound, "b")
        }
        _ => false,
    }
}
