//! OLMo-core's order and datasets as a run is configured with them: from YAML through the loader
//! that training reads from, against the vectors that the library is tested with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use olmo_data::{Batch, DataLoader, DataLoaderConfig, LoaderState};
use olmo_tests::{golden, weights};
use olmo_train::data::OpenData;
use olmo_train::{Observer, StepMetrics, TrainConfig, Trainer, data};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn vectors(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(name)).expect("vectors")).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn plain<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("a value of the right type")
}

fn number(value: &Value, name: &str) -> usize {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}")) as usize
}

/// A run with these data; a vocabulary of 8192, an instance as long as the data say.
fn config(data: &Value, batch: usize, overrides: &[&str]) -> TrainConfig {
    let sequence_length = number(data, "sequence_length");
    let yaml = json!({
        "run_name": "test",
        "save_folder": "nowhere",
        "model": {
            "preset": "olmo2_1b", "d_model": 32, "n_layers": 1, "vocab_size": 8192,
            "max_sequence_length": sequence_length,
            "attention": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8},
            "feed_forward": {"kind": "swiglu", "hidden_size": 48},
        },
        "data": data,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "scheduler": {"name": "constant"},
        "global_train_batch_size": batch,
        "device_train_microbatch_size": 1,
        "max_duration": 6,
        "save_interval": 6,
    });
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    TrainConfig::parse(&yaml.to_string(), &overrides, "test").expect("a sound config")
}

fn write_tokens(path: &Path, tokens: impl Iterator<Item = u16>) -> PathBuf {
    fs::write(path, tokens.flat_map(u16::to_le_bytes).collect::<Vec<_>>()).expect("written");
    path.to_owned()
}

/// The loaders of all ranks of a run, going on from a state as a checkpoint holds it.
fn loaders(config: &TrainConfig, world_size: usize, state: LoaderState) -> Vec<DataLoader> {
    let state: LoaderState = plain(&json!(state));
    let rank = |rank| {
        let OpenData { instances, .. } = data::open(config).expect("opened");
        let config = DataLoaderConfig { world_size, rank, ..config.loader() };
        DataLoader::new(instances, config, state).expect("a loader")
    };
    (0..world_size).map(rank).collect()
}

/// The batches of each rank to the end of the epoch, or of `limit` batches.
fn batches(loaders: &mut [DataLoader], limit: usize) -> Vec<Vec<Batch>> {
    let rest = |loader: &mut DataLoader| {
        let next = || loader.next_in_epoch().expect("read");
        std::iter::from_fn(next).take(limit).collect()
    };
    loaders.iter_mut().map(rest).collect()
}

fn assert_batches(found: &[Vec<Batch>], expected: &Value, about: &Value) {
    for (found, expected) in found.iter().zip(list(expected)) {
        assert_eq!(found.len(), list(expected).len(), "{about}");
        for (found, expected) in found.iter().zip(list(expected)) {
            assert_eq!(found.indices, plain::<Vec<u32>>(&expected["index"]), "{about}");
            let firsts: Vec<u32> = found.rows().map(|row| row[0]).collect();
            assert_eq!(firsts, plain::<Vec<u32>>(&expected["first_tokens"]), "{about}");
        }
    }
}

