//! Batches that grow: which instances each step has and its learning rate, as OLMo-core's trainer makes
//! them with its `BatchSizeSchedulerCallback`.

use std::fs;

use olmo_data::{DataOrder, DataOrderConfig, FslOrder, FslOrderConfig, LoaderState};
use olmo_tests::golden;
use olmo_train::config::Position;
use olmo_train::{TrainConfig, data};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct File {
    sequence_length: usize,
    learning_rate: f64,
    seed: u64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    n: usize,
    batch_sizes: Vec<usize>,
    schedule: Vec<u64>,
    units: String,
    end: u64,
    lr: String,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    indices: Vec<u32>,
    lr: f64,
    tokens: u64,
    batch: u64,
}

/// The steps of the reference.
fn cases() -> File {
    let text = fs::read_to_string(golden("data/core_batch_warmup.json")).expect("there");
    serde_json::from_str(&text).expect("of that form")
}

fn config(all: &File, case: &Case, folder: &std::path::Path, order: &str) -> TrainConfig {
    let data = folder.join("tokens.npy");
    let tokens: Vec<u8> =
        (0..case.n * all.sequence_length).flat_map(|i| (i as u16).to_le_bytes()).collect();
    fs::write(&data, tokens).expect("writable");
    let scheduler = match case.lr.as_str() {
        "constant" => json!({"name": "constant"}),
        "linear" => {
            json!({"name": "linear_with_warmup", "units": "tokens", "t_warmup": 40, "warmup_min_lr": 0})
        }
        _ => {
            json!({"name": "cosine_with_warmup", "units": "tokens", "t_warmup": 100, "warmup_min_lr": 0})
        }
    };
    let yaml = json!({
        "run_name": "grows",
        "save_folder": folder,
        "model": {"preset": "olmo2_1b", "max_sequence_length": all.sequence_length},
        "data": {
            "paths": [data], "sequence_length": all.sequence_length, "seed": all.seed, "order": order
        },
        "optimizer": {"learning_rate": all.learning_rate},
        "scheduler": scheduler,
        "global_train_batch_size": case.batch_sizes[0],
        "batch_size_warmup": {
            "name": "at_marks", "batch_sizes": case.batch_sizes, "schedule": case.schedule,
            "units": case.units
        },
        "device_train_microbatch_size": 1,
        "max_duration": format!("{}T", case.end),
        "save_interval": 1000,
    });
    TrainConfig::parse(&yaml.to_string(), &[], "test").expect("sound")
}

/// The instances of each step, each loader in use as long as its batches have the size that is due.
fn batches(config: &TrainConfig) -> Vec<Vec<u32>> {
    let opened = data::open(config).expect("there");
    let (mut tokens, mut state) = (0, LoaderState::default());
    let mut next = || {
        // A loader for each batch: what the state holds is all that the next step needs.
        let mut loader = opened.loader(config, tokens, state).expect("sound");
        let batch = loader.next_batch().expect("there");
        (tokens, state) = (tokens + batch.tokens.len() as u64, loader.state());
        batch.indices
    };
    (0..config.max_duration.steps).map(|_| next()).collect()
}

#[test]
fn steps_have_the_instances_and_rates_of_olmo_core() {
    let all = cases();
    for (number, case) in all.cases.iter().enumerate() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = config(&all, case, folder.path(), "olmo_core");
        assert_eq!(config.max_duration.steps, case.steps.len() as u64, "case {number}");
        let found = batches(&config);
        let mut tokens_before = 0;
        for (i, (step, indices)) in case.steps.iter().zip(found).enumerate() {
            assert_eq!(indices, step.indices, "case {number}, step {}", i + 1);
            assert_eq!(step.batch, step.tokens - tokens_before);
            assert_eq!(config.batch_plan().tokens_of(i as u64 + 1), step.tokens);
            let at = Position { step: i as u64 + 1, tokens_before, tokens: step.tokens };
            let rate = config.learning_rate_at(at);
            let off = (rate - step.lr).abs() / step.lr;
            assert!(off <= 1e-12, "case {number}, {step:?}: {rate}");
            tokens_before = step.tokens;
        }
    }
}

#[test]
fn instances_stay_in_their_order() {
    let all = cases();
    for case in &all.cases {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let seen = |order| -> Vec<u32> {
            batches(&config(&all, case, folder.path(), order)).into_iter().flatten().collect()
        };
        let settings = DataOrderConfig { seed: all.seed, ..DataOrderConfig::default() };
        let order = DataOrder::new(case.n, &settings).expect("sound");
        let found = seen("olmo");
        assert_eq!(found, order.global_indices()[..found.len()]);
        let settings = FslOrderConfig {
            seed: all.seed,
            global_batch_size: all.sequence_length,
            sequence_length: all.sequence_length,
            ..FslOrderConfig::default()
        };
        let order = FslOrder::new(case.n, &settings).expect("sound");
        let one_by_one: Vec<u32> =
            (0..found.len()).flat_map(|i| order.batch(i).expect("there").to_vec()).collect();
        assert_eq!(seen("olmo_core"), one_by_one);
    }
}
