//! Text in and out: tokenizers, streaming, stop texts, bits per byte.

use olmo::hub::{Dtype, HfExport, Special, save};
use olmo::model::{InitConfig, Transformer, presets};
use olmo::prelude::*;

use super::*;

const CORPUS: &str = "The quick brown fox, naïve as ever, jumps over the lazy dog — 生活は続く.";

/// A folder with a tokenizer that the command trained and a model of random weights for it.
struct Fixture {
    folder: TempDir,
    tokenizer: Tokenizer,
}

impl Fixture {
    fn new() -> Self {
        Self::with_context(128)
    }

    fn with_context(max_sequence_length: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let documents = write(&folder, "docs.jsonl", json!({ "text": CORPUS }).to_string());
        let path = folder.path().join("tokenizer.json");
        let report = json_of(
            ["data", "train-tokenizer", text(&documents), "--vocab-size", "300", "--json"]
                .into_iter()
                .chain(["--out", text(&path)]),
        );
        assert_eq!(report["file"], text(&path));
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        assert_eq!(report["vocab_size"], tokenizer.vocab_size());

        let mut config = presets::small_olmo2(16, 1, 2, 320);
        config.max_sequence_length = max_sequence_length;
        let wide = InitConfig::Normal { std: 0.5, cutoff: None, embedding_std: None };
        let model = Transformer::init(&config, &wide, 3, &Device::flex()).unwrap();
        let eos_token_id = vec![tokenizer.eos_id().unwrap()];
        let special = Special { eos_token_id, ..Special::default() };
        save(&model, &HfExport::new(special, Dtype::F32), folder.path()).unwrap();
        Self { folder, tokenizer }
    }

    fn arguments(&self, extra: &[&str]) -> Vec<String> {
        let base = ["generate", "--model", text(self.folder.path()), "--prompt", "The quick"];
        base.iter().chain(extra).map(|&argument| argument.to_owned()).collect()
    }

    /// The text of tokens, of which some are past the tokenizer.
    fn decode(&self, tokens: &Value) -> String {
        let ids: Vec<u32> = serde_json::from_value(tokens.clone()).unwrap();
        let known: Vec<u32> =
            ids.into_iter().filter(|&id| self.tokenizer.check_id(id).is_ok()).collect();
        self.tokenizer.decode(&known, SpecialTokens::Skip).unwrap()
    }
}

#[test]
fn text_is_what_the_tokens_say_and_stops_where_asked() {
    let fixture = Fixture::new();
    let sampled = ["--temperature", "1", "--seed", "5", "--ignore-eos"];
    let run = |extra: &[&str]| {
        let extra: Vec<&str> = sampled.iter().chain(extra).copied().collect();
        fixture.arguments(&extra)
    };
    let report = json_of(run(&["--json"]));
    let generated = report["text"][0].as_str().unwrap();
    assert_eq!(generated, fixture.decode(&report["tokens"][0]));
    let n_prompt = fixture.tokenizer.encode("The quick").unwrap().len();
    assert_eq!(report["prompt_tokens"], json!([n_prompt]));
    // On the terminal: the same text, whole characters only, and a newline.
    assert_eq!(stdout(run(&[])), format!("{generated}\n"));

    // A stop text of three characters from the middle of what was generated.
    let middle: Vec<(usize, char)> = generated.char_indices().skip(20).take(3).collect();
    let stop: String = middle.iter().map(|(_, c)| c).collect();
    let before = &generated[..generated.find(&stop).unwrap()];
    let stopped = json_of(run(&["--json", "--stop", "never there", "--stop", &stop]));
    assert_eq!(stopped["text"][0], before);
    assert_eq!(stopped["stopped"][0], "stop");
    let all = report["tokens"][0].as_array().unwrap();
    assert!(all.starts_with(stopped["tokens"][0].as_array().unwrap()));
    assert_eq!(stdout(run(&["--stop", &stop])), format!("{before}\n"));
    // A stop text that begins but never ends holds nothing back for good.
    let unending = format!("{}\u{1}", generated.chars().last().unwrap());
    assert_eq!(stdout(run(&["--stop", &unending])), format!("{generated}\n"));
}

