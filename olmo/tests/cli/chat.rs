//! `olmo chat` as a user runs it through a pipe: answers, commands, what is run again.

use olmo::data::{ChatTemplate, Message, TextStream};
use olmo::hub::{Dtype, HfExport, Special, save};
use olmo::model::{InitConfig, Transformer, presets};
use olmo::prelude::*;

use super::*;

/// Ends its answers with a special token that the model's configuration does not name.
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\
    {% if m.role == 'assistant' %}<|padding|>{% endif %}\n{% endfor %}\
    {% if add_generation_prompt %}<assistant>{% endif %}";

const N_NEW: usize = 12;

struct Fixture {
    folder: TempDir,
    tokenizer: Tokenizer,
    model: Transformer,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let corpus = json!({ "text": "<user>hello<assistant>naïve 生活<system>a quick fox" });
        let documents = write(&folder, "docs.jsonl", corpus.to_string());
        let path = folder.path().join("tokenizer.json");
        let arguments = ["data", "train-tokenizer", text(&documents), "--vocab-size", "290"];
        olmo(arguments).args(["--out", text(&path)]).assert().success();
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        let mut config = presets::small_olmo2(16, 2, 2, 290);
        config.max_sequence_length = 400;
        let wide = InitConfig::Normal { std: 0.5, cutoff: None, embedding_std: None };
        let model = Transformer::init(&config, &wide, 3, &Device::flex()).unwrap();
        let eos_token_id = vec![tokenizer.eos_id().unwrap()];
        let special = Special { eos_token_id, ..Special::default() };
        save(&model, &HfExport::new(special, Dtype::F32), folder.path()).unwrap();
        write(&folder, "chat_template.jinja", TEMPLATE);
        Self { folder, tokenizer, model }
    }

    fn chat(&self, input: impl Into<Vec<u8>>, extra: &[&str]) -> assert_cmd::assert::Assert {
        let n = N_NEW.to_string();
        let base = ["chat", "--model", text(self.folder.path()), "--max-new-tokens", &n];
        olmo(base.iter().chain(extra)).write_stdin(input).assert()
    }

    /// A chat that can be talked with while it runs.
    #[cfg(unix)]
    fn begin(&self, extra: &[&str]) -> std::process::Child {
        use std::process::{Command, Stdio};
        olmo_tests::hearing(&mut Command::new(env!("CARGO_BIN_EXE_olmo")))
            .args(["chat", "--model", text(self.folder.path())])
            .args(extra)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn prompt(&self, messages: &[Message]) -> Vec<u32> {
        let template = ChatTemplate::from_folder(self.folder.path()).unwrap().unwrap();
        self.tokenizer.encode(&template.render(messages, true).unwrap()).unwrap()
    }

    /// The tokens of an answer and its text, from a fresh start.
    fn answer(&self, messages: &[Message], sampling: Sampling, limit: usize) -> (Vec<u32>, String) {
        let eos = self.tokenizer.eos_id().unwrap();
        let padding = self.tokenizer.token_to_id("<|padding|>").unwrap();
        let mut stream = TextStream::new(self.tokenizer.clone(), vec![]);
        let mut tokens = Vec::new();
        for token in self.model.generate(&self.prompt(messages), sampling).unwrap().take(limit) {
            let token = token.unwrap();
            tokens.push(token);
            if token == eos || token == padding {
                break;
            }
            stream.push(token).unwrap();
        }
        stream.finish().unwrap();
        (tokens, stream.text().to_owned())
    }
}

