//! What a user who got something wrong is told.

use super::*;

/// Runs the command, which must fail with `code` and a message that has all of `parts`.
#[track_caller]
fn fails<A: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = A>,
    code: i32,
    parts: &[&str],
) {
    let output = olmo(arguments).assert().code(code).stdout("").get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("error: "), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in:\n{message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn models_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = write(&folder, "tokens.json", "[[1, 2]]");
    let generate = |model: &Path| {
        ["generate", "--model", text(model), "--tokens", text(&tokens)].map(str::to_owned)
    };
    fails(generate(Path::new("no/such/model")), 2, &["there is no model folder no/such/model"]);
    fails(generate(&tokens), 2, &["tokens.json is a file, expected a model folder"]);
    fails(generate(folder.path()), 2, &["is no model folder: it has no config.json, nor"]);
    let run = folder.path().join("run");
    fs::create_dir_all(run.join("checkpoints/latest")).unwrap();
    fs::write(run.join("config.yaml"), "model: {d_model: 32}").unwrap();
    fs::write(run.join("checkpoints/latest/config.json"), "{}").unwrap();
    for folder in [run.clone(), run.join("checkpoints")] {
        fails(generate(&folder), 2, &["the newest checkpoint in it is", "run/checkpoints/latest"]);
    }
    write(&folder, "config.json", r#"{"model_type": "gpt2"}"#);
    fails(
        generate(folder.path()),
        2,
        &["model_type \"gpt2\"", "olmo, olmo2, olmo3, olmoe and hf_olmo"],
    );
    fails(["model", "show", text(folder.path())], 2, &["model_type \"gpt2\""]);
    write(&folder, "config.json", "{");
    fails(generate(folder.path()), 2, &["config.json is not the JSON that was expected"]);
    let config = fs::read(model("olmo2-gqa").join("config.json")).unwrap();
    write(&folder, "config.json", config);
    fails(generate(folder.path()), 2, &["neither model.safetensors nor"]);
    write(&folder, "model.safetensors", b"not tensors");
    fails(generate(folder.path()), 2, &["model.safetensors"]);
}

#[test]
fn unknown_presets_and_devices() {
    fails(
        ["model", "show", "olmo2_1B"],
        2,
        &["\"olmo2_1B\" is neither a preset nor a folder", "did you mean olmo2_1b", "olmoe_1b_7b"],
    );
    let nothing_near = olmo(["model", "show", "zzz"]).assert().code(2).get_output().clone();
    assert!(!String::from_utf8(nothing_near.stderr).unwrap().contains("did you mean"));
    fails(["--device", "gpu", "model", "list"], 2, &["'gpu'", "expected one of flex, wgpu"]);
    fails(["devices", "--device", "flex:1"], 2, &["flex devices are not numbered"]);
    #[cfg(not(feature = "cuda"))]
    {
        let folder = tempfile::tempdir().unwrap();
        let tokens = write(&folder, "tokens.json", "[[1, 2]]");
        let model = model("olmo2-gqa");
        fails(
            ["generate", "--device", "cuda:1", "--model", text(&model), "--tokens", text(&tokens)],
            2,
            &["device cuda:1 is not compiled in", "`--features cuda`"],
        );
    }
    fails(["model", "show"], 2, &["required arguments were not provided"]);
    fails(["quickstart", "--steps", "0"], 2, &["invalid value '0' for '--steps <N>'"]);
    fails(["modle"], 2, &["unrecognized subcommand 'modle'"]);
}

#[test]
fn token_rows_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("olmo2-gqa");
    let out = folder.path().join("logits.safetensors");
    let logits = |rows: &str, parts: &[&str]| {
        let tokens = write(&folder, "tokens.json", rows);
        let arguments = ["logits", "--model", text(&model), "--tokens", text(&tokens)];
        fails(arguments.into_iter().chain(["--out", text(&out)]), 2, parts);
        fails(["generate", "--model", text(&model), "--tokens", "no.json"], 2, &["no.json"]);
        assert!(!out.exists());
    };
    logits("[[1, 2, 3], [1, 2]]", &["unequal length", "row 1 has 3 tokens, row 2 has 2"]);
    let past = "token id 128 at position 1 is past the vocabulary of 128";
    logits("[[1, 2], [1, 128]]", &["row 2", past]);
    logits("[[1, 2], []]", &["row 2", "has no tokens"]);
    logits("[]", &["has no rows"]);
    logits("[[-1]]", &["no JSON of token ids [[ids], …]", "because: invalid value: integer `-1`"]);
    logits("[[1], ", &["no JSON of token ids", "EOF while parsing"]);
    let long = json!([vec![1; 129]]).to_string();
    logits(&long, &["129 tokens, more than the model's context of 128"]);
    let tokens = write(&folder, "tokens.json", &long);
    fails(
        ["generate", "--model", text(&model), "--tokens", text(&tokens)],
        2,
        &["row 1 has 129 tokens, more than the model's context of 128"],
    );
}

#[test]
fn settings_that_make_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = write(&folder, "tokens.json", "[[1, 2]]");
    let model = model("olmo2-gqa");
    let base = ["generate", "--model", text(&model), "--tokens", text(&tokens)];
    let generate = |extra: &[&str], parts: &[&str]| fails(base.iter().chain(extra), 2, parts);
    generate(&["--temperature", "-1"], &["temperature is -1, expected a number of at least 0"]);
    generate(&["--temperature", "NaN"], &["temperature is NaN"]);
    generate(&["--top-p", "1.5"], &["top-p is 1.5"]);
    generate(&["--top-k", "0"], &["top-k is 0, expected at least 1"]);
    generate(&["--stop", "x"], &["--stop needs", "tokenizer.json, which is not there"]);
    generate(&["--prompt", "x"], &["cannot be used with"]);
    fails(
        ["generate", "--model", text(&model), "--prompt", "x"],
        2,
        &["a text needs", "tokenizer.json, which is not there; give token ids with --tokens"],
    );
    let usage = "--prompt <TEXT>|--prompts <FILE>|--tokens <FILE>";
    fails(["generate", "--model", text(&model)], 2, &[usage]);
    generate(&["--min-p", "2"], &["min-p is 2, expected a number from 0 to 1"]);
    generate(&["--repetition-penalty", "0"], &["repetition penalty is 0"]);
    generate(&["--max-new-tokens", "0"], &["--max-new-tokens is 0, expected at least 1"]);
    generate(&["--batch-size", "0"], &["--batch-size is 0, expected at least 1"]);
    generate(&["--stop-id", "128"], &["--stop-id 128 is past the model's vocabulary of 128"]);
    generate(&["--stop", ""], &["--stop is empty"]);
    generate(&["--logprobs", "1"], &["--json"]);
    generate(&["--beams", "0"], &["beam size is 0, expected 1 up to the size of the vocabulary"]);
    generate(&["--beams", "2", "--top-p", "0.5"], &["cannot be used with"]);
    generate(&["--beams", "2", "--min-new-tokens", "65"], &["min steps is 65"]);
    generate(
        &["--beams", "2", "--max-new-tokens", "200"],
        &["cannot continue row 1", "201 tokens"],
    );
    generate(&["--length-penalty", "1"], &["--beams <N>"]);
}

