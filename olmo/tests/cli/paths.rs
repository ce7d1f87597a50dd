//! Names of files and folders that are bytes and not text, as Linux has them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use olmo_tests::stand_in::StandIn;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kills::write_config;
use crate::{model, olmo, write};

/// What is printed of [`odd`].
const SHOWN: &str = "f\u{fffd}lder";

/// A folder in `parent` whose name is Latin-1.
fn odd(parent: &TempDir) -> PathBuf {
    parent.path().join(OsStr::from_bytes(b"f\xf6lder"))
}

/// The JSON that a verb prints, which must succeed.
fn json_of(arguments: &[&OsStr]) -> Value {
    let output = olmo(arguments).assert().success().get_output().stdout.clone();
    serde_json::from_slice(&output).unwrap()
}

fn words<'a>(text: &'a str, paths: [&'a Path; 2]) -> Vec<&'a OsStr> {
    text.split(' ').map(OsStr::new).chain(paths.map(Path::as_os_str)).collect()
}

#[test]
fn what_was_made_in_a_folder_whose_name_is_no_text_is_told_in_json() {
    let parent = TempDir::new().unwrap();
    let folder = odd(&parent);
    fs::create_dir(&folder).unwrap();
    let documents = write(&parent, "docs.jsonl", json!({ "text": "many a word" }).to_string());
    let tokenizer = folder.join("tokenizer.json");
    let train = "data train-tokenizer --vocab-size 270 --json --out";
    let report = json_of(&words(train, [&tokenizer, &documents]));
    let shown = |name: &str| format!("{}/{SHOWN}/{name}", parent.path().display());
    assert_eq!(report["file"], shown("tokenizer.json"));

    let mut arguments = words("data tokenize --json --tokenizer", [&tokenizer, &documents]);
    arguments.extend([OsStr::new("--out"), folder.as_os_str()]);
    assert_eq!(json_of(&arguments)["files"], json!([shown("part-0-00000.npy")]));

    let tokens = folder.join("part-0-00000.npy");
    let order = "data order --seq-len 1 --json --save-to";
    assert_eq!(json_of(&words(order, [&folder, &tokens]))["file"], shown("global_indices.npy"));
    let order = "data order --order olmo-core --seq-len 1 --json --save-to";
    let file = json_of(&words(order, [&folder, &tokens]))["file"].clone();
    assert!(file.as_str().unwrap().starts_with(&shown("")), "{file}");
}

#[test]
fn a_run_whose_folder_got_a_name_that_is_no_text_is_reported() {
    let parent = TempDir::new().unwrap();
    let config = write_config(parent.path());
    olmo(["train"]).arg(config).arg("max_duration=2").assert().success();
    let folder = odd(&parent);
    fs::rename(parent.path().join("run"), &folder).unwrap();
    let page = folder.join("report.html");
    let summary = json_of(&words("report --json --out", [&page, &folder]));
    assert_eq!(summary[0]["folder"], format!("{}/{SHOWN}", parent.path().display()));
    assert!(page.exists());
}

#[test]
fn a_model_is_pulled_into_a_folder_whose_name_is_no_text() {
    let hub = StandIn::start();
    let names = ["config.json", "model.safetensors"];
    let files = names.map(|name| (name, fs::read(model("olmo2-gqa").join(name)).unwrap()));
    hub.commit("me/model", "main", &files);
    let parent = TempDir::new().unwrap();
    let folder = odd(&parent);
    let output = olmo(["pull", "me/model", "--json", "--to"])
        .arg(&folder)
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HOME", parent.path().join("cache"))
        .assert()
        .success();
    let report: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert!(report["path"].as_str().unwrap().ends_with(SHOWN), "{report}");
    assert!(folder.join("model.safetensors").exists());
}

/// Its run's configuration has the folder's name, and is read again.
#[test]
fn quickstart_refuses_such_a_folder_before_it_makes_anything() {
    let parent = TempDir::new().unwrap();
    let folder: OsString = odd(&parent).into();
    let output = olmo(["quickstart", "--out"]).arg(&folder).assert().code(2);
    let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(message.contains("is not UTF-8"), "{message}");
    assert!(!Path::new(&folder).exists());
}
