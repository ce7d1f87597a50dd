//! Folders that are incomplete, contradictory or hostile: an error that names everything, and
//! never a panic.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use olmo_hub::error::FolderProblem;
use olmo_hub::{
    Dtype, Error, Family, HfExport, ModelFolder, Special, TensorSpec, save, write_tensors,
};
use olmo_model::{ModelConfig, Transformer, presets};
use tempfile::TempDir;

const INDEX: &str = "model.safetensors.index.json";

/// A sound folder of a model with one block, in as many files as tensors or in one.
fn folder(config: &ModelConfig, sharded: bool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = Transformer::build::<olmo_model::Error>(config, &Device::flex(), |parameter| {
        Ok(TensorData::new(vec![0.5_f32; parameter.n_elements()], parameter.shape.clone()))
    });
    let mut export = HfExport::new(Special::default(), Dtype::F32);
    if sharded {
        export.max_shard_bytes = 0;
    }
    save(&model.unwrap(), &export, folder.path()).unwrap();
    ModelFolder::open(folder.path()).expect("sound before it is damaged");
    folder
}

fn config() -> ModelConfig {
    presets::small_olmo2(8, 1, 2, 16)
}

fn problems(folder: &Path) -> Vec<FolderProblem> {
    match ModelFolder::open(folder) {
        Err(Error::Folder { path, problems }) => {
            assert_eq!(path, folder);
            problems.0
        }
        other => panic!("expected problems, found {other:?}"),
    }
}

fn text(problems: &[FolderProblem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Writes `model.safetensors` with the tensors of a configuration as `change` left them.
fn rewrite(folder: &Path, config: &ModelConfig, change: impl FnOnce(&mut Vec<TensorSpec>)) {
    let family = Family::of(config).unwrap();
    let spec = |parameter: olmo_model::Parameter| TensorSpec {
        name: family.hf_name(&parameter.path).unwrap(),
        dtype: Dtype::F32,
        shape: parameter.shape,
    };
    let mut tensors: Vec<_> = config.parameters().into_iter().map(spec).collect();
    change(&mut tensors);
    write_tensors::<Error>(&folder.join("model.safetensors"), &tensors, &[], |index| {
        Ok(Cow::Owned(vec![0; tensors[index].n_bytes()]))
    })
    .unwrap();
}

fn edit_index(folder: &Path, edit: impl FnOnce(&mut BTreeMap<String, String>)) {
    let path = folder.join(INDEX);
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut map = serde_json::from_value(index["weight_map"].take()).unwrap();
    edit(&mut map);
    index["weight_map"] = serde_json::to_value(map).unwrap();
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn all_that_is_missing_left_over_or_misshapen_is_named_at_once() {
    let config = config();
    let folder = folder(&config, false);
    rewrite(folder.path(), &config, |tensors| {
        tensors.retain(|tensor| !tensor.name.contains("self_attn.k_"));
        tensors[0].shape = vec![8, 16];
        let extra = TensorSpec { name: "model.extra".into(), ..tensors[1].clone() };
        tensors.push(extra);
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq".into();
        tensors.push(TensorSpec { name, dtype: Dtype::F32, shape: vec![2] });
    });
    assert_eq!(
        text(&problems(folder.path())),
        [
            "model.embed_tokens.weight has shape [8, 16], expected [16, 8]",
            "model.layers.0.self_attn.k_proj.weight [8, 8] is missing",
            "model.layers.0.self_attn.k_norm.weight [8] is missing",
            "model.extra in model.safetensors has no place in this model",
        ]
    );
    let error = ModelFolder::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is not a sound model folder:\n  model.embed_tokens.weight"), "{error}");
}

#[test]
fn a_dtype_that_cannot_be_read_is_named() {
    let config = config();
    let folder = folder(&config, false);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"\"F32\"").unwrap();
    let mut changed = bytes;
    changed[at..at + 5].copy_from_slice(b"\"I32\"");
    fs::write(&path, changed).unwrap();
    let found = text(&problems(folder.path()));
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("is of dtype I32, supported are F32, F16 and BF16"), "{found:?}");
}

#[test]
fn files_are_not_looked_for_outside_the_folder() {
    let folder = folder(&config(), true);
    edit_index(folder.path(), |map| {
        for (file, name) in
            map.values_mut().zip(["../outside.safetensors", "/etc/passwd", "a/b", "", "..", "."])
        {
            *file = name.to_owned();
        }
    });
    let found = problems(folder.path());
    let escaping = found.iter().filter(|p| matches!(p, FolderProblem::EscapingFile { .. })).count();
    // The tensors of files that were not opened are not called missing.
    assert_eq!((escaping, found.len()), (6, 6), "{:#?}", text(&found));
}

#[test]
fn an_index_that_is_wrong_about_its_files_is_an_error() {
    let sound = folder(&config(), true);
    let first = "model-00001-of-00014.safetensors";
    assert!(sound.path().join(first).exists());
    fs::remove_file(sound.path().join(first)).unwrap();
    edit_index(sound.path(), |map| {
        let file = map["model.norm.weight"].clone();
        map.insert("lm_head.weight".into(), file);
    });
    let found = problems(sound.path());
    assert!(found.contains(&FolderProblem::MissingFile { file: first.into() }));
    let misplaced = "lm_head.weight is not in model-00013-of-00014.safetensors, where the index \
                     places it";
    assert!(text(&found).contains(&misplaced.to_owned()), "{:#?}", text(&found));

    let doubled = folder(&config(), true);
    let second = "model-00002-of-00014.safetensors";
    fs::copy(doubled.path().join(first), doubled.path().join(second)).unwrap();
    let found = problems(doubled.path());
    let name = "model.embed_tokens.weight".to_owned();
    let duplicate = FolderProblem::Duplicate { name, first: first.into(), second: second.into() };
    assert!(found.contains(&duplicate), "{:#?}", text(&found));

    for index in ["", "[]", "{}", "{\"weight_map\":3}", "{\"weight_map\":{\"a\":1}}"] {
        fs::write(doubled.path().join(INDEX), index).unwrap();
        let error = ModelFolder::open(doubled.path()).unwrap_err();
        assert!(matches!(error, Error::Json { .. }), "{error}");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let folder = folder(&config(), false);
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert_eq!(problems(folder.path()), [FolderProblem::NoTensors]);
    fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert!(matches!(problems(folder.path())[0], FolderProblem::Unreadable { .. }));
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = ModelFolder::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NoModel { .. }) && error.to_string().contains("config.json"));
}

