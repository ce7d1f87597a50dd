//! Saving, and loading what was saved.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use olmo_hub::{Dtype, Error, HfExport, ModelFolder, Special, copy_tokenizer, save};
use olmo_model::config::NormPlacement;
use olmo_model::{ModelConfig, Transformer, presets};

fn export(dtype: Dtype, max_shard_bytes: u64) -> HfExport {
    let special = Special { bos_token_id: None, eos_token_id: vec![3], pad_token_id: Some(1) };
    HfExport { max_shard_bytes, ..HfExport::new(special, dtype) }
}

/// A model whose every weight is another multiple of `scale`.
fn model(config: &ModelConfig, scale: f32) -> Transformer {
    let mut count = 0.0;
    Transformer::build::<olmo_model::Error>(config, &Device::flex(), |parameter| {
        let mut next = || {
            count += 1.0;
            count * scale
        };
        let values: Vec<f32> = (0..parameter.n_elements()).map(|_| next()).collect();
        Ok(TensorData::new(values, parameter.shape.clone()))
    })
    .unwrap()
}

fn weights(model: &Transformer) -> Vec<(String, Vec<f32>)> {
    let mut weights = Vec::new();
    model.visit_parameters(|path, _, values: Tensor<1>| {
        weights.push((path.to_owned(), values.into_data().try_into_vec_as::<f32>().unwrap()));
    });
    weights
}

fn names(folder: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    fs::read_dir(folder).unwrap().map(|entry| name(entry).into_string().unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn small() -> ModelConfig {
    presets::small_olmo2(16, 2, 2, 32)
}

#[test]
fn what_is_saved_is_what_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let mut configs = vec![presets::small_olmo(16, 2, 2, 32), small()];
    configs.push(ModelConfig { weight_tying: true, ..small() });
    let mut windowed = small();
    windowed.attention.window = Some(olmo_model::config::SlidingWindow { size: 4, full_every: 2 });
    configs.push(windowed);
    for (index, config) in configs.iter().enumerate() {
        let saved = model(config, 0.25);
        for max_shard_bytes in [u64::MAX, 10_000, 0] {
            let dir = folder.path().join(format!("{index}-{max_shard_bytes}"));
            save(&saved, &export(Dtype::F32, max_shard_bytes), &dir).unwrap();
            let opened = ModelFolder::open(&dir).unwrap();
            assert_eq!(opened.model_config(), config);
            assert_eq!(opened.special().pad_token_id, Some(1));
            let loaded = opened.load(&Device::flex(), None).unwrap();
            assert_eq!(weights(&loaded), weights(&saved));
            let n_files = opened.file_names().count();
            match max_shard_bytes {
                0 => assert_eq!(n_files, config.parameters().len()),
                10_000 => assert!((2..10).contains(&n_files), "{n_files}"),
                _ => assert_eq!(n_files, 1),
            }
        }
    }
}

#[test]
fn dtypes_change_on_the_way_in_and_out() {
    let folder = tempfile::tempdir().unwrap();
    // Every weight is an odd number above 2^8, which bf16 cannot hold and f16 can up to 2^11.
    let saved = model(&presets::small_olmo(8, 1, 2, 8), 1.0);
    save(&saved, &export(Dtype::Bf16, u64::MAX), folder.path()).unwrap();
    let opened = ModelFolder::open(folder.path()).unwrap();
    assert_eq!(opened.stored_dtype(), Dtype::Bf16);
    assert_eq!(opened.config().dtype, Some(Dtype::Bf16));
    for dtype in [None, Some(Dtype::F32), Some(Dtype::F16)] {
        let loaded = opened.load(&Device::flex(), dtype).unwrap();
        for ((path, expected), (_, found)) in weights(&saved).iter().zip(weights(&loaded)) {
            for (expected, found) in expected.iter().zip(found) {
                let rounded = half::bf16::from_f32(*expected).to_f32();
                assert_eq!(found.to_bits(), rounded.to_bits(), "{path} in {dtype:?}");
            }
        }
    }
}

#[test]
fn values_that_cannot_be_kept_are_named_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("model");
    let config = small();
    save(&model(&config, 0.5), &export(Dtype::F32, 3000), &dir).unwrap();
    let before = names(&dir);
    let huge = model(&config, 1e3);
    let error = save(&huge, &export(Dtype::F16, 3000), &dir).unwrap_err();
    let Error::Value { tensor, value, .. } = &error else { panic!("{error}") };
    assert_eq!((tensor.as_str(), value.index), ("model.embed_tokens.weight", 65));
    let nan = model(&config, f32::NAN);
    assert!(matches!(save(&nan, &export(Dtype::F32, 3000), &dir), Err(Error::Value { .. })));
    assert_eq!(names(&dir), before, "no temporary file");
    let kept = ModelFolder::open(&dir).unwrap().load(&Device::flex(), None).unwrap();
    assert_eq!(weights(&kept), weights(&model(&config, 0.5)), "the old model is untouched");
}

