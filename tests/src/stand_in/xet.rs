//! The reading side of Xet, the store of chunks in which the Hub keeps large files.
//!
//! As its client `hf-xet` 1.8 reads it: the Hub gives a token for the store; the store says in which
//! runs of chunks, of which xorbs, a range of a file lies, and where each is fetched; a xorb is its
//! chunks, each behind a header of eight bytes. Here a file is cut by fixed sizes, its chunks are not
//! compressed, and names are hashes of names; the client compares none with what it gets.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::State;
use super::http::{Reply, Request};

/// Bytes of a chunk, and of its header in a xorb.
const CHUNK: usize = 64 << 10;
const HEADER: usize = 8;
/// Chunks of a xorb.
const XORB: usize = 16;
/// What the store wants to see, which is not the Hub's token.
const TOKEN: &str = "of-the-store";

/// The name of a large file in the store.
pub(super) fn name(oid: &str) -> String {
    format!("{:x}", Sha256::digest(format!("xet {oid}")))
}

/// Another host, as the store is.
fn store(endpoint: &str) -> String {
    endpoint.replace("127.0.0.1", "localhost")
}

/// Says of a large file where it is in the store, as the Hub does where it redirects to the storage,
/// which says nothing of it.
pub(super) fn tell(state: &State, endpoint: &str, id: &str, reply: Reply) -> Reply {
    let location = reply.header("location").and_then(|url| url.rsplit("/cdn/").next());
    match (location.map(name), reply.header("x-repo-commit").map(ToOwned::to_owned)) {
        (Some(name), Some(sha)) if state.xet.is_some() => {
            let url = format!("{endpoint}/api/models/{id}/xet-read-token/{sha}");
            reply.with("x-xet-hash", name).with("link", format!("<{url}>; rel=\"xet-auth\""))
        }
        _ => reply,
    }
}

/// What opens the store for so many seconds.
pub(super) fn token(endpoint: &str, seconds: u64) -> Reply {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (cas, end) = (format!("{}/cas", store(endpoint)), now + seconds);
    // Rust reads the body, Python the headers.
    Reply::json(&json!({ "accessToken": TOKEN, "exp": end, "casUrl": cas }))
        .with("x-xet-cas-url", cas)
        .with("x-xet-access-token", TOKEN)
        .with("x-xet-token-expiration", end)
}

/// Of which runs of chunks a range of a file is made: one run in each xorb.
pub(super) fn reconstruction(
    state: &State,
    endpoint: &str,
    request: &Request,
    file: &str,
) -> Reply {
    if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return Reply::new(401);
    }
    let Some((oid, bytes)) = state.store.large.iter().find(|(oid, _)| name(oid) == file) else {
        return Reply::new(404);
    };
    let (begin, end) = request.range(bytes.len()).unwrap_or((0, bytes.len()));
    if begin >= end {
        return Reply::new(416);
    }
    let (first, last) = (begin / CHUNK, (end - 1) / CHUNK);
    let mut terms = Vec::new();
    let mut xorbs = BTreeMap::new();
    for xorb in first / XORB..=last / XORB {
        let chunks = first.max(xorb * XORB)..(last + 1).min((xorb + 1) * XORB);
        let unpacked = (chunks.end * CHUNK).min(bytes.len()) - chunks.start * CHUNK;
        let begin = (chunks.start - xorb * XORB) * (CHUNK + HEADER);
        let size = unpacked + chunks.len() * HEADER;
        let run = json!({ "start": chunks.start - xorb * XORB, "end": chunks.end - xorb * XORB });
        let hash = name(&format!("{oid} {xorb}"));
        terms.push(json!({ "hash": hash, "unpacked_length": unpacked, "range": run }));
        let url = format!("{}/xorbs/{oid}/{xorb}?X-Amz-Signature=0", store(endpoint));
        let range = json!({ "start": begin, "end": begin + size - 1 });
        xorbs.insert(hash, json!([{ "url": url, "ranges": [{ "chunks": run, "bytes": range }] }]));
    }
    Reply::json(&json!({
        "offset_into_first_range": begin - first * CHUNK,
        "terms": terms,
        "xorbs": xorbs.into_iter().collect::<serde_json::Map<String, Value>>(),
    }))
}

/// A range of a xorb, whose address carries its own signature.
pub(super) fn xorb(state: &State, request: &Request, oid: &str, index: &str) -> Reply {
    let file = state.store.large.get(oid);
    let part = index.parse().ok().and_then(|index: usize| file?.chunks(XORB * CHUNK).nth(index));
    let Some(part) = part else { return Reply::new(404) };
    let mut xorb = Vec::with_capacity(part.len() + XORB * HEADER);
    for chunk in part.chunks(CHUNK) {
        let [low, middle, high, ..] = (chunk.len() as u32).to_le_bytes();
        // Version 0; its length as it is here, how it is compressed, its length when it is not.
        xorb.extend([0, low, middle, high, 0, low, middle, high]);
        xorb.extend(chunk);
    }
    Reply::new(200).file(&xorb, request)
}
