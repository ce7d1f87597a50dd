//! Runs that begin with the checkpoint of another: of the original trainer, of ours, or weights alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use olmo_hub::{Dtype, ModelFolder, SavedOptimizer};
use olmo_tests::{Golden, golden, weights};
use olmo_train::checkpoint::TrainState;
use olmo_train::data_config::OrderConfig;
use olmo_train::{Observer, StepMetrics, TrainConfig, Trainer};
use serde::Deserialize;

use crate::resume::{config, run};

/// Largest relative differences of a step's loss and of its gradient norm.
const LOSS: f64 = 1e-6;
const GRAD_NORM: f64 = 1e-5;
const RATE: f64 = 1e-12;

#[derive(Deserialize)]
struct Reference {
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
    lr: Vec<f64>,
    /// Of step 8.
    #[serde(default)]
    parameters: BTreeMap<String, f64>,
    /// Of the steps of the reference after a restart of its own.
    #[serde(default)]
    loss_again: Vec<f64>,
}

/// Collects the steps of a run.
#[derive(Default)]
pub(crate) struct Steps(pub(crate) Vec<StepMetrics>);

impl Observer for Steps {
    fn on_step(&mut self, metrics: &StepMetrics) {
        self.0.push(*metrics);
    }
}

/// The steps of a run of the original trainer's configuration that begins with its checkpoint.
fn go_on(name: &str, folder: &Path, overrides: &[&str]) -> (TrainConfig, Vec<StepMetrics>) {
    let checkpoint = golden(&format!("trainer_resume/{name}"));
    let mut all = vec![
        format!("data.paths=[{}]", golden("trainer/tokens.npy").display()),
        format!("save_folder={}", folder.display()),
        format!("load_path={}", checkpoint.display()),
        "compat=olmo".to_owned(),
        "save_async=false".to_owned(),
        "stop_at=10".to_owned(),
    ];
    all.extend(overrides.iter().map(ToString::to_string));
    let config = TrainConfig::read(&checkpoint.join("config.yaml"), &all).expect("its own");
    let mut trainer = Trainer::new(config, &Device::flex()).expect("begins");
    let mut steps = Steps::default();
    trainer.run(&mut steps, &AtomicBool::new(false)).expect("runs");
    (trainer.config().clone(), steps.0)
}

fn reference(name: &str) -> Reference {
    let text = fs::read_to_string(golden(&format!("trainer_resume/{name}/steps.json")));
    serde_json::from_str(&text.expect("there")).expect("of that form")
}

#[test]
fn a_run_of_the_original_trainer_goes_on_here() {
    let forms = [
        "adamw",
        "lionw",
        "sharded-torch_new",
        "sharded-torch_legacy",
        "sharded-local",
        "sharded-olmo_core",
    ];
    for name in forms {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_, steps) = go_on(name, folder.path(), &[]);
        let numbers: Vec<u64> = steps.iter().map(|metrics| metrics.step).collect();
        assert_eq!(numbers, [6, 7, 8, 9, 10], "{name}");
        let expected = reference(name);
        for metrics in steps {
            let i = metrics.step as usize - 1;
            for (what, found, expected, tolerance) in [
                ("loss", metrics.cross_entropy, expected.loss[i], LOSS),
                ("norm", metrics.total_grad_norm, expected.grad_norm[i], GRAD_NORM),
                ("rate", metrics.learning_rate, expected.lr[i], RATE),
            ] {
                let off = (found - expected).abs() / expected;
                assert!(off <= tolerance, "{name}, step {}: {what} {found}, not {expected}", i + 1);
            }
            assert_eq!(metrics.total_tokens, metrics.step * 12 * 16);
        }
        // The reference's own restart leads back to its steps in these forms, and not in the others.
        match name {
            "sharded-torch_new" | "sharded-torch_legacy" => {
                assert_eq!(expected.loss_again, expected.loss[5..], "{name}");
            }
            "sharded-local" | "sharded-olmo_core" => {
                assert_ne!(expected.loss_again, expected.loss[5..], "{name}");
            }
            _ => {}
        }
    }
}