#[test]
fn data_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let documents = write(&folder, "docs.jsonl", r#"{"text": "some text, some more text"}"#);
    let tokenizer = folder.path().join("tokenizer.json");
    let train = ["data", "train-tokenizer", "--vocab-size", "260", "--out", text(&tokenizer)];
    stdout(train.into_iter().chain([text(&documents)]));

    let out = folder.path().join("tokens");
    let tokenize = |input: &Path, extra: &[&str], parts: &[&str]| {
        let base = ["data", "tokenize", "--tokenizer", text(&tokenizer), "--out", text(&out)];
        fails(base.into_iter().chain([text(input)]).chain(extra.iter().copied()), 2, parts);
    };
    let empty = write(&folder, "empty.jsonl", "{\"text\": \"\"}\n");
    tokenize(&empty, &[], &["no text to work on: 1 documents given"]);
    tokenize(&write(&folder, "bad.jsonl", "{}"), &[], &["bad.jsonl:1: not a document"]);
    tokenize(&write(&folder, "docs.csv", "a"), &[], &["unknown kind of document file"]);
    tokenize(Path::new("none.jsonl"), &[], &["none.jsonl", "No such file"]);
    tokenize(&documents, &["--dtype", "uint8"], &["do not fit uint8; use uint16"]);
    tokenize(&documents, &["--dtype", "int16"], &["unknown token type"]);
    tokenize(&documents, &["--eos", "</s>"], &["the tokenizer has no token \"</s>\""]);
    tokenize(
        &write(&folder, "bad.jsonl.gz", "this is not compressed"),
        &[],
        &["bad.jsonl.gz", "gzip"],
    );
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"odd\xff.jsonl"));
        fs::copy(&documents, &odd).unwrap();
        let begin = ["data", "tokenize", "--tokenizer", text(&tokenizer), "--out", text(&out)];
        let arguments = begin.map(std::ffi::OsString::from).into_iter().chain([odd.into()]);
        fails(arguments, 2, &["its name is not UTF-8"]);
        assert!(!out.join("part-0-00000.npy").exists(), "nothing is left behind");
    }
    fails(train.into_iter().chain([text(&empty)]), 2, &["no text to work on"]);

    let tokens = write(&folder, "tokens.npy", [0; 20]);
    stdout(train.into_iter().chain([text(&documents)]));
    let few = ["data", "train-tokenizer", "--vocab-size", "9000", "--out", text(&tokenizer)];
    let few = olmo(few).arg(&documents).assert().success().get_output().clone();
    let message = String::from_utf8(few.stderr).unwrap();
    assert!(message.contains("fewer tokens than the 9,000 asked for"), "{message}");
    tokenize(&documents, &["--max-tokens-per-file", "0"], &["--max-tokens-per-file"]);
    let order = |extra: &[&str], parts: &[&str]| {
        let base = ["data", "order", text(&tokens), "--seq-len"];
        fails(base.iter().chain(extra), 2, parts);
    };
    order(&["11"], &["no instance of 11 tokens in 1 files with 10 tokens"]);
    order(&["2", "--dtype", "uint64"], &["no multiple of the 8 bytes"]);
    order(&["2", "--world-size", "2", "--rank", "2"], &["rank is 2, expected less than the 2"]);
    let batch = ["2", "--world-size", "2", "--global-batch-size", "3"];
    order(&batch, &["--global-batch-size is 3", "multiple of --world-size 2"]);
    let core = ["--order", "olmo-core", "--global-batch-size", "6"];
    for empty in [&["--start-index", "6"][..], &core] {
        let arguments = ["data", "order", text(&tokens), "--seq-len", "2"];
        let output = olmo(arguments).args(empty).assert().success().stdout("").get_output().clone();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with("no instance is left: the epoch has "), "{message}");
    }
    fails(
        ["data", "order", text(folder.path()), "--seq-len", "2"],
        2,
        &["a folder, expected a token file"],
    );
}

