//! The cache of Python's `huggingface_hub`: blobs by hash, and snapshots that link to them.
//!
//! ```text
//! models--owner--name/refs/main                 the commit that a branch was last seen at
//! models--owner--name/blobs/HASH                a file's content
//! models--owner--name/snapshots/COMMIT/FILE     a link to its blob
//! .locks/models--owner--name/HASH.lock          held by whoever fetches the blob
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::repo::Repo;
use crate::atomic::write_atomic;
use crate::error::{Error, Result};

/// The folders of one repository in the cache.
#[derive(Debug, Clone)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &Repo) -> Self {
        let name = repo.folder_name();
        Self { root: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file's content is, or will be.
    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(hash)
    }

    /// Where a file's content is while it is fetched.
    pub(super) fn incomplete(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{hash}.incomplete"))
    }

    /// Where the files of a commit are.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit of a revision, as far as the cache knows.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) && self.snapshot(revision).is_dir() {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers the commit of a branch or tag.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        create_parent(&path)?;
        write_atomic(&path, |file| file.put(commit.as_bytes()))
    }

    /// Waits until nobody else fetches this blob; others wait while the returned file is open.
    /// `None` where the file system has no locks. `wait` lets a moment pass, or ends it.
    pub(super) fn lock(&self, hash: &str, wait: impl Fn() -> Result<()>) -> Result<Option<File>> {
        let path = self.locks.join(format!("{hash}.lock"));
        create_parent(&path)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::io(&path, "create"))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => wait()?,
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(None);
                }
                Err(TryLockError::Error(error)) => return Err(Error::io(&path, "lock")(error)),
            }
        }
    }

    /// Lets a snapshot's file be the blob; one that is there already stays.
    pub(super) fn point(&self, commit: &str, file: &str, hash: &str) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        create_parent(&path)?;
        if path.exists() {
            return Ok(());
        }
        // A link to a blob that is gone would be in the way.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
        }
        let depth = file.matches('/').count() + 2;
        let target = PathBuf::from("../".repeat(depth)).join("blobs").join(hash);
        match symlink(&target, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(_) => self.copy(&path, hash),
            Ok(()) => Ok(()),
        }
    }

    /// A copy, where the file system has no links.
    fn copy(&self, path: &Path, hash: &str) -> Result<()> {
        let blob = self.blob(hash);
        let mut source = File::open(&blob).map_err(Error::io(&blob, "open"))?;
        write_atomic(path, |file| {
            io::copy(&mut source, file).map(drop).map_err(Error::io(path, "write"))
        })
    }
}

/// Whether a text is a commit's whole hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hash(text)
}

/// Whether a text can be a blob's name.
pub(super) fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(Error::io(parent, "create"))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}