/// What is printed where a line was refused and the rest was not.
#[track_caller]
fn refused(assert: assert_cmd::assert::Assert) -> (String, String) {
    let output = assert.code(2).get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn output_of(assert: assert_cmd::assert::Assert) -> (String, String) {
    let output = assert.success().get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn answers_are_those_of_a_fresh_start_and_only_the_new_is_run() {
    let fixture = Fixture::new();
    let questions = ["hello", "what? 生活", "a \nfox"];
    let (mut messages, mut shown, mut counts) = (vec![], String::new(), vec![]);
    let mut seen: Vec<u32> = Vec::new();
    for question in questions {
        messages.push(Message::new("user", question));
        let prompt = fixture.prompt(&messages);
        let (tokens, text) = fixture.answer(&messages, Sampling::greedy(), N_NEW);
        // The last token of an answer has not been run.
        let n_cached = seen.len().saturating_sub(1);
        let common = seen.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        let n_kept = common.min(n_cached);
        assert!(seen.is_empty() || n_kept > 10, "{n_kept}");
        let (n_run, n_new) = (prompt.len() - n_kept, tokens.len());
        counts.push(format!("{n_kept} tokens kept, {n_run} run, {n_new} new"));
        seen = [prompt, tokens].concat();
        shown += &text;
        shown.push('\n');
        messages.push(Message::new("assistant", text));
    }
    let (stdout, stderr) =
        output_of(fixture.chat("hello\n\nwhat? 生活\na \\\nfox", &["--verbose"]));
    assert_eq!(stdout, shown);
    let without_time = |line: &str| line.split(" in ").next().unwrap().to_owned();
    assert_eq!(stderr.lines().map(without_time).collect::<Vec<_>>(), counts);
}

#[test]
fn commands() {
    let fixture = Fixture::new();
    let file = fixture.folder.path().join("talk.jsonl");
    let say = |role: &str, content: &str| Message::new(role, content);
    let answered = |messages: &[Message]| fixture.answer(messages, Sampling::greedy(), N_NEW).1;
    let with_system = [say("system", "be brief"), say("user", "hello")];
    let (alone, briefly) = (answered(&[say("user", "hello")]), answered(&with_system));
    assert_ne!(alone, briefly);
    let input = format!(
        "hello\n/reset\nhello\n/system be brief\nhello\n/save {}\n/sytem x\n/reset\n/save {}\n/exit\nhello\n",
        text(&file),
        text(&fixture.folder.path().join("no/such/folder/talk.jsonl")),
    );
    // A script that said what there is not is told at the end.
    let (stdout, stderr) = refused(fixture.chat(input.as_str(), &[]));
    assert_eq!(stdout, format!("{alone}\n{alone}\n{briefly}\nsaved {}\n", text(&file)));
    let saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let mut messages = json!(with_system);
    messages.as_array_mut().unwrap().push(json!({ "role": "assistant", "content": briefly }));
    assert_eq!(saved, json!({ "messages": messages }));
    let complaints: Vec<&str> = stderr.lines().collect();
    assert!(complaints[0].contains("no command /sytem"), "{stderr}");
    assert!(complaints[1].contains("talk.jsonl"), "{stderr}");
    assert!(complaints[2].starts_with("error: 2 lines were refused"), "{stderr}");
    let (stdout, _) = output_of(fixture.chat("hello", &["--system", "be brief"]));
    assert_eq!(stdout, format!("{briefly}\n"));
    assert!(output_of(fixture.chat("/help\n", &[])).0.contains("/save FILE"));
}

#[test]
fn an_answer_ends_with_the_templates_token() {
    let fixture = Fixture::new();
    let padding = fixture.tokenizer.token_to_id("<|padding|>").unwrap();
    let messages = [Message::new("user", "hello")];
    // A draw in which that token comes.
    let (seed, text) = (0..40)
        .find_map(|seed| {
            let sampling = Sampling::temperature(1.5).seed(seed);
            let (tokens, text) = fixture.answer(&messages, sampling, 200);
            (tokens.last() == Some(&padding)).then_some((seed.to_string(), text))
        })
        .expect("one of the draws ends");
    let extra = ["--temperature", "1.5", "--seed", &seed, "--max-new-tokens", "200"];
    let base = ["chat", "--model", super::text(fixture.folder.path())];
    let (stdout, _) = output_of(olmo(base.iter().chain(&extra)).write_stdin("hello\n").assert());
    assert_eq!(stdout, format!("{text}\n"));
}

#[test]
fn what_cannot_be_talked_about() {
    let fixture = Fixture::new();
    // Too long for the room, then a message that fits.
    let input = format!("{}\nhello\n", "long ".repeat(60));
    let (stdout, stderr) = refused(fixture.chat(input.as_str(), &["--context", "60"]));
    let answer = fixture.answer(&[Message::new("user", "hello")], Sampling::greedy(), N_NEW).1;
    assert_eq!(stdout, format!("{answer}\n"));
    assert!(stderr.contains("there is room for 60") && stderr.contains("/reset"), "{stderr}");

    let fails = |extra: &[&str], part: &str| {
        let output = fixture.chat("hello\n", extra).code(2).get_output().clone();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with("error: ") && message.contains(part), "{message}");
    };
    fails(&["--chat-template", "no.jinja"], "no.jinja");
    fails(&["--temperature", "-1"], "temperature is -1");
    fails(&["--context", "0"], "--context is 0");
    let broken = write(&fixture.folder, "broken.jinja", "{% for %}");
    fails(&["--chat-template", text(&broken)], "broken.jinja");
    // The template's own complaint, which does not end the chat.
    let strict =
        "{% if messages[0].content == 'hello' %}{{ raise_exception('say please') }}{% endif %}x";
    let strict = write(&fixture.folder, "strict.jinja", strict);
    let (_, stderr) = refused(fixture.chat("hello\n", &["--chat-template", text(&strict)]));
    assert!(stderr.contains("strict.jinja") && stderr.contains("say please"), "{stderr}");
    fs::remove_file(fixture.folder.path().join("chat_template.jinja")).unwrap();
    fails(&[], "give one with --chat-template FILE");
}

/// A message that is no text is left out as a whole, and what was said before it stays.
#[test]
fn bytes_that_are_no_text() {
    let fixture = Fixture::new();
    let input = b"hello\n\xff what?\na \\\n\xe7\x94 \\\nfox\nwhat?\n".to_vec();
    let (stdout, stderr) = refused(fixture.chat(input, &[]));
    assert_eq!(stdout, output_of(fixture.chat("hello\nwhat?\n", &[])).0);
    let complaints: Vec<&str> = stderr.lines().collect();
    assert!(complaints[0].contains("no UTF-8 at its byte 1,"), "{stderr}");
    assert!(complaints[1].contains("no UTF-8 at its byte 4,"), "{stderr}");
    assert!(complaints[2].starts_with("error: 2 lines were refused"), "{stderr}");
}

#[test]
fn a_conversation_is_saved_at_home() {
    let fixture = Fixture::new();
    let home = fixture.folder.path().join("home");
    fs::create_dir(&home).unwrap();
    let mut command =
        olmo(["chat", "--model", text(fixture.folder.path()), "--max-new-tokens", "2"]);
    command.env("HOME", &home).write_stdin("hello\n/save ~/talk.jsonl\n").assert().success();
    assert!(home.join("talk.jsonl").is_file());
}

/// One signal is enough, whether it waits for a message or answers one.
#[test]
#[cfg(unix)]
fn a_signal_ends_a_chat_through_a_pipe() {
    use std::io::{Read as _, Write as _};
    use std::thread;
    use std::time::Duration;
    let fixture = Fixture::new();
    for (signal, line) in [("-TERM", "/help\n"), ("-HUP", "/help\n"), ("-INT", "hello\n")] {
        let mut child = fixture.begin(&["--max-new-tokens", "390"]);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = child.id().to_string();
        let sent = std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
        // Standard input stays open until it has ended.
        let ended = (0..600).any(|_| {
            thread::sleep(Duration::from_millis(50));
            child.try_wait().unwrap().is_some()
        });
        if !ended {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{signal} {message}");
        assert!(message.ends_with("error: stopped on request\n"), "{message}");
    }
}
