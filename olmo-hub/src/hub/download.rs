//! One file from the Hub into the cache: in chunks, from where it was cut, checked by its hash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use ureq::SendBody;

use super::cache::{RepoCache, create_parent};
use super::client::{Client, Request, escaped};
use super::error::HubError;
use super::repo::Repo;
use crate::error::{Error, Result};

/// Bytes asked for at a time; a file is a row of such requests.
const CHUNK: u64 = 64 << 20;
/// Bytes read and written at a time, the most that is fetched twice.
const BUFFER: usize = 1 << 16;
/// Failures in a row without a byte between them.
const FRUITLESS: u32 = 5;

/// A file of a commit, as the Hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) hash: Hash,
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
    pub(super) client: &'a Client,
    pub(super) repo: &'a Repo,
    pub(super) commit: &'a str,
    pub(super) cache: &'a RepoCache,
    pub(super) stop: &'a AtomicBool,
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
            let lock = self.cache.lock(hash)?;
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
            let ended = self.chunk(file, &mut out, incomplete, &mut at, progress)?;
            fruitless = if at > before { 0 } else { fruitless + 1 };
            let Some(problem) = ended else { continue };
            if fruitless == FRUITLESS {
                let (url, attempts) = (self.url(file), fruitless);
                return Err(Error::Hub(HubError::Network { url, problem, attempts }));
            }
            sleep(self.client.settings.retry_delay.saturating_mul(1 << fruitless.min(6)));
        }
        out.sync_all().map_err(Error::io(incomplete, "write"))
    }

    fn url(&self, file: &RemoteFile) -> String {
        let path: Vec<String> = file.path.split('/').map(escaped).collect();
        self.client.url(&format!("/{}/resolve/{}/{}", self.repo.id(), self.commit, path.join("/")))
    }

    /// Fetches up to a chunk from `at` on; why it ended early, if it did.
    fn chunk(
        &self,
        file: &RemoteFile,
        out: &mut File,
        incomplete: &Path,
        at: &mut u64,
        progress: &dyn Fn(i64, bool),
    ) -> Result<Option<String>> {
        let url = self.url(file);
        let end = file.size.min(*at + CHUNK);
        let headers = [
            ("range", format!("bytes={at}-{}", end - 1)),
            // A body that is compressed on the way has other offsets.
            ("accept-encoding", "identity".to_owned()),
        ];
        let request = Request { method: "GET", url: &url, headers: &headers };
        let answer = self.client.ask(request, || Ok(SendBody::none())).map_err(Error::Hub)?;
        let answer = self.client.check(answer, self.repo).map_err(Error::Hub)?;
        let begins = answer.header("content-range").and_then(range_start);
        match (answer.status, begins) {
            (206, Some(begins)) if begins == *at => {}
            // The server knows no ranges and sends the file from its beginning.
            (200, _) if *at == 0 => {}
            (200, _) => {
                progress(-(*at as i64), false);
                *at = 0;
                out.set_len(0).map_err(Error::io(incomplete, "write"))?;
                out.rewind().map_err(Error::io(incomplete, "write"))?;
            }
            (status, _) => {
                let problem = format!("status {status} to a request for bytes from {at} on");
                return Err(Error::Hub(HubError::Protocol { url, problem }));
            }
        }
        let until = if answer.status == 206 { end } else { file.size };
        let mut body = answer.body.into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER];
        while *at < until {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Hub(HubError::Stopped));
            }
            let room = (until - *at).min(BUFFER as u64) as usize;
            let n = match body.read(&mut buffer[..room]) {
                Ok(0) => return Ok(Some(format!("the connection was cut at byte {at}"))),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(error.to_string())),
            };
            out.write_all(&buffer[..n]).map_err(Error::io(incomplete, "write"))?;
            *at += n as u64;
            progress(n as i64, true);
        }
        Ok(None)
    }
}

/// `begin` of `bytes begin-end/size`.
fn range_start(header: &str) -> Option<u64> {
    header.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
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
