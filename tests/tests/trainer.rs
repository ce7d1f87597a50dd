//! A hundred steps of ai2-olmo's own `Trainer`, and a hundred of ours from the same configuration file,
//! token file and weights; official configurations are read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use olmo_data::rng::torch_permutation;
use olmo_hub::{Dtype, HfExport, Special};
use olmo_model::{Transformer, presets};
use olmo_tests::{Golden, golden, hf_name, relative_difference, root, weights};
use olmo_train::evaluation::EvaluatorConfig;
use olmo_train::official::{self, Translation};
use olmo_train::{Error, Evaluation, Observer, Outcome, StepMetrics, TrainConfig, Trainer};
use serde_json::Value;

/// Largest relative difference of a step's loss and z-loss. Measured: 3e-7.
const LOSS: f64 = 1e-6;
/// Of its gradient norm. Measured: 3e-6.
const GRAD_NORM: f64 = 1e-5;
/// Of a step's learning rate.
const RATE: f64 = 1e-12;
/// Of a parameter after the last step.
const WEIGHTS: f64 = 1e-4;

/// Of the loss that an evaluator measures. Measured: 1e-7.
const EVALUATORS: f64 = 1e-6;

#[derive(Default)]
struct Steps {
    metrics: Vec<StepMetrics>,
    scores: Vec<(u64, BTreeMap<String, f64>)>,
}

impl Observer for Steps {
    fn on_step(&mut self, metrics: &StepMetrics) {
        self.metrics.push(*metrics);
    }

    fn on_scores(&mut self, step: u64, scores: &BTreeMap<String, f64>) {
        self.scores.push((step, scores.clone()));
    }
}

/// A run of the trainer's configuration and token files in a folder, from the trainer's own weights.
fn trainer(name: &str, folder: &Path, overrides: &[&str]) -> Trainer {
    let start = folder.join("start");
    if !start.exists() {
        let golden_run = Golden::open(&format!("trainer/{name}.safetensors"));
        let export = HfExport::new(Special::default(), Dtype::F32);
        std::fs::create_dir(&start).expect("writable");
        olmo_hub::save(&golden_run.model("initial.", &Device::flex()), &export, &start)
            .expect("saves");
    }
    let validation = golden("trainer/validation-");
    let mut all = vec![
        format!("data.paths=[{}]", golden("trainer/tokens.npy").display()),
        format!("save_folder={}", folder.join("run").display()),
        format!("path_map={{validation-: {}}}", validation.display()),
        "compat=olmo".to_owned(),
        "save_async=false".to_owned(),
    ];
    all.extend(overrides.iter().map(ToString::to_string));
    let file = golden(&format!("trainer/{name}.yaml"));
    let mut config = TrainConfig::read(&file, &all).expect("an official configuration");
    config.load_path = Some(start);
    Trainer::new(config, &Device::flex()).expect("starts")
}