/// A special token has no text where it comes, and ends it all the same.
#[test]
fn a_special_token_is_a_stop_text() {
    const PADDING: &str = "<|padding|>";
    let fixture = Fixture::new();
    let id = fixture.tokenizer.token_to_id(PADDING).unwrap();
    let run = |seed: u32, extra: &[&str]| {
        let seed = seed.to_string();
        let sampled = ["--json", "--ignore-eos", "--temperature", "1.5", "--seed", &seed];
        json_of(fixture.arguments(&[&sampled, extra].concat()))
    };
    // A draw in whose middle that token comes.
    let (seed, at) = (0..60)
        .find_map(|seed| {
            let tokens = run(seed, &[])["tokens"][0].clone();
            let at = tokens.as_array().unwrap().iter().position(|token| *token == id)?;
            Some((seed, at))
        })
        .expect("it comes in one of the draws");
    let (all, stopped) = (run(seed, &[]), run(seed, &["--stop", PADDING]));
    let tokens = all["tokens"][0].as_array().unwrap();
    assert_eq!(stopped["tokens"][0], json!(tokens[..=at]));
    assert_eq!(stopped["text"][0], fixture.decode(&json!(tokens[..at])));
    assert_eq!((&all["stopped"][0], &stopped["stopped"][0]), (&json!("length"), &json!("stop")));
}

