//! `olmo data inspect` and the options of `olmo data tokenize`, as a user types them.

use std::fmt::Write as _;

use olmo_data::rng::Generator;

use super::*;

/// Two token files with their bounds, made by the command; returns a tokenizer too.
fn tokens(folder: &Path) -> PathBuf {
    let (mut words, mut rows) = (String::new(), String::new());
    for i in 0..120 {
        writeln!(words, r#"{{"id": "d{i}", "text": "the mill turns {i} times with the river"}}"#)
            .unwrap();
    }
    rows.push_str(&words);
    rows.push_str("this is no document\n");
    fs::write(folder.join("words.jsonl"), words).unwrap();
    fs::write(folder.join("documents.jsonl"), rows).unwrap();
    let tokenizer = folder.join("tokenizer.json");
    let at = |name: &str| folder.join(name).display().to_string();
    stdout([
        "data",
        "train-tokenizer",
        &at("words.jsonl"),
        "--vocab-size",
        "300",
        "--out",
        &at("tokenizer.json"),
    ]);
    let [documents, made, out] = ["documents.jsonl", "tokenizer.json", "tokens"].map(at);
    let tokenize = |report: &[&str]| {
        let inputs = ["data", "tokenize", &documents, "--tokenizer", &made, "--out", &out];
        let options = ["--by-file", "--skip-bad-rows", "--max-tokens-per-file", "500"];
        stdout([&inputs[..], &options[..], report].concat())
    };
    let report: Value = serde_json::from_str(&tokenize(&["--json"])).unwrap();
    assert_eq!((&report["n_documents"], &report["n_bad_rows"]), (&json!(120), &json!(1)));
    assert!(
        fs::read_to_string(folder.join("tokens/part-0-rejected.jsonl"))
            .unwrap()
            .contains("\"line\":121")
    );
    // Once more, it has nothing left to do.
    tokenize(&[]);
    tokenizer
}

#[test]
fn a_step_of_an_official_run_is_shown_and_its_documents_found() {
    let folder = TempDir::new().unwrap();
    let tokenizer = tokens(folder.path());
    let config = folder.path().join("run.yaml");
    let yaml = "seed: 6198\nmax_duration: 2ep\nglobal_train_batch_size: 4\nsave_folder: ${oc.env:NOWHERE_SET}\n\
                model: {max_sequence_length: 1_6, vocab_size: 300}\n\
                data:\n  drop_last: true\n  paths:\n  - s3://bucket/part-0-00000.npy\n  - s3://bucket/part-0-00001.npy\n";
    fs::write(&config, yaml).unwrap();
    let map = format!("s3://bucket={}", folder.path().join("tokens").display());
    let config = config.display().to_string();
    let tokenizer = tokenizer.display().to_string();
    let inspect = |rest: &[&str]| {
        let mut arguments = vec!["data", "inspect", &config, "--path-map", &map, "--json"];
        arguments.extend(rest);
        json_of(arguments)
    };
    let sizes = ["part-0-00000.npy", "part-0-00001.npy"]
        .map(|name| fs::metadata(folder.path().join("tokens").join(name)).unwrap().len() / 2 / 16);
    let n_instances = sizes.iter().sum::<u64>() as usize;
    let mut order: Vec<u32> = (0..n_instances as u32).collect();
    Generator::new(6198).shuffle(&mut order);

    let of_map = folder.path().join("map.yaml");
    let place = folder.path().join("tokens").display().to_string();
    fs::write(&of_map, format!("{yaml}path_map: {{'s3://bucket': {place}}}\n")).unwrap();
    let of_map = of_map.display().to_string();
    let by_itself = ["data", "inspect", &of_map, "--step", "2", "--json"];
    assert_eq!(json_of(by_itself), inspect(&["--step", "2"]), "its own path_map is followed");
    let elsewhere = ["--path-map", "s3://bucket=/nowhere"];
    let output = olmo(by_itself.into_iter().chain(elsewhere)).assert().code(2).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("2 of 2 token files are not here, the first /nowhere/part-0"),
        "{stderr}"
    );

    let step = inspect(&["--step", "2", "--tokenizer", &tokenizer]);
    let instances = step["instances"].as_array().unwrap();
    let indices: Vec<u64> = instances.iter().map(|one| one["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, order[4..8].iter().map(|&i| u64::from(i)).collect::<Vec<_>>());
    assert!(instances.iter().all(|one| one["text"].as_str().unwrap().contains("river")));
    let rank = inspect(&["--step", "2", "--rank", "1", "--world-size", "2"]);
    assert_eq!(rank["instances"][0]["index"], indices[1]);
    assert_eq!(inspect(&["--step", "0"])["instances"], json!([]));

    let document = instances[0]["documents"][0]["id"].as_str().unwrap();
    let found = inspect(&["--find", document]);
    let sightings = found["sightings"].as_array().unwrap();
    assert!(sightings.iter().any(|one| one["step"] == 2 && one["row"] == 0), "{sightings:?}");

    let cut = folder.path().join("cut.yaml");
    fs::write(&cut, yaml.replace("max_duration: 2ep", "max_duration: 1")).unwrap();
    let cut = cut.display().to_string();
    let of_cut = ["data", "inspect", &cut, "--path-map", &map, "--find", document];
    let steps = |found: &Value| -> Vec<u64> {
        found["sightings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["step"].as_u64().unwrap())
            .collect()
    };
    let (all, first) = (steps(&found), steps(&json_of(of_cut.into_iter().chain(["--json"]))));
    let of_first: Vec<u64> = all.into_iter().filter(|&step| step <= 1).collect();
    assert_eq!(first, of_first, "a run of one step has seen what its step saw");

    let text = stdout(["data", "inspect", &config, "--path-map", &map, "--step", "2"]);
    assert!(
        text.contains(&format!("instance {}: ", indices[0])) && text.contains("document d"),
        "{text}"
    );
    for (wrong, message) in [
        (vec!["--step", "1"], "--path-map"),
        (vec!["--step", "1000000", "--path-map", &map], "the run's last"),
        (vec!["--step", "1", "--path-map", &map, "--global-indices", &tokenizer], "tokenizer.json"),
    ] {
        let mut arguments = vec!["data", "inspect", &config];
        arguments.extend(wrong);
        let output = olmo(arguments).assert().code(2).get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(message), "{stderr}");
    }
}

#[test]
fn a_step_of_our_own_run_is_shown_in_either_order_and_of_any_dataset() {
    let folder = TempDir::new().unwrap();
    let tokenizer = tokens(folder.path());
    let paths: Vec<String> = (0..2)
        .map(|i| folder.path().join(format!("tokens/part-0-0000{i}.npy")).display().to_string())
        .collect();
    let config = folder.path().join("ours.yaml");
    let inspect = |data: Value, rest: &[&str]| {
        let mut run = json!({
            "run_name": "ours", "save_folder": "nowhere", "tokenizer": tokenizer, "eos_token_id": 0,
            "pad_token_id": 1, "scheduler": {"name": "constant"}, "global_train_batch_size": 4,
            "device_train_microbatch_size": 4, "max_duration": 60, "save_interval": 20,
            "model": {
                "preset": "olmo2_1b", "d_model": 32, "n_layers": 1, "vocab_size": 300,
                "max_sequence_length": 32,
                "attention": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8},
                "feed_forward": {"kind": "swiglu", "hidden_size": 48},
            },
            "data": {"paths": paths, "sequence_length": 16, "seed": 5},
        });
        run["data"].as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        fs::write(&config, run.to_string()).unwrap();
        let base = ["data", "inspect", config.to_str().unwrap(), "--json"];
        json_of(base.iter().chain(rest))
    };
    let indices = |report: &Value| -> Vec<u32> {
        let instances = report["instances"].as_array().unwrap().iter();
        instances.map(|one| one["index"].as_u64().unwrap() as u32).collect()
    };

    // OLMo-core's order: of the second epoch too, in chunks, and where a document was seen.
    let core = json!({
        "order": "olmo_core", "dataset": {"name": "fsl", "max_target_sequence_length": 32},
    });
    let n_chunks: u64 = paths.iter().map(|path| fs::metadata(path).unwrap().len() / 2 / 32).sum();
    let per_epoch = 2 * n_chunks / 4;
    for (epoch, step) in [(1, 3), (2, per_epoch + 3)] {
        let mut chunks: Vec<u32> = (0..n_chunks as u32).collect();
        Generator::new(5 + epoch).shuffle(&mut chunks);
        let expected: Vec<u32> = chunks[4..6].iter().flat_map(|c| [2 * c, 2 * c + 1]).collect();
        let report = inspect(core.clone(), &["--step", &step.to_string()]);
        assert_eq!(indices(&report), expected);
        let document = report["instances"][1]["documents"][0]["id"].as_str().unwrap();
        let found = inspect(core.clone(), &["--find", document]);
        let seen = |one: &Value| one["step"] == step && one["row"] == 1 && one["epoch"] == epoch;
        assert!(found["sightings"].as_array().unwrap().iter().any(seen), "{found}");
    }

    for dataset in [
        json!({"name": "packed_fsl", "source_group_size": 2}),
        json!({"name": "padded_fsl"}),
        json!({"name": "interleaved_fsl", "docs_per_instance": 2, "chunks_per_doc": 2, "seed": 3}),
        json!({"name": "vsl", "min_sequence_length": 4}),
    ] {
        let mut data = json!({"order": "olmo_core", "dataset": dataset});
        if dataset["name"] == "vsl" {
            data["sequence_length"] = json!(8);
        }
        let whole = inspect(data.clone(), &["--step", "2"]);
        assert!(!indices(&whole).is_empty());
        for instance in whole["instances"].as_array().unwrap() {
            let text = instance["text"].as_str().unwrap();
            let documents = instance["documents"].as_array().unwrap();
            assert!(!documents.is_empty(), "{instance}");
            assert!(instance["path"].as_str().unwrap().contains("/tokens/part-"));
            if dataset["name"] == "packed_fsl" {
                let whole = |one: &Value| {
                    let number = &one["id"].as_str().unwrap()[1..];
                    text.contains(&format!("the mill turns {number} times"))
                };
                assert!(documents.iter().all(whole), "{instance}");
            }
        }
        let rank = inspect(data, &["--step", "2", "--rank", "1", "--world-size", "2"]);
        assert_eq!(indices(&rank).len() * 2, indices(&whole).len());
        assert!(indices(&rank).iter().all(|index| indices(&whole).contains(index)));
    }
}
