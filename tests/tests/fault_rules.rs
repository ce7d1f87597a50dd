//! Steps that must not be made: named, skipped or stopped at, and made again from their bundle.

use std::fs;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use olmo_tests::weights;
use olmo_train::checkpoint;
use olmo_train::faults::{Action, FaultConfig, SpikeConfig, replay};
use olmo_train::{Error, Observer, Outcome, TrainConfig, Trainer};

use crate::resume::{Quiet, config, run};

/// A run that diverges to what is no number.
fn diverging(folder: &std::path::Path, name: &str) -> TrainConfig {
    let mut config = config(folder, name);
    config.optimizer.learning_rate = 1e30;
    config.scheduler =
        serde_json::from_value(serde_json::json!({"name": "constant"})).expect("a schedule");
    config
}

#[derive(Default)]
struct Notices(Vec<String>);

impl Observer for Notices {
    fn on_skip(&mut self, notice: &str) {
        self.0.push(notice.to_owned());
    }
}

#[test]
fn a_step_that_is_no_number_is_named_and_made_again_from_its_bundle() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = diverging(folder.path(), "run");
    // Documents of seven tokens each, so that the message can name them.
    let bounds: Vec<String> =
        (0..800 / 7).map(|i| format!("{},{},doc-{i},source,{i}\n", i * 7, i * 7 + 7)).collect();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, bounds.concat().as_bytes()).expect("in memory");
    fs::write(folder.path().join("tokens.csv.gz"), gz.finish().expect("in memory"))
        .expect("writable");

    let mut trainer = Trainer::new(config.clone(), &Device::flex()).expect("starts");
    let error = trainer.run(&mut Quiet, &AtomicBool::new(false)).expect_err("diverges");
    let message = error.to_string();
    let Error::NonFinite { what, step, .. } = error else { panic!("{message}") };
    let bundle = config.save_folder.join(format!("faults/step{step}"));
    for part in ["tokens.npy byte", "documents doc-", "and 4 more", "olmo replay"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(message.contains(&bundle.display().to_string()), "{message}");

    let replayed = replay(&bundle, &Device::flex()).expect("a whole bundle");
    assert_eq!(replayed.step, step);
    assert!(replayed.fault.starts_with(what), "{}", replayed.fault);
    assert!(!(replayed.cross_entropy.is_finite() && replayed.total_grad_norm.is_finite()));
    assert_eq!(replayed.parameters.len(), config.model.parameters().len());
    let bad: usize = replayed.parameters.iter().map(|parameter| parameter.n_bad_gradients).sum();
    assert!(bad > 0 || replayed.cross_entropy.is_finite());

    // A bundle that lacks a part is an error that names it.
    fs::remove_file(bundle.join("weights.safetensors")).expect("there");
    let error = replay(&bundle, &Device::flex()).expect_err("incomplete").to_string();
    assert!(error.contains("weights.safetensors"), "{error}");
}

#[test]
fn a_spike_is_skipped_and_leaves_the_weights_to_the_bit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Any loss above the mean of those before is a spike, so that some steps are.
    let spike = SpikeConfig { std_factor: 1e-9, window: 6, action: Action::Skip };
    let faults = FaultConfig { spike: Some(spike), max_bundles: 1, ..FaultConfig::default() };
    let config = TrainConfig { faults, save_interval: 1, ..config(folder.path(), "run") };
    let mut trainer = Trainer::new(config.clone(), &Device::flex()).expect("starts");
    let (mut n_skipped, mut before) = (0, weights(trainer.model()));
    for step in 1..=9 {
        let metrics = trainer.step().expect("no step stops the run");
        assert_eq!(metrics.step, step);
        let after = weights(trainer.model());
        assert_eq!(metrics.step_skipped.is_some(), after == before, "step {step}");
        n_skipped += u64::from(metrics.step_skipped.is_some());
        before = after;
    }
    assert!((1..8).contains(&n_skipped), "{n_skipped} of 9");
    let bundles = fs::read_dir(config.save_folder.join("faults")).expect("there").count();
    assert_eq!(bundles, 1, "no more than max_bundles");
    drop(trainer);

    // The same run with the same skips, interrupted: the window is kept by checkpoints.
    let (outcome, _) = run(&config, Some(4));
    assert_eq!(outcome, Outcome::Interrupted);
    let mut trainer = Trainer::new(config.clone(), &Device::flex()).expect("goes on");
    let mut notices = Notices::default();
    trainer.run(&mut notices, &AtomicBool::new(false)).expect("runs");
    assert_eq!(weights(trainer.model()), before);
    assert!(notices.0.iter().all(|notice| notice.contains("is skipped")), "{:?}", notices.0);
    let saved = checkpoint::list(&config.save_folder.join("checkpoints")).expect("there");
    assert_eq!(saved.last().map(|(step, _)| *step), Some(9));
}

#[test]
fn skipping_without_end_stops_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let faults =
        FaultConfig { on_nan: Action::Skip, max_skips_in_a_row: 2, ..FaultConfig::default() };
    let config = TrainConfig { faults, ..diverging(folder.path(), "run") };
    let mut trainer = Trainer::new(config.clone(), &Device::flex()).expect("starts");
    let mut notices = Notices::default();
    let error = trainer.run(&mut notices, &AtomicBool::new(false)).expect_err("never recovers");
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    assert_eq!(notices.0.len(), 2, "{:?}", notices.0);
    // What was skipped stands in the metrics, with null for what is no number, and reads back.
    let text = fs::read_to_string(config.save_folder.join("metrics.jsonl")).expect("written");
    let skipped = text.lines().filter(|line| line.contains("\"optim/step skipped\":1")).count();
    assert_eq!(skipped, 2, "{text}");
}
