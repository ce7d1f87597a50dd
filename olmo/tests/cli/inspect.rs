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
    let report = json_of([
        "data",
        "tokenize",
        &at("documents.jsonl"),
        "--tokenizer",
        &at("tokenizer.json"),
        "--out",
        &at("tokens"),
        "--by-file",
        "--skip-bad-rows",
        "--max-tokens-per-file",
        "500",
        "--json",
    ]);
    assert_eq!((&report["n_documents"], &report["n_bad_rows"]), (&json!(120), &json!(1)));
    assert!(
        fs::read_to_string(folder.join("tokens/part-0-rejected.jsonl"))
            .unwrap()
            .contains("\"line\":121")
    );
    // Once more, it has nothing left to do.
    stdout([
        "data",
        "tokenize",
        &at("documents.jsonl"),
        "--tokenizer",
        &at("tokenizer.json"),
        "--out",
        &at("tokens"),
        "--by-file",
        "--skip-bad-rows",
        "--max-tokens-per-file",
        "500",
    ]);
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
