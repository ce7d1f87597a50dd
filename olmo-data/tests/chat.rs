//! Chat templates against transformers' `apply_chat_template`.
//!
//! The vectors are made by `scripts/golden/chat.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use olmo_data::{ChatTemplate, Error, Message};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    templates: BTreeMap<String, String>,
    special_tokens: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    text: Option<String>,
    error: Option<String>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/chat/templates.json");
    serde_json::from_slice(&fs::read(path).expect("templates.json"))
        .expect("as the script writes it")
}

/// A folder with a `tokenizer_config.json`.
fn folder(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).expect("written");
    folder
}

#[test]
fn conversations_are_those_of_transformers() {
    let Golden { templates, special_tokens, cases } = golden();
    let mut n_refused = 0;
    for Case { template, messages, add_generation_prompt, text, error } in &cases {
        let mut config = special_tokens.clone();
        config["chat_template"] = templates[template].clone().into();
        let folder = folder(&config);
        let chat = ChatTemplate::from_folder(folder.path()).expect("sound").expect("there");
        match chat.render(messages, *add_generation_prompt) {
            Ok(found) => assert_eq!(Some(&found), text.as_ref(), "{template} {messages:?}"),
            Err(found) => {
                let expected = error.as_ref().unwrap_or_else(|| panic!("{template}: {found}"));
                assert!(found.to_string().contains(expected), "{found} {expected}");
                n_refused += 1;
            }
        }
    }
    assert!(cases.len() > 40 && n_refused > 4, "{n_refused}");
}

#[test]
fn the_end_of_an_answer_is_known() {
    let Golden { templates, special_tokens, .. } = golden();
    let end = |name: &str| {
        let folder = folder(&special_tokens);
        fs::write(folder.path().join("chat_template.jinja"), &templates[name]).expect("written");
        let chat = ChatTemplate::from_folder(folder.path()).expect("sound").expect("there");
        chat.end_of_answer().expect("renders")
    };
    assert_eq!((end("tulu"), end("chatml")), ("<|endoftext|>".into(), "<|im_end|>".into()));
}

#[test]
fn where_templates_are() {
    let find = |config: Value| ChatTemplate::from_folder(folder(&config).path());
    let render = |config: Value| {
        let chat = find(config).expect("sound").expect("there");
        chat.render(&[Message::new("user", "x")], false).expect("renders")
    };
    assert!(find(json!({})).expect("sound").is_none());
    assert!(find(json!({ "chat_template": null })).expect("sound").is_none());
    let empty = tempfile::tempdir().expect("a folder");
    assert!(ChatTemplate::from_folder(empty.path()).expect("sound").is_none());

    let token = json!({ "content": "<e>", "lstrip": false, "special": true });
    let one = "{{ eos_token }}{{ pad_token }}{{ messages[0].content }}";
    assert_eq!(render(json!({ "chat_template": one, "eos_token": token })), "<e>x");
    let named = json!([
        { "name": "tool_use", "template": "no" }, { "name": "default", "template": "yes" }
    ]);
    assert_eq!(render(json!({ "chat_template": named })), "yes");

    let refused = |config: Value, part: &str| match find(config) {
        Err(error @ Error::ChatTemplate { .. }) => {
            assert!(error.to_string().contains(part), "{error}");
        }
        other => panic!("{other:?}"),
    };
    refused(json!({ "chat_template": "a\n{% if %}" }), "line 2");
    refused(json!({ "chat_template": 5 }), "tokenizer_config.json");
    let missing = ChatTemplate::from_file("no/such.jinja", empty.path());
    assert!(matches!(missing, Err(Error::Io { .. })));
}

#[test]
fn a_template_without_an_end_is_refused() {
    let rendered = |source: &str| {
        let template = ChatTemplate::new(source, "the test").expect("it is Jinja");
        template.render(&[Message::new("user", "x")], true)
    };
    let long = "{% for i in range(99999) %}";
    let endless = format!("{long}{long}{{% endfor %}}{{% endfor %}}");
    let grows =
        format!("{{% set n = namespace(x='x') %}}{long}{{% set n.x = n.x ~ n.x %}}{{% endfor %}}");
    for source in [endless.as_str(), grows.as_str(), "{{ 'x' * 9999999999 }}"] {
        let error = rendered(source).expect_err("it never ends").to_string();
        assert!(error.contains("the test") && error.contains("to an end within"), "{error}");
    }
    assert!(rendered(&format!("{long}x{{% endfor %}}")).is_ok());
}

/// More messages than fit into the longest context of OLMo.
#[test]
fn a_long_conversation_is_not_refused() {
    let Golden { templates, special_tokens, .. } = golden();
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages: Vec<Message> =
        roles.take(100_000).map(|role| Message::new(role, "What is said in a line.")).collect();
    for (name, source) in templates {
        let folder = folder(&special_tokens);
        fs::write(folder.path().join("chat_template.jinja"), source).expect("written");
        let chat = ChatTemplate::from_folder(folder.path()).expect("sound").expect("there");
        if let Err(error) = chat.render(&messages, true) {
            panic!("{name}: {error}");
        }
    }
}
