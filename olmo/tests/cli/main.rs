//! The command as a user runs it: output, messages and exit codes.
//!
//! Logits, greedy continuations and losses are compared with what transformers computed
//! (`scripts/golden/hf_models.py`), orders with ai2-olmo's (`scripts/golden/data_order.py`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

mod card;
mod chat;
mod errors;
mod generate;
mod inspect;
mod kills;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod paths;
mod quickstart;
mod runs;
mod text;
mod train;
mod verify;

const FAMILIES: [&str; 11] = [
    "olmo-gqa-clip",
    "olmo-gqa-clip-old-config",
    "olmo-odd",
    "olmo-tied",
    "olmo2",
    "olmo2-gqa",
    "olmo2-gqa-bf16",
    "olmo2-gqa-f16",
    "olmo2-gqa-old-config",
    "olmo2-gqa-sharded",
    "olmo2-tied-odd",
];

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(path)
}

fn model(name: &str) -> PathBuf {
    golden("hf").join(name)
}

fn olmo<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo"));
    command.args(arguments);
    command
}

/// Runs the command, which must succeed, and gives its standard output.
fn stdout<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> String {
    let output = olmo(arguments).assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn json_of<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

/// What transformers computed with one of the model folders.
struct Golden {
    tokens: Vec<Vec<u32>>,
    /// `[batch][seq * vocab]`.
    logits: Vec<Vec<f32>>,
    greedy: Vec<Vec<u32>>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let bytes = fs::read(model(name).join("golden.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let rows = |name: &str| -> Vec<Vec<u32>> {
            let tensor = file.tensor(name).unwrap();
            let ids: Vec<u32> = tensor
                .data()
                .as_chunks::<8>()
                .0
                .iter()
                .map(|&bytes| i64::from_le_bytes(bytes) as u32)
                .collect();
            ids.chunks(tensor.shape()[1]).map(<[u32]>::to_vec).collect()
        };
        let logits = file.tensor("logits").unwrap();
        let row = logits.shape()[1] * logits.shape()[2];
        let logits = floats(logits.data()).chunks(row).map(<[f32]>::to_vec).collect();
        Self { tokens: rows("tokens"), logits, greedy: rows("greedy") }
    }

    fn tokens_file(&self, folder: &TempDir) -> PathBuf {
        write(folder, "tokens.json", json!(self.tokens).to_string())
    }

    /// Summed cross-entropy of the tokens after the first of a row.
    fn nll(&self, row: usize) -> f64 {
        let tokens = &self.tokens[row];
        let vocab = self.logits[row].len() / tokens.len();
        let rows = self.logits[row].chunks(vocab).zip(&tokens[1..]);
        rows.map(|(logits, &next)| {
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            sum.ln() - f64::from(logits[next as usize])
        })
        .sum()
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn write(folder: &TempDir, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, contents).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn logits_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for name in FAMILIES {
        let golden = Golden::read(name);
        let (tokens, out) = (golden.tokens_file(&folder), folder.path().join("logits.safetensors"));
        let model = model(name);
        let arguments = ["logits", "--model", text(&model), "--tokens", text(&tokens)];
        olmo(arguments).arg("--out").arg(&out).assert().success().stdout("").stderr("");
        let bytes = fs::read(&out).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let logits = file.tensor("logits").unwrap();
        let vocab = golden.logits[0].len() / 20;
        assert_eq!((logits.shape(), file.len()), (&[2, 20, vocab][..], 1), "{name}");
        assert_eq!(logits.dtype(), safetensors::Dtype::F32);
        // f32 against f32, logits of up to 11: a few units in the last place of the largest.
        let expected = golden.logits.concat();
        let pairs = floats(logits.data()).into_iter().zip(&expected);
        let worst = pairs.map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0_f32, f32::max);
        assert!(worst < 2e-5, "{name}: {worst}");
    }
    // Nothing is left beside what was asked for.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn perplexity_of_token_files_is_that_of_transformers() {
    let golden = Golden::read("olmo2-gqa");
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = golden
        .tokens
        .iter()
        .enumerate()
        .map(|(i, row)| {
            let bytes: Vec<u8> = row.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect();
            write(&folder, &format!("{i}.npy"), bytes)
        })
        .collect();
    let report = json_of(
        ["eval", "ppl", "--model", text(&model("olmo2-gqa")), "--unscored-first", "--json"]
            .into_iter()
            .chain(["--data", text(&files[0]), text(&files[1])]),
    );
    let expected = golden.nll(0) + golden.nll(1);
    let found = report["nll_nats"].as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
    assert_eq!((&report["n_tokens"], &report["n_documents"]), (&json!(38), &json!(2)));
    assert_eq!((&report["n_bytes"], &report["bits_per_byte"]), (&Value::Null, &Value::Null));
    let perplexity = report["perplexity"].as_f64().unwrap();
    assert!((perplexity / (expected / 38.0).exp() - 1.0).abs() < 1e-6);
}

#[test]
fn data_orders_are_those_of_the_original_trainer() {
    let golden = fs::read(golden("data/data_order.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cases = golden["orders"].as_array().unwrap();
    let few = |case: &&Value| case["max_examples"].is_null() && case["shuffle"] == true;
    let mut n_compared = 0;
    for case in cases.iter().filter(few).filter(|case| case["n_instances"].as_u64() < Some(200)) {
        let n_instances = case["n_instances"].as_u64().unwrap() as usize;
        // Three tokens an instance, and two that fill none.
        let tokens = write(&folder, "tokens.npy", vec![0; (3 * n_instances + 2) * 2]);
        let number = |name: &str| case[name].to_string();
        for (rank, indices) in case["ranks"].as_array().unwrap().iter().enumerate() {
            let mut command = olmo(["data", "order", "--seq-len", "3", "--json", text(&tokens)]);
            command.args(["--dtype", "uint16", "--rank", &rank.to_string()]);
            command.args(["--seed", &number("seed"), "--epoch", &number("epoch")]);
            command.args(["--world-size", &number("world_size")]);
            command.args(["--global-batch-size", &number("global_batch_size")]);
            command.args(["--start-index", &number("start_index")]);
            if case["drop_last"] == false {
                command.arg("--keep-last");
            }
            let output = command.assert().success().get_output().stdout.clone();
            let report: Value = serde_json::from_slice(&output).unwrap();
            assert_eq!(&report["indices"], indices, "{case}");
            assert_eq!(report["total"], case["global"].as_array().unwrap().len());
            n_compared += 1;
        }
    }
    assert!(n_compared >= 20, "{n_compared}");
}

#[test]
fn data_orders_are_those_of_olmo_core_and_saved_under_its_names() {
    let golden = fs::read(golden("data/core_order.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    for order in golden["orders"].as_array().unwrap() {
        let case = &order["case"];
        if case["shuffle"] == false {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let lengths = case["lengths"].as_array().unwrap().iter().enumerate();
        let tokens = lengths.map(|(i, length)| {
            let length = length.as_u64().unwrap() as usize;
            write(&folder, &format!("{i}.npy"), vec![0; length * 2])
        });
        let tokens: Vec<PathBuf> = tokens.collect();
        let seq_len = case["sequence_length"].as_u64().unwrap();
        let batch = case["first"]["global_batch_size"].as_u64().unwrap() / seq_len;
        for (rank, batches) in order["first"].as_array().unwrap().iter().enumerate() {
            let mut command = olmo(["data", "order", "--order", "olmo-core", "--json"]);
            command.args(["--seed", &case["seed"].to_string()]);
            command.args(["--epoch", &case["epoch"].to_string(), "--rank", &rank.to_string()]);
            command.args(["--world-size", &case["first"]["world_size"].to_string()]);
            command.args(["--seq-len", &seq_len.to_string()]);
            command.args(["--global-batch-size", &batch.to_string()]);
            command.args(["--save-to", text(&folder.path().join("work"))]).args(&tokens);
            if let Some(max) = case["max_target_sequence_length"].as_u64() {
                command.args(["--max-target-sequence-length", &max.to_string()]);
            }
            let output = command.assert().success().get_output().stdout.clone();
            let report: Value = serde_json::from_slice(&output).unwrap();
            let expected = batches.as_array().unwrap().iter();
            let expected: Vec<&Value> =
                expected.flat_map(|batch| batch["index"].as_array().unwrap()).collect();
            let found = report["indices"].as_array().unwrap().iter().take(expected.len());
            assert!(found.eq(expected), "{case}");
            let file = Path::new(report["file"].as_str().unwrap());
            assert_eq!(file.file_name().unwrap().to_str(), order["file"].as_str());
            let saved: Vec<u32> = fs::read(file)
                .unwrap()
                .chunks_exact(4)
                .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
                .collect();
            assert_eq!(json!(saved), order["global_indices"]);
        }
    }
}

#[test]
fn models_are_listed_and_shown() {
    let list = json_of(["model", "list", "--json"]);
    let names: Vec<&str> =
        list.as_array().unwrap().iter().filter_map(|model| model["name"].as_str()).collect();
    assert!(names.contains(&"olmo_1b") && names.contains(&"olmo2_32b"), "{names:?}");
    assert_eq!(stdout(["model", "list"]).lines().count(), names.len() + 1);

    // Published: 1,176,764,416 parameters; FLOPs by ai2-olmo 0.6.0.
    let shown = json_of(["model", "show", "olmo_1b", "--json"]);
    assert_eq!(shown["n_parameters"], 1_176_764_416_u64);
    let flops = json!({ "forward": 2_415_919_104_u64, "backward": 5_243_928_576_u64 });
    assert_eq!(shown["flops_per_token"], flops);
    assert_eq!(shown["run_bytes"]["bf16"], 2 * 1_176_764_416_u64);
    assert_eq!(shown["kv_cache_bytes_per_token"]["f32"], 2 * 16 * 2048 * 4);
    assert_eq!(shown["train_bytes"]["f32"], 16 * 1_176_764_416_u64);
    assert_eq!(shown["config"]["weight_tying"], true);
    let folder = json_of(["model", "show", text(&model("olmo2-gqa")), "--json"]);
    assert_eq!((&folder["n_layers"], &folder["n_kv_heads"]), (&json!(3), &json!(2)));
    assert!(stdout(["model", "show", "olmo2_7b"]).contains("7,298,617,344 (7.30 B)"));
    for name in names {
        assert_eq!(json_of(["model", "show", name, "--json"])["name"], name);
    }

    // Windows of 4096 tokens on 24 of 32 layers, and ZeRO-3 over 64 devices.
    let long = ["model", "show", "olmo3_7b_long", "--devices", "64", "--json"];
    let long = json_of(long);
    let saved = long["kv_cache_bytes_saved"]["bf16"].as_u64().unwrap();
    assert!(saved > 2 * long["kv_cache_bytes"]["bf16"].as_u64().unwrap());
    let sharded = &long["train_bytes_per_device"];
    assert_eq!(sharded["devices"], 64);
    let weights = long["train_bytes"]["f32"].as_u64().unwrap();
    assert!(sharded["zero3"]["f32"].as_u64().unwrap() < weights / 16);
    let text = stdout(["model", "show", "olmo3_7b_long"]);
    assert!(text.contains("saved by windows") && text.contains("ZeRO-3"), "{text}");
    assert!(!stdout(["model", "show", "olmo2_7b"]).contains("saved by windows"));
}

/// The shape of the largest model takes no memory for its 64 GB of weights.
#[test]
#[cfg(target_os = "linux")]
fn a_preset_is_shown_within_a_gibibyte_of_address_space() {
    let command =
        format!("ulimit -v 1048576; exec {} model show olmo2_32b", env!("CARGO_BIN_EXE_olmo"));
    let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("32,234,279,936"), "{text}");
}

#[test]
fn devices_are_listed() {
    let listing = json_of(["devices", "--json"]);
    assert_eq!(listing["devices"][0]["name"], "flex");
    assert!(listing["devices"][0]["n_threads"].as_u64().unwrap() >= 1);
    let named = |list: &Value| list.as_array().unwrap().len();
    let n_named = named(&listing["devices"]) + named(&listing["not_compiled_in"]);
    assert!(n_named + named(&listing["not_found"]) >= 8, "{listing}");
}

#[test]
#[cfg(unix)]
fn a_closed_pipe_is_no_error() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_olmo"))
        .args(["model", "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The reader goes before anything is written, or in the middle of it.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
