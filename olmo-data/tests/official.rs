//! Official configurations as they are, against what ai2-olmo reads in them.
//!
//! The vectors are made by `scripts/golden/official_configs.py` from the files of
//! `../shared/data/olmo-configs`, without which these tests say that they were skipped.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use olmo_data::Error;
use olmo_data::fingerprint::sha256;
use olmo_data::official::{MaxDuration, OfficialRun, OfficialYaml, PaddingDirection};
use serde_json::{Value, json};

#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn configs(test: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/olmo-configs");
    if folder.exists() {
        return Some(folder);
    }
    println!("skipped: {test} needs ../shared/data/olmo-configs beside the checkout");
    None
}

#[test]
fn official_configs_are_read_as_ai2_olmo_reads_them() {
    let Some(folder) = configs("official_configs_are_read_as_ai2_olmo_reads_them") else { return };
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data/official_configs.json");
    let golden: serde_json::Map<String, Value> =
        serde_json::from_slice(&std::fs::read(path).expect("vectors")).expect("their shape");
    assert_eq!(golden.len(), 8);
    for (name, expected) in golden {
        let yaml = OfficialYaml::read(folder.join(&name)).expect("read");
        let run = OfficialRun::from_yaml(&yaml).expect("a run");
        let mut lines = String::new();
        let paths = run.paths().expect("paths");
        for path in &paths {
            writeln!(lines, "{path}").expect("text");
        }
        let pad_direction = match run.data.pad_direction {
            PaddingDirection::Right => "right",
            PaddingDirection::Left => "left",
        };
        let found = json!({
            "paths": {"n": paths.len(), "sha256": sha256(lines.as_bytes())},
            "memmap_dtype": run.data.memmap_dtype,
            "drop_last": run.data.drop_last,
            "pad_direction": pad_direction,
            "num_workers": run.data.num_workers,
            "seed": run.data_seed,
            "epoch": run.epoch,
            "instance_filter": run.data.instance_filter,
            "max_sequence_length": run.sequence_length,
            "vocab_size": run.vocab_size,
            "eos_token_id": run.eos_token_id,
            "pad_token_id": run.pad_token_id,
            "global_train_batch_size": run.global_train_batch_size,
            "stop_at": run.stop_at,
            "tokenizer": run.tokenizer,
            "device_eval_batch_size": yaml.get_count("device_eval_batch_size").expect("a count"),
            "eval_interval": yaml.get_count("eval_interval").expect("a count"),
            "wandb_name": yaml.get_text("wandb.name").expect("a name"),
            "learning_rate": yaml.get_float("optimizer.learning_rate").expect("a number"),
        });
        for (field, value) in found.as_object().expect("fields") {
            assert_eq!(value, &expected[field], "{field} of {name}");
        }
        assert_eq!(run.max_duration, MaxDuration::parse(&expected["max_duration"]), "{name}");
    }
}

#[test]
fn a_config_of_python_code_is_read_and_cannot_be_looked_into() {
    let Some(folder) = configs("a_config_of_python_code_is_read_and_cannot_be_looked_into") else {
        return;
    };
    let yaml = OfficialYaml::read(folder.join("custom_dataset_example.yaml")).expect("read");
    let run = OfficialRun::from_yaml(&yaml).expect("a run");
    assert_eq!((run.sequence_length, run.global_train_batch_size), (2048, 128));
    assert!(matches!(run.paths(), Err(Error::CustomDataset)));
}