#[test]
fn prompts_come_from_the_command_line_and_from_files() {
    let fixture = Fixture::new();
    let prompts = ["The quick", "naïve — 生活", "dog"];
    let lines = json!(prompts[0]).to_string()
        + "\n\n"
        + &json!({ "prompt": prompts[1], "id": 5 }).to_string()
        + "\n"
        + &json!({ "text": prompts[2] }).to_string();
    let jsonl = write(&fixture.folder, "prompts.jsonl", lines);
    let plain = write(&fixture.folder, "prompts.txt", prompts.join("\n") + "\n");
    let base =
        ["generate", "--model", text(fixture.folder.path()), "--seed", "2", "--top-p", "0.9"];
    let base = || base.iter().copied().chain(["--max-new-tokens", "9", "--stop-id", "7"]);
    let run = |extra: &[&str]| {
        let mut report = json_of(base().chain(extra.iter().copied()).chain(["--json"]));
        report["seconds"].take();
        report
    };
    let given = prompts.map(|prompt| ["--prompt", prompt]);
    let expected = run(given.as_flattened());
    assert_eq!(expected["text"].as_array().unwrap().len(), 3);
    assert_eq!(run(&["--prompts", text(&jsonl)]), expected);
    assert_eq!(run(&["--prompts", text(&plain), "--batch-size", "2"]), expected);
    // As an editor of Windows saves them.
    for (name, other) in [("marked.JSONL", &jsonl), ("marked.txt", &plain)] {
        let bytes = [b"\xef\xbb\xbf".as_slice(), &fs::read(other).unwrap()].concat();
        let marked = write(&fixture.folder, name, bytes);
        assert_eq!(run(&["--prompts", text(&marked)]), expected, "{name}");
    }
    // Without --json, a line says which row follows, whether it is printed as it comes or when it is there.
    let texts: Vec<&str> =
        expected["text"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let rows = prompts.iter().zip(&texts).enumerate();
    let rows = rows
        .map(|(i, (prompt, text))| format!("==> {} of 3: {prompt} <==\n{text}\n", i + 1))
        .collect::<Vec<_>>();
    let rows = rows.join("\n");
    for batch_size in ["1", "3"] {
        let extra = ["--prompts", text(&jsonl), "--batch-size", batch_size];
        assert_eq!(stdout(base().chain(extra)), rows);
    }
    assert_eq!(stdout(base().chain(given[0])), format!("{}\n", texts[0]));
    let bad = write(&fixture.folder, "bad.jsonl", "\"a\"\n{\"question\": \"b\"}");
    let assert = olmo(base().chain(["--prompts", text(&bad)])).assert().code(2);
    let message = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(
        message.contains("line 2 of") && message.contains("\"prompt\" or \"text\""),
        "{message}"
    );
}

/// Beams as text: without the end token, and the best one on the terminal.
#[test]
fn beams_have_text() {
    let fixture = Fixture::new();
    let extra = ["--beams", "3", "--max-new-tokens", "6", "--length-penalty", "1"];
    let report = json_of(fixture.arguments(&extra).into_iter().chain(["--json".to_owned()]));
    let beams = report["beams"][0].as_array().unwrap();
    for beam in beams {
        assert_eq!(beam["text"], fixture.decode(&beam["tokens"]));
    }
    assert_eq!((beams.len(), &beams[0]["text"]), (3, &report["text"][0]));
    let shown = stdout(fixture.arguments(&extra));
    assert_eq!(shown, format!("{}\n", report["text"][0].as_str().unwrap()));
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_text() {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use olmo_tests::hearing;
    let fixture = Fixture::with_context(200_000);
    let extra = ["--ignore-eos", "--max-new-tokens", "199000", "--top-p", "0.99"];
    let mut child = hearing(&mut Command::new(env!("CARGO_BIN_EXE_olmo")))
        .args(fixture.arguments(&extra))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once text comes, it is asked to stop.
    let mut first = [0; 20];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = [&first[..], &output.stdout].concat();
    assert!(text.ends_with(b"\n") && String::from_utf8(text).is_ok());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "stopping; once more to stop at once\n");
}

#[test]
fn perplexity_of_text_counts_its_bytes() {
    let fixture = Fixture::new();
    let documents = write(
        &fixture.folder,
        "val.jsonl",
        [json!({ "text": CORPUS }), json!({ "text": "a dog" })]
            .map(|row| row.to_string())
            .join("\n"),
    );
    let report = |extra: &[&str]| {
        let base = ["eval", "ppl", "--json", "--model", text(fixture.folder.path()), "--data"];
        json_of(base.iter().chain(&[text(&documents)]).chain(extra))
    };
    let whole = report(&[]);
    assert_eq!(whole["n_bytes"], CORPUS.len() + 5);
    let encode = |text| fixture.tokenizer.encode(text).unwrap().len();
    assert_eq!(whole["n_tokens"], encode(CORPUS) + encode("a dog"));
    let number = |name: &str| whole[name].as_f64().unwrap();
    let bits = number("nll_nats") / std::f64::consts::LN_2 / number("n_bytes");
    assert!((number("bits_per_byte") / bits - 1.0).abs() < 1e-12);
    let mut one = report(&["--batch-size", "1"]);
    let found = one["nll_nats"].take().as_f64().unwrap();
    assert!((found / number("nll_nats") - 1.0).abs() < 1e-6);
}

#[test]
fn tokens_of_a_corpus_are_the_tokenizers() {
    let fixture = Fixture::new();
    let out = fixture.folder.path().join("tokens");
    let documents = fixture.folder.path().join("docs.jsonl");
    let tokenizer = fixture.folder.path().join("tokenizer.json");
    let report = json_of([
        "data",
        "tokenize",
        text(&documents),
        "--tokenizer",
        text(&tokenizer),
        "--out",
        text(&out),
        "--dtype",
        "uint32",
        "--eos",
        "<|padding|>",
        "--json",
    ]);
    let mut expected = fixture.tokenizer.encode(CORPUS).unwrap();
    expected.extend(fixture.tokenizer.token_to_id("<|padding|>"));
    assert_eq!(report["n_tokens"], expected.len());
    assert_eq!((&report["dtype"], &report["n_documents"]), (&json!("uint32"), &json!(1)));
    assert_eq!(report["files"], json!([out.join("part-0-00000.npy")]));
    let bytes = fs::read(out.join("part-0-00000.npy")).unwrap();
    let found: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    assert_eq!(found, expected);
    // A folder that has tokens already is not written over.
    let base = ["data", "tokenize", text(&documents)];
    let again =
        olmo(base.into_iter().chain(["--tokenizer", text(&tokenizer), "--out", text(&out)]))
            .assert()
            .code(2)
            .get_output()
            .clone();
    assert!(String::from_utf8(again.stderr).unwrap().contains("exists already"));
}
