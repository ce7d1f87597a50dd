//! The trainers' sharded checkpoints, as the trainers wrote them: opened, verified and converted.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod fixtures;

use std::fs;
use std::path::Path;

use olmo_hub::{Conversion, Form, HfConfig, ModelFolder, convert, verify};
use olmo_model::presets;

use fixtures::{copy, golden, logits_apart};

const FORMS: [&str; 6] =
    ["core-fsdp", "core-single", "core-tp", "local", "torch-legacy", "torch-new"];

fn refused(dir: &Path) -> String {
    ModelFolder::open(dir).unwrap_err().to_string()
}

#[test]
fn logits_are_those_of_the_trainers() {
    for form in FORMS {
        let Some(dir) = golden(&format!("sharded/{form}")) else { continue };
        let apart = logits_apart(&dir, "logits");
        assert!(apart < 2e-6, "{form}: {apart}");
    }
}

#[test]
fn every_sharded_form_of_a_model_is_the_same_model_and_converts() {
    let mut digests = Vec::new();
    for form in FORMS {
        let Some(dir) = golden(&format!("sharded/{form}")) else { continue };
        let found = verify(&dir, |_| ()).unwrap();
        assert_eq!(found.problems, Vec::<String>::new(), "{form}");
        let digest = found.digest.unwrap();
        let folder = ModelFolder::open(&dir).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        convert(&folder, &Conversion::to(Form::HuggingFace), &out, |_| ()).unwrap();
        assert_eq!(verify(&out, |_| ()).unwrap().digest.as_ref(), Some(&digest), "{form}");
        digests.push(digest);
    }
    if let [fsdp, single, tp, local, legacy, new] = &digests[..] {
        assert_eq!(fsdp, tp);
        assert_ne!(fsdp, single);
        assert_eq!((local, legacy), (new, new));
    }
}

#[test]
fn configurations_of_olmo_core_are_our_presets() {
    let Some(path) = golden("sharded/core_configs.json") else { return };
    let configs: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut n_compared = 0;
    for (name, expected) in presets::all() {
        let Some(model) = configs.get(name) else { continue };
        let length = expected.max_sequence_length;
        let experiment = serde_json::json!({
            "model": model, "train_module": { "max_sequence_length": length },
        });
        let found = HfConfig::parse(&experiment.to_string(), &path).unwrap();
        assert_eq!(found.model, expected, "{name}");
        n_compared += 1;
    }
    assert_eq!(n_compared, 8);
}

#[test]
fn configurations_of_olmo_core_that_are_of_other_models_are_refused() {
    let Some(dir) = golden("sharded/core-fsdp") else { return };
    let text = fs::read_to_string(dir.join("config.json")).unwrap();
    let path = Path::new("config.json");
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        HfConfig::parse(&text.replace(from, to), path).unwrap_err().to_string()
    };
    let error = refused("\"reordered_norm\"", "\"default\"");
    assert!(error.contains("model.block.name is default"), "{error}");
    let error = refused("\"n_kv_heads\": 2", "\"n_kv_heads\": 2, \"spin\": 1");
    assert!(error.contains("model.block.attention.spin is 1"), "{error}");
    let error =
        refused("\"name\": \"rms\", \"eps\": 1e-06", "\"name\": \"default\", \"eps\": 1e-06");
    assert!(error.contains("layer_norm.name is default, expected rms"), "{error}");
    let error = refused("sequence_length\": 32", "sequence_length\": -1");
    assert!(error.contains("train_module.max_sequence_length is not there"), "{error}");
}

#[test]
fn what_is_missing_or_hostile_is_told_by_name() {
    let Some((_scratch, dir)) = copy("sharded/core-fsdp") else { return };
    let shard = dir.join("model_and_optim/__1_0.distcp");
    let bytes = fs::read(&shard).unwrap();
    fs::remove_file(&shard).unwrap();
    assert!(refused(&dir).contains("__1_0.distcp"), "{}", refused(&dir));
    // Where the model's tensors are; the optimizer's come after them.
    fs::write(&shard, &bytes[..40_000]).unwrap();
    assert!(refused(&dir).contains("__1_0.distcp"), "{}", refused(&dir));
    // Within those of the optimizer, by a single byte.
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    let error = refused(&dir);
    assert!(error.contains("__1_0.distcp: it has") && error.contains("cut short"), "{error}");
    fs::write(&shard, &bytes).unwrap();
    ModelFolder::open(&dir).unwrap();
    // A place outside of the folder.
    let metadata = dir.join("model_and_optim/.metadata");
    let list = fs::read(&metadata).unwrap();
    let with = |from: &[u8], to: &[u8]| {
        let at = list.windows(from.len()).position(|window| window == from).unwrap();
        let mut changed = list.clone();
        changed.splice(at..at + from.len(), to.iter().copied());
        fs::write(&metadata, changed).unwrap();
        refused(&dir)
    };
    let error = with(b"__0_0.distcp", b"../../passwd");
    assert!(error.contains("../../passwd"), "{error}");
    // Code that Python would run: the first class is another.
    let error = with(b"\x25torch.distributed.checkpoint.metadata", b"\x02os");
    assert!(error.contains("os.Metadata") && error.contains("never run"), "{error}");
    let error = with(b"model.embeddings.weight", b"model.embeddings.weigh_");
    assert!(error.contains("embeddings.weigh"), "{error}");
    fs::write(&metadata, &list[..list.len() / 2]).unwrap();
    assert!(refused(&dir).contains(".metadata: "), "{}", refused(&dir));
    // A process's file that is not there.
    for form in ["local", "torch-legacy"] {
        let Some((_scratch, dir)) = copy(&format!("sharded/{form}")) else { return };
        let folder = if form == "local" { "model/rank1.pt" } else { "rank1.pt" };
        fs::remove_file(dir.join(folder)).unwrap();
        assert!(refused(&dir).contains("is in no file"), "{}", refused(&dir));
    }
    // The form of ai2-olmo-core 0.1 says what would have worked.
    let Some((_scratch, dir)) = copy("sharded/local") else { return };
    fs::remove_dir_all(dir.join("model")).unwrap();
    assert!(refused(&dir).contains("no sharded checkpoint"), "{}", refused(&dir));
    fs::create_dir(dir.join("model")).unwrap();
    fs::write(dir.join("model/.metadata.json"), "{}").unwrap();
    assert!(refused(&dir).contains("unshard.py"), "{}", refused(&dir));
}