/// What `local` has of the optimizer is also what the other forms have, to the bit.
#[test]
fn every_sharded_form_has_the_same_optimizer() {
    let open = |form: &str| {
        let folder =
            ModelFolder::open(golden(&format!("trainer_resume/sharded-{form}"))).expect(form);
        let state = SavedOptimizer::open(&folder).expect(form);
        (folder, state)
    };
    let (folder, expected) = open("torch_new");
    for form in ["torch_legacy", "local", "olmo_core"] {
        let (_, found) = open(form);
        assert_eq!(found.names(), expected.names(), "{form}");
        for parameter in folder.model_config().parameters() {
            for name in ["exp_avg", "exp_avg_sq"] {
                let values = |state: &SavedOptimizer| state.values(&parameter, name).expect(form);
                assert!(values(&expected).iter().any(|value| *value != 0.0));
                assert_eq!(values(&found), values(&expected), "{form}: {}", parameter.path);
            }
            assert_eq!(found.value(&parameter, "step").expect(form), Some(5.0));
            let average = |state: &SavedOptimizer| state.value(&parameter, "grad_norm_exp_avg");
            assert!(average(&expected).expect(form).is_some());
            assert_eq!(average(&found).expect(form), average(&expected).expect(form));
        }
    }
}

#[test]
fn parameters_have_the_metrics_of_the_original_trainer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    go_on("adamw", folder.path(), &[]);
    let text = fs::read_to_string(folder.path().join("metrics.jsonl")).expect("written");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected = reference("adamw").parameters;
    assert_eq!(expected.len(), 365);
    for (name, expected) in &expected {
        // There is one rate here.
        if name == "optim/learning_rate_group1" {
            continue;
        }
        let found = lines[2][name].as_f64().unwrap_or_else(|| panic!("{name} is missing"));
        // Means and least magnitudes may be close to 0, and are judged by the size of what they are of.
        let stem = name.trim_end_matches(".avg").trim_end_matches(".min");
        let size = lines[2].get(format!("{stem}.max")).and_then(serde_json::Value::as_f64);
        let size = size.filter(|_| stem != name).unwrap_or(expected.abs());
        let off = (found - expected).abs();
        assert!(off <= 1e-5 * size, "{name}: {found}, not {expected}");
    }
    for line in [&lines[1], &lines[3]] {
        let names = line.as_object().expect("an object").keys();
        assert_eq!(names.filter(|name| name.starts_with("optim/param")).count(), 0);
    }
}

#[test]
fn what_is_not_to_be_taken_begins_anew() {
    let expected = reference("adamw");
    let steps = |overrides: &[&str]| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_, steps) = go_on("adamw", folder.path(), overrides);
        let first = steps[0];
        (first.step, first.cross_entropy, first.learning_rate, first.total_tokens)
    };
    let same_batch = |loss: f64| (loss - expected.loss[5]).abs() <= LOSS * expected.loss[5];
    let (step, loss, rate, tokens) = steps(&["reset_optimizer_state=true"]);
    // The warmup of 1920 begins with the step, as this trainer counts it, and leads back to the rate
    // of the schedule at its end.
    let schedule_at_its_end = 0.01 - (0.01 - 0.001) * (1925.0 - 1920.0) / (24_000.0 - 1920.0);
    assert_eq!((step, tokens), (6, 6 * 192));
    assert!(same_batch(loss));
    let expected_rate = schedule_at_its_end * (6.0 * 192.0 - 5.0) / 1920.0;
    assert!((rate / expected_rate - 1.0).abs() < 1e-9, "{rate} for {expected_rate}");

    let anew = [&["restore_dataloader=false"][..], &["reset_trainer_state=true"]];
    for overrides in anew {
        let (step, loss, rate, tokens) = steps(overrides);
        assert_eq!((step, tokens), (1, 192), "{overrides:?}");
        assert!(!same_batch(loss) && (rate - expected.lr[0]).abs() < 1e-15, "{overrides:?}");
    }
    let (step, loss, ..) = steps(&["fast_forward_batches=2"]);
    assert_eq!(step, 6);
    assert!(!same_batch(loss), "two batches are passed over");
}

