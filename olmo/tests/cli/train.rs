//! `olmo train` before and around its steps: what a run takes, official configurations, refusals.

use std::fs;
use std::path::Path;

use olmo_model::presets;
use olmo_train::step::{ActivationCosts, Activations, Precision};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kills::write_config;
use crate::{golden, json_of, olmo, stdout};

/// `olmo train --dry-run` of the original trainer's configuration of a small run: 33 batches of 12
/// instances an epoch, four epochs, stopped at step 100.
fn dry_run(overrides: &[&str]) -> Vec<String> {
    let file = golden("trainer/olmo.yaml").display().to_string();
    let paths = format!("data.paths=[{}]", golden("trainer/tokens.npy").display());
    let fixed = ["train", &file, "--dry-run", &paths, "save_folder=runs/none"].map(str::to_owned);
    fixed.into_iter().chain(overrides.iter().map(ToString::to_string)).collect()
}

/// The most memory that a process has held that made two steps with such activations.
fn peak_bytes(activations: &str) -> f64 {
    let report = json_of([
        "bench",
        "train",
        "--d-model=128",
        "--n-layers=8",
        "--n-heads=4",
        "--vocab-size=512",
        "--seq-len=128",
        "--micro-batch=8",
        "--steps=1",
        "--json",
        "--activations",
        activations,
    ]);
    report["peak_bytes"].as_f64().unwrap()
}

/// Peaks depend on the allocator too, so the bounds are wide.
#[cfg(target_os = "linux")]
#[test]
fn activations_take_about_what_is_estimated() {
    let model = presets::small_olmo(128, 8, 4, 512);
    let costs = ActivationCosts::new(&model, 8 * 128, Precision::F32);
    let [all, half, none] = ["keep", "keep_last=4", "recompute"].map(peak_bytes);
    // Where blocks are computed again, the graph of one is there at a time.
    let one = (costs.block_bytes - costs.input_bytes) as f64;
    let saved = |kept: Activations| (costs.bytes(Activations::Keep) - costs.bytes(kept)) as f64;
    for (name, found, expected) in [
        ("recompute", all - none, saved(Activations::Recompute) - one),
        ("keep_last", all - half, saved(Activations::KeepLast(4))),
    ] {
        let ratio = found / expected;
        assert!((0.6..1.5).contains(&ratio), "{name}: {found:e} saved, {expected:e} estimated");
    }
}

