//! The card that `olmo push` makes of a run.

use std::collections::BTreeMap;
use std::fs;

use olmo_tests::stand_in::StandIn;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kills::write_config;
use crate::{golden, olmo, stdout, text};

#[test]
fn a_card_shows_configuration_measurements_curves_and_energy() {
    let folder = TempDir::new().unwrap();
    let config = write_config(folder.path());
    let output = olmo(["train", "--json"]).arg(&config).arg("max_duration=9").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = folder.path().join("run");
    // What a machine with meters would have written of the first seven steps, and of two more.
    let metrics = run.join("metrics.jsonl");
    let measured: Vec<String> = fs::read_to_string(&metrics)
        .unwrap()
        .lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            let step = row["step"].as_u64().unwrap();
            row["energy/total_kWh"] = json!(step as f64 * 0.25);
            row["energy/total_kgCO2e"] = json!(step as f64 * 0.125);
            row["energy/device_watts"] = json!(300.0 + step as f64);
            row.to_string()
        })
        .collect();
    fs::write(&metrics, measured.join("\n")).unwrap();
    let checkpoints = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut names: Vec<_> = checkpoints.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let name = names.iter().find(|name| name.to_str().unwrap().starts_with("step7-")).unwrap();
    let checkpoint = run.join("checkpoints").join(name);
    let hub = StandIn::start();
    hub.set_token("secret");
    let mut push = olmo(["push", text(&checkpoint), "me/tiny"]);
    push.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", folder.path()).env("HF_TOKEN", "secret");
    push.env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE").assert().success();
    let files: BTreeMap<_, _> = hub.files("me/tiny", "main").into_iter().collect();
    let card = String::from_utf8(files["README.md"].clone()).unwrap();
    for part in [
        "# tiny",
        "| layers | 2 |",
        "## Training",
        "| train/CrossEntropyLoss | ",
        "The devices drew 1.75000 kWh, which are 0.87500 kg CO2e",
        "global_train_batch_size: 8",
        "tokens.npy",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    // Steps after the checkpoint are not its own.
    assert!(card.contains("\n| 7 | ") && !card.contains("\n| 8 | "), "{card}");
    for curve in ["loss", "grad-norm", "learning-rate", "speed", "power"] {
        let name = format!("curves/{curve}.svg");
        assert!(card.contains(&format!("]({name})")), "{name}: {card}");
        let svg = String::from_utf8(files[&name].clone()).unwrap();
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(points.split(' ').count(), 7, "{svg}");
        assert!(svg.contains("xmlns=\"http://www.w3.org/2000/svg\"") && svg.contains("step 7"));
    }
    // A folder that is no run's has neither curves nor energy.
    let plain = stdout(["push", text(&golden("hf/olmo2")), "me/plain", "--dry-run"]);
    assert!(plain.contains("# plain") && !plain.contains("curves"), "{plain}");
}
