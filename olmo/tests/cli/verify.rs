//! `olmo verify` as a user types it: alone, beside another form, beside itself in fewer bits.

use super::{Value, fs, golden, json_of, model, olmo, stdout, text};

#[test]
fn another_form_of_a_model_is_told_to_be_the_same() {
    let (first, second) =
        (golden("original/olmo2-gqa-pt"), golden("original/olmo2-gqa-safetensors"));
    let arguments = ["verify", text(&first), "--against", text(&second)];
    let report = json_of(arguments.iter().chain(&["--json"]));
    assert_eq!((&report["sound"], &report["layout"]), (&true.into(), &"ai2-olmo".into()));
    assert_eq!(report["against"]["different_values"], 0);
    assert_eq!(report["against"]["max_error"], 0.0);
    assert!(stdout(arguments).contains("the same model, to the last bit"));
    // The same network with other weights; how far each tensor is apart.
    let scratch = tempfile::tempdir().unwrap();
    let narrow = scratch.path().join("bf16");
    let arguments = ["convert", text(&first), text(&narrow), "--to", "hf", "--dtype", "bf16"];
    olmo(arguments).assert().success();
    let report = json_of(["verify", text(&first), "--against", text(&narrow), "--json"]);
    let rows = report["against"]["tensors"].as_array().unwrap();
    assert_eq!(rows.len(), report["tensors"].as_u64().unwrap() as usize);
    for row in rows {
        // Half a unit in the last of eight bits.
        let (error, largest) = (&row["max_error"], row["largest_value"].as_f64().unwrap());
        assert!(
            error.as_f64().unwrap() > 0.0 && error.as_f64().unwrap() <= largest / 256.0,
            "{row}"
        );
    }
    // Another network is refused by name.
    let other = golden("original/olmo-tied-pt");
    let output = olmo(["verify", text(&first), "--against", text(&other)]).assert().code(2);
    let message = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(message.contains("holds another model"), "{message}");
}

#[test]
fn ends_of_text_that_a_form_has_no_place_for_are_told() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(model("olmo2")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    fs::write(folder.join("generation_config.json"), r#"{"eos_token_id": [2, 5]}"#).unwrap();
    for (form, is_told) in [("olmo", true), ("olmo-safetensors", true), ("hf-olmo", false)] {
        let out = scratch.path().join(form);
        let arguments = ["convert", text(&folder), text(&out), "--to", form];
        let output = olmo(arguments).assert().success().get_output().clone();
        let told = String::from_utf8(output.stderr).unwrap();
        let note = "note: config.yaml has one eos_token_id: 2 is kept, 5 not\n";
        assert_eq!(told.contains(note), is_told, "{form}: {told}");
    }
}

#[test]
fn fewer_bits_are_further_apart() {
    let folder = model("olmo2");
    let compared = |bits: &str| -> Value {
        json_of(["verify", text(&folder), "--quantize", bits, "--json"])["against"].clone()
    };
    let largest = |report: &Value| report["max_error"].as_f64().unwrap();
    let (q8, q4) = (compared("q8"), compared("q4"));
    assert!(largest(&q8) > 0.0 && largest(&q4) > 4.0 * largest(&q8), "{q8} {q4}");
    // Norms stay as they are; matrices do not.
    for (name, is_matrix) in [("attention.w_q.weight", true), ("attention_norm.weight", false)] {
        let rows = q8["tensors"].as_array().unwrap();
        let row = rows.iter().find(|row| row["tensor"].as_str().unwrap().ends_with(name)).unwrap();
        assert_eq!(row["different"].as_u64().unwrap() > 0, is_matrix, "{row}");
    }
    let both = ["verify", text(&folder), "--quantize", "q8", "--against", text(&folder)];
    olmo(both).assert().code(2);
}

/// A copy of a model, to be damaged.
fn copy() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(model("olmo2")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), scratch.path().join(entry.file_name())).unwrap();
    }
    scratch
}

/// The machine fails, and not the model; a socket can be opened by nobody, also not by root.
#[test]
#[cfg(unix)]
fn a_file_that_cannot_be_read_is_the_machines() {
    use std::os::unix::net::UnixListener;
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let scratch = copy();
        let path = scratch.path().join(name);
        let _ = fs::remove_file(&path);
        let _socket = UnixListener::bind(&path).unwrap();
        let verify = olmo(["verify", text(scratch.path()), "--json"]).assert().code(1);
        let report: Value = serde_json::from_slice(&verify.get_output().stdout).unwrap();
        let told = report["problems"].to_string();
        assert!(report["sound"] == false && told.contains(name), "{told}");
    }
}

#[test]
fn a_broken_configuration_is_told_as_json() {
    let scratch = copy();
    fs::write(scratch.path().join("config.json"), "{").unwrap();
    let verify = olmo(["verify", text(scratch.path()), "--json"]).assert().code(2);
    let report: Value = serde_json::from_slice(&verify.get_output().stdout).unwrap();
    assert!(report["sound"] == false && report["tensors"].is_null(), "{report}");
    assert!(report["problems"][0].as_str().unwrap().contains("config.json is not the JSON"));
}

#[test]
fn every_problem_is_printed_and_the_code_is_2() {
    let scratch = copy();
    let config = scratch.path().join("config.json");
    let wrong = fs::read_to_string(&config).unwrap();
    let at = wrong.find("\"num_hidden_layers\": ").unwrap() + 21;
    fs::write(&config, format!("{}9{}", &wrong[..at], &wrong[at + 1..])).unwrap();
    let output = olmo(["verify", text(scratch.path())]).assert().code(2).get_output().clone();
    let printed = String::from_utf8(output.stdout).unwrap();
    let n_missing = printed.lines().filter(|line| line.ends_with("is missing")).count();
    assert!(n_missing > 10 && !printed.contains("digest"), "{printed}");
}
