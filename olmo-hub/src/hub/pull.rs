//! A model from the Hub into the cache, and where it is there.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::Deserialize;

use super::cache::{RepoCache, is_commit, is_hash};
use super::client::{Client, escaped};
use super::download::{Download, Hash, RemoteFile};
use super::error::HubError;
use super::repo::Repo;
use super::revisions::resolve;
use super::settings::Settings;
use super::xet::Xet;
use crate::error::{Error, Result};
use crate::write::TOKENIZER_FILES;

/// What is to be pulled.
#[derive(Debug)]
pub struct Pull<'a> {
    /// The repository and its revision.
    pub repo: &'a Repo,
    /// The Hub and the cache.
    pub settings: &'a Settings,
    /// Set to stop: what was fetched stays, and the next pull goes on from there.
    pub stop: &'a AtomicBool,
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The folder with the model's files.
    pub path: PathBuf,
    /// The commit that the revision is.
    pub commit: String,
    /// The revision's whole name, where only its beginning was given.
    pub revision: String,
    /// The name that the repository has now, where it is another.
    pub moved_to: Option<String>,
    /// Names of the files.
    pub files: Vec<String>,
    /// Bytes that were fetched.
    pub n_fetched: u64,
}

/// What a pull tells while it works.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The files to come, with their bytes.
    Planned(&'a [(String, u64)]),
    /// Bytes of a file, by its place among those planned, that are there now: fetched or found.
    /// Negative where they turned out to be wrong.
    Progress(usize, i64),
    /// A file is whole and checked.
    Done(usize),
}

/// Brings a model's files into the cache: configuration, tokenizer, weights, and nothing else.
///
/// # Errors
///
/// [`Error::Hub`], with what the Hub has instead; [`Error::Io`], on a full disk for one, which
/// leaves the cache as good as it was.
pub fn pull(request: &Pull<'_>, events: &(dyn Fn(Event<'_>) + Sync)) -> Result<Pulled> {
    let Pull { repo, settings, .. } = *request;
    let cache = RepoCache::new(&settings.cache, repo);
    if settings.offline {
        return offline(repo, settings, &cache);
    }
    let client = Client::new(settings, request.stop).map_err(Error::Hub)?;
    let (revision, commit) = resolve(&client, repo).map_err(Error::Hub)?;
    let (listed, name) = list(&client, repo, &commit).map_err(Error::Hub)?;
    let files = needed(listed).map_err(|(missing, files)| {
        let files = if files.is_empty() { "none".to_owned() } else { files.join(", ") };
        Error::Hub(HubError::NoModel { repo: repo.id(), commit: commit.clone(), missing, files })
    })?;
    let sizes: Vec<_> = files.iter().map(|file| (file.path.clone(), file.size)).collect();
    events(Event::Planned(&sizes));
    let download =
        Download { client: &client, repo, commit: &commit, cache: &cache, xet: Xet::default() };
    let n_fetched = fetch_all(&download, &files, settings.n_workers, events)?;
    cache.remember(&revision, &commit)?;
    Ok(Pulled {
        path: cache.snapshot(&commit),
        commit,
        revision,
        moved_to: name.filter(|name| *name != repo.id()),
        files: files.into_iter().map(|file| file.path).collect(),
        n_fetched,
    })
}