#[test]
fn weights_are_taken_of_every_form() {
    let forms = [
        "hf/olmo2-gqa",
        "hf/olmo2-gqa-sharded",
        "original/olmo2-gqa-pt",
        "original/olmo-gqa-clip-safetensors",
        "original/olmo-tied-hf-olmo",
        "sharded/core-fsdp",
        "sharded/torch-new",
        "sharded/torch-legacy",
        "sharded/local",
        "sharded/olmo-core",
        "sharded/olmo-core-ddp",
    ];
    for form in forms {
        let opened = ModelFolder::open(golden(form)).expect("a model");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = config(folder.path(), "run");
        config.model = opened.model_config().clone();
        config.load_path = Some(golden(form));
        config.data.sequence_length = 16.min(config.model.max_sequence_length);
        let trainer = Trainer::new(config, &Device::flex()).expect(form);
        let expected = opened.load(&Device::flex(), Some(Dtype::F32)).expect("loads");
        assert_eq!(trainer.global_step(), 0);
        assert_eq!(weights(trainer.model()), weights(&expected), "{form}");
    }
}

#[test]
fn a_run_for_longer_contexts_takes_the_weights_of_shorter_ones() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let short = ModelFolder::open(golden("hf/olmo3")).expect("a model");
    let long = ModelFolder::open(golden("hf/olmo3-gqa-yarn")).expect("a model");
    let mut config = config(folder.path(), "run");
    config.model = short.model_config().clone();
    config.model.max_sequence_length *= 4;
    assert!(config.model.attention.rope.yarn.is_none());
    config.model.attention.rope = long.model_config().attention.rope.clone();
    assert!(config.model.attention.rope.yarn.is_some());
    config.load_path = Some(golden("hf/olmo3"));
    let trainer = Trainer::new(config.clone(), &Device::flex()).expect("begins");
    let expected = short.load(&Device::flex(), Some(Dtype::F32)).expect("loads");
    assert_eq!(weights(trainer.model()), weights(&expected));
    drop(trainer);
    config.model.attention.qk_norm = !config.model.attention.qk_norm;
    let error = Trainer::new(config, &Device::flex()).expect_err("another").to_string();
    assert!(error.contains("another architecture"), "{error}");
}

/// What OLMo-core's checkpoint of two processes has of its optimizer, and where its run goes on.
#[test]
fn the_state_of_olmo_core_is_taken_of_its_sharded_checkpoint() {
    let golden_run = Golden::open("sharded_optimizer/expected.safetensors");
    let checkpoint = golden("sharded_optimizer");
    let opened = ModelFolder::open(&checkpoint).expect("a model");
    let state = SavedOptimizer::open(&opened).expect("its optimizer");
    for parameter in opened.model_config().parameters() {
        for name in ["exp_avg", "exp_avg_sq"] {
            let found = state.values(&parameter, name).expect("there");
            assert_eq!(found, golden_run.f32(&format!("{}.{name}", parameter.path)));
            assert!(found.iter().any(|value| *value != 0.0));
        }
        assert_eq!(state.value(&parameter, "step").expect("readable"), Some(3.0));
    }

    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(folder.path(), "run");
    config.model = opened.model_config().clone();
    config.data.order = OrderConfig::OlmoCore;
    // Of the checkpoint's second epoch three batches of 128 tokens are seen, here of 8 instances each.
    (config.load_path, config.data.seed) = (Some(checkpoint), Some(6198));
    config.data.ignore_fingerprint_mismatch = true;
    (config.reset_optimizer_state, config.reset_trainer_state) = (false, false);
    (config.max_duration, config.stop_after) = (20.into(), Some(1));
    let (_, trainer) = run(&config, None);
    assert_eq!(trainer.global_step(), 16);
    let saved = trainer.last_checkpoint().expect("saved").join("train/state.json");
    let state: TrainState =
        serde_json::from_str(&fs::read_to_string(saved).expect("there")).expect("ours");
    assert_eq!(state.global_train_tokens_seen, 16 * 128);
    assert_eq!((state.loader.epoch, state.loader.n_tokens_seen), (2, 4 * 128));
    assert!(state.optimizer_steps.values().all(|step| *step == 4));
    drop(trainer);

    config.data.order = OrderConfig::Olmo;
    config.save_folder = folder.path().join("other");
    let error = Trainer::new(config, &Device::flex()).expect_err("another order").to_string();
    assert!(error.contains("data.order: olmo_core"), "{error}");
}

