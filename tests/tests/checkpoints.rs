//! Checkpoints of a run: saved while it goes on, checked when it resumes, kept by rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use olmo_tests::weights;
use olmo_train::checkpoint::{OnDamage, list};
use olmo_train::{Error, Observer, Outcome, TrainConfig, Trainer};

use crate::resume::{Quiet, config, files, run};

fn checkpoints(config: &TrainConfig) -> PathBuf {
    config.save_folder.join("checkpoints")
}

fn steps(config: &TrainConfig) -> Vec<u64> {
    list(&checkpoints(config)).expect("there").into_iter().map(|(step, _)| step).collect()
}

/// Changes one bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("writable");
}

#[test]
fn what_is_saved_while_training_goes_on_is_the_step_it_was_begun_at() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let saved = |name: &str, save_async| {
        let config = TrainConfig { save_interval: 1, save_async, ..config(folder.path(), name) };
        run(&config, None);
        let root = checkpoints(&config);
        let all = list(&root).expect("there").into_iter().flat_map(|(_, path)| files(&path));
        let relative = |path: PathBuf| path.strip_prefix(&root).expect("below").to_owned();
        all.map(|(path, bytes)| (relative(path), bytes)).collect::<Vec<_>>()
    };
    let (at_once, meanwhile) = (saved("at-once", false), saved("meanwhile", true));
    assert_eq!(at_once.len(), 9 * 6, "nine checkpoints of six files");
    for (a, b) in at_once.iter().zip(&meanwhile) {
        assert_eq!(a.0, b.0);
        assert!(a.1 == b.1, "{} differs", a.0.display());
    }
    assert_eq!(at_once.len(), meanwhile.len());
}

#[test]
fn a_damaged_checkpoint_is_named_and_gone_back_from_where_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_, undisturbed) = run(&config(folder.path(), "whole"), None);
    let mut config = config(folder.path(), "run");
    run(&config, Some(6));
    let newest = checkpoints(&config).join("step6-tokens768");
    damage(&newest.join("model.safetensors"));

    let error = Trainer::new(config.clone(), &Device::flex()).expect_err("damaged");
    let message = error.to_string();
    assert!(matches!(error, Error::Damaged { .. }), "{message}");
    for part in ["step6-tokens768/model.safetensors", "SHA-256", "step 4", "=previous"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(newest.exists(), "nothing is moved unless asked for");

    config.on_damaged_checkpoint = OnDamage::Previous;
    let trainer = Trainer::new(config.clone(), &Device::flex()).expect("goes back");
    assert_eq!(trainer.global_step(), 4);
    let [(aside, Error::Damaged { path, .. })] = trainer.set_aside() else {
        panic!("{:?}", trainer.set_aside());
    };
    assert!(aside.ends_with("damaged-step6-tokens768") && aside.exists(), "{}", aside.display());
    assert!(path.ends_with("step6-tokens768/model.safetensors"));
    let latest = fs::canonicalize(checkpoints(&config).join("latest")).expect("a link");
    assert!(latest.ends_with("step4-tokens512"), "{}", latest.display());
    drop(trainer);
    let (outcome, trainer) = run(&config, None);
    assert_eq!(outcome, Outcome::Finished);
    assert_eq!(weights(trainer.model()), weights(undisturbed.model()));
    drop(trainer);

    // Where none is whole, there is nothing to go back to.
    for (_, path) in list(&checkpoints(&config)).expect("there") {
        damage(&path.join("train/optimizer.safetensors"));
    }
    let message = Trainer::new(config, &Device::flex()).expect_err("all damaged").to_string();
    assert!(message.contains("no checkpoint before it is whole"), "{message}");
}

#[test]
fn ephemeral_checkpoints_make_way_for_the_next() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = TrainConfig {
        save_interval: 4,
        save_interval_ephemeral: Some(1),
        ..config(folder.path(), "run")
    };
    run(&config, Some(3));
    assert_eq!(steps(&config), [3]);
    run(&config, Some(7));
    assert_eq!(steps(&config), [4, 7]);
    run(&config, None);
    assert_eq!(steps(&config), [4, 8, 9]);
}

#[test]
fn two_processes_cannot_train_in_one_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(folder.path(), "run");
    let first = Trainer::new(config.clone(), &Device::flex()).expect("starts");
    let error = Trainer::new(config.clone(), &Device::flex()).expect_err("taken");
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    drop(first);
    Trainer::new(config, &Device::flex()).expect("free again");
}

