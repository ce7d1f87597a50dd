//! Repositories, commits and contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A file's bytes, with the hashes that the Hub knows it by.
#[derive(Debug, Clone)]
pub struct Content {
    pub(crate) bytes: Arc<Vec<u8>>,
    /// Of the file, or of its pointer where it is in LFS.
    pub(crate) oid: String,
    /// SHA-256, where it is in LFS.
    pub(crate) lfs: Option<String>,
}

impl Content {
    pub(crate) fn new(path: &str, bytes: Vec<u8>) -> Self {
        let lfs = is_large(path).then(|| format!("{:x}", Sha256::digest(&bytes)));
        let pointer = lfs.as_ref().map(|oid| {
            let size = bytes.len();
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n")
        });
        let oid = git_hash(pointer.as_ref().map_or(bytes.as_slice(), |text| text.as_bytes()));
        Self { bytes: Arc::new(bytes), oid, lfs }
    }

    /// What the `ETag` is.
    pub(crate) fn etag(&self) -> &str {
        self.lfs.as_deref().unwrap_or(&self.oid)
    }
}

/// Whether a file goes by git-lfs, as `.gitattributes` of the Hub's models have it.
pub(crate) fn is_large(path: &str) -> bool {
    [".safetensors", ".bin", ".pt"].iter().any(|end| path.ends_with(end))
}

fn git_hash(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    format!("{:x}", hasher.finalize())
}

pub(crate) type Files = BTreeMap<String, Content>;

#[derive(Debug, Default, Clone)]
pub(crate) struct Repo {
    pub(crate) branches: BTreeMap<String, String>,
    pub(crate) commits: BTreeMap<String, Files>,
    /// `Some(true)`: gated; `Some(false)`: private.
    pub(crate) closed: Option<bool>,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) repos: BTreeMap<String, Repo>,
    pub(crate) moved: BTreeMap<String, String>,
    /// Contents by SHA-256.
    pub(crate) large: BTreeMap<String, Arc<Vec<u8>>>,
    /// Parts of uploads that have not ended, by the upload and their number.
    pub(crate) uploads: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
    /// Uploads in parts that were begun so far.
    n_uploads: usize,
    /// Contents that were asked to be looked at again after their upload.
    pub(crate) verified: BTreeSet<String>,
}

impl Store {
    /// The name of a new upload in parts.
    pub(crate) fn begin_upload(&mut self) -> String {
        self.n_uploads += 1;
        let name = format!("upload{}", self.n_uploads);
        self.uploads.insert(name.clone(), BTreeMap::new());
        name
    }

    pub(crate) fn commit(&mut self, repo: &str, branch: &str, files: &[(&str, Vec<u8>)]) -> String {
        let contents: Files = files
            .iter()
            .map(|(path, bytes)| ((*path).to_owned(), Content::new(path, bytes.clone())))
            .collect();
        self.add_commit(repo, branch, contents)
    }

    pub(crate) fn add_commit(&mut self, repo: &str, branch: &str, files: Files) -> String {
        for content in files.values() {
            if let Some(oid) = &content.lfs {
                self.large.insert(oid.clone(), Arc::clone(&content.bytes));
            }
        }
        let repo = self.repos.entry(repo.to_owned()).or_default();
        let mut text = format!("{branch} {:?}", repo.branches.get(branch));
        for (path, content) in &files {
            let _ = writeln!(text, "{path} {}", content.oid);
        }
        let sha = git_hash(text.as_bytes());
        repo.commits.insert(sha.clone(), files);
        repo.branches.insert(branch.to_owned(), sha.clone());
        sha
    }

    pub(crate) fn files(&self, repo: &str, branch: &str) -> Vec<(String, Vec<u8>)> {
        let repo = &self.repos[repo];
        let files = &repo.commits[&repo.branches[branch]];
        files.iter().map(|(path, content)| (path.clone(), content.bytes.to_vec())).collect()
    }

    pub(crate) fn close(&mut self, repo: &str, gated: bool) {
        self.repos.get_mut(repo).expect("a repository").closed = Some(gated);
    }

    pub(crate) fn rename(&mut self, repo: &str, to: &str) {
        let content = self.repos.remove(repo).expect("a repository");
        self.repos.insert(to.to_owned(), content);
        self.moved.insert(repo.to_owned(), to.to_owned());
    }
}

impl Repo {
    /// The commit that a branch, or the beginning of nothing else, names.
    pub(crate) fn resolve(&self, revision: &str) -> Option<(&str, &Files)> {
        let sha = self.branches.get(revision).map_or(revision, String::as_str);
        self.commits.get_key_value(sha).map(|(sha, files)| (sha.as_str(), files))
    }
}
