//! A model that no machine has the memory for, in a file that takes none of the disk.

use std::fs::{self, File};
use std::io::Write as _;

use serde_json::Map;

use super::*;

/// A folder with an OLMo 2 of one block whose weights would be zeros, six terabytes of them.
fn enormous() -> TempDir {
    const VOCAB: u64 = 320;
    const D_MODEL: u64 = 1 << 16;
    const HIDDEN: u64 = 1 << 23;
    let source = model("olmo2");
    let config = fs::read_to_string(source.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["num_hidden_layers"] = 1.into();
    config["vocab_size"] = VOCAB.into();
    config["hidden_size"] = D_MODEL.into();
    config["intermediate_size"] = HIDDEN.into();
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let names = SafeTensors::deserialize(&bytes).unwrap();
    let mut header = Map::new();
    let mut end = 0;
    for name in names.names().into_iter().filter(|name| !name.contains("layers.1.")) {
        let shape = match name.rsplit('.').nth(1).unwrap() {
            "embed_tokens" | "lm_head" => vec![VOCAB, D_MODEL],
            "gate_proj" | "up_proj" => vec![HIDDEN, D_MODEL],
            "down_proj" => vec![D_MODEL, HIDDEN],
            projection if projection.ends_with("_proj") => vec![D_MODEL, D_MODEL],
            _ => vec![D_MODEL],
        };
        let begin = end;
        end += 4 * shape.iter().product::<u64>();
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] });
        header.insert(name.to_owned(), entry);
    }
    let header = Value::from(header).to_string();
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "config.json", config.to_string());
    let mut file = File::create(folder.path().join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
    folder
}

#[test]
fn a_model_that_cannot_fit_is_refused_before_it_is_read() {
    let folder = enormous();
    let shown = json_of(["model", "show", text(folder.path()), "--json"]);
    assert!(shown["run_bytes"]["f32"].as_u64().unwrap() > 6 << 40, "{shown}");
    let rows = write(&folder, "rows.json", "[[1, 2, 3]]");
    let tokens = write(&folder, "tokens.npy", [0; 32]);
    let out = folder.path().join("logits.safetensors");
    let (rows, tokens, out) = (text(&rows), text(&tokens), text(&out));
    for (verb, options) in [
        ("generate", vec!["--tokens", rows]),
        ("logits", vec!["--tokens", rows, "--out", out]),
        ("eval ppl", vec!["--data", tokens, "--unscored-first"]),
        ("bench decode", vec!["--context", "4", "--tokens", "4"]),
    ] {
        let arguments = verb.split(' ').chain(["--model", text(folder.path())]).chain(options);
        let assert = olmo(arguments).assert().code(1);
        let message = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(
            message.starts_with("error: out of memory: the weights take 6.06 TiB, and "),
            "{verb}: {message}"
        );
        // With a terabyte, four bits an element would do, else they are what comes nearest.
        assert!(message.contains("--quantize q4 takes 873 GiB"), "{verb}: {message}");
    }
}
