//! What is written to the Hub.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::State;
use super::http::{Reply, Request};
use super::store::{Content, is_large};

/// Answers a `POST` or `PUT`.
pub(super) fn answer(state: &mut State, endpoint: &str, request: &Request) -> Reply {
    let parts = request.parts();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    // Addresses of storage carry their own signature; the Hub's own want a token.
    if !parts.starts_with(&["storage"]) && state.token.is_some() && !state.is_trusted(request) {
        return Reply::new(401).with("x-error-message", "Invalid username or password.");
    }
    let body = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
    match parts[..] {
        ["api", "repos", "create"] => create(state, &body()),
        ["api", "models", owner, name, "branch", branch] => {
            let repo = state.store.repos.entry(format!("{owner}/{name}")).or_default();
            let Some(main) = repo.branches.get("main").cloned() else {
                let sha = state.store.commit(&format!("{owner}/{name}"), branch, &[]);
                return Reply::json(&json!({ "sha": sha }));
            };
            repo.branches.insert(branch.to_owned(), main);
            Reply::json(&json!({}))
        }
        ["api", "models", _, _, "preupload", _] => preupload(&body()),
        ["api", "models", owner, name, "commit", branch] => {
            commit(state, endpoint, &format!("{owner}/{name}"), branch, &request.body)
        }
        [_, _, "info", "lfs", "objects", "batch"] => batch(state, endpoint, &body()),
        ["storage", oid] => match request.query("uploadId") {
            Some(upload) => part(state, &upload, request),
            None => keep(state, oid, request.body.clone()),
        },
        ["lfs", "complete", oid, upload] => complete(state, oid, upload, &body()),
        ["lfs", "verify"] => {
            let oid = body()["oid"].as_str().unwrap_or_default().to_owned();
            let is_there = state.store.large.contains_key(&oid);
            state.store.verified.insert(oid);
            Reply::new(if is_there { 200 } else { 404 })
        }
        _ => Reply::new(404),
    }
}

fn create(state: &mut State, body: &Value) -> Reply {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let id = format!("{}/{}", text("organization"), text("name"));
    if state.store.repos.contains_key(&id) {
        return Reply::new(409).with("x-error-message", "You already created this model repo");
    }
    state.store.commit(&id, "main", &[(".gitattributes", b"*.safetensors filter=lfs\n".to_vec())]);
    Reply::json(&json!({ "url": id }))
}

fn preupload(body: &Value) -> Reply {
    let files = body["files"].as_array().cloned().unwrap_or_default();
    let mode = |file: &Value| {
        let path = file["path"].as_str().unwrap_or_default();
        let mode = if is_large(path) { "lfs" } else { "regular" };
        // As if the repository had a `.gitignore` of them.
        let ignored = std::path::Path::new(path).extension() == Some("log".as_ref());
        json!({ "path": path, "uploadMode": mode, "shouldIgnore": ignored, "oid": null })
    };
    Reply::json(&json!({ "files": files.iter().map(mode).collect::<Value>() }))
}

/// Takes a part of an upload, as long as the upload is known.
fn part(state: &mut State, upload: &str, request: &Request) -> Reply {
    let number = request.query("partNumber").and_then(|number| number.parse().ok());
    let Some(number) = number else { return Reply::new(400) };
    let Some(parts) = state.store.uploads.get_mut(upload) else { return Reply::new(404) };
    parts.insert(number, request.body.clone());
    Reply::new(200).with("etag", tag(upload, number))
}

fn tag(upload: &str, number: usize) -> String {
    format!("\"{upload}-{number}\"")
}

fn batch(state: &mut State, endpoint: &str, body: &Value) -> Reply {
    let objects = body["objects"].as_array().cloned().unwrap_or_default();
    let action = |object: &Value| {
        let (oid, size) = (object["oid"].as_str().unwrap_or_default(), object["size"].as_u64());
        let size = size.unwrap_or(0) as usize;
        if state.store.large.contains_key(oid) {
            return json!({ "oid": oid, "size": size });
        }
        let upload = match state.part_size.filter(|part| size > *part) {
            Some(part) => {
                // Asked again, the Hub begins another upload.
                let upload = state.store.begin_upload();
                let mut header = json!({ "chunk_size": part.to_string() });
                for number in 1..=size.div_ceil(part) {
                    let query = format!("partNumber={number}&uploadId={upload}");
                    header[format!("{number:05}")] =
                        format!("{endpoint}/storage/{oid}?{query}").into();
                }
                let href = format!("{endpoint}/lfs/complete/{oid}/{upload}");
                json!({ "href": href, "header": header })
            }
            None => json!({ "href": format!("{endpoint}/storage/{oid}") }),
        };
        let verify = json!({ "href": format!("{endpoint}/lfs/verify") });
        json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": verify } })
    };
    let transfer = if state.part_size.is_some() { "multipart" } else { "basic" };
    Reply::json(
        &json!({ "transfer": transfer, "objects": objects.iter().map(action).collect::<Value>() }),
    )
}

fn complete(state: &mut State, oid: &str, upload: &str, body: &Value) -> Reply {
    let Some(parts) = state.store.uploads.get(upload) else { return Reply::new(404) };
    let mut whole = Vec::new();
    for part in body["parts"].as_array().into_iter().flatten() {
        let number = part["partNumber"].as_u64().unwrap_or(0) as usize;
        match parts.get(&number) {
            Some(bytes) if part["etag"].as_str() == Some(&tag(upload, number)) => {
                whole.extend(bytes);
            }
            _ => return Reply::new(400),
        }
    }
    state.store.uploads.remove(upload);
    keep(state, oid, whole)
}

/// Takes a large file whose name is its hash.
fn keep(state: &mut State, oid: &str, bytes: Vec<u8>) -> Reply {
    if format!("{:x}", Sha256::digest(&bytes)) != oid {
        return Reply::new(400).with("x-error-message", "SHA-256 does not match");
    }
    state.store.large.insert(oid.to_owned(), Arc::new(bytes));
    Reply::new(200)
}

fn commit(state: &mut State, endpoint: &str, id: &str, branch: &str, body: &[u8]) -> Reply {
    let Some(repo) = state.store.repos.get(id) else { return Reply::new(404) };
    let mut files = repo.resolve(branch).map(|(_, files)| files.clone()).unwrap_or_default();
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(line) = serde_json::from_slice::<Value>(line) else { return Reply::new(400) };
        let value = &line["value"];
        let path = value["path"].as_str().unwrap_or_default();
        let bytes = match line["key"].as_str() {
            Some("header") => continue,
            Some("file") => STANDARD.decode(value["content"].as_str().unwrap_or_default()).ok(),
            Some("lfsFile") => {
                let oid = value["oid"].as_str().unwrap_or_default();
                state.store.large.get(oid).map(|bytes| bytes.to_vec())
            }
            _ => None,
        };
        let Some(bytes) = bytes else { return Reply::new(400) };
        files.insert(path.to_owned(), Content::new(path, bytes));
    }
    let sha = state.store.add_commit(id, branch, files);
    let url = format!("{endpoint}/{id}/commit/{sha}");
    Reply::json(&json!({ "success": true, "commitOid": sha, "commitUrl": url }))
}