#[test]
fn an_official_configuration_is_resolved_and_reckoned() {
    let output = olmo(dry_run(&["gen1_gc_interval=1"])).assert().success().get_output().clone();
    let (text, notes) = (output.stdout, output.stderr).map_text();
    for part in [
        "run_name: olmo",
        "save_folder: runs/none",
        "max_duration: 132",
        "name: cosine_with_warmup",
        "steps              100",
        "tokens per step    192",
        "tokens             19,200 (19.2 k)",
        "0 blocks recomputed",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(
        notes
            .contains("gen1_gc_interval has no effect here, because there is no garbage collector"),
        "{notes}"
    );
    assert!(!Path::new("runs/none").exists(), "nothing is made");
}

/// Both outputs of a command.
trait MapText {
    fn map_text(self) -> (String, String);
}

impl MapText for (Vec<u8>, Vec<u8>) {
    fn map_text(self) -> (String, String) {
        (String::from_utf8(self.0).unwrap(), String::from_utf8(self.1).unwrap())
    }
}

#[test]
fn overrides_are_of_the_original_fields_and_json_has_all() {
    let report = json_of(dry_run(&[
        "--json",
        "--devices=8",
        "optimizer.learning_rate=5e-3",
        "activation_checkpointing=one_in_two",
        "max_duration=20",
        "stop_at=null",
        "batch_size_warmup={name: at_marks, batch_sizes: [12, 24], schedule: [0, 5], units: steps}",
    ]));
    let at = |pointer: &str| report.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(at("/config/optimizer/learning_rate"), json!(5e-3));
    assert_eq!(at("/config/activations"), json!({"recompute_every": 2}));
    assert_eq!(at("/config/model/n_layers"), json!(2));
    assert_eq!(at("/estimate/steps"), json!(20));
    // Five steps are an odd number of batches, of which the larger ones are pairs.
    assert_eq!(at("/estimate/tokens"), json!(6 * 192 + 14 * 384));
    assert_eq!(at("/estimate/batches/1/steps_before"), json!(6));
    assert_eq!(at("/estimate/devices"), json!(8));
    assert_eq!(at("/estimate/recomputed_blocks"), json!(1));
    assert!(at("/estimate/activation_bytes").as_u64().unwrap() > 0);
    let [single, shared] = ["single", "zero3"]
        .map(|name| at(&format!("/estimate/bytes_per_device/{name}")).as_u64().unwrap());
    assert!(single > shared);
}

/// `olmo train` of the configuration that has evaluators, with files that are elsewhere.
fn with_evaluators(folder: &TempDir, overrides: &[String]) -> assert_cmd::Command {
    let mut command = olmo(["train", &golden("trainer/rms.yaml").display().to_string(), "--json"]);
    command
        .arg(format!("save_folder={}", folder.path().join("run").display()))
        .args(["stop_at=2", "global_train_batch_size=4"])
        .args(overrides);
    command
}

#[test]
fn evaluators_whose_files_are_elsewhere_are_told_and_found_by_a_map() {
    let folder = TempDir::new().unwrap();
    let tokens = format!("data.paths=[{}]", golden("trainer/tokens.npy").display());
    let remote = "evaluators=[{label: all-small, data: {datasets: {c4: ['https://host/data/validation-a.npy'], pile: ['https://host/data/validation-b.npy', 'https://host/none.npy']}}}]".to_owned();
    let here = format!("path_map={{https://host/data: {}}}", golden("trainer").display());
    let run = |overrides: &[&String]| {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).clone()).collect();
        with_evaluators(&folder, &overrides)
    };

    let output = run(&[&tokens, &remote, &here]).assert().code(2).get_output().clone();
    let (_, message) = (output.stdout, output.stderr).map_text();
    for part in [
        "evaluator all-small: 1 of 3 files are not here, the first https://host/none.npy",
        "'path_map={\"https://host\": FOLDER}'",
        "'evaluators=[]'",
    ] {
        assert!(message.contains(part), "{part:?} is not in:\n{message}");
    }
    let data = "data.paths=['s3://bucket/a.npy']".to_owned();
    let (steps, none) = ("max_duration=4".to_owned(), "evaluators=[]".to_owned());
    let output = run(&[&data, &steps, &none]).assert().code(2).get_output().clone();
    let (_, message) = (output.stdout, output.stderr).map_text();
    assert!(message.contains("data: 1 of 1 files are not here"), "{message}");
    assert!(message.contains("path_map={\"s3://bucket\": FOLDER}"), "{message}");

    // Reckoned even so, and said.
    let dry = "--dry-run".to_owned();
    let output =
        run(&[&data, &steps, &remote, &here, &dry]).assert().success().get_output().clone();
    let (text, notes) = (output.stdout, output.stderr).map_text();
    assert!(!notes.contains("eval_interval has no effect"), "{notes}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let missing = [
        "data: 1 of 1 files are not here, the first s3://bucket/a.npy",
        "evaluator all-small: 1 of 3 files are not here, the first https://host/none.npy",
    ];
    assert_eq!(report["missing"], json!(missing));
    assert!(!folder.path().join("run").exists(), "nothing is made");

    let found = remote.replace(", 'https://host/none.npy'", "");
    run(&[&tokens, &found, &here]).assert().success();
    let text = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    for name in ["c4", "pile"] {
        let [loss, perplexity] = ["CrossEntropyLoss", "Perplexity"]
            .map(|what| last[format!("eval/{name}/{what}")].as_f64().unwrap());
        assert!((loss.exp() - perplexity).abs() < 1e-9 && loss > 1.0, "{last}");
    }

    // What is no token file is told with the evaluator.
    let yaml = golden("trainer/rms.yaml");
    let odd = format!("evaluators=[{{label: odd, data: {{paths: [{}]}}}}]", yaml.display());
    let small =
        "evaluators=[{label: small, data: {memmap_dtype: uint32, paths: [validation-a.npy]}}]"
            .to_owned();
    let beside = format!("path_map={{validation: {}/validation}}", golden("trainer").display());
    let other = TempDir::new().unwrap();
    for (evaluators, parts) in [
        (&odd, ["evaluator odd", "is not below 64"]),
        (&small, ["evaluator small", "the token type"]),
    ] {
        let overrides = [tokens.clone(), evaluators.clone(), beside.clone()];
        let output = with_evaluators(&other, &overrides).assert().code(2).get_output().clone();
        let (_, message) = (output.stdout, output.stderr).map_text();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn where_there_is_no_terminal_a_run_says_how_it_goes_and_that_it_is_at_its_end() {
    let folder = TempDir::new().unwrap();
    let config = write_config(folder.path()).display().to_string();
    let said = |overrides: &[&str], code: i32| {
        let arguments = ["train", &config].into_iter().chain(overrides.iter().copied());
        let output = olmo(arguments).assert().code(code).get_output().clone();
        String::from_utf8(output.stderr).unwrap()
    };
    let first = said(&["max_duration=3"], 0);
    assert!(first.starts_with("step 1/3  loss 4.") && first.lines().count() == 1, "{first}");
    let again = said(&["max_duration=2"], 0);
    assert_eq!(
        again,
        "the run was at its end already, with max_duration=2; a larger one goes on\n"
    );
    fs::rename(folder.path().join("run"), folder.path().join("moved")).unwrap();
    let moved = folder.path().join("moved").display().to_string();
    let of_moved = ["train".to_owned(), format!("{moved}/config.yaml"), "--dry-run".to_owned()];
    let note = olmo(&of_moved).assert().success().get_output().stderr.clone();
    let expected = format!("to go on in {moved}, give save_folder={moved}\n");
    assert!(String::from_utf8(note).unwrap().ends_with(&expected), "{expected}");
    let followed = olmo(of_moved).arg(format!("save_folder={moved}")).assert().success();
    followed.stderr("");
    fs::rename(folder.path().join("moved"), folder.path().join("run")).unwrap();
    let other = said(&["max_duration=4", "optimizer.name=lionw"], 2);
    assert!(other.contains("where optimizer.name has changed, give the old one"), "{other}");
    for (wrong, part) in [
        ("max_duratoin=4", "unknown field `max_duratoin`, did you mean `max_duration`? expected"),
        ("optimizer.name=adam", "unknown variant `adam`, did you mean `adamw`?"),
        ("=4", "\"=4\" is no override, expected key.path=value"),
        ("model..d_model=4", "is no override, expected key.path=value"),
    ] {
        let message = said(&[wrong], 2);
        assert!(message.contains(part), "{part:?} is not in:\n{message}");
    }
    let epochs = said(&["max_duration=2ep", "data.paths=[none.npy]"], 2);
    assert!(epochs.contains("none.npy") && epochs.contains("path_map or data.paths"), "{epochs}");
}

#[test]
fn what_cannot_be_followed_is_refused_with_code_2() {
    for (wrong, parts) in [
        ("max_steps=3", &["max_steps is no field of the original trainer"][..]),
        ("precision=amp_fp16", &["precision is amp_fp16", "expected fp32 or amp_bf16"]),
        ("activation_checkpointing=one_in_five", &["one_in_five", "three_in_four"]),
        ("model.attention_dropout=0.1", &["there is no dropout here, set it to 0"]),
        ("load_path=s3://bucket/step5", &["load_path is s3://bucket/step5", "expected a folder"]),
        ("max_duration=soon", &["max_duration"]),
        ("data.paths=[none.npy]", &["none.npy"]),
        ("optimizer", &["no override", "key.path=value"]),
        ("batch_size_warmup={name: by_factor}", &["4ep", "expected steps or tokens with"]),
    ] {
        let output = olmo(dry_run(&[wrong])).assert().code(2).get_output().clone();
        let (_, message) = (output.stdout, output.stderr).map_text();
        assert!(message.contains("error: "), "{wrong}: {message}");
        for part in parts {
            assert!(message.contains(part), "{wrong}: {part:?} is not in:\n{message}");
        }
    }
    olmo(["train", "no.yaml", "--dry-run"]).assert().code(2);
    olmo(dry_run(&["--devices=0"])).assert().code(2);
    olmo(dry_run(&["--mfu=2"])).assert().code(2);
}

#[test]
fn a_growing_batch_is_in_metrics_and_is_inspected() {
    let folder = TempDir::new().unwrap();
    let config = write_config(folder.path());
    let mut yaml = fs::read_to_string(&config).unwrap();
    yaml += "batch_size_warmup: {name: by_factor, factor: 2, every: 200, max_batch_size: 16}\n";
    fs::write(&config, yaml).unwrap();
    let config = config.display().to_string();
    // 128 tokens a step: 200 are reached with the second.
    stdout(["train", "--json", &config, "max_duration=4", "optimizer.metrics_log_interval=3"]);
    let text = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sizes: Vec<_> = lines.iter().map(|line| line["train/global batch size"].clone()).collect();
    assert_eq!(sizes, [128, 128, 256, 256]);
    assert_eq!(lines[3]["throughput/total_tokens"], 768);
    let norm = "optim/param/transformer.blocks.1.att_proj.weight.norm";
    let measured: Vec<bool> = lines.iter().map(|line| line.get(norm).is_some()).collect();
    assert_eq!(measured, [false, false, true, false]);

    let seen = |step: &str| -> Vec<u64> {
        let report = json_of(["data", "inspect", &config, "--step", step, "--json"]);
        let instances = report["instances"].as_array().unwrap();
        instances.iter().map(|instance| instance["index"].as_u64().unwrap()).collect()
    };
    let order = json_of([
        "data",
        "order",
        "--seq-len=16",
        "--seed=6198",
        "--json",
        &folder.path().join("tokens.npy").display().to_string(),
    ]);
    let order: Vec<u64> = serde_json::from_value(order["indices"].clone()).unwrap();
    assert_eq!(["1", "2", "3", "4"].map(seen).concat(), order[..48]);
}