#[test]
fn a_file_cut_at_any_64th_byte_is_an_error() {
    let folder = folder(&config(), false);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in (0..bytes.len()).step_by(64) {
        fs::write(&path, &bytes[..length]).unwrap();
        let found = problems(folder.path());
        let damaged = |problem: &FolderProblem| matches!(problem, FolderProblem::Damaged { .. });
        assert!(found.iter().any(damaged), "{length}: {:?}", text(&found));
    }
    let mut longer = bytes;
    longer.push(0);
    fs::write(&path, longer).unwrap();
    assert!(text(&problems(folder.path()))[0].contains("1 bytes follow its last tensor"));
}

#[test]
fn a_file_cut_after_it_was_opened_is_an_error() {
    let folder = folder(&config(), false);
    let opened = ModelFolder::open(folder.path()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(folder.path().join("model.safetensors"));
    file.unwrap().set_len(3000).unwrap();
    let error = opened.load(&Device::flex(), None).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn every_flipped_bit_of_a_header_is_survived() {
    let config = presets::small_olmo(2, 1, 1, 2);
    let folder = folder(&config, false);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut n_sound = 0;
    for at in (0..header * 8).step_by(3) {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        fs::write(&path, flipped).unwrap();
        // Spaces of the padding may change into other white space.
        n_sound += usize::from(ModelFolder::open(folder.path()).is_ok());
    }
    assert!(n_sound < 20, "{n_sound} damaged headers were taken for sound");
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let config = config();
    let folder = folder(&config, false);
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    // The last tensor is the output projection, 16 by 8.
    bytes[end - 4 * 5..end - 4 * 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let opened = ModelFolder::open(folder.path()).unwrap();
    for dtype in Dtype::ALL {
        let error = opened.load(&Device::flex(), Some(dtype)).unwrap_err().to_string();
        let expected = "lm_head.weight: element 123 is NaN, expected a finite number";
        assert!(error.ends_with(expected) && error.contains("model.safetensors"), "{error}");
    }
    bytes[end - 4 * 5..end - 4 * 4].copy_from_slice(&1e6_f32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let opened = ModelFolder::open(folder.path()).unwrap();
    let error = opened.load(&Device::flex(), Some(Dtype::F16)).unwrap_err().to_string();
    assert!(error.ends_with("element 123 is 1e6, which does not fit f16"), "{error}");
    opened.load(&Device::flex(), Some(Dtype::Bf16)).unwrap();
}

#[test]
fn an_output_projection_beside_tied_weights_must_be_the_embedding() {
    let config = ModelConfig { weight_tying: true, ..config() };
    let folder = folder(&config, false);
    let path = folder.path().join("model.safetensors");
    rewrite(folder.path(), &config, |tensors| {
        let name = "lm_head.weight".into();
        tensors.push(TensorSpec { name, ..tensors[0].clone() });
    });
    let load = || ModelFolder::open(folder.path()).unwrap().load(&Device::flex(), None);
    load().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4] = 1;
    fs::write(&path, &bytes).unwrap();
    let error = load().unwrap_err();
    assert!(matches!(error, Error::TiedHead { index: 127, .. }), "{error}");
    rewrite(folder.path(), &config, |tensors| {
        tensors.push(TensorSpec {
            name: "lm_head.weight".into(),
            dtype: Dtype::F32,
            shape: vec![2, 8],
        });
    });
    let error = load().unwrap_err();
    assert!(matches!(error, Error::TiedHead { index: 16, .. }), "{error}");
}
