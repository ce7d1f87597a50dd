//! Folders with something wrong: every problem is told, and the digest goes by the weights alone.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod fixtures;

use std::fs;
use std::path::{Path, PathBuf};

use olmo_hub::verify;
use serde_json::{Value, json};

use fixtures::copy;

fn problems(dir: &Path) -> Vec<String> {
    verify(dir, |_| ()).unwrap().problems
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_digest_is_the_same_in_every_form_of_one_model() {
    let digest = |name: &str| {
        copy(name).map(|(_scratch, dir)| {
            let found = verify(dir, |_| ()).unwrap();
            assert_eq!(found.problems, Vec::<String>::new(), "{name}");
            found.digest.unwrap()
        })
    };
    assert_eq!(digest("hf/olmo2-gqa"), digest("hf/olmo2-gqa-sharded"));
    assert_eq!(digest("original/olmo2-gqa-pt"), digest("original/olmo2-gqa-safetensors"));
    assert_eq!(digest("original/olmo-tied-pt"), digest("original/olmo-tied-hf-olmo"));
    let (first, other) = (digest("hf/olmo2-gqa"), digest("original/olmo2-gqa-pt"));
    assert!(first.is_none() || first != other);
}

#[test]
fn values_that_are_not_finite_are_counted_and_placed() {
    let Some((_scratch, dir)) = copy("original/olmo2-gqa-safetensors") else { return };
    let path = dir.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    // The last two values of the last tensor.
    let n = bytes.len();
    bytes[n - 8..n - 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    bytes[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let found = problems(&dir);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("2 values are not finite, the first is inf"), "{found:?}");
}

#[test]
fn a_tokenizer_of_another_vocabulary_and_a_wrong_end_are_told() {
    let Some((_scratch, dir)) = copy("hf/olmo2") else { return };
    let config = fs::read(dir.join("config.json")).unwrap();
    let rows = serde_json::from_slice::<Value>(&config).unwrap()["vocab_size"].as_u64().unwrap();
    let added = json!([
        { "id": 2, "content": "|||IP_ADDRESS|||" },
        { "id": 3, "content": "<|endoftext|>" },
        { "id": rows + 5, "content": "<|past|>" },
    ]);
    let tokenizer = json!({ "model": { "vocab": { "a": 0, "b": 1 } }, "added_tokens": added });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let found = problems(&dir);
    let has = |text: &str| found.iter().any(|problem| problem.contains(text));
    assert!(has("\"<|past|>\"") && has(&format!("past the embedding's {rows} rows")), "{found:?}");
    assert!(has("the known mistake of early configurations; \"<|endoftext|>\" is 3"), "{found:?}");
    // An end that no token has, and a padding past the embedding.
    change_json(&dir.join("config.json"), |config| {
        config["eos_token_id"] = 7.into();
        config["pad_token_id"] = (rows + 1).into();
    });
    fs::remove_file(dir.join("generation_config.json")).ok();
    let found = problems(&dir);
    let has = |text: &str| found.iter().any(|problem| problem.contains(text));
    assert!(has("eos_token_id is 7, of which tokenizer.json has no token"), "{found:?}");
    assert!(has(&format!("pad_token_id is {}", rows + 1)), "{found:?}");
}

#[test]
fn what_is_missing_and_what_is_left_over_are_told_together() {
    let Some((_scratch, dir)) = copy("original/olmo2-groups-pt") else { return };
    let path = dir.join("config.yaml");
    let yaml = fs::read_to_string(&path).unwrap();
    fs::write(&path, yaml.replace("n_layers: 4", "n_layers: 3")).unwrap();
    let found = verify(&dir, |_| ()).unwrap();
    assert!(
        found.problems.iter().any(|problem| problem.contains("blocks.3.att_proj")),
        "{found:?}"
    );
    fs::write(&path, yaml.replace("n_layers: 4", "n_layers: 5")).unwrap();
    let found = verify(&dir, |_| ()).unwrap();
    assert!(found.problems.iter().any(|problem| problem.contains("blocks.4")), "{found:?}");
    assert!(found.digest.is_none());
}

/// Where the real tokenizers are: the mistake in its own vocabulary.
#[test]
fn the_mistake_is_found_with_the_tokenizer_of_the_release() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let tokenizer = find(&data, "allenai_gpt-neox-olmo-dolma-v1_5.json", 4);
    let (Some(tokenizer), Some((_scratch, dir))) = (tokenizer, copy("hf/olmo-tied")) else {
        println!("skipped: the_mistake_is_found, for the tokenizer is not in {}", data.display());
        return;
    };
    fs::copy(tokenizer, dir.join("tokenizer.json")).unwrap();
    change_json(&dir.join("config.json"), |config| config["eos_token_id"] = 0.into());
    fs::remove_file(dir.join("generation_config.json")).ok();
    let found = problems(&dir);
    let mistake = found.iter().find(|problem| problem.contains("the known mistake"));
    let mistake = mistake.unwrap_or_else(|| panic!("{found:?}"));
    assert!(mistake.contains("|||IP_ADDRESS|||") && mistake.contains("50279"), "{mistake}");
}

fn find(dir: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.ends_with(name) {
            return Some(path);
        }
        if depth > 0
            && path.is_dir()
            && let Some(found) = find(&path, name, depth - 1)
        {
            return Some(found);
        }
    }
    None
}
