//! Folders that `transformers` wrote: every configuration is read, every tensor finds its place.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use olmo_hub::{Dtype, Family, HfConfig, HfExport, ModelFolder, TensorFile, save};

/// The golden folders, none where the checkout comes without them.
fn folders() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/hf");
    let Ok(entries) = fs::read_dir(&golden) else {
        println!("skipped: {} is not there", golden.display());
        return Vec::new();
    };
    let mut folders: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    folders.sort();
    folders
}

fn name(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}

/// Every tensor of a folder's files: shape and values. Experts that are stored as one tensor a layer
/// come under the names that each has alone.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let folder = ModelFolder::open(path).unwrap();
    let mut tensors = BTreeMap::new();
    for file in folder.file_names() {
        let file = TensorFile::open(&path.join(file)).unwrap();
        for tensor in file.names() {
            let (shape, values) = (file.shape(tensor).unwrap(), file.get_f32(tensor).unwrap());
            let parts: &[&str] = match tensor.rsplit_once(".experts.") {
                Some((_, "gate_up_proj")) => &["gate_proj", "up_proj"],
                Some((_, "down_proj")) => &["down_proj"],
                _ => {
                    tensors.insert(tensor.to_owned(), (shape.to_vec(), values));
                    continue;
                }
            };
            let experts = tensor.rsplit_once('.').unwrap().0;
            let [rows, columns] = [shape[1] / parts.len(), shape[2]];
            for (index, matrix) in values.chunks_exact(rows * columns).enumerate() {
                let [expert, part] = [index / parts.len(), index % parts.len()];
                let name = format!("{experts}.{expert}.{}.weight", parts[part]);
                tensors.insert(name, (vec![rows, columns], matrix.to_vec()));
            }
        }
    }
    tensors
}

#[test]
fn every_configuration_is_read_and_written_back() {
    for folder in folders() {
        let path = folder.join("config.json");
        let config = HfConfig::read(&path).unwrap();
        let family = name(&folder).split('-').next().unwrap();
        assert_eq!(Family::from_model_type(family), config.family);
        assert_eq!(HfConfig::parse(&config.to_json(), &path).unwrap(), config);
        // What transformers 5 wrote and what we write is the same, up to the order of fields.
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let theirs = fs::read_to_string(&path).unwrap();
        if !name(&folder).ends_with("old-config") {
            assert_eq!(value(&config.to_json()), value(&theirs), "{}", path.display());
        }
    }
}

#[test]
fn a_folder_and_its_old_configuration_are_the_same_model() {
    for old in folders().iter().filter(|folder| name(folder).ends_with("-old-config")) {
        let new = old.with_file_name(name(old).trim_end_matches("-old-config"));
        let read = |folder: &Path| HfConfig::read(&folder.join("config.json")).unwrap();
        assert_eq!(read(old), read(&new));
    }
}

#[test]
fn every_folder_opens_in_its_dtype_and_loads_to_the_last_bit() {
    for path in folders() {
        let folder = ModelFolder::open(&path).unwrap();
        let expected = match name(&path).rsplit('-').next() {
            Some("bf16") => Dtype::Bf16,
            Some("f16") => Dtype::F16,
            _ => Dtype::F32,
        };
        assert_eq!(folder.stored_dtype(), expected, "{}", path.display());
        assert_eq!(folder.config().dtype, Some(expected));
        assert_eq!(folder.special().eos_token_id, [2]);
        let model = folder.load(&Device::flex(), None).unwrap();
        let stored = tensors(&path);
        let mut n_tensors = 0;
        model.visit_parameters(|parameter, shape, values| {
            let name = folder.config().family.unwrap().hf_name(parameter).unwrap();
            assert_eq!(values.dtype(), expected.into());
            let found = values.into_data().try_into_vec_as::<f32>().unwrap();
            assert_eq!(stored[&name], (shape.to_vec(), found), "{name}");
            n_tensors += 1;
        });
        assert_eq!(n_tensors, folder.model_config().parameters().len());
    }
}

/// Where links need privileges, a run's `latest` is a file with the newest checkpoint's name.
#[test]
fn a_file_that_names_the_newest_checkpoint_leads_to_it() {
    let Some(model) = folders().into_iter().next() else { return };
    let run = tempfile::tempdir().unwrap();
    let (newest, latest) = (run.path().join("step1-tokens2"), run.path().join("latest"));
    std::fs::create_dir(&newest).unwrap();
    for entry in std::fs::read_dir(&model).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), newest.join(entry.file_name())).unwrap();
    }
    std::fs::write(&latest, "step1-tokens2").unwrap();
    assert_eq!(ModelFolder::open(&latest).unwrap().path(), newest);
    let read = |path| ModelFolder::read_config(path).unwrap();
    assert_eq!(read(&latest), read(&model));
    // A model beside the run, and one at an address of its own.
    let outside = tempfile::tempdir_in(run.path()).unwrap();
    let inner = outside.path().join("run");
    std::fs::create_dir(&inner).unwrap();
    let latest = inner.join("latest");
    for name in ["../../step1-tokens2", newest.to_str().unwrap(), "..", ".", "", "a/b"] {
        std::fs::write(&latest, format!("{name}\n")).unwrap();
        for error in [
            ModelFolder::open(&latest).unwrap_err(),
            ModelFolder::read_config(&latest).unwrap_err(),
        ] {
            let expected = format!("latest: it holds {name:?}, expected the name of a folder");
            assert!(error.to_string().contains(&expected), "{error}");
        }
        // Nor is it named as the newest of the run.
        let error = ModelFolder::open(&inner).unwrap_err().to_string();
        assert!(!error.contains("newest"), "{error}");
    }
}

#[test]
fn a_sharded_folder_is_the_model_it_was_cut_from() {
    let folders = folders();
    let Some(sharded) = folders.iter().find(|folder| name(folder).ends_with("-sharded")) else {
        return;
    };
    let whole = sharded.with_file_name(name(sharded).trim_end_matches("-sharded"));
    let weights = |path: &Path| {
        let model = ModelFolder::open(path).unwrap().load(&Device::flex(), None).unwrap();
        let mut weights = Vec::new();
        model.visit_parameters(|_, _, values| weights.push(values.into_data()));
        weights
    };
    assert_eq!(weights(sharded), weights(&whole));
}

#[test]
fn a_folder_saved_again_has_the_same_tensors() {
    for path in folders() {
        let folder = ModelFolder::open(&path).unwrap();
        let model = folder.load(&Device::flex(), None).unwrap();
        let copy = tempfile::tempdir().unwrap();
        let export = HfExport::new(folder.special().clone(), folder.stored_dtype());
        save(&model, &export, copy.path()).unwrap();
        assert_eq!(tensors(copy.path()), tensors(&path), "{}", path.display());
    }
}