#[test]
fn batches_are_those_of_olmo_core_over_restarts_and_other_ranks() {
    let golden = vectors("data/core_order.json");
    let mut n_compared = 0;
    for order in list(&golden["orders"]) {
        let case = &order["case"];
        let sequence_length = number(case, "sequence_length");
        // Not shuffled, and one token an instance: nothing that a run can be.
        if case["shuffle"] == json!(false) || sequence_length == 1 {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut next = 0;
        let mut paths = Vec::new();
        for (i, length) in plain::<Vec<u16>>(&case["lengths"]).into_iter().enumerate() {
            let path = folder.path().join(format!("part-{i}-00000.npy"));
            paths.push(write_tokens(&path, next..next + length));
            next += length;
        }
        let mut dataset = json!({"name": "fsl"});
        if !case["max_target_sequence_length"].is_null() {
            dataset["max_target_sequence_length"] = case["max_target_sequence_length"].clone();
        }
        let data = json!({
            "paths": paths, "sequence_length": sequence_length, "seed": case["seed"],
            "order": "olmo_core", "dataset": dataset,
        });
        let config = |ranks: &str| {
            config(&data, number(&case[ranks], "global_batch_size") / sequence_length, &[])
        };
        let ranks = |ranks: &str| number(&case[ranks], "world_size");

        let beginning =
            LoaderState { epoch: case["epoch"].as_u64().expect("one"), ..LoaderState::default() };
        let mut first = loaders(&config("first"), ranks("first"), beginning);
        assert_batches(&batches(&mut first, number(case, "n_first")), &order["first"], case);
        let state = first[0].state();
        assert_eq!(Some(state.n_tokens_seen), order["state"]["tokens_processed"].as_u64());
        assert!(first.iter().all(|loader| loader.state() == state));

        let mut then = loaders(&config("then"), ranks("then"), state);
        assert_batches(&batches(&mut then, usize::MAX), &order["then"], case);
        assert_eq!(then[0].state().epoch, state.epoch + 1);
        assert_batches(&batches(&mut then, usize::MAX), &order["next_epoch"], case);

        let mut of_32 = config("first");
        of_32.data.vocab_size = Some(32);
        let OpenData { fingerprint, .. } = data::open(&of_32).expect("opened");
        assert_eq!(Some(&*fingerprint), order["fingerprint"].as_str(), "{case}");
        n_compared += 1;
    }
    assert_eq!(n_compared, 12);
}

/// Writes the files of a source of documents and their masks.
fn write_sources(folder: &Path, source: &Value) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut written = (Vec::new(), Vec::new());
    let masks: Vec<Vec<u8>> = plain(&source["masks"]);
    for (i, (tokens, mask)) in
        plain::<Vec<Vec<u16>>>(&source["tokens"]).into_iter().zip(masks).enumerate()
    {
        written.0.push(write_tokens(&folder.join(format!("{i}.npy")), tokens.into_iter()));
        written.1.push(folder.join(format!("{i}.mask.npy")));
        fs::write(&written.1[i], mask).expect("written");
    }
    written
}

