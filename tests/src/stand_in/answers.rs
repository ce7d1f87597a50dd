//! What is read from the Hub.

use serde_json::{Value, json};

use super::State;
use super::http::{Reply, Request};
use super::store::{Files, Repo};
use super::xet;

/// Answers a `GET` or `HEAD`.
pub(super) fn get(state: &State, endpoint: &str, request: &Request) -> Reply {
    let parts = request.parts();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts[..] {
        ["api", "models"] => search(state, request),
        ["api", "models", owner, name, ref rest @ ..] => {
            with_repo(state, request, owner, name, |repo, id| {
                api(state, endpoint, request, repo, id, rest)
            })
        }
        ["cdn", oid] => match state.store.large.get(oid) {
            Some(bytes) => Reply::new(200).with("etag", format!("\"{oid}\"")).file(bytes, request),
            None => Reply::new(404),
        },
        ["cas", "v2", "reconstructions", file] => {
            xet::reconstruction(state, endpoint, request, file)
        }
        ["xorbs", oid, index] => xet::xorb(state, request, oid, index),
        [owner, name, "resolve", revision, ref path @ ..] => {
            with_repo(state, request, owner, name, |repo, id| {
                let reply = resolve(endpoint, request, repo, revision, &path.join("/"));
                xet::tell(state, endpoint, id, reply)
            })
        }
        _ => Reply::new(404),
    }
}

/// Finds a repository that the request may read, or says why not.
fn with_repo(
    state: &State,
    request: &Request,
    owner: &str,
    name: &str,
    answer: impl FnOnce(&Repo, &str) -> Reply,
) -> Reply {
    let id = format!("{owner}/{name}");
    if let Some(to) = state.store.moved.get(&id) {
        return Reply::new(307).with("location", request.path.replacen(&id, to, 1));
    }
    let refuse = |status: u16, code: &str, message: &str| {
        Reply::new(status).with("x-error-code", code).with("x-error-message", message)
    };
    let is_trusted = state.is_trusted(request);
    if !is_trusted && request.header("authorization").is_some() {
        let message = "Invalid credentials in Authorization header";
        return Reply::new(401).with("x-error-message", message);
    }
    match state.store.repos.get(&id) {
        Some(Repo { closed: Some(true), .. })
            if !is_trusted && ["/resolve/", "/xet-"].iter().any(|of| request.path.contains(of)) =>
        {
            refuse(401, "GatedRepo", "Access to this model is restricted.")
        }
        Some(repo) if is_trusted || repo.closed != Some(false) => answer(repo, &id),
        // Whether it is private or not there is not told.
        _ if is_trusted => refuse(404, "RepoNotFound", "Repository not found"),
        _ => refuse(401, "RepoNotFound", "Repository not found"),
    }
}

fn search(state: &State, request: &Request) -> Reply {
    let (search, author) = (request.query("search"), request.query("author"));
    let found = state.store.repos.keys().filter(|id| {
        search.as_ref().is_none_or(|text| id.to_lowercase().contains(&text.to_lowercase()))
            && author.as_ref().is_none_or(|author| id.split('/').next() == Some(author))
    });
    Reply::json(&found.map(|id| json!({ "id": id })).collect())
}

fn api(
    state: &State,
    endpoint: &str,
    request: &Request,
    repo: &Repo,
    id: &str,
    rest: &[&str],
) -> Reply {
    let missing = |revision: &str| {
        Reply::new(404)
            .with("x-error-code", "RevisionNotFound")
            .with("x-error-message", format!("Invalid rev id: {revision}"))
    };
    match *rest {
        ["refs"] => refs(repo),
        ["xet-read-token", _] => match state.xet {
            Some(seconds) => xet::token(endpoint, seconds),
            None => Reply::new(404),
        },
        ["tree", revision, ..] => match repo.resolve(revision) {
            Some((_, files)) => tree(state, endpoint, request, files),
            None => missing(revision),
        },
        [] | ["revision", ..] => {
            let revision = rest.get(1).copied().unwrap_or("main");
            match repo.resolve(revision) {
                Some((sha, files)) => info(repo, id, sha, files),
                None => missing(revision),
            }
        }
        _ => Reply::new(404),
    }
}

fn info(repo: &Repo, id: &str, sha: &str, files: &Files) -> Reply {
    let siblings: Value = files.keys().map(|path| json!({ "rfilename": path })).collect();
    Reply::json(&json!({
        "_id": "0", "id": id, "modelId": id, "sha": sha, "siblings": siblings, "tags": [],
        "private": repo.closed == Some(false), "gated": repo.closed == Some(true),
        "disabled": false, "downloads": 0, "likes": 0,
    }))
}

fn refs(repo: &Repo) -> Reply {
    let branches = repo.branches.iter().map(|(name, sha)| {
        json!({ "name": name, "ref": format!("refs/heads/{name}"), "targetCommit": sha })
    });
    Reply::json(&json!({ "branches": branches.collect::<Value>(), "converts": [], "tags": [] }))
}

/// A page of a commit's files.
fn tree(state: &State, endpoint: &str, request: &Request, files: &Files) -> Reply {
    let first: usize = request.query("cursor").and_then(|text| text.parse().ok()).unwrap_or(0);
    let page = files.iter().skip(first).take(state.page).map(|(path, content)| {
        let mut entry = json!({
            "type": "file", "path": path, "oid": content.oid, "size": content.bytes.len(),
        });
        if let Some(oid) = &content.lfs {
            entry["lfs"] = json!({ "oid": oid, "size": content.bytes.len(), "pointerSize": 134 });
            if state.xet.is_some() {
                entry["xetHash"] = xet::name(oid).into();
            }
        }
        entry
    });
    let reply = Reply::json(&page.collect());
    if first + state.page >= files.len() {
        return reply;
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let next =
        format!("<{endpoint}{path}?recursive=true&cursor={}>; rel=\"next\"", first + state.page);
    reply.with("link", next)
}

/// A file: itself where it is small, and where it is otherwise.
fn resolve(endpoint: &str, request: &Request, repo: &Repo, revision: &str, path: &str) -> Reply {
    let Some((sha, files)) = repo.resolve(revision) else {
        return Reply::new(404).with("x-error-code", "RevisionNotFound");
    };
    let Some(content) = files.get(path) else {
        return Reply::new(404).with("x-error-code", "EntryNotFound").with("x-repo-commit", sha);
    };
    let etag = format!("\"{}\"", content.etag());
    match &content.lfs {
        Some(oid) => Reply::new(302)
            .with("x-repo-commit", sha)
            .with("x-linked-size", content.bytes.len())
            .with("x-linked-etag", etag)
            .with("accept-ranges", "bytes")
            // Another host, as the Hub's storage is.
            .with("location", format!("{}/cdn/{oid}", endpoint.replace("127.0.0.1", "localhost"))),
        None => Reply::new(200)
            .with("x-repo-commit", sha)
            .with("etag", etag)
            .with("accept-ranges", "bytes")
            .file(&content.bytes, request),
    }
}
