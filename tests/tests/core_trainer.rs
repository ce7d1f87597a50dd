//! Steps of OLMo-core's own `Trainer`, and ours from its checkpoints, optimizer and data order
//! included.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use olmo_hub::ModelFolder;
use olmo_tests::golden;
use olmo_train::{TrainConfig, Trainer};
use serde::Deserialize;

use crate::load::Steps;

/// Largest relative difference of a step's loss and z-loss. Measured: 1.8e-7.
const LOSS: f64 = 3e-7;
/// Of its gradient norm. Measured: 5.6e-7.
const GRAD_NORM: f64 = 2e-6;
/// Of its learning rate, which the original reports in f32.
const RATE: f64 = 1e-7;

/// What the original's metrics say of each step.
#[derive(Deserialize)]
struct Reference {
    loss: Vec<f64>,
    z_loss: Vec<f64>,
    grad_norm: Vec<f64>,
    lr: Vec<f64>,
    /// 1 where `SkipStepAdamW` made none.
    skipped: Option<Vec<f64>>,
}

/// The beginning of the file, as the original had it; of the run with a filter every fifth instance is
/// one token again and again.
fn tokens(run: &str) -> Vec<u8> {
    const N_BYTES: usize = 16 * 2;
    let mut tokens = fs::read(golden("trainer/tokens.npy")).expect("golden");
    tokens.truncate(100 * N_BYTES);
    if run == "filtered" {
        for instance in tokens.chunks_mut(N_BYTES).step_by(5) {
            let first = [instance[0], instance[1]];
            instance.chunks_mut(2).for_each(|token| token.copy_from_slice(&first));
        }
    }
    tokens
}

/// What `scripts/golden/core_trainer.py` sets up in Python, as a configuration of ours.
fn config(run: &str, step: u64, folder: &Path, more: &[&str]) -> TrainConfig {
    let begins_with = if run == "filtered" { "olmo2" } else { run };
    let checkpoint = golden(&format!("core_trainer/{begins_with}/step{step}"));
    let data = folder.join("tokens.npy");
    fs::write(&data, tokens(run)).expect("writable");
    let (optimizer, schedule) = match run {
        "olmo2" | "filtered" => {
            ("adamw", "name: cosine_with_warmup, t_warmup: 5, alpha_f: 0.1, warmup_min_lr: 0.0")
        }
        _ => (
            "skip_step_adamw",
            "name: wsd, t_warmup: 4, t_decay: 6, warmup_min_lr: 1e-4, decay_min_lr: 1e-3",
        ),
    };
    let yaml = format!(
        "
run_name: {run}
save_folder: {}
seed: 6198
model: {{preset: olmo2_1b}}
data: {{paths: [{}], sequence_length: 16, order: olmo_core, vocab_size: 60}}
eos_token_id: 0
pad_token_id: 1
load_path: {}
reset_optimizer_state: false
reset_trainer_state: false
optimizer: {{name: {optimizer}, learning_rate: 5e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1,
  decay_norm_and_bias: true, decay_embeddings: false}}
scheduler: {{{schedule}}}
global_train_batch_size: 8
device_train_microbatch_size: 2
max_duration: 20
max_grad_norm: 0.5
z_loss: 1e-3
save_async: false
save_interval: 100
",
        folder.join("run").display(),
        data.display(),
        checkpoint.display()
    );
    let mut overrides: Vec<String> = match run {
        "olmo2" => vec![],
        "olmo3" => vec!["faults={spike: {std_factor: 1.0, window: 8}}".to_owned()],
        _ => vec![
            "data.instance_filter={repetition_max_period: 3, repetition_min_period: 1, repetition_max_count: 6}"
                .to_owned(),
            "compat=olmo_core".to_owned(),
        ],
    };
    overrides.extend(more.iter().map(ToString::to_string));
    let mut config = TrainConfig::parse(&yaml, &overrides, "test").expect("a sound config");
    config.model = ModelFolder::open(&checkpoint).expect("a model").model_config().clone();
    config
}