#[test]
fn instances_and_masks_are_those_of_olmo_core() {
    let golden = vectors("data/core_datasets.json");
    let mut n_compared = 0;
    for case in list(&golden["cases"]) {
        let (arguments, extra) = (&case["arguments"], &case["extra"]);
        // A run has no token for the beginning of a document.
        if extra["bos"] == json!(true) {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (paths, masks) = write_sources(folder.path(), &golden["sources"]["plain"]);
        let mut dataset = arguments.clone();
        dataset["name"] = json!(format!("{}_fsl", case["kind"].as_str().expect("a kind")));
        if case["kind"] == json!("fsl") {
            dataset["name"] = json!("fsl");
        }
        let fields = dataset.as_object_mut().expect("a map");
        let sequence_length = fields.remove("sequence_length");
        let mut data = json!({
            "paths": paths, "sequence_length": sequence_length, "order": "olmo_core", "dataset": dataset,
        });
        if extra["mask"] == json!(true) {
            data["label_mask_paths"] = json!(masks);
        }
        if extra["filter"] == json!(true) {
            data["instance_filter"] = json!({
                "repetition_max_period": 3, "repetition_min_period": 1, "repetition_max_count": 3,
            });
        }
        let mut n_rows = 0;
        let mut loaders = loaders(&config(&data, 1, &[]), 1, LoaderState::default());
        for batch in batches(&mut loaders, usize::MAX).into_iter().flatten() {
            let item = &list(&case["items"])[batch.indices[0] as usize];
            assert_eq!(batch.tokens, plain::<Vec<u32>>(&item["input_ids"]), "{arguments} {extra}");
            let counts = item["instance_mask"] != json!(false);
            let expected = match item.get("label_mask") {
                Some(mask) => {
                    plain::<Vec<u8>>(mask).iter().map(|&bit| bit == 1 && counts).collect()
                }
                None => vec![counts; batch.tokens.len()],
            };
            let found = batch.label_mask.unwrap_or_else(|| vec![true; expected.len()]);
            assert_eq!(found, expected, "{arguments} {extra}");
            n_rows += 1;
        }
        assert_eq!(n_rows, list(&case["items"]).len());
        n_compared += 1;
    }
    assert_eq!(n_compared, 9);
}

#[test]
fn lengths_follow_each_other_as_in_olmo_core() {
    let golden = vectors("data/core_datasets.json");
    assert_eq!(list(&golden["vsl"]).len(), 3);
    for case in list(&golden["vsl"]) {
        let folder = tempfile::tempdir().expect("a folder");
        let (paths, _) = write_sources(folder.path(), &golden["sources"]["plain"]);
        let data = json!({
            "paths": paths, "sequence_length": 8, "order": "olmo_core", "seed": 7,
            "dataset": {"name": "vsl", "min_sequence_length": 2, "curriculum": case["curriculum"]},
        });
        let config = config(&data, 2, &[]);
        let world_size = list(&case["ranks"]).len();
        let beginning = LoaderState { epoch: 2, ..LoaderState::default() };
        let mut whole = loaders(&config, world_size, beginning);
        let whole = batches(&mut whole, usize::MAX);
        for (rank, expected) in list(&case["ranks"]).iter().enumerate() {
            let found: Vec<_> = whole[rank].iter().map(|batch| batch.indices.clone()).collect();
            assert_eq!(found, plain::<Vec<Vec<u32>>>(expected), "{}", case["curriculum"]);
            for batch in &whole[rank] {
                for (row, &index) in batch.rows().zip(&batch.indices) {
                    let item = &list(&case["items"])[index as usize];
                    assert_eq!(row, plain::<Vec<u32>>(item));
                }
            }
        }
        // Interrupted after three batches, and gone on with on one rank.
        let mut first = loaders(&config, world_size, beginning);
        batches(&mut first, 3);
        let resumed = batches(&mut loaders(&config, 1, first[0].state()), usize::MAX).remove(0);
        let rest = whole.iter().map(|rank| rank[3..].iter().map(|batch| &batch.indices));
        for (i, batch) in resumed.iter().enumerate() {
            let woven: Vec<u32> =
                rest.clone().flat_map(|mut rank| rank.nth(i).expect("one").clone()).collect();
            assert_eq!(batch.indices, woven);
        }
    }
}

#[test]
fn mixtures_are_those_of_olmo_core() {
    let golden = vectors("data/core_datasets.json");
    let mut n_made = 0;
    for case in list(&golden["mixtures"]) {
        type Row = (f64, f64, f64, Vec<u16>);
        let folder = tempfile::tempdir().expect("a folder");
        let mut sources = Vec::new();
        for (s, (ratio, repetition, fraction, sizes)) in
            plain::<Vec<Row>>(&case["sources"]).into_iter().enumerate()
        {
            let write = |(f, &size): (usize, &u16)| {
                write_tokens(&folder.path().join(format!("{s}-{f}.npy")), 0..size)
            };
            let paths: Vec<PathBuf> = sizes.iter().enumerate().map(write).collect();
            sources.push(json!({
                "source_name": format!("s{s}"), "paths": paths, "target_ratio": ratio,
                "max_repetition_ratio": repetition, "max_source_fraction": fraction,
            }));
        }
        let sequence_length = number(case, "sequence_length");
        let data = json!({
            "sequence_length": sequence_length, "order": "olmo_core",
            "dataset": {
                "name": "fsl_mixture", "sources": sources, "requested_tokens": case["requested_tokens"],
            },
        });
        let batch = number(case, "global_batch_size") / sequence_length;
        let found = data::open(&config(&data, batch, &[]));
        if case["parts"].is_null() {
            let error = found.expect_err("too few tokens").to_string();
            assert!(error.contains("the mixture cannot be made"), "{error}");
            continue;
        }
        let instances = found.expect("made").instances;
        let first = |i| instances.get(i).expect("read").input_ids[0];
        let firsts: Vec<u32> = (0..instances.len()).map(first).collect();
        assert_eq!(firsts, plain::<Vec<u32>>(&case["first_tokens"]));
        // OLMo-core's mixture takes a filter and has none.
        let filter = "data.instance_filter={repetition_max_period: 1, repetition_min_period: 1, repetition_max_count: 1}";
        for (compat, filtered) in [("none", true), ("olmo_core", false)] {
            let config = config(&data, batch, &[filter, &format!("compat={compat}")]);
            let instances = data::open(&config).expect("made").instances;
            let mask = instances.get(0).expect("read").instance_mask;
            assert_eq!(mask.is_some(), filtered, "{compat}");
        }
        n_made += 1;
    }
    assert!(n_made > 3, "only {n_made} mixtures");
}

struct StopAfter<'a>(u64, &'a AtomicBool);