#[test]
fn evaluations_that_cannot_be_done() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("olmo2-gqa");
    let ppl = |data: &Path, extra: &[&str], parts: &[&str]| {
        let base = ["eval", "ppl", "--model", text(&model), "--data", text(data)];
        fails(base.iter().chain(extra), 2, parts);
    };
    let documents = write(&folder, "docs.jsonl", r#"{"text": "some text"}"#);
    ppl(&documents, &[], &["texts need a tokenizer", "give one with --tokenizer"]);
    let empty = write(&folder, "empty.npy", []);
    ppl(&empty, &[], &["no tokens to score in 1 documents"]);
    let past = write(&folder, "past.npy", [1, 0, 200, 0]);
    let message = "document 1: token id 200 at position 1 is past the vocabulary of 128";
    ppl(&past, &[], &[message, "another tokenizer, or of another type than --token-dtype"]);
    let sound = write(&folder, "sound.npy", [1, 0, 2, 0]);
    ppl(&sound, &["--batch-size", "0"], &["batch-size is 0, expected at least 1"]);
    ppl(&sound, &["--seq-len", "129"], &["seq-len is 129", "context of 128"]);
}

/// What a pipe of the shell gives, where one end is closed.
#[test]
#[cfg(unix)]
fn only_a_reader_of_standard_output_may_go() {
    let sh = |script: &str| {
        let command = ["-c", script, env!("CARGO_BIN_EXE_olmo")];
        Command::new("bash").args(command).assert().get_output().clone()
    };
    let output = sh("set -o pipefail; \"$0\" model list | true");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    if Path::new("/dev/full").exists() {
        let output = sh("\"$0\" model list > /dev/full");
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(message.starts_with("error: cannot write to standard output: No space left"));
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_not_the_users_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = write(&folder, "tokens.json", "[[1, 2]]");
    let out = folder.path().join("logits.safetensors");
    // No file may grow, and the signal that would say so is ignored, so that writing fails.
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_olmo"), "logits", "--tokens", text(&tokens)])
        .args(["--model", text(&model("olmo2")), "--out", text(&out)])
        .assert()
        .code(1)
        .get_output()
        .clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("error: cannot write") && message.contains("File too large"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}
