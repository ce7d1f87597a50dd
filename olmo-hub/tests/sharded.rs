//! The trainers' sharded checkpoints, as the trainers wrote them: opened, verified and converted.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod fixtures;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use olmo_hub::{Conversion, Form, HfConfig, ModelFolder, convert, verify};
use olmo_model::presets;

use fixtures::{copy, golden, logits_apart};

const FORMS: [&str; 9] = [
    "core-fsdp",
    "core-single",
    "core-tp",
    "local",
    "olmo-core",
    "olmo-core-columns",
    "olmo-core-ddp",
    "torch-legacy",
    "torch-new",
];

/// Of a model that transformers has no type for.
const OF_NO_FAMILY: &str = "torch-new-rms";

fn refused(dir: &Path) -> String {
    ModelFolder::open(dir).unwrap_err().to_string()
}

#[test]
fn logits_are_those_of_the_trainers() {
    for form in FORMS.into_iter().chain([OF_NO_FAMILY]) {
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
        convert(&folder, &Conversion::to(Form::HuggingFace), &out, |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(verify(&out, |_| ()).unwrap().digest.as_ref(), Some(&digest), "{form}");
        digests.push(digest);
    }
    if let [fsdp, single, tp, local, of_ai2_olmo @ ..] = &digests[..] {
        assert_eq!(fsdp, tp);
        assert_ne!(fsdp, single);
        assert_eq!(of_ai2_olmo.len(), 5);
        assert!(of_ai2_olmo.iter().all(|digest| digest == local));
    }
}

#[test]
fn a_sharded_model_of_no_family_converts_to_what_has_it() {
    let Some(dir) = golden(&format!("sharded/{OF_NO_FAMILY}")) else { return };
    let folder = ModelFolder::open(&dir).unwrap();
    assert_eq!(folder.config().family, None);
    let digest = verify(&dir, |_| ()).unwrap().digest;
    let scratch = tempfile::tempdir().unwrap();
    let to = |form, name: &str| {
        let out = scratch.path().join(name);
        convert(&folder, &Conversion::to(form), &out, |_| ControlFlow::Continue(()))?;
        verify(&out, |_| ())
    };
    for (form, name) in [(Form::HfOlmo, "hf_olmo"), (Form::Original, "pt"), (Form::Core, "core")] {
        assert_eq!(to(form, name).unwrap().digest, digest, "{name}");
    }
    to(Form::HuggingFace, "hf").unwrap_err();
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
    let Some((_scratch, dir)) = copy("sharded/local") else { return };
    fs::remove_dir_all(dir.join("model")).unwrap();
    assert!(refused(&dir).contains("no sharded checkpoint"), "{}", refused(&dir));
}

/// `local` and `torch-legacy`, where what the second process has is of another dtype than what the first has.
#[test]
fn processes_that_hold_a_tensor_in_different_dtypes_are_refused() {
    let change = |path: &Path, to: &[u8; 12]| {
        let mut bytes = fs::read(path).unwrap();
        let from = b"FloatStorage";
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at..at + from.len()].copy_from_slice(to);
        fs::write(path, bytes).unwrap();
    };
    for (form, file) in [("local", "model/rank1.pt"), ("torch-legacy", "rank1.pt")] {
        let Some((_scratch, dir)) = copy(&format!("sharded/{form}")) else { return };
        // Numbers of two bytes, so that none of them ends behind its file.
        change(&dir.join(file), b"ShortStorage");
        let error = refused(&dir);
        assert!(error.contains(&format!("{file}: ")), "{error}");
        assert!(error.contains("is I16 there and F32 in another piece of it"), "{error}");
        let found = verify(&dir, |_| ()).unwrap();
        assert!(!found.problems.is_empty() && found.digest.is_none(), "{form}: {found:?}");
    }
}

/// `olmo-core`, whose `model/metadata.json` or a file beside it is changed.
#[test]
fn what_is_missing_or_hostile_in_checkpoints_of_ai2_olmo_core_0_1_is_told_by_name() {
    let Some((_scratch, dir)) = copy("sharded/olmo-core") else { return };
    let list = dir.join("model/metadata.json");
    let text = fs::read_to_string(&list).unwrap();
    let digest = verify(&dir, |_| ()).unwrap().digest;
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        fs::write(&list, text.replacen(from, to, 1)).unwrap();
        refused(&dir)
    };
    let first = r#""shape": [64, 16], "is_sharded": true, "dtype": "F32""#;
    let error = with(first, &first.replace("F32", "BF16"));
    assert!(error.contains("transformer.wte.weight is F32 there and BF16"), "{error}");
    let error = with(first, &first.replace("[64, 16]", "[64, 17]"));
    assert!(error.contains("has 1088 elements, and element 1024 is in no file"), "{error}");
    let error = with(first, &first.replace("64, 16", "4294967296, 4294967296"));
    assert!(error.contains("transformer.wte.weight is too large"), "{error}");
    let error = with(first, &first.replace("\"is_sharded\"", "\"is_spread\": 1, \"is_sharded\""));
    assert!(error.contains("unknown field `is_spread`"), "{error}");
    let error = with("\"rank_0.safetensors\"", "\"../../passwd\"");
    assert!(error.contains("../../passwd"), "{error}");
    let error = with("\"flattened_offsets\": [[0, 1024]]", "\"flattened_offsets\": [[0, 9999]]");
    assert!(error.contains("has 1024 elements, and a part at (0, 9999)"), "{error}");
    let error = with("\"flattened_offsets\": [[0, 1024]]", "\"flattened_offsets\": null");
    assert!(error.contains("neither ranges nor a shape"), "{error}");
    let error = with("\"transformer.ln_f.weight\"", "\"transformer.ln_f.weigh_\"");
    assert!(error.contains("rank_0.safetensors: it has no transformer.ln_f.weigh_"), "{error}");
    fs::write(&list, &text[..text.len() / 2]).unwrap();
    assert!(refused(&dir).contains("metadata.json: it is not the list"), "{}", refused(&dir));
    fs::remove_file(&list).unwrap();
    assert!(refused(&dir).contains("model/metadata.json"), "{}", refused(&dir));
    // As lists were before that version: ranges alone, or a single one.
    let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
    for tensor in old["tensors"].as_object_mut().unwrap().values_mut() {
        let files = tensor.as_object_mut().unwrap().remove("shard_spec_per_file").unwrap();
        let ranges = files.as_object().unwrap().iter();
        let single: serde_json::Map<String, serde_json::Value> = ranges
            .map(|(file, spec)| (file.clone(), spec["flattened_offsets"][0].clone()))
            .collect();
        tensor["flattened_offsets_per_file"] = single.into();
    }
    fs::write(&list, old.to_string()).unwrap();
    assert_eq!(verify(&dir, |_| ()).unwrap().digest, digest);
    // A process's file that is cut short, or not there.
    fs::write(&list, &text).unwrap();
    let shard = dir.join("model/rank_1.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    assert!(refused(&dir).contains("model/rank_1.safetensors"), "{}", refused(&dir));
    fs::remove_file(&shard).unwrap();
    assert!(refused(&dir).contains("model/rank_1.safetensors"), "{}", refused(&dir));
}
