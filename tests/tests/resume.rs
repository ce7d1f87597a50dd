//! A run that was interrupted and resumed is, to the last bit, the run that was not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use olmo_hub::{Layout, ModelFolder};
use olmo_model::presets;
use olmo_tests::weights;
use olmo_train::{Error, Observer, Outcome, Speed, StepMetrics, TrainConfig, Trainer, checkpoint};

/// Sets `stop` after a step, as Ctrl-C does.
struct StopAfter<'a> {
    step: u64,
    stop: &'a AtomicBool,
}

impl Observer for StopAfter<'_> {
    fn on_step(&mut self, metrics: &StepMetrics) {
        if metrics.step == self.step {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

pub(crate) struct Quiet;
impl Observer for Quiet {}

/// A run of 9 steps over 50 instances in batches of 8, so that it crosses into the second epoch.
pub(crate) fn config(folder: &Path, name: &str) -> TrainConfig {
    let data = folder.join("tokens.npy");
    let tokens: Vec<u8> =
        (0..50 * 16_u32).flat_map(|i| ((i * i * 7 + i * 3) as u16 % 61).to_le_bytes()).collect();
    fs::write(&data, tokens).expect("writable");
    let yaml = format!(
        "
run_name: {name}
save_folder: {}
model: {{preset: olmo2_1b, d_model: 32, n_layers: 2, vocab_size: 64, max_sequence_length: 16,
  attention: {{n_heads: 4, n_kv_heads: 2, head_dim: 8}}, feed_forward: {{kind: swiglu, hidden_size: 48}}}}
data: {{paths: [{}], sequence_length: 16}}
optimizer: {{learning_rate: 0.01}}
scheduler: {{name: cosine_with_warmup, t_warmup: 3}}
global_train_batch_size: 8
device_train_microbatch_size: 4
max_duration: 9
max_grad_norm: 1.0
z_loss: 0.00001
save_interval: 2
",
        folder.join(name).display(),
        data.display()
    );
    TrainConfig::parse(&yaml, &[], "test").expect("a sound config")
}

pub(crate) fn run(config: &TrainConfig, stop_after: Option<u64>) -> (Outcome, Trainer) {
    let mut trainer = Trainer::new(config.clone(), &Device::flex()).expect("starts");
    let stop = AtomicBool::new(false);
    let outcome = match stop_after {
        Some(step) => trainer.run(&mut StopAfter { step, stop: &stop }, &stop),
        None => trainer.run(&mut Quiet, &stop),
    };
    (outcome.expect("runs"), trainer)
}

/// Metrics but the speed, which no two runs share.
fn metrics(config: &TrainConfig) -> Vec<StepMetrics> {
    let text = fs::read_to_string(config.save_folder.join("metrics.jsonl")).expect("written");
    let parse = |line| serde_json::from_str::<StepMetrics>(line).expect("our own line");
    text.lines()
        .map(parse)
        .map(|m| StepMetrics { tokens_per_second: 0.0, speed: Speed::default(), ..m })
        .collect()
}

pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("there") {
        let path = entry.expect("listed").path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push((path.clone(), fs::read(path).expect("readable")));
        }
    }
    all.sort();
    all
}

#[test]
fn a_resumed_run_is_bitwise_the_uninterrupted_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let whole = config(folder.path(), "whole");
    let parts = config(folder.path(), "parts");
    is_bitwise_the_same(&whole, &parts);
}

/// Its checkpoints are folders of `hf_olmo`, with query, key and value in one tensor.
#[test]
fn a_resumed_run_of_a_model_of_no_family_is_bitwise_the_uninterrupted_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of_no_family = |name| {
        let mut config = config(folder.path(), name);
        let model = presets::olmo_20m();
        config.model.norm = model.norm;
        config.model.norm_placement = model.norm_placement;
        config.model.attention.qk_norm = false;
        (config.eos_token_id, config.pad_token_id) = (Some(0), None);
        config
    };
    let (whole, parts) = (of_no_family("whole"), of_no_family("parts"));
    is_bitwise_the_same(&whole, &parts);
    let latest = ModelFolder::open(whole.save_folder.join("checkpoints/latest")).expect("opens");
    assert_eq!((latest.config().family, latest.layout()), (None, Layout::Original));
    assert_eq!(latest.special(), &whole.special());
    let text = fs::read_to_string(latest.path().join("config.json")).expect("there");
    assert!(text.contains(r#""model_type": "hf_olmo""#), "{text}");
}

fn is_bitwise_the_same(whole: &TrainConfig, parts: &TrainConfig) {
    let (outcome, undisturbed) = run(whole, None);
    assert_eq!(outcome, Outcome::Finished);

    for stop_after in [Some(1), Some(3), Some(7), None] {
        let (outcome, trainer) = run(parts, stop_after);
        match stop_after {
            Some(step) => {
                assert_eq!((outcome, trainer.global_step()), (Outcome::Interrupted, step));
            }
            None => assert_eq!(weights(trainer.model()), weights(undisturbed.model())),
        }
    }
    assert_eq!(metrics(parts), metrics(whole));
    assert_eq!(metrics(whole).last().map(|m| (m.step, m.epoch)), Some((9, 1)));

    // Optimizer, loader and everything else that a checkpoint holds.
    let last = |config: &TrainConfig| {
        let checkpoints = checkpoint::list(&config.save_folder.join("checkpoints")).expect("there");
        files(&checkpoints.last().expect("saved").1)
    };
    let (found, expected) = (last(parts), last(whole));
    let relative = |(path, bytes): &(PathBuf, Vec<u8>)| {
        (path.file_name().expect("a file").to_owned(), bytes.clone())
    };
    assert!(found.iter().map(relative).eq(expected.iter().map(relative)));
}

#[test]
fn a_crash_loses_only_the_steps_since_the_last_save() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(folder.path(), "run");
    // Dropped in the middle, as by `kill -9`: steps 5 was made and measured, not saved.
    let mut trainer = Trainer::new(config.clone(), &Device::flex()).expect("starts");
    let stop = AtomicBool::new(false);
    trainer.run(&mut StopAfter { step: 4, stop: &stop }, &stop).expect("runs");
    trainer.step().expect("one more");
    drop(trainer);
    // What a save that was cut short leaves behind.
    let checkpoints = config.save_folder.join("checkpoints");
    let leftover = checkpoints.join(".tmp-olmo-step6-tokens768-1-1");
    fs::create_dir(&leftover).expect("writable");
    fs::write(leftover.join("model.safetensors"), "half").expect("writable");

    let trainer = Trainer::new(config.clone(), &Device::flex()).expect("resumes");
    assert_eq!(trainer.global_step(), 4);
    assert!(!leftover.exists(), "leftovers are cleaned");
    let latest = fs::canonicalize(checkpoints.join("latest")).expect("a link");
    assert_eq!(latest, fs::canonicalize(trainer.last_checkpoint().expect("saved")).expect("there"));
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config =
        TrainConfig { save_num_checkpoints_to_keep: Some(2), ..config(folder.path(), "run") };
    run(&config, None);
    let kept = checkpoint::list(&config.save_folder.join("checkpoints")).expect("there");
    assert_eq!(kept.iter().map(|c| c.0).collect::<Vec<_>>(), [8, 9]);
}

