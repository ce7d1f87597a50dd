//! What surrounds a run: measurements on the way, reports, faults, publishing.

use std::fs;
use std::path::Path;

use olmo_tests::stand_in::StandIn;
use serde_json::Value;
use tempfile::TempDir;

use crate::kills::write_config;
use crate::{json_of, olmo, stdout};

fn last_metrics(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn train(config: &Path, overrides: &[String]) -> assert_cmd::Command {
    let mut command = olmo(["train", "--json"]);
    command.arg(config).args(overrides);
    command
}

#[test]
fn documents_are_measured_on_the_way_as_eval_ppl_measures_them_afterwards() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let documents: Vec<String> = (0..40)
        .map(|i| format!("{{\"text\": \"the {i}th of forty words, {} and {}\"}}\n", i * 7, i % 5))
        .collect();
    fs::write(at("docs.jsonl"), documents.concat()).unwrap();
    stdout([
        "data",
        "train-tokenizer",
        &at("docs.jsonl"),
        "--vocab-size",
        "300",
        "--out",
        &at("t.json"),
    ]);
    stdout([
        "data",
        "tokenize",
        &at("docs.jsonl"),
        "--tokenizer",
        &at("t.json"),
        "--out",
        &at("tokens"),
    ]);
    let config = write_config(folder.path());
    let overrides = [
        "max_duration=4".to_owned(),
        "model.vocab_size=320".to_owned(),
        "eos_token_id=0".to_owned(),
        format!("tokenizer={}", at("t.json")),
        format!("data.paths=['{}']", at("tokens/part-0-00000.npy")),
        "eval_interval=3".to_owned(),
        format!(
            "evaluators=[{{label: docs, paths: ['{}']}}, {{label: raw, paths: ['{}']}}]",
            at("docs.jsonl"),
            at("tokens/part-0-00000.npy")
        ),
        "energy={device_watts: 1000, pue: 1.5, carbon_kg_per_kwh: 0.5}".to_owned(),
    ];
    train(&config, &overrides).assert().success();
    let run = folder.path().join("run");
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let measured: Vec<bool> = text.lines().map(|line| line.contains("eval/docs/")).collect();
    assert_eq!(measured, [false, false, true, true], "every third step and the last");

    let last = last_metrics(&run);
    let found = last["eval/docs/CrossEntropyLoss"].as_f64().unwrap();
    let model = run.join("checkpoints/latest").display().to_string();
    let data = at("docs.jsonl");
    let report =
        json_of(["eval", "ppl", "--model", &model, "--data", &data, "--seq-len", "16", "--json"]);
    assert!((found - report["loss"].as_f64().unwrap()).abs() < 1e-9, "{found} {report}");
    let bits = last["eval/docs/BitsPerByte"].as_f64().unwrap();
    assert!((bits - report["bits_per_byte"].as_f64().unwrap()).abs() < 1e-9, "{bits} {report}");
    assert!(last["eval/raw/Perplexity"].as_f64().unwrap() > 1.0);

    let (kwh, kg) = (&last["energy/total_kWh"], &last["energy/total_kgCO2e"]);
    let (kwh, kg) = (kwh.as_f64().unwrap(), kg.as_f64().unwrap());
    assert!(kwh > 0.0 && (kg - kwh * 1.5 * 0.5).abs() < 1e-12, "{kwh} {kg}");
    assert!(last["throughput/device/MFU"].as_f64().unwrap() > 0.0);
}

#[test]
fn documents_that_cannot_be_measured_are_refused_before_there_is_a_folder() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("docs.jsonl"), "{\"text\": \"some words\"}\n").unwrap();
    fs::write(at("bad.jsonl"), "{\"text\": \"some words\"}\n{\"text\": 3}\n").unwrap();
    let vocabulary = ["data", "train-tokenizer", "--vocab-size", "300", "--special", "<e>"];
    let files = [&at("docs.jsonl"), "--out", &at("t.json")].map(str::to_owned);
    stdout(vocabulary.into_iter().map(str::to_owned).chain(files));
    let config = write_config(folder.path());
    let evaluators = |file: &str| format!("evaluators=[{{label: docs, paths: ['{}']}}]", at(file));
    let others = ["eval_interval=1".to_owned(), "model.vocab_size=320".to_owned()];
    let tokenizer = format!("tokenizer={}", at("t.json"));
    for (overrides, parts) in [
        (vec![evaluators("docs.jsonl")], ["evaluator docs", "give `tokenizer`"]),
        (vec![evaluators("docs.jsonl"), tokenizer.clone()], ["evaluator docs", "`eos_token_id`"]),
        (
            vec![evaluators("bad.jsonl"), tokenizer.clone(), "eos_token_id=0".to_owned()],
            ["evaluator docs", "bad.jsonl"],
        ),
        (
            vec![evaluators("none.jsonl"), tokenizer, "eos_token_id=0".to_owned()],
            ["none.jsonl", "'evaluators=[]'"],
        ),
        (
            vec![evaluators("docs.jsonl"), format!("tokenizer={}", at("none.json"))],
            ["tokenizer", "give the tokenizer.json that made the tokens"],
        ),
    ] {
        let overrides = [&overrides[..], &others].concat();
        let output = train(&config, &overrides).assert().code(2).get_output().clone();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(parts.iter().all(|part| message.contains(part)), "{parts:?} not in {message}");
        assert!(!folder.path().join("run").exists(), "{message}");
    }
}