impl Observer for StopAfter<'_> {
    fn on_step(&mut self, metrics: &StepMetrics) {
        if metrics.step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// Packed documents with masks, and pieces of several lengths.
fn trained_on(folder: &Path) -> Vec<Value> {
    let golden = vectors("data/core_datasets.json");
    let (paths, masks) = write_sources(folder, &golden["sources"]["plain"]);
    let vsl = json!({"name": "vsl", "min_sequence_length": 4});
    vec![
        json!({
            "paths": paths, "sequence_length": 16, "order": "olmo_core", "label_mask_paths": masks,
            "dataset": {"name": "packed_fsl", "source_group_size": 3},
        }),
        json!({"paths": paths, "sequence_length": 8, "order": "olmo_core", "dataset": vsl}),
    ]
}

#[test]
fn a_run_on_these_data_goes_on_as_if_never_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    for (i, data) in trained_on(folder.path()).iter().enumerate() {
        let run = |name: &str, stops: &[u64]| {
            let save_folder = folder.path().join(format!("{name}-{i}"));
            let folder = format!("save_folder={}", save_folder.display());
            let config = config(data, 4, &[&folder]);
            let mut last = None;
            for &stop_after in stops {
                let mut trainer = Trainer::new(config.clone(), &Device::flex()).expect("starts");
                let stop = AtomicBool::new(false);
                trainer.run(&mut StopAfter(stop_after, &stop), &stop).expect("runs");
                assert_eq!(trainer.global_step(), stop_after);
                last = Some(weights(trainer.model()));
            }
            last
        };
        assert_eq!(run("parts", &[2, 3, 6]), run("whole", &[6]));
    }
}

#[test]
fn other_data_are_refused_with_what_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut data = trained_on(folder.path()).remove(0);
    let save_folder = format!("save_folder={}", folder.path().join("run").display());
    let start = |data: &Value| {
        let config = config(data, 4, &[&save_folder, "max_duration=1"]);
        let mut trainer = Trainer::new(config, &Device::flex())?;
        trainer.run(&mut StopAfter(0, &AtomicBool::new(false)), &AtomicBool::new(false))
    };
    start(&data).expect("the first time");
    start(&data).expect("nothing has changed");

    data["dataset"]["source_group_size"] = json!(1);
    let error = start(&data).expect_err("packed otherwise").to_string();
    assert!(error.contains("another run") && error.contains("fingerprint"), "{error}");
    data["dataset"]["source_group_size"] = json!(3);
    data["order"] = json!("olmo");
    let error = start(&data).expect_err("another order").to_string();
    assert!(error.contains("its order of data is olmo_core, this run's is olmo"), "{error}");
    data["order"] = json!("olmo_core");

    let path: PathBuf = plain(&data["paths"][0]);
    let bytes = fs::read(&path).expect("read");
    fs::write(&path, [&bytes[..], &[9, 0]].concat()).expect("written");
    let mask: PathBuf = plain(&data["label_mask_paths"][0]);
    fs::write(&mask, [&fs::read(&mask).expect("read")[..], &[1]].concat()).expect("written");
    let error = start(&data).expect_err("a file has grown").to_string();
    assert!(error.contains("fingerprint"), "{error}");
}

#[test]
fn a_token_past_the_vocabulary_is_named_whatever_the_dataset() {
    let folder = tempfile::tempdir().expect("a folder");
    for (i, mut data) in trained_on(folder.path()).into_iter().enumerate() {
        let path = folder.path().join(format!("wild-{i}.npy"));
        data["paths"] =
            json!([write_tokens(&path, [vec![9; 63], vec![8192, 0]].concat().into_iter())]);
        data.as_object_mut().expect("a map").remove("label_mask_paths");
        data["dataset"]["long_doc_strategy"] = json!("fragment");
        if i == 1 {
            data["dataset"].as_object_mut().expect("a map").remove("long_doc_strategy");
        }
        let mut loaders = loaders(&config(&data, 1, &[]), 1, LoaderState::default());
        let found = std::iter::repeat_with(|| loaders[0].next_in_epoch());
        let error = found.take(70).find_map(Result::err).expect("out of range").to_string();
        assert!(error.contains("token 8192 at position 63") && error.contains("wild-"), "{error}");
    }
}