/// A tokenizer of one token.
const TOKENIZER: &str = r#"{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;

/// Puts right what made a save fail, after so many failures.
struct Repair {
    tokenizer: PathBuf,
    after: usize,
    failures: Vec<String>,
    saved: Vec<PathBuf>,
}

impl Observer for Repair {
    fn on_checkpoint(&mut self, path: &Path) {
        self.saved.push(path.to_owned());
    }

    fn on_save_failed(&mut self, error: &Error) {
        self.failures.push(error.to_string());
        if self.failures.len() == self.after {
            fs::write(&self.tokenizer, TOKENIZER).expect("writable");
        }
    }
}

#[test]
fn a_save_that_fails_is_reported_and_the_second_in_a_row_ends_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let start = |name: &str| {
        let mut config = config(folder.path(), name);
        let tokenizer = folder.path().join(format!("{name}.missing.json"));
        fs::write(&tokenizer, TOKENIZER).expect("writable");
        config.tokenizer = Some(tokenizer.clone());
        let trainer = Trainer::new(config, &Device::flex()).expect("starts");
        fs::remove_file(&tokenizer).expect("it is there");
        (trainer, Repair { tokenizer, after: 1, failures: Vec::new(), saved: Vec::new() })
    };
    let (mut trainer, mut repair) = start("repaired");
    trainer.run(&mut repair, &AtomicBool::new(false)).expect("goes on");
    assert!(repair.failures[0].contains("missing.json"), "{:?}", repair.failures);
    assert_eq!((repair.failures.len(), repair.saved.len()), (1, 4), "{:?}", repair.saved);

    let (mut trainer, mut repair) = start("not-repaired");
    repair.after = 9;
    let error = trainer.run(&mut repair, &AtomicBool::new(false)).expect_err("no save works");
    assert!(error.to_string().contains("missing.json"), "{error}");
    assert_eq!((repair.failures.len(), trainer.last_checkpoint()), (1, None));

    let (mut trainer, _) = start("at-the-end");
    let stop = AtomicBool::new(true);
    let error = trainer.run(&mut Quiet, &stop).expect_err("the last save does not work");
    assert!(error.to_string().contains("missing.json"), "{error}");
}

#[test]
fn what_a_run_reads_is_opened_before_its_folder_is_made() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("short.npy"), [0, 0]).expect("writable");
    fs::write(at("text.json"), "once").expect("writable");
    fs::write(at("large.json"), include_bytes!("../corpus/tokenizer.json")).expect("writable");
    let sound = config(folder.path(), "run");
    let refused = |change: &dyn Fn(&mut TrainConfig), part: &str| {
        let mut config = sound.clone();
        change(&mut config);
        let error = Trainer::new(config, &Device::flex()).expect_err(part).to_string();
        assert!(error.contains(part), "{part:?} is not in: {error}");
        assert!(!sound.save_folder.exists(), "a folder was made, though {error}");
    };
    refused(&|config| config.data.paths = vec![at("none.npy")], "none.npy");
    refused(&|config| config.data.paths = vec![at("short.npy")], "no instance of 16 tokens");
    refused(&|config| config.load_path = Some(at("none")), "none/config.json");
    refused(&|config| config.tokenizer = Some(at("none.json")), "tokenizer: ");
    refused(&|config| config.tokenizer = Some(at("text.json")), "text.json is no usable tokenizer");
    refused(
        &|config| config.tokenizer = Some(at("large.json")),
        "token ids up to 285, expected less than model.vocab_size = 64",
    );
    let sound_yaml = sound.to_yaml().expect("it can be written");
    let evaluators = |paths: PathBuf| {
        let evaluator = format!("{{label: held-out, paths: [{}]}}", paths.display());
        let yaml = format!("{sound_yaml}eval_interval: 1\nevaluators: [{evaluator}]\n");
        TrainConfig::parse(&yaml, &[], "test").expect("a sound config")
    };
    let measured = evaluators(at("short.npy"));
    refused(&|config| *config = measured.clone(), "evaluator held-out: no instance of 16 tokens");
    run(&sound, Some(2));
    // A run that goes on takes nothing of where it began.
    Trainer::new(TrainConfig { load_path: Some(at("none")), ..sound }, &Device::flex())
        .expect("goes on");
}
