//! `olmo generate` on rows of token ids: the reference's tokens, where rows end, batches, beams.

use super::*;

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for name in FAMILIES {
        let golden = Golden::read(name);
        let tokens = golden.tokens_file(&folder);
        let model = model(name);
        let arguments = ["generate", "--model", text(&model), "--tokens", text(&tokens)];
        let report = json_of(arguments.into_iter().chain(["--ignore-eos", "--json"]));
        assert_eq!(report["tokens"], json!(golden.greedy), "{name}");
        assert_eq!(report["stopped"], json!(["length", "length"]), "{name}");
        assert_eq!(report["prompt_tokens"], json!([20, 20]));
        assert!(report.get("text").is_none() && report["seconds"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn generation_ends_at_the_end_of_text_and_at_the_length() {
    let golden = Golden::read("olmo2-gqa");
    let folder = tempfile::tempdir().unwrap();
    let tokens = golden.tokens_file(&folder);
    // A copy of the model that takes for end-of-text what the golden continuation has as its tenth.
    let end = golden.greedy[0][9];
    let copy = folder.path().join("model");
    fs::create_dir(&copy).unwrap();
    fs::copy(model("olmo2-gqa").join("model.safetensors"), copy.join("model.safetensors")).unwrap();
    let config = fs::read(model("olmo2-gqa").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["eos_token_id"] = end.into();
    fs::write(copy.join("config.json"), config.to_string()).unwrap();

    let arguments = ["generate", "--model", text(&copy), "--tokens", text(&tokens), "--json"];
    let report = json_of(arguments.into_iter().chain(["--max-new-tokens", "30"]));
    for (row, greedy) in golden.greedy.iter().enumerate() {
        let at = greedy[..30].iter().position(|&id| id == end);
        let expected = &greedy[..at.map_or(30, |at| at + 1)];
        assert_eq!(report["tokens"][row], json!(expected));
        assert_eq!(report["stopped"][row], if at.is_some() { "eos" } else { "length" });
    }
    assert_eq!(report["stopped"][0], "eos");
    // Without --json and without a tokenizer, a line of ids a row.
    let lines = stdout(["generate", "--model", text(&copy), "--tokens", text(&tokens)]);
    assert_eq!(lines.lines().next(), Some(report["tokens"][0].to_string().as_str()));
}

#[test]
fn sampling_repeats_with_its_seed() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = write(&folder, "tokens.json", "[[5, 6, 7]]");
    let draw = |extra: &[&str]| {
        let model = model("olmo2-gqa");
        let arguments = ["generate", "--model", text(&model), "--tokens", text(&tokens), "--json"];
        json_of(arguments.iter().chain(["--ignore-eos"].iter()).chain(extra))["tokens"].clone()
    };
    let first = draw(&["--temperature", "1", "--seed", "1"]);
    assert_eq!(first, draw(&["--temperature", "1", "--seed", "1"]));
    assert_ne!(first, draw(&["--temperature", "1", "--seed", "2"]));
    let greedy = draw(&[]);
    assert_ne!(first, greedy);
    assert_eq!(greedy, draw(&["--temperature", "0", "--top-p", "0.9", "--seed", "4"]));
    assert_eq!(greedy, draw(&["--top-k", "1", "--seed", "3"]));
}

/// Rows of unequal length in one batch, against the golden continuations of each.
#[test]
fn a_batch_continues_each_row_as_if_alone() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["olmo-odd", "olmo2-gqa"] {
        let golden = Golden::read(name);
        let (mut rows, mut expected) = (vec![], vec![]);
        for (row, greedy) in golden.tokens.iter().zip(&golden.greedy) {
            for taken in [5, 0, 31] {
                rows.push([row, &greedy[..taken]].concat());
                expected.push(greedy[taken..taken + 33].to_vec());
            }
        }
        let tokens = write(&folder, "rows.json", json!(rows).to_string());
        let model = model(name);
        let arguments = ["generate", "--model", text(&model), "--tokens", text(&tokens), "--json"];
        let arguments = || arguments.iter().chain(&["--ignore-eos", "--max-new-tokens", "33"]);
        for batch_size in ["1", "4", "100"] {
            let report = json_of(arguments().chain(&["--batch-size", batch_size]));
            assert_eq!(report["tokens"], json!(expected), "{name}");
        }
        // A stop id ends its row and no other.
        let stop = expected[1][3];
        let stop_id = stop.to_string();
        let report = json_of(arguments().chain(&["--batch-size", "6", "--stop-id", &stop_id]));
        for (row, expected) in expected.iter().enumerate() {
            let end = expected.iter().position(|&id| id == stop).map_or(33, |at| at + 1);
            assert_eq!(report["tokens"][row], json!(expected[..end]));
            let stopped = if expected.contains(&stop) { "eos" } else { "length" };
            assert_eq!(report["stopped"][row], stopped);
        }
    }
}

#[test]
fn log_probabilities_are_those_of_the_logits() {
    let golden = Golden::read("olmo2-gqa");
    let folder = tempfile::tempdir().unwrap();
    let tokens = golden.tokens_file(&folder);
    let model = model("olmo2-gqa");
    let arguments = ["generate", "--model", text(&model), "--tokens", text(&tokens), "--json"];
    let run = |extra: &[&str]| json_of(arguments.iter().chain(&["--ignore-eos"]).chain(extra));
    let report = run(&["--logprobs", "3", "--max-new-tokens", "2", "--batch-size", "2"]);
    for row in 0..2 {
        let vocab = golden.logits[row].len() / 20;
        // Of the first new token, which the last logits of the prompt decide.
        let logits: Vec<f64> = golden.logits[row][19 * vocab..].iter().map(|&x| x.into()).collect();
        let log_sum = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
        let mut expected: Vec<_> = logits.iter().map(|x| x - log_sum).enumerate().collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        let near = |found: &Value, expected: f64| {
            let found = found.as_f64().unwrap();
            assert!((found - expected).abs() < 2e-5, "{found} {expected}");
        };
        near(&report["logprobs"][row][0], expected[0].1);
        let top = report["top_logprobs"][row][0].as_array().unwrap();
        assert_eq!((top.len(), report["logprobs"][row].as_array().unwrap().len()), (3, 2));
        for (found, (id, log_prob)) in top.iter().zip(&expected) {
            assert_eq!(found["id"], *id);
            near(&found["logprob"], *log_prob);
        }
    }
    assert!(run(&["--logprobs", "0", "--max-new-tokens", "1"]).get("top_logprobs").is_none());
}

#[test]
fn rows_end_where_the_context_does() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = write(&folder, "tokens.json", json!([vec![5; 126], vec![6; 3]]).to_string());
    let model = model("olmo2-gqa");
    let arguments = ["generate", "--model", text(&model), "--tokens", text(&tokens), "--json"];
    let report = json_of(arguments.iter().chain(&["--ignore-eos", "--max-new-tokens", "9"]));
    assert_eq!(report["stopped"], json!(["context", "length"]));
    assert_eq!(report["tokens"][0].as_array().unwrap().len(), 3);
}

/// One beam is greedy until the end; more find what is likelier. The beams themselves are compared
/// with the original's in `olmo-model`.
#[test]
fn beams() {
    let golden = Golden::read("olmo2-gqa");
    let folder = tempfile::tempdir().unwrap();
    let tokens = golden.tokens_file(&folder);
    let model = model("olmo2-gqa");
    let arguments = ["generate", "--model", text(&model), "--tokens", text(&tokens), "--json"];
    let run = |extra: &[&str]| {
        json_of(arguments.iter().chain(&["--ignore-eos", "--max-new-tokens", "10"]).chain(extra))
    };
    let one = run(&["--beams", "1"]);
    for row in 0..2 {
        assert_eq!(one["tokens"][row], json!(golden.greedy[row][..10]));
    }
    let four = run(&["--beams", "4"]);
    for row in 0..2 {
        let beams = four["beams"][row].as_array().unwrap();
        let scores: Vec<f64> = beams.iter().map(|beam| beam["score"].as_f64().unwrap()).collect();
        assert!(scores.len() == 4 && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        assert_eq!(beams[0]["tokens"], four["tokens"][row]);
        assert!(scores[0] >= one["beams"][row][0]["score"].as_f64().unwrap() - 1e-6);
    }
    let mean = run(&["--beams", "4", "--length-penalty", "1"]);
    let sum = four["beams"][0][0]["score"].as_f64().unwrap();
    assert!((mean["beams"][0][0]["score"].as_f64().unwrap() - sum / 10.0).abs() < 1e-6);
}

/// As long a context as there is can be measured, and no longer one.
#[test]
fn benches_fill_the_context() {
    // Of 128 tokens.
    let model = model("olmo2-gqa");
    let bench = |arguments: &[&str]| {
        let base = ["bench", arguments[0], "--model", text(&model), "--repeat", "1", "--json"];
        olmo(base.iter().chain(&arguments[1..])).assert()
    };
    for arguments in [
        ["prefill", "--tokens", "128"].as_slice(),
        &["decode", "--context", "100", "--tokens", "28"],
        &["decode", "--context", "1", "--tokens", "127"],
        &["decode", "--context", "127", "--tokens", "1"],
    ] {
        let report = bench(arguments).success().get_output().stdout.clone();
        let report: Value = serde_json::from_slice(&report).unwrap();
        assert!(report["tokens_per_second"].as_f64().unwrap() > 0.0, "{report}");
    }
    let refused = |arguments: &[&str], told: &str| {
        let message = bench(arguments).code(2).get_output().stderr.clone();
        let message = String::from_utf8(message).unwrap();
        assert!(message.contains(told) && message.contains("context of 128"), "{message}");
    };
    refused(&["prefill", "--tokens", "129"], "--tokens is 129,");
    let told = "--context 100 and --tokens 29 make 129,";
    refused(&["decode", "--context", "100", "--tokens", "29"], told);
}