fn follow(name: &str) {
    let golden_run = Golden::open(&format!("trainer/{name}.safetensors"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut trainer = trainer(name, folder.path(), &[]);
    let mut steps = Steps::default();
    trainer.run(&mut steps, &AtomicBool::new(false)).expect("runs");

    assert_eq!(steps.metrics.len(), 100);
    let expected = |quantity: &str| golden_run.floats(quantity);
    let columns = [expected("loss"), expected("z_loss"), expected("grad_norm"), expected("lr")];
    for (i, metrics) in steps.metrics.iter().enumerate() {
        let z_loss = metrics.z_loss.expect("there is a z-loss");
        let found = [metrics.cross_entropy, z_loss, metrics.total_grad_norm, metrics.learning_rate];
        for (j, tolerance) in [LOSS, LOSS, GRAD_NORM, RATE].into_iter().enumerate() {
            let (found, expected) = (found[j], columns[j][i]);
            let off = (found - expected).abs() / expected.abs();
            assert!(
                off <= tolerance,
                "{name}: step {}, quantity {j}: {found}, not {expected}",
                i + 1
            );
        }
    }
    let family = golden_run.config().family;
    for (path, values) in weights(trainer.model()) {
        let expected = golden_run.f32(&format!("final.{}", hf_name(family, &path)));
        let off = relative_difference(&values, &expected);
        assert!(off <= WEIGHTS, "{name}: {path} after the last step: {off:e}");
    }
    check_scores(&golden_run, &steps.scores);
}

/// That the trainer's evaluators were measured at the same steps, with the same losses, and nothing else.
fn check_scores(golden_run: &Golden, scores: &[(u64, BTreeMap<String, f64>)]) {
    let mut names = golden_run.names();
    names.retain(|name| name.starts_with("eval."));
    if names.is_empty() {
        assert!(scores.is_empty());
        return;
    }
    let steps: Vec<i64> = scores.iter().map(|(step, _)| step.cast_signed()).collect();
    assert_eq!(steps, golden_run.ints("eval_steps"));
    for (i, (step, scores)) in scores.iter().enumerate() {
        assert_eq!(scores.len(), names.len(), "{scores:?}");
        for name in &names {
            let found = scores[&name.replace("eval.", "eval/")];
            let expected = golden_run.floats(name)[i];
            // The exponential of a loss is off by what the loss is off, relative to itself.
            let is_perplexity = name.ends_with("/Perplexity");
            let [found, expected] =
                [found, expected].map(|x| if is_perplexity { x.ln() } else { x });
            let off = (found - expected).abs() / expected;
            assert!(off <= EVALUATORS, "{name} at step {step}: {found}, not {expected}: {off:e}");
        }
    }
}

#[test]
fn the_batches_of_evaluators_are_those_of_the_original_trainer() {
    let golden_run = Golden::open("trainer/rms.safetensors");
    for (label, seed) in
        [("all-small-ppl-validation", 6198), ("subset", 7), ("whole", 6198), ("first-two", 6198)]
    {
        let batches = golden_run.ints(&format!("eval_batches.{label}"));
        let expected: Vec<u32> =
            batches.iter().filter_map(|number| u32::try_from(*number).ok()).collect();
        assert_eq!(torch_permutation(expected.len(), seed).expect("few"), expected, "{label}");
    }
}

#[test]
fn a_run_that_goes_on_is_measured_before_its_next_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stop = AtomicBool::new(false);
    let run = |overrides: &[&str]| {
        let mut steps = Steps::default();
        let mut trainer = trainer("rms", folder.path(), overrides);
        trainer.run(&mut steps, &stop).expect("runs");
        steps.scores
    };
    let before = run(&["eval_interval=7", "eval_on_load=true", "stop_after=3"]);
    assert_eq!(before.len(), 1, "a run that begins is not measured before its first step");
    let after = run(&["eval_interval=7", "eval_on_load=true", "stop_after=2"]);
    let steps: Vec<u64> = after.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [3, 5]);
    assert_eq!(before[0], after[0], "the same weights, to the last bit");
    let metrics = folder.path().join("run/metrics.jsonl");
    let text = std::fs::read_to_string(metrics).expect("written");
    assert_eq!(text.lines().count(), 5, "a line a step:\n{text}");
}

/// Stops a run while it is measured.
struct StopMeasuring<'a>(&'a AtomicBool);

impl Observer for StopMeasuring<'_> {
    fn evaluate(&mut self, _: u64, _: &Transformer) -> Evaluation {
        self.0.store(true, Ordering::Relaxed);
        Ok(BTreeMap::new())
    }

    fn on_scores(&mut self, step: u64, _: &BTreeMap<String, f64>) {
        panic!("step {step} was not measured as a whole");
    }
}

#[test]
fn a_run_that_was_stopped_while_it_was_measured_is_measured_when_it_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stop = AtomicBool::new(false);
    let outcome = trainer("rms", folder.path(), &["eval_interval=2"])
        .run(&mut StopMeasuring(&stop), &stop)
        .expect("saved");
    assert_eq!(outcome, Outcome::Interrupted);
    for (stop_after, measured) in [("stop_after=1", vec![2, 3]), ("stop_after=0", vec![])] {
        let mut steps = Steps::default();
        let mut trainer = trainer("rms", folder.path(), &["eval_interval=2", stop_after]);
        trainer.run(&mut steps, &AtomicBool::new(false)).expect("runs");
        assert_eq!(steps.scores.iter().map(|(step, _)| *step).collect::<Vec<_>>(), measured);
    }
    let text = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).expect("written");
    let has_scores: Vec<bool> = text.lines().map(|line| line.contains("\"eval/")).collect();
    assert_eq!(has_scores, [false, true, true]);
}

#[test]
fn a_run_of_olmo_is_that_of_the_original_trainer() {
    follow("olmo");
}

/// Initial weights have a deviation of 0.2 here. With the 0.02 of OLMo 2 this run amplifies rounding
/// ten thousand times from its sixteenth step on, whoever rounds: compared with the original in double
/// precision, its own losses in single precision are off by 4e-8 (the median of the first 15 steps), and
/// ours by 1e-8; both pass 1e-4 in step 17 and 1e-2 by step 33, as does the original with initial weights
/// that differ by one part in ten million. `scripts/check/double_precision.py` measures it.
#[test]
fn a_run_of_olmo_2_is_that_of_the_original_trainer() {
    follow("olmo2");
}