#[test]
fn another_run_is_not_resumed_by_mistake() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(folder.path(), "run");
    run(&config, Some(2));
    let start = |change: &dyn Fn(&mut TrainConfig)| {
        let mut other = config.clone();
        change(&mut other);
        Trainer::new(other, &Device::flex()).expect_err("another run").to_string()
    };
    let message = start(&|config| config.model.weight_tying = true);
    assert!(message.contains("architecture"), "{message}");
    let message = start(&|config| config.seed = 1);
    assert!(message.contains("seed"), "{message}");
}

#[test]
fn every_optimizer_and_clipping_resumes_to_the_last_bit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings = [
        ("lionw", r#"{"optimizer": {"name": "lionw"}}"#),
        ("muon", r#"{"optimizer": {"name": "muon"}}"#),
        (
            "skip",
            r#"{"optimizer": {"name": "skip_step_adamw"}, "faults": {"spike": {"window": 6}}}"#,
        ),
        ("adaptive", r#"{"max_grad_norm_ratio": 1.1}"#),
        ("tokens", r#"{"scheduler": {"units": "tokens"}, "compat": "olmo"}"#),
        // From the third step on, which waits for the fifth; the first epoch ends with the sixth.
        (
            "growing",
            r#"{"batch_size_warmup": {"name": "at_marks", "batch_sizes": [8, 16], "schedule": [0, 300]}}"#,
        ),
    ];
    for (name, json) in settings {
        let changed = |run_name: &str| {
            let plain = config(folder.path(), &format!("{name}-{run_name}"));
            let yaml = plain.to_yaml().expect("plain data");
            let changes: serde_json::Value = serde_json::from_str(json).expect("JSON");
            let overrides: Vec<String> = changes
                .as_object()
                .expect("an object")
                .iter()
                .flat_map(|(field, value)| match value.as_object() {
                    Some(map) => map.iter().map(|(k, v)| format!("{field}.{k}={v}")).collect(),
                    None => vec![format!("{field}={value}")],
                })
                .collect();
            TrainConfig::parse(&yaml, &overrides, name).expect("sound")
        };
        let (whole, parts) = (changed("whole"), changed("parts"));
        let (_, undisturbed) = run(&whole, None);
        run(&parts, Some(2));
        run(&parts, Some(5));
        let (outcome, resumed) = run(&parts, None);
        assert_eq!(outcome, Outcome::Finished);
        assert_eq!(weights(resumed.model()), weights(undisturbed.model()), "{name}");
        assert_eq!(metrics(&parts), metrics(&whole), "{name}");
    }
}

#[test]
fn a_run_stops_where_it_is_told_and_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(folder.path(), "stopped");
    config.stop_after = Some(3);
    for expected in [3, 6, 9] {
        let (outcome, trainer) = run(&config, None);
        assert_eq!((outcome, trainer.global_step()), (Outcome::Finished, expected));
    }
    config.save_folder = folder.path().join("risen");
    (config.stop_after, config.stop_at) = (None, Some(8));
    config.early_stopping_factor = Some(1.000_001);
    config.optimizer.learning_rate = 10.0;
    let (outcome, trainer) = run(&config, None);
    assert_eq!(outcome, Outcome::LossRose);
    assert!((4..8).contains(&trainer.global_step()), "{}", trainer.global_step());
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_weights() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(folder.path(), "run");
    config.optimizer.learning_rate = 1e30;
    config.scheduler =
        serde_json::from_value(serde_json::json!({"name": "constant"})).expect("a schedule");
    let mut trainer = Trainer::new(config, &Device::flex()).expect("starts");
    let error = trainer.run(&mut Quiet, &AtomicBool::new(false)).expect_err("diverges");
    let Error::NonFinite { step, .. } = error else { panic!("{error}") };
    assert_eq!(trainer.global_step() + 1, step);
    assert!(trainer.last_checkpoint().is_none() || step > 2);
}
