//! Whether tokenizer, special tokens and embedding belong together.

use std::collections::HashMap;
use std::io;

use serde_json::Value;

use crate::error::Error;
use crate::read::ModelFolder;
use crate::text_file;

/// The most bytes of a `tokenizer.json`: that of OLMo 2 has 7 MB.
const MAX_TOKENIZER: u64 = 1 << 26;

/// What stands for personal data in OLMo's vocabulary; early configurations took one for the end.
const MASKS: [&str; 3] = ["|||IP_ADDRESS|||", "|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||"];

/// Every disagreement between the tokenizer, the configuration's special tokens and the embedding.
pub(super) fn problems(folder: &ModelFolder) -> Vec<String> {
    let mut problems = Vec::new();
    let vocab_size = folder.model_config().vocab_size;
    let special = folder.special();
    let named = [("bos_token_id", special.bos_token_id), ("pad_token_id", special.pad_token_id)];
    let eos = special.eos_token_id.iter().map(|&id| ("eos_token_id", Some(id)));
    let ids: Vec<(&str, u32)> =
        named.into_iter().chain(eos).filter_map(|(name, id)| Some((name, id?))).collect();
    for (name, id) in ids.iter().filter(|(_, id)| *id as usize >= vocab_size) {
        problems.push(format!("{name} is {id}, past the embedding's {vocab_size} rows"));
    }
    let path = folder.path().join("tokenizer.json");
    let text = match text_file::read(&path, MAX_TOKENIZER) {
        Ok(text) => text,
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return problems;
        }
        Err(error) => {
            problems.push(error.to_string());
            return problems;
        }
    };
    let Ok(json) = serde_json::from_slice::<Value>(&text) else {
        problems.push("tokenizer.json is not JSON".to_owned());
        return problems;
    };
    let tokens = tokens(&json);
    if let Some((id, token)) = tokens.iter().max_by_key(|(id, _)| **id)
        && *id >= vocab_size as u64
    {
        problems.push(format!(
            "tokenizer.json has token {token:?} of id {id}, past the embedding's {vocab_size} rows"
        ));
    }
    for id in special.eos_token_id.iter().map(|&id| u64::from(id)) {
        match tokens.get(&id) {
            None => {
                problems
                    .push(format!("eos_token_id is {id}, of which tokenizer.json has no token"));
            }
            Some(token) if MASKS.contains(token) => problems.push(format!(
                "eos_token_id is {id}, which is {token:?} in tokenizer.json: the known mistake of \
                 early configurations{}",
                end_of_text(&tokens)
            )),
            Some(_) => {}
        }
    }
    problems
}

/// Names the id that should have been taken.
fn end_of_text(tokens: &HashMap<u64, &str>) -> String {
    let id = tokens.iter().find(|(_, token)| **token == "<|endoftext|>").map(|(id, _)| id);
    id.map_or_else(String::new, |id| format!("; \"<|endoftext|>\" is {id}"))
}

/// Every token of a `tokenizer.json` by id.
fn tokens(json: &Value) -> HashMap<u64, &str> {
    let vocabulary = json["model"]["vocab"].as_object().into_iter().flatten();
    let mut tokens: HashMap<u64, &str> =
        vocabulary.filter_map(|(token, id)| Some((id.as_u64()?, token.as_str()))).collect();
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        if let (Some(id), Some(content)) = (added["id"].as_u64(), added["content"].as_str()) {
            tokens.insert(id, content);
        }
    }
    tokens
}