#[test]
fn a_report_lays_curves_over_each_other_and_shows_what_differs() {
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    for (i, folder) in folders.iter().enumerate() {
        let config = write_config(folder.path());
        let overrides =
            ["max_duration=5".to_owned(), format!("run_name=run<{i}>"), format!("seed={i}")];
        train(&config, &overrides).assert().success();
    }
    let runs = folders.each_ref().map(|folder| folder.path().join("run").display().to_string());
    let out = folders[0].path().join("report.html");
    let page = out.display().to_string();
    let summary = json_of(["report", &runs[0], &runs[1], "--out", &page, "--json"]);
    // Steps and tokens are whole numbers, 5 and not 5.0.
    assert_eq!((&summary[0]["steps"], &summary[0]["tokens"]), (&5.into(), &640.into()));
    assert_eq!(summary[1]["run"], "run<1>");
    let html = fs::read_to_string(&out).unwrap();
    let loss = html.split("<h2>train/CrossEntropyLoss</h2>").nth(1).unwrap();
    let loss = loss.split("</svg>").next().unwrap();
    assert_eq!(loss.matches("<polyline").count(), 2, "{loss}");
    assert!(html.contains("run&lt;0&gt;") && !html.contains("run<0>"));
    assert!(html.contains("<td>seed</td><td>0</td><td>1</td>"), "{html}");
    assert!(!html.contains("<td>max_duration</td>"), "what is the same is not shown");
    assert!(
        !html.contains("http")
            || html.matches("http").count() == html.matches("http://www.w3.org/2000/svg").count()
    );

    // A single run is shown with its whole configuration; what is no run is an error.
    stdout(["report", &runs[0], "--out", &page]);
    assert!(fs::read_to_string(&out).unwrap().contains("max_duration: 5"));
    let nowhere = folders[0].path().display().to_string();
    let output = olmo(["report", &nowhere, "--out", &page]).assert().code(2).get_output().clone();
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no run's folder"));
}

#[test]
fn a_step_that_is_no_number_can_be_replayed() {
    let folder = TempDir::new().unwrap();
    let config = write_config(folder.path());
    let overrides = ["optimizer.learning_rate=1e30", "scheduler={name: constant}"];
    let output = train(&config, &overrides.map(String::from)).assert().code(1).get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    let bundle = message.split("`olmo replay ").nth(1).unwrap().split('`').next().unwrap();
    let found = json_of(["replay", bundle, "--json"]);
    assert!(found["cross_entropy"].is_null() || found["total_grad_norm"].is_null(), "{found}");
    let shown = stdout(["replay", bundle]);
    assert!(shown.contains("of its elements no numbers"), "{shown}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_cannot_fit_is_refused_with_what_to_change() {
    let folder = TempDir::new().unwrap();
    let config = write_config(folder.path());
    let large = ["model={preset: olmo2_32b, n_layers: 100000}".to_owned()];
    let output = train(&config, &large).assert().code(1).get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("out of memory"), "{message}");
    assert!(message.contains("device_train_microbatch_size"), "{message}");
    for (size, code, part) in [
        ("--d-model=2000000", 1, "smaller --d-model"),
        ("--d-model=100000000", 2, "d_model is 100000000, expected at most 8388608"),
        ("--micro-batch=18446744073709551615", 2, "expected at most 8388608"),
    ] {
        let output = olmo(["bench", "train", size]).assert().code(code).get_output().clone();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn checkpoints_that_stay_are_pushed_as_branches() {
    let hub = StandIn::start();
    let folder = TempDir::new().unwrap();
    let config = write_config(folder.path());
    let overrides = ["max_duration=8", "push={repo: me/tiny}"].map(String::from);
    let output = train(&config, &overrides).env_remove("HF_TOKEN").assert().code(2);
    let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(message.contains("HF_TOKEN"), "{message}");
    let no_name = train(&config, &["push={repo: tiny}".to_owned()]).assert().code(2);
    let message = String::from_utf8_lossy(&no_name.get_output().stderr).into_owned();
    assert!(message.contains("push.repo \"tiny\""), "{message}");
    assert!(!folder.path().join("run").exists(), "it is refused before there is a folder");

    hub.set_token("secret");
    train(&config, &overrides)
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_TOKEN", "secret")
        .assert()
        .success();
    for branch in ["step7-tokens896", "step8-tokens1024"] {
        let names: Vec<_> =
            hub.files("me/tiny", branch).into_iter().map(|(name, _)| name).collect();
        for name in ["README.md", "curves/loss.svg", "config.json", "model.safetensors"] {
            assert!(names.iter().any(|found| found == name), "{name} in {names:?} of {branch}");
        }
        assert!(!names.iter().any(|name| name.starts_with("train/")), "{names:?}");
    }
    let asked: Vec<_> = hub.log().into_iter().map(|logged| logged.path).collect();
    assert!(!asked.iter().any(|path| path.contains("step6-")), "ephemeral ones are not sent");
    let saved = fs::read(folder.path().join("run/checkpoints/latest/model.safetensors")).unwrap();
    let pushed = hub.files("me/tiny", "step8-tokens1024");
    assert!(pushed.iter().any(|(name, bytes)| name == "model.safetensors" && *bytes == saved));

    // What a run that was killed had queued is sent when it starts again.
    let queued = folder.path().join("run/checkpoints/.push-queued");
    fs::create_dir(&queued).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let latest = folder.path().join("run/checkpoints/latest");
        fs::copy(latest.join(name), queued.join(name)).unwrap();
    }
    train(&config, &overrides)
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_TOKEN", "secret")
        .assert()
        .success();
    let pushed = hub.files("me/tiny", "queued");
    assert!(pushed.iter().any(|(name, bytes)| name == "model.safetensors" && *bytes == saved));
    let left = fs::read_dir(folder.path().join("run/checkpoints")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}
