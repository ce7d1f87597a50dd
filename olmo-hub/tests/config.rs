//! `config.json` in every spelling, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use olmo_hub::{Dtype, Error, Family, HfConfig, Special};
use olmo_model::config::{ModelConfig, NormConfig, NormPlacement, SlidingWindow, YarnConfig};
use olmo_model::presets;
use serde_json::{Value, json};

fn parse(value: &Value) -> Result<HfConfig, Error> {
    HfConfig::parse(&value.to_string(), Path::new("config.json"))
}

/// The fields that an error names, with what it says of them.
fn problems(value: &Value) -> Vec<String> {
    match parse(value) {
        Err(Error::Config { problems, .. }) => problems.0.iter().map(ToString::to_string).collect(),
        other => panic!("expected problems, found {other:?}"),
    }
}

fn with(base: &Value, name: &str, value: Value) -> Value {
    let mut config = base.clone();
    config[name] = value;
    config
}

fn special() -> Special {
    Special { bos_token_id: None, eos_token_id: vec![100_257], pad_token_id: Some(1) }
}

#[test]
fn every_preset_survives_the_round_trip() {
    let path = Path::new("config.json");
    for (name, model) in presets::all() {
        for dtype in Dtype::ALL {
            let config = HfConfig::for_model(&model, &special(), dtype, path).unwrap();
            let text = config.to_json();
            assert_eq!(HfConfig::parse(&text, path).unwrap(), config, "{name}: {text}");
        }
    }
}

#[test]
fn odd_models_survive_the_round_trip() {
    let path = Path::new("config.json");
    let mut model = presets::olmo3_7b_long();
    model.attention.head_dim = 64;
    model.attention.window = Some(SlidingWindow { size: 100, full_every: 5 });
    model.attention.rope.yarn = Some(YarnConfig {
        factor: 1.1,
        beta_fast: 31.7,
        beta_slow: 0.9,
        original_max_sequence_length: 77,
        attention_factor: Some(1.207_944_154_167_983_6),
    });
    model.weight_tying = true;
    let special = Special { bos_token_id: Some(3), eos_token_id: vec![5, 6], pad_token_id: None };
    let config = HfConfig::for_model(&model, &special, Dtype::Bf16, path).unwrap();
    assert_eq!(HfConfig::parse(&config.to_json(), path).unwrap(), config);
    let none = Special { bos_token_id: None, eos_token_id: Vec::new(), pad_token_id: None };
    let config = HfConfig::for_model(&model, &none, Dtype::F16, path).unwrap();
    assert_eq!(HfConfig::parse(&config.to_json(), path).unwrap(), config);
}