#[test]
fn a_run_goes_on_in_another_folder_to_the_last_bit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let whole = config(folder.path(), "whole");
    let (_, undisturbed) = run(&whole, None);
    let checkpoint = whole.save_folder.join("checkpoints/step4-tokens512");

    let mut other = config(folder.path(), "other");
    other.load_path = Some(checkpoint);
    (other.reset_optimizer_state, other.reset_trainer_state) = (false, false);
    run(&other, Some(6));
    let (_, resumed) = run(&other, None);
    assert_eq!(resumed.global_step(), 9);
    assert_eq!(weights(resumed.model()), weights(undisturbed.model()));

    // A batch passed over is one that the data has seen, and no step.
    let mut forward = config(folder.path(), "forward");
    forward.load_path.clone_from(&other.load_path);
    (forward.reset_optimizer_state, forward.reset_trainer_state) = (true, false);
    (forward.fast_forward_batches, forward.stop_after) = (1, Some(1));
    let (_, trainer) = run(&forward, None);
    let saved = trainer.last_checkpoint().expect("saved").join("train/state.json");
    let state: TrainState =
        serde_json::from_str(&fs::read_to_string(saved).expect("there")).expect("ours");
    assert_eq!((state.global_step, state.global_train_tokens_seen), (5, 640));
    assert_eq!((state.loader.epoch, state.loader.n_instances_seen), (0, 48));
    assert_eq!(state.warmup_start, Some(4));
    drop(trainer);
    // The next start passes over nothing and keeps the warmup.
    let (_, trainer) = run(&forward, None);
    let saved = trainer.last_checkpoint().expect("saved").join("train/state.json");
    let state: TrainState =
        serde_json::from_str(&fs::read_to_string(saved).expect("there")).expect("ours");
    assert_eq!((state.loader.epoch, state.loader.n_instances_seen), (1, 8));
    assert_eq!(state.warmup_start, Some(4));
}

#[test]
fn what_a_checkpoint_does_not_have_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let message = |form: &Path, change: &dyn Fn(&mut TrainConfig)| {
        let mut config = config(folder.path(), "run");
        config.model = ModelFolder::open(form).expect("a model").model_config().clone();
        config.load_path = Some(form.to_owned());
        change(&mut config);
        Trainer::new(config, &Device::flex()).expect_err("refused").to_string()
    };
    let weights = golden("original/olmo2-gqa-pt");
    let optimizer = message(&weights, &|config| config.reset_optimizer_state = false);
    assert!(optimizer.contains("reset_optimizer_state=true"), "{optimizer}");
    let progress = message(&weights, &|config| config.reset_trainer_state = false);
    assert!(progress.contains("reset_trainer_state=true"), "{progress}");
    let lion = golden("trainer_resume/lionw");
    let moments = message(&lion, &|config| config.reset_optimizer_state = false);
    assert!(moments.contains("optim.pt has no tensor") && moments.contains("exp_avg_sq"));

    let whole = config(folder.path(), "whole");
    run(&whole, Some(2));
    let ours = whole.save_folder.join("checkpoints/step2-tokens256");
    let other_data = message(&ours, &|config| {
        (config.reset_trainer_state, config.seed) = (false, 7);
    });
    assert!(other_data.contains("restore_dataloader=false"), "{other_data}");
    fs::write(ours.join("train/optimizer.safetensors"), "damaged").expect("writable");
    let damaged = message(&ours, &|config| config.reset_optimizer_state = false);
    assert!(damaged.contains("optimizer.safetensors") && damaged.contains("damaged"), "{damaged}");
}