#[test]
fn a_save_that_finds_a_folder_in_its_place_leaves_the_old_model() {
    let folder = tempfile::tempdir().unwrap();
    save(&model(&small(), 0.5), &export(Dtype::F32, 10_000), folder.path()).unwrap();
    // In the place of the second file of the next save.
    let n_tensors = small().parameters().len();
    let blocked = folder.path().join(format!("model-00002-of-{n_tensors:05}.safetensors"));
    fs::create_dir(&blocked).unwrap();
    let error = save(&model(&small(), 0.25), &export(Dtype::F32, 0), folder.path()).unwrap_err();
    assert!(error.to_string().contains("model-00002"), "{error}");
    assert!(names(folder.path()).iter().all(|name| !name.starts_with(".tmp")), "no leftovers");
    let loaded =
        |folder: &Path| ModelFolder::open(folder).unwrap().load(&Device::flex(), None).unwrap();
    assert_eq!(weights(&loaded(folder.path())), weights(&model(&small(), 0.5)));
    fs::remove_dir(blocked).unwrap();
    save(&model(&small(), 0.25), &export(Dtype::F32, 0), folder.path()).unwrap();
    assert_eq!(weights(&loaded(folder.path())), weights(&model(&small(), 0.25)));
}

#[test]
fn files_of_the_model_before_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&small(), 0.5);
    let shards = |n: usize| -> Vec<String> {
        (1..=n).map(|i| format!("model-{i:05}-of-{n:05}.safetensors")).collect()
    };
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    fs::write(folder.path().join("model-card.safetensors"), "kept").unwrap();
    let kept =
        ["tokenizer.json", "model-card.safetensors", "config.json", "generation_config.json"];
    let expect = |more: &[&str]| {
        assert_eq!(names(folder.path()), &set(&kept) | &set(more));
    };
    save(&model, &export(Dtype::F32, u64::MAX), folder.path()).unwrap();
    expect(&["model.safetensors"]);
    let n_tensors = small().parameters().len();
    save(&model, &export(Dtype::F32, 0), folder.path()).unwrap();
    let mut many = shards(n_tensors);
    many.push("model.safetensors.index.json".into());
    expect(&many.iter().map(String::as_str).collect::<Vec<_>>());
    save(&model, &export(Dtype::F32, u64::MAX), folder.path()).unwrap();
    expect(&["model.safetensors"]);
    ModelFolder::open(folder.path()).unwrap();
}

#[test]
fn the_index_is_as_transformers_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = small();
    save(&model(&config, 0.001), &export(Dtype::F16, 3000), folder.path()).unwrap();
    let text = fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(index["metadata"]["total_parameters"], config.n_parameters());
    assert_eq!(index["metadata"]["total_size"], 2 * config.n_parameters());
    assert_eq!(index["weight_map"].as_object().unwrap().len(), config.parameters().len());
    for file in names(folder.path()).iter().filter(|name| name.ends_with(".safetensors")) {
        let bytes = fs::read(folder.path().join(file)).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let n_bytes: usize =
            metadata.tensors().values().map(|t| t.data_offsets.1 - t.data_offsets.0).sum();
        assert!(n_bytes <= 3000, "{file} holds {n_bytes}");
    }
}

#[test]
fn a_model_of_no_family_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("model");
    let config = ModelConfig { norm_placement: NormPlacement::Before, ..small() };
    let error = save(&model(&config, 0.5), &export(Dtype::F32, u64::MAX), &dir).unwrap_err();
    assert!(error.to_string().contains("norm_placement is Before, expected After"), "{error}");
    assert!(!dir.exists());
}

#[test]
fn a_tokenizer_is_copied_with_what_belongs_to_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let error = copy_tokenizer(from.path(), to.path()).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    fs::write(from.path().join("tokenizer.json"), "{}").unwrap();
    fs::write(from.path().join("chat_template.jinja"), "{{ x }}").unwrap();
    fs::write(from.path().join("config.json"), "{}").unwrap();
    let copied = copy_tokenizer(from.path(), to.path()).unwrap();
    assert_eq!(copied, ["tokenizer.json", "chat_template.jinja"]);
    assert_eq!(names(to.path()), set(&["tokenizer.json", "chat_template.jinja"]));
    assert_eq!(fs::read_to_string(to.path().join("chat_template.jinja")).unwrap(), "{{ x }}");
}