#[test]
fn models_that_only_ai2_olmo_has_survive_the_round_trip() {
    let path = Path::new("config.json");
    let base = ModelConfig { weight_tying: true, ..presets::small_olmo(32, 2, 4, 64) };
    let rms = presets::olmo_20m().norm;
    let none = Special { bos_token_id: None, eos_token_id: Vec::new(), pad_token_id: None };
    for (norm, norm_placement, qk_norm) in [
        (rms, NormPlacement::Before, false),
        (rms, NormPlacement::Before, true),
        (rms, NormPlacement::After, false),
        (NormConfig::LayerNorm { eps: 1e-6 }, NormPlacement::Before, false),
        (NormConfig::LayerNorm { eps: 1e-5 }, NormPlacement::After, true),
    ] {
        let mut model = ModelConfig { norm, norm_placement, ..base.clone() };
        model.attention.qk_norm = qk_norm;
        for special in [&special(), &none] {
            let config = HfConfig::for_model(&model, special, Dtype::Bf16, path).unwrap();
            assert_eq!(config.family, None, "{model:?}");
            assert_eq!(HfConfig::parse(&config.to_json(), path).unwrap(), config);
        }
        // ai2-olmo clips before that norm, and we after it.
        model.attention.clip_qkv = Some(8.0);
        let clipped = HfConfig::for_model(&model, &none, Dtype::F32, path);
        assert_eq!(clipped.is_err(), qk_norm, "{model:?}");
        if let Ok(config) = clipped {
            let text = config.to_json();
            assert_eq!(HfConfig::parse(&text, path).unwrap(), config);
            let wrong =
                text.replace(r#""attention_layer_norm": false"#, r#""attention_layer_norm": true"#);
            let problems = problems(&serde_json::from_str(&wrong).unwrap());
            assert!(problems.iter().any(|p| p.starts_with("clip_qkv is 8")), "{problems:?}");
        }
    }
}

/// No class of transformers turns queries and keys of a dense model in their own dtype; ai2-olmo does.
#[test]
fn the_precision_of_positions_is_kept() {
    let path = Path::new("config.json");
    let mut model = presets::olmo2_1b();
    model.attention.rope.full_precision = false;
    let config = HfConfig::for_model(&model, &special(), Dtype::F32, path).unwrap();
    assert_eq!(config.family, None);
    let text = config.to_json();
    assert!(text.contains(r#""rope_full_precision": false"#), "{text}");
    assert_eq!(HfConfig::parse(&text, path).unwrap().model, model);
    let whole = text.replace(r#""rope_full_precision": false"#, r#""rope_full_precision": true"#);
    assert_eq!(HfConfig::parse(&whole, path).unwrap().model, presets::olmo2_1b());
    let wrong = with(&serde_json::from_str(&text).unwrap(), "rope_full_precision", json!(1));
    assert!(problems(&wrong)[0].starts_with("rope_full_precision is 1"), "{:?}", problems(&wrong));
}

/// `python -c "from transformers import *; print(OlmoConfig().to_dict())"`, for each class.
#[test]
fn absent_fields_have_the_defaults_of_their_class() {
    let of = |model_type: &str| parse(&json!({ "model_type": model_type })).unwrap();
    let expected = |mut model: ModelConfig| {
        model.vocab_size = 50_304;
        model.max_sequence_length = 2048;
        model
    };
    let olmo = of("olmo");
    assert_eq!(olmo.model, expected(presets::olmo_7b()));
    let special = Special { bos_token_id: None, eos_token_id: vec![50_279], pad_token_id: Some(1) };
    assert_eq!((olmo.special, olmo.dtype), (special, None));
    let rms = |mut model: ModelConfig, theta: f64| {
        model.attention.rope.theta = theta;
        if let olmo_model::config::NormConfig::RmsNorm { eps, .. } = &mut model.norm {
            *eps = 1e-5;
        }
        expected(model)
    };
    assert_eq!(of("olmo2").model, rms(presets::olmo2_7b(), 10_000.0));
    assert_eq!(of("olmo3").model, rms(presets::olmo3_7b(), 500_000.0));
    let mut olmoe = presets::olmoe_1b_7b();
    if let olmo_model::config::FeedForwardConfig::Experts { hidden_size, .. } =
        &mut olmoe.feed_forward
    {
        *hidden_size = 2048;
    }
    assert_eq!(of("olmoe").model, olmoe);
}

#[test]
fn old_and_new_spellings_of_positions_agree() {
    let yarn = json!({
        "rope_type": "yarn", "factor": 8.0, "beta_fast": 32, "beta_slow": 1.0,
        "original_max_position_embeddings": 8192, "attention_factor": 1.2,
    });
    let mut with_theta = yarn.clone();
    with_theta["rope_theta"] = json!(500_000);
    let plain = json!({ "rope_type": "default", "rope_theta": 500_000.0 });
    let spellings = [
        json!({ "rope_theta": 500_000, "rope_scaling": yarn }),
        json!({ "rope_parameters": with_theta }),
        json!({ "rope_theta": 500_000, "rope_parameters": yarn }),
        json!({ "rope_parameters": { "full_attention": with_theta, "sliding_attention": plain } }),
        json!({ "rope_parameters": { "full_attention": yarn } }),
    ];
    for mut spelling in spellings {
        spelling["model_type"] = "olmo3".into();
        let rope = parse(&spelling).unwrap().model.attention.rope;
        assert_eq!(rope.theta.to_bits(), 500_000_f64.to_bits(), "{spelling}");
        let yarn = rope.yarn.unwrap_or_else(|| panic!("{spelling}"));
        assert_eq!(yarn.original_max_sequence_length, 8192);
        assert_eq!((yarn.beta_fast, yarn.attention_factor), (32.0, Some(1.2)));
    }
    let old = json!({ "model_type": "olmo2", "rope_theta": 3e5, "rope_scaling": null });
    assert_eq!(parse(&old).unwrap().model.attention.rope.theta.to_bits(), 3e5_f64.to_bits());
    let type_key = json!({
        "model_type": "olmo", "rope_scaling": { "type": "yarn", "factor": 2.0 },
        "max_position_embeddings": 512,
    });
    let yarn = parse(&type_key).unwrap().model.attention.rope.yarn.unwrap();
    assert_eq!((yarn.beta_slow, yarn.original_max_sequence_length), (1.0, 512));
}

#[test]
fn positions_that_we_cannot_run_are_named() {
    let olmo2 = json!({ "model_type": "olmo2" });
    let linear = json!({ "rope_type": "linear", "factor": 2.0 });
    assert_eq!(
        problems(&with(&olmo2, "rope_scaling", linear)),
        ["rope_scaling.rope_type is \"linear\", expected \"default\" or \"yarn\""]
    );
    let stray = json!({ "rope_type": "default", "factor": 2.0 });
    assert!(
        problems(&with(&olmo2, "rope_parameters", stray))[0].contains("rope_parameters.factor")
    );
    let by_type = json!({ "full_attention": { "rope_theta": 1e4 } });
    assert!(problems(&with(&olmo2, "rope_parameters", by_type))[0].contains("only olmo3"));
    let thetas = json!({ "full_attention": { "rope_theta": 1e4 }, "sliding_attention": { "rope_theta": 2e4 } });
    let olmo3 = json!({ "model_type": "olmo3" });
    let found = problems(&with(&olmo3, "rope_parameters", thetas));
    assert!(found[0].contains("sliding_attention.rope_theta is 20000"), "{found:?}");
    let windowed = json!({ "sliding_attention": { "rope_type": "yarn", "factor": 2.0 } });
    assert!(problems(&with(&olmo3, "rope_parameters", windowed))[0].contains("keep plain"));
    let both = json!({
        "model_type": "olmo2", "rope_scaling": { "rope_type": "default" },
        "rope_parameters": { "rope_type": "default" },
    });
    assert!(problems(&both)[0].contains("rope_scaling is there"));
    let conflict = json!({
        "model_type": "olmo2", "rope_theta": 1e4, "rope_parameters": { "rope_theta": 2e4 },
    });
    assert!(problems(&conflict)[0].contains("rope_theta is 20000"));
    let no_factor = json!({ "model_type": "olmo2", "rope_scaling": { "rope_type": "yarn" } });
    assert!(problems(&no_factor)[0].contains("rope_scaling.factor is absent"));
    let zero = json!({ "model_type": "olmo2", "rope_theta": 0 });
    let error = parse(&zero).unwrap_err();
    assert!(matches!(error, Error::Architecture { .. }), "{error}");
    assert!(error.to_string().starts_with("config.json: "), "{error}");
}

#[test]
fn layer_types_are_a_period_or_an_error() {
    let types = |text: &str| -> Value {
        let name = |c| if c == 'f' { "full_attention" } else { "sliding_attention" };
        let types: Vec<_> = text.chars().map(name).collect();
        json!({
            "model_type": "olmo3", "num_hidden_layers": text.len(), "layer_types": types,
            "sliding_window": 128,
        })
    };
    let every = |text: &str| {
        parse(&types(text)).unwrap().model.attention.window.map(|window| window.full_every)
    };
    assert_eq!(every("sssfsssf"), Some(4));
    assert_eq!(every("sfsfs"), Some(2));
    assert_eq!(every("ss"), Some(4));
    assert_eq!(every("ssss"), Some(5));
    assert_eq!(every("ffff"), None);
    for text in ["fsss", "sfss", "ssfs s f".replace(' ', "s").as_str()] {
        assert!(problems(&types(text))[0].contains("every n-th layer"), "{text}");
    }
    let short = with(&types("sssf"), "num_hidden_layers", json!(8));
    assert!(problems(&short)[0].contains("expected 8 of"));
    let unknown = with(&types("ff"), "layer_types", json!(["linear_attention", "full_attention"]));
    assert!(problems(&unknown)[0].contains("expected 2 of"));
    let no_size = with(&types("sssf"), "sliding_window", Value::Null);
    assert!(problems(&no_size)[0].contains("sliding_window is null"));
    let mut full_only = json!({ "model_type": "olmo3", "sliding_window": null });
    assert_eq!(parse(&full_only).unwrap().model.attention.window, None);
    full_only["model_type"] = "olmo2".into();
    assert_eq!(parse(&full_only).unwrap().family, Some(Family::Olmo2), "null says nothing");
}

#[test]
fn what_is_not_supported_is_listed_at_once_and_nothing_is_dropped() {
    let config = json!({
        "model_type": "olmo2", "hidden_act": "gelu", "attention_bias": true,
        "attention_dropout": 0.1, "clip_qkv": 8.0, "frobnicate": [1], "quantization_config": {},
        "vocab_size": -1, "hidden_size": 12.5, "tie_word_embeddings": "no", "eos_token_id": "x",
        "torch_dtype": "int8", "architectures": ["Olmo2ForSequenceClassification"],
        "num_hidden_layers": 0, "auto_map": null, "use_cache": true,
    });
    let found = problems(&config);
    let fields: Vec<_> = found.iter().map(|text| text.split(' ').next().unwrap()).collect();
    let expected = [
        "architectures",
        "hidden_act",
        "attention_bias",
        "attention_dropout",
        "hidden_size",
        "num_hidden_layers",
        "vocab_size",
        "tie_word_embeddings",
        "eos_token_id",
        "dtype",
        "clip_qkv",
        "frobnicate",
        "quantization_config",
    ];
    assert_eq!(fields, expected, "{found:#?}");
    assert_eq!(
        found[1],
        "hidden_act is \"gelu\", expected \"silu\", which is all that is supported"
    );
    assert!(found[10].contains("no known meaning for model_type olmo2"));
}

#[test]
fn unknown_models_are_told_what_is_supported() {
    let error = |value: Value| parse(&value).unwrap_err().to_string();
    let found = error(json!({ "model_type": "llama" }));
    assert_eq!(
        found,
        "config.json has model_type \"llama\", supported are olmo, olmo2, olmo3, olmoe and hf_olmo"
    );
    assert!(error(json!({})).contains("model_type null"));
    assert!(error(json!({ "model_type": 3 })).contains("model_type 3"));
    for relative in ["flex_olmo", "olmo_hybrid"] {
        assert!(error(json!({ "model_type": relative })).contains(&format!("; {relative} ")));
    }
}

#[test]
fn sizes_that_would_overflow_or_exhaust_memory_are_refused() {
    let huge = json!({
        "model_type": "olmoe", "num_hidden_layers": 8_000_000, "num_experts": 8_000_000,
        "hidden_size": u64::MAX, "num_attention_heads": 8_000_000, "head_dim": 8_000_000,
    });
    let found = problems(&huge).join("\n");
    for field in ["hidden_size", "num_hidden_layers", "head_dim"] {
        assert!(found.contains(&format!("{field} is")), "{found}");
    }
    let heads = json!({ "model_type": "olmo", "hidden_size": 10, "num_attention_heads": 3 });
    assert!(problems(&heads)[0].contains("a multiple of num_attention_heads = 3"));
    let kv = json!({ "model_type": "olmo", "num_key_value_heads": 5 });
    assert!(parse(&kv).unwrap_err().to_string().contains("n_kv_heads is 5"));
}

#[test]
fn text_that_is_not_a_configuration_is_an_error() {
    let path = Path::new("some/config.json");
    let deep = "[".repeat(1_000_000);
    for text in ["", "{", "[]", "3", "\u{0}", "{\"model_type\":NaN}", deep.as_str()] {
        let error = HfConfig::parse(text, path).unwrap_err();
        assert!(error.to_string().starts_with("some/config.json is not the JSON"), "{error}");
    }
}

#[test]
fn a_model_of_no_family_cannot_be_written() {
    let path = Path::new("out/config.json");
    let mut model = presets::small_olmo2(16, 1, 2, 32);
    model.attention.clip_qkv = Some(8.0);
    let error = HfConfig::for_model(&model, &special(), Dtype::F32, path).unwrap_err();
    assert_eq!(
        error.to_string(),
        "out/config.json cannot be written, for model_type olmo2 does not fit:\n  \
         attention.clip_qkv is 8, expected none"
    );
    model.attention.clip_qkv = None;
    let special = Special { pad_token_id: Some(32), ..special() };
    let error = HfConfig::for_model(&model, &special, Dtype::F32, path).unwrap_err();
    assert!(error.to_string().contains("pad_token_id is 32, expected an id below"), "{error}");
    model.attention.head_dim = 3;
    let error = HfConfig::for_model(&model, &special, Dtype::F32, path).unwrap_err();
    assert!(matches!(error, Error::Architecture { .. }), "{error}");
}

#[test]
fn the_ends_of_text_come_from_the_generation_config_first() {
    let path = Path::new("generation_config.json");
    let text = json!({ "eos_token_id": [100_265, 100_257], "temperature": 0.6 }).to_string();
    let merged = special().with_generation_config(&text, path).unwrap();
    assert_eq!(merged.eos_token_id, [100_265, 100_257]);
    assert_eq!(merged.pad_token_id, Some(1));
    let written = merged.to_generation_json();
    assert_eq!(Special::default().with_generation_config(&written, path).unwrap(), merged);
    let error = special().with_generation_config(r#"{"pad_token_id":-1}"#, path).unwrap_err();
    assert!(error.to_string().contains("pad_token_id is -1, expected a token id"), "{error}");
}