/// Fetches files, several at a time; the bytes that came over the network.
fn fetch_all(
    download: &Download<'_>,
    files: &[RemoteFile],
    n_workers: usize,
    events: &(dyn Fn(Event<'_>) + Sync),
) -> Result<u64> {
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..files.len()).collect());
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let n_fetched = std::sync::atomic::AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    let locked = |error: Error| {
        stopped.store(true, Ordering::Relaxed);
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    thread::scope(|scope| {
        for _ in 0..n_workers.clamp(1, files.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(index) = next.filter(|_| !stopped.load(Ordering::Relaxed)) else {
                        return;
                    };
                    let progress = |n_bytes: i64, fetched: bool| {
                        if fetched {
                            n_fetched.fetch_add(n_bytes.unsigned_abs(), Ordering::Relaxed);
                        }
                        events(Event::Progress(index, n_bytes));
                    };
                    match download.run(&files[index], &progress) {
                        Ok(()) => events(Event::Done(index)),
                        Err(error) => return locked(error),
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(n_fetched.into_inner()),
    }
}

/// An entry of the Hub's list of files.
#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    oid: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    lfs: Option<ListedLfs>,
    #[serde(default, rename = "xetHash")]
    xet: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ListedLfs {
    oid: String,
    size: u64,
}

/// Every file at the top of a commit, and the name under which the Hub has the repository.
///
/// Not by `hf-hub`'s `list_tree`, which loses the SHA-256 of large files.
fn list(
    client: &Client<'_>,
    repo: &Repo,
    commit: &str,
) -> Result<(Vec<RemoteFile>, Option<String>), HubError> {
    let mut url = client.url(&format!("/api/models/{}/tree/{commit}", repo.id()));
    let mut files = Vec::new();
    let mut name = None;
    loop {
        let answer = client.get(&url)?.map_err(|refused| client.meaning(refused, repo))?;
        name = name.or_else(|| client.repo_in(&answer.url));
        let next = answer.header("link").and_then(next_page);
        let page: Vec<Listed> = answer.json()?;
        for listed in page.into_iter().filter(|listed| listed.kind == "file") {
            let (hash, size) = match listed.lfs {
                Some(lfs) => (Hash::Sha256(lfs.oid), lfs.size),
                None => (Hash::Git(listed.oid), listed.size),
            };
            if !is_hash(hash.text()) {
                let problem = format!("{} has the hash {:?}", listed.path, hash.text());
                return Err(HubError::Protocol { url, problem });
            }
            files.push(RemoteFile {
                path: listed.path,
                size,
                hash,
                xet: listed.xet.filter(|hash| hash.len() == 64 && is_hash(hash)),
            });
        }
        match next {
            Some(next) => url = next,
            None => return Ok((files, name)),
        }
    }
}

/// The address of the next page in a `Link` header.
fn next_page(header: &str) -> Option<String> {
    let link = header.split(',').find(|link| link.contains("rel=\"next\""))?;
    Some(link.split_once('<')?.1.split_once('>')?.0.to_owned())
}

/// Configuration and tokenizer, as far as they are there.
const SMALL_FILES: [&str; 3] = ["config.json", "config.yaml", "generation_config.json"];

/// The files that a model needs: what [`ModelFolder`](crate::ModelFolder) reads, and its tokenizer.
///
/// Otherwise what is missing, and some of what is there.
fn needed(listed: Vec<RemoteFile>) -> Result<Vec<RemoteFile>, (&'static str, Vec<String>)> {
    let has = |name: &str| listed.iter().any(|file| file.path == name);
    let weights: &dyn Fn(&str) -> bool = if has("model.safetensors") {
        &|name| name == "model.safetensors"
    } else if has("model.safetensors.index.json") {
        &|name| name == "model.safetensors.index.json" || is_part(name, "model-", ".safetensors")
    } else if has("model.pt") {
        &|name| name == "model.pt"
    } else if has("pytorch_model.bin") {
        &|name| name == "pytorch_model.bin"
    } else if has("pytorch_model.bin.index.json") {
        &|name| name == "pytorch_model.bin.index.json" || is_part(name, "pytorch_model-", ".bin")
    } else {
        &|_| false
    };
    let names = || listed.iter().take(12).map(|file| file.path.clone()).collect();
    if !has("config.json") && !has("config.yaml") {
        return Err(("config.json", names()));
    }
    if !listed.iter().any(|file| weights(&file.path)) {
        return Err(("weights (model.safetensors, model.pt or pytorch_model.bin)", names()));
    }
    let small = |name: &str| SMALL_FILES.contains(&name) || TOKENIZER_FILES.contains(&name);
    Ok(listed.iter().filter(|file| small(&file.path) || weights(&file.path)).cloned().collect())
}

/// Whether a name is `prefix` N `-of-` M `suffix`.
fn is_part(name: &str, prefix: &str, suffix: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let middle = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
    let numbers = middle.and_then(|middle| middle.split_once("-of-"));
    numbers.is_some_and(|(index, n)| is_number(index) && is_number(n))
}

/// What the cache has of a revision, without asking the Hub.
fn offline(repo: &Repo, settings: &Settings, cache: &RepoCache) -> Result<Pulled> {
    let missing = |problem: String| {
        let cache = cache.root().display().to_string();
        let (repo, revision) = (repo.id(), repo.revision().to_owned());
        Error::Hub(HubError::Offline { repo, revision, cache, problem })
    };
    let _ = settings;
    let commit = cache.commit(repo.revision());
    let commit = commit.ok_or_else(|| missing("its commit is not known".to_owned()))?;
    let path = cache.snapshot(&commit);
    let entries = path.read_dir().map_err(|error| missing(error.to_string()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut files: Vec<String> = names.filter(|name| path.join(name).exists()).collect();
    files.sort();
    let revision = repo.revision().to_owned();
    Ok(Pulled { path, commit, revision, moved_to: None, files, n_fetched: 0 })
}

/// The commit of a revision that the Hub knows by exactly this name, `None` where it knows none.
pub(super) fn commit_of(
    client: &Client<'_>,
    repo: &Repo,
    revision: &str,
) -> Result<Option<String>, HubError> {
    let url = client.url(&format!("/api/models/{}/revision/{}", repo.id(), escaped(revision)));
    let known = client.of(repo);
    let info = client
        .want(repo, &url, || known.info().revision(revision).expand(vec!["sha".to_owned()]).send());
    let commit = match info {
        Err(HubError::NoRevision { .. }) => return Ok(None),
        info => info?.sha.unwrap_or_default(),
    };
    if is_commit(&commit) {
        return Ok(Some(commit));
    }
    Err(HubError::Protocol { url, problem: format!("{commit:?} is no commit") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Vec<RemoteFile> {
        let file = |name: &&str| RemoteFile {
            path: (*name).to_owned(),
            size: 1,
            hash: Hash::Git("0".repeat(40)),
            xet: None,
        };
        names.iter().map(file).collect()
    }

    #[test]
    fn only_what_a_model_needs_is_taken() {
        let names = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model-00001-of-00001.bin",
            "tokenizer.json",
            "../model.safetensors",
            "flax_model.msgpack",
        ];
        let taken: Vec<_> = needed(listed(&names)).unwrap().into_iter().map(|f| f.path).collect();
        assert_eq!(
            taken,
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "tokenizer.json"
            ]
        );
        let (missing, _) = needed(listed(&["config.json", "README.md"])).unwrap_err();
        assert!(missing.starts_with("weights"));
        assert_eq!(needed(listed(&["model.pt"])).unwrap_err().0, "config.json");
        let old = needed(listed(&["config.yaml", "model.pt", "optim.pt"])).unwrap();
        assert_eq!(old.len(), 2);
    }

    #[test]
    fn pages_are_followed() {
        let header = "<http://h/api?cursor=x>; rel=\"next\"";
        assert_eq!(next_page(header).as_deref(), Some("http://h/api?cursor=x"));
        assert_eq!(next_page("<http://h>; rel=\"prev\""), None);
    }
}
