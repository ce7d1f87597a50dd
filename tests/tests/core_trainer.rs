//! Steps of OLMo-core's own `Trainer` on two processes, and ours from its checkpoints, optimizer and data order
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

/// What `scripts/golden/core_trainer.py` sets up in Python, as a configuration of ours.
fn config(run: &str, step: u64, folder: &Path) -> TrainConfig {
    let checkpoint = golden(&format!("core_trainer/{run}/step{step}"));
    // The beginning of the file, as the original had it.
    let tokens = fs::read(golden("trainer/tokens.npy")).expect("golden");
    let data = folder.join("tokens.npy");
    fs::write(&data, &tokens[..100 * 16 * 2]).expect("writable");
    let (optimizer, schedule) = match run {
        "olmo2" => {
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
data: {{paths: [{}], sequence_length: 16, order: olmo_core}}
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
    let spike = "faults={spike: {std_factor: 1.0, window: 8}}".to_owned();
    let overrides = if optimizer == "adamw" { vec![] } else { vec![spike] };
    let mut config = TrainConfig::parse(&yaml, &overrides, "test").expect("a sound config");
    config.model = ModelFolder::open(&checkpoint).expect("a model").model_config().clone();
    config
}

fn follow(run: &str, step: u64) {
    let steps = fs::read_to_string(golden(&format!("core_trainer/{run}/steps.json")));
    let reference: Reference = serde_json::from_str(&steps.expect("golden")).expect("columns");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut trainer =
        Trainer::new(config(run, step, folder.path()), &Device::flex()).expect("begins");
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