fn follow(run: &str, step: u64) {
    let steps = fs::read_to_string(golden(&format!("core_trainer/{run}/steps.json")));
    let reference: Reference = serde_json::from_str(&steps.expect("golden")).expect("columns");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut trainer =
        Trainer::new(config(run, step, folder.path(), &[]), &Device::flex()).expect("begins");
    let mut ours = Steps::default();
    trainer.run(&mut ours, &AtomicBool::new(false)).expect("runs");

    assert_eq!(ours.0.len(), reference.loss.len() - step as usize);
    let columns = [&reference.loss, &reference.z_loss, &reference.grad_norm, &reference.lr];
    let mut worst = [0.0_f64; 4];
    for metrics in &ours.0 {
        let i = metrics.step as usize - 1;
        let z_loss = metrics.z_loss.expect("there is a z-loss");
        let found = [metrics.cross_entropy, z_loss, metrics.total_grad_norm, metrics.learning_rate];
        for ((worst, found), column) in worst.iter_mut().zip(found).zip(columns) {
            *worst = worst.max((found - column[i]).abs() / column[i].abs());
        }
        if let Some(skipped) = &reference.skipped {
            let found = metrics.step_skipped.expect("told at every step");
            assert!((found - skipped[i]).abs() < 0.5, "{run}: step {}", metrics.step);
        }
    }
    for (found, tolerance) in worst.into_iter().zip([LOSS, LOSS, GRAD_NORM, RATE]) {
        assert!(found <= tolerance, "{run} from step {step}: {worst:?}");
    }
}

#[test]
fn a_run_of_olmo_core_is_that_of_its_own_trainer_from_the_first_step() {
    follow("olmo2", 0);
}

#[test]
fn a_run_of_olmo_core_goes_on_as_its_own_trainer_does() {
    follow("olmo2", 9);
}

/// With windows, `SkipStepAdamW`, which skips a step on the way, and another schedule.
#[test]
fn a_run_of_olmo_3_is_that_of_olmo_core_and_skips_the_same_step() {
    follow("olmo3", 0);
}

/// Whose tokens count in what losses are divided by there.
#[test]
fn a_run_with_a_filter_is_that_of_olmo_core() {
    follow("filtered", 0);
}

#[test]
fn a_run_of_olmo_core_goes_on_with_its_own_data_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let begin =
        |more: &[&str]| Trainer::new(config("olmo2", 9, folder.path(), more), &Device::flex());
    let refused = |more: &[&str]| begin(more).expect_err("other data").to_string();
    let message = refused(&["data.seed=1"]);
    assert!(message.contains("seed 6198") && message.contains("data.seed=6198"), "{message}");
    for other in ["data.vocab_size=61", "pad_token_id=2", "data.bos_token_id=3"] {
        let message = refused(&[other]);
        assert!(
            message.contains("fingerprint") && message.contains("data.vocab_size"),
            "{message}"
        );
    }
    let trainer = begin(&["data.vocab_size=61", "data.ignore_fingerprint_mismatch=true"]);
    assert_eq!(trainer.expect("asked for").global_step(), 9);
}

/// A run whose length is in tokens ends with the same token, whatever its batch was before.
#[test]
fn a_length_in_tokens_is_counted_from_the_checkpoint() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let more = ["max_duration=1600T", "global_train_batch_size=4"];
    let config = config("olmo2", 9, folder.path(), &more);
    let mut trainer = Trainer::new(config, &Device::flex()).expect("begins");
    let mut steps = Steps::default();
    trainer.run(&mut steps, &AtomicBool::new(false)).expect("runs");
    // 448 tokens are left of 9 batches of 128, in batches of 64.
    assert_eq!(trainer.config().max_duration.steps, 9 + 7);
    let last = steps.0.last().expect("steps were made");
    assert_eq!((last.step, last.total_tokens), (16, 1600));
    let saved = fs::read_to_string(folder.path().join("run/config.yaml")).expect("written");
    assert!(saved.contains("1600T"), "{saved}");
}
