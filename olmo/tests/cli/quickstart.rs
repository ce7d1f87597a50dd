//! The README's first command, for a few steps, and what it leaves behind.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::{olmo, stdout};

#[test]
fn quickstart_leaves_a_run_that_other_verbs_work_on() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("a run");
    let out = out.to_str().unwrap();
    let run = ["quickstart", "--steps", "3", "--out", out, "--json"];
    let report: Value = serde_json::from_str(&stdout(run)).unwrap();
    let bits = |when: &str| report["bits_per_byte"][when].as_f64().unwrap();
    assert!(bits("after") < bits("before"), "{report}");
    assert_eq!(report["samples"].as_array().unwrap().len(), 2);

    let page = fs::read_to_string(format!("{out}/report.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 2);
    assert!(page.contains("save_folder"), "the configuration is on the page");
    assert_eq!(fs::read_to_string(format!("{out}/metrics.jsonl")).unwrap().lines().count(), 3);

    let model = format!("{out}/checkpoints/latest");
    let said = stdout([
        "generate",
        "--model",
        &model,
        "--prompt",
        "fn ",
        "--max-new-tokens",
        "4",
        "--json",
    ]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["tokens"][0].as_array().unwrap().len() <= 4);

    // The run goes on from where it is, and a finished one is only measured again.
    let config = format!("{out}/config.yaml");
    let steps = stdout(["train", &config, "max_duration=5", "--json"]);
    let steps: Vec<Value> = steps.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.iter().map(|m| m["step"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 5]);
    olmo(["train", &config, "max_duration=5"]).assert().success();
}
