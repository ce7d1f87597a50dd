//! One file from the Hub into the cache: piece by piece, from where it was cut, checked by its hash.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use futures::StreamExt as _;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::cache::{RepoCache, create_parent};
use super::client::Client;
use super::error::HubError;
use super::repo::Repo;
use super::waiter::MOMENT;
use super::xet::Xet;
use crate::error::{Error, Result};

/// Bytes written at a time.
const BUFFER: usize = 1 << 16;
/// Failures in a row without a byte between them.
const FRUITLESS: u32 = 5;

/// A file of a commit, as the Hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) hash: Hash,
    /// Its name in the store of chunks, where it is kept there.
    pub(super) xet: Option<String>,
}

/// What the Hub promises of a file's content; also its name among the blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hash {
    /// Of files in LFS.
    Sha256(String),
    /// git's hash of a blob, of small files.
    Git(String),
}

impl Hash {
    pub(super) fn text(&self) -> &str {
        let (Self::Sha256(text) | Self::Git(text)) = self;
        text
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Git(_) => "git hash",
        }
    }
}

/// What a download works with.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) repo: &'a Repo,
    pub(super) commit: &'a str,
    pub(super) cache: &'a RepoCache,
    pub(super) xet: Xet,
}

impl Download<'_> {
    /// Brings a file's content into the cache, where it may be already, and lets the snapshot
    /// point to it. `progress` is told of bytes that are there, and whether they were fetched;
    /// negative where bytes turned out to be wrong.
    pub(super) fn run(&self, file: &RemoteFile, progress: &dyn Fn(i64, bool)) -> Result<()> {
        let hash = file.hash.text();
        if self.is_there(file) {
            progress(file.size as i64, false);
        } else {
            let lock =
                self.cache.lock(hash, || self.client.waiter.pause(MOMENT).map_err(Error::Hub))?;
            // Whoever held the lock may have fetched it.
            if self.is_there(file) {
                progress(file.size as i64, false);
            } else {
                let (blob, mut incomplete) = (self.cache.blob(hash), self.cache.incomplete(hash));
                if lock.is_none() {
                    incomplete.set_extension(format!("{}.incomplete", std::process::id()));
                }
                create_parent(&blob)?;
                self.fetch_checked(file, &incomplete, progress)?;
                fs::rename(&incomplete, &blob).map_err(Error::io(&blob, "rename to"))?;
            }
        }
        self.cache.point(self.commit, &file.path, hash)
    }

    /// Whether a file's content is there whole; its name is its hash, and it was checked when it
    /// was made.
    fn is_there(&self, file: &RemoteFile) -> bool {
        let metadata = fs::metadata(self.cache.blob(file.hash.text()));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.size)
    }

    /// Fetches a file and compares its hash; once more from the beginning where it is wrong.
    fn fetch_checked(
        &self,
        file: &RemoteFile,
        incomplete: &Path,
        progress: &dyn Fn(i64, bool),
    ) -> Result<()> {
        let mut found = String::new();
        for _ in 0..2 {
            self.fetch(file, incomplete, progress)?;
            found = hash_of(incomplete, &file.hash, file.size)?;
            if found == file.hash.text() {
                return Ok(());
            }
            fs::remove_file(incomplete).map_err(Error::io(incomplete, "remove"))?;
            progress(-(file.size as i64), false);
        }
        Err(Error::Hub(HubError::Corrupt {
            file: file.path.clone(),
            repo: self.repo.id(),
            hash: file.hash.kind(),
            found,
            expected: file.hash.text().to_owned(),
        }))
    }

    /// Appends to what is there of a file until it has its size.
    fn fetch(
        &self,
        file: &RemoteFile,
        incomplete: &Path,
        progress: &dyn Fn(i64, bool),
    ) -> Result<()> {
        let mut out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(incomplete)
            .map_err(Error::io(incomplete, "create"))?;
        let mut at = out.metadata().map_err(Error::io(incomplete, "read"))?.len();
        if at > file.size {
            out.set_len(0).map_err(Error::io(incomplete, "write"))?;
            at = 0;
        }
        out.seek(SeekFrom::Start(at)).map_err(Error::io(incomplete, "write"))?;
        progress(at as i64, false);
        let mut fruitless = 0;
        while at < file.size {
            let before = at;
            let ended = self.piece(file, &mut out, incomplete, &mut at, progress)?;
            fruitless = if at > before { 0 } else { fruitless + 1 };
            let Some(problem) = ended else { continue };
            if fruitless == FRUITLESS {
                let (url, attempts) = (self.url(file), fruitless);
                return Err(Error::Hub(HubError::Network { url, problem, attempts }));
            }
            self.client.pause(fruitless + 1).map_err(Error::Hub)?;
        }
        out.sync_all().map_err(Error::io(incomplete, "write"))
    }

    /// Fetches what comes in one piece from `at` on; why it ended early, if it did.
    fn piece(
        &self,
        file: &RemoteFile,
        out: &mut File,
        incomplete: &Path,
        at: &mut u64,
        progress: &dyn Fn(i64, bool),
    ) -> Result<Option<String>> {
        let mut body = self.open(file, *at).map_err(Error::Hub)?;
        if body.begin != *at {
            progress(body.begin as i64 - *at as i64, false);
            *at = body.begin;
            out.set_len(*at).map_err(Error::io(incomplete, "write"))?;
            out.seek(SeekFrom::Start(*at)).map_err(Error::io(incomplete, "write"))?;
        }
        while *at < body.end {
            let bytes = match self.client.wait(body.bytes.next()).map_err(Error::Hub)? {
                Some(Ok(bytes)) => bytes,
                None => return Ok(Some(format!("the connection was cut at byte {at}"))),
                Some(Err(problem)) => return Ok(Some(problem)),
            };
            let n_bytes = (body.end - *at).min(bytes.len() as u64) as usize;
            for part in bytes[..n_bytes].chunks(BUFFER) {
                self.client.waiter.look().map_err(Error::Hub)?;
                out.write_all(part).map_err(Error::io(incomplete, "write"))?;
                *at += part.len() as u64;
                progress(part.len() as i64, true);
            }
        }
        Ok(None)
    }
}

/// The hash of a file, of the kind that is expected.
pub(super) fn hash_of(path: &Path, like: &Hash, size: u64) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut buffer = vec![0; 1 << 20];
    let mut read = |update: &mut dyn FnMut(&[u8])| -> Result<()> {
        loop {
            match file.read(&mut buffer).map_err(Error::io(path, "read"))? {
                0 => return Ok(()),
                n => update(&buffer[..n]),
            }
        }
    };
    match like {
        Hash::Sha256(_) => {
            let mut hasher = Sha256::new();
            read(&mut |bytes| hasher.update(bytes))?;
            Ok(format!("{:x}", hasher.finalize()))
        }
        Hash::Git(_) => {
            let mut hasher = Sha1::new();
            hasher.update(format!("blob {size}\0"));
            read(&mut |bytes| hasher.update(bytes))?;
            Ok(format!("{:x}", hasher.finalize()))
        }
    }
}