/// AI2's configuration of 20M parameters, shrunk: RMS norms before attention and none of queries and keys.
#[test]
fn a_run_of_a_model_of_no_family_is_that_of_the_original_trainer() {
    follow("rms");
}

#[test]
fn every_official_configuration_is_read_or_refused_with_the_reason() {
    let folder = root().join("../shared/data/olmo-configs");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: every_official_configuration_is_read needs {}", folder.display());
        return;
    };
    let mut n_read = 0;
    for entry in entries {
        let path = entry.expect("listed").path();
        if path.extension() != Some("yaml".as_ref()) {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("readable");
        let options = serde_saphyr::options! { strict_booleans: true };
        let mut value: serde_json::Value =
            serde_saphyr::from_str_with_options(&text, options).expect("YAML");
        assert!(official::is_official(&value), "{name}");
        value["save_folder"] = "runs/official".into();
        let translated = official::translate(value.clone(), Path::new(&name));
        match name.as_str() {
            // Its data is made by Python code.
            "custom_dataset_example.yaml" => {
                assert!(matches!(translated, Err(Error::Data(_) | Error::Hub(_))), "{name}");
            }
            // It goes on from a checkpoint elsewhere.
            "OLMo2-7B-stage2-seed42.yaml" => {
                let message = translated.expect_err("a load_path").to_string();
                assert!(message.contains("load_path=FOLDER"), "{message}");
                value["load_path"] = serde_json::Value::Null;
                check(&name, official::translate(value, Path::new(&name)));
                n_read += 1;
            }
            _ => {
                check(&name, translated);
                n_read += 1;
            }
        }
    }
    assert_eq!(n_read, 8);
}

fn check(name: &str, translated: Result<Translation, Error>) {
    let Translation { config, notes } = translated.unwrap_or_else(|error| panic!("{error}"));
    let tasks = notes.iter().find(|note| note.field == "evaluators").expect(name);
    assert!(tasks.reason.contains("piqa"), "{name}: {}", tasks.reason);
    // Sets of perplexity are measured; their files are elsewhere.
    let evaluators: Vec<EvaluatorConfig> = config.get("evaluators").map_or_else(Vec::new, |sets| {
        serde_json::from_value(sets.clone()).expect("evaluators of ours")
    });
    let n_datasets: usize = evaluators.iter().map(|evaluator| evaluator.datasets.len()).sum();
    let expected = match name {
        "OLMo-1B.yaml" | "OLMo-7B.yaml" => 11 + 13,
        _ if name.starts_with("OLMo2") => 0,
        _ => 11,
    };
    assert_eq!(n_datasets, expected, "{name}");
    assert_eq!(
        config.get("eval_interval").and_then(Value::as_u64) >= Some(1000),
        expected > 0,
        "{name}"
    );
    for path in evaluators.iter().flat_map(|evaluator| evaluator.datasets.values().flatten()) {
        assert!(path.to_string_lossy().contains("://"), "{name}: {}", path.display());
    }
    let model: olmo_model::ModelConfig =
        serde_json::from_value(config["model"].clone()).expect("an architecture");
    model.validate().expect("sound");
    if let Some(of_preset) = match name {
        "OLMo-20M.yaml" => Some(presets::olmo_20m()),
        "OLMo-150M.yaml" => Some(presets::olmo_150m()),
        _ => None,
    } {
        assert_eq!(model, of_preset, "{name}");
    }
    assert!(config["data"]["paths"].as_array().is_some_and(|paths| paths.len() > 10), "{name}");
}

#[test]
fn the_runs_in_configs_are_sound() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("configs")).expect("there") {
        let path = entry.expect("listed").path();
        if path.extension() != Some("yaml".as_ref()) {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // Its steps are those of an epoch, which the token files alone tell.
        let is_in_epochs = name == "olmo3-32b-stage1";
        let length = ["max_duration=700_000".to_owned()];
        let config = TrainConfig::read(&path, if is_in_epochs { &length } else { &[] })
            .unwrap_or_else(|error| panic!("{error}"));
        if is_in_epochs {
            let message = TrainConfig::read(&path, &[]).expect_err("no files").to_string();
            assert!(message.contains("max_duration is in epochs"), "{message}");
        }
        assert_eq!(config.run_name, name);
        assert!(config.tokens_per_step() * config.max_duration.steps > 40_000_000_000, "{name}");
        names.push(name);
    }
    assert_eq!(names.len(), 14, "{names:?}");
}
