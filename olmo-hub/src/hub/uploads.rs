//! What an upload in parts has sent so far, on the disk: a push that was cut goes on with the part
//! after the last that the storage took.
//!
//! git-lfs gives the parts of an upload addresses that are signed for a time, and forgets the
//! upload when that is over; there is no way to ask what it has. So the answer is kept, with the
//! tag of each part as it is taken, in `.olmo-uploads` of the cache, one file for the content of a
//! file and a repository: a line for the upload, and a line for each part, each written whole
//! before the next part is sent. Where the storage knows the upload no more, it begins again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cache::create_parent;
use super::repo::Repo;
use super::settings::Settings;
use crate::error::{Error, Result};

/// An upload in parts as the Hub described it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upload {
    /// The hash of the file, by which git-lfs knows it.
    pub(super) oid: String,
    pub(super) size: u64,
    pub(super) part_size: u64,
    /// Numbers and addresses of the parts, in order.
    pub(super) parts: Vec<(u64, String)>,
    /// Where the upload is ended.
    pub(super) completion: String,
    /// Where the Hub is told that it has ended.
    pub(super) verify: Option<String>,
}

/// A part that the storage took.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Taken {
    number: u64,
    etag: String,
}

/// The file that an upload is noted in, and what it says.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// `None` where another process holds it: this one then goes without.
    file: Option<File>,
    upload: Option<Upload>,
    taken: BTreeMap<u64, String>,
}

impl Journal {
    /// Opens what is noted of a file's upload to a repository. What is noted of another size, or
    /// cannot be read, is as if it were not there.
    pub(super) fn open(settings: &Settings, repo: &Repo, oid: &str, size: u64) -> Result<Self> {
        let key = format!("{}\n{}\n{oid}", settings.endpoint, repo.id());
        let name = format!("{:x}", Sha256::digest(key));
        let path = settings.cache.join(".olmo-uploads").join(name);
        create_parent(&path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // Whoever knows the addresses can write to them.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(Error::io(&path, "open"))?;
        let mut journal = Self { path, file: None, upload: None, taken: BTreeMap::new() };
        if file.try_lock().is_err() {
            return Ok(journal);
        }
        let mut text = String::new();
        let n_whole = match file.read_to_string(&mut text) {
            Ok(_) => journal.read(&text, oid, size),
            Err(_) => 0,
        };
        // A line that was cut goes, so that the next one begins a line.
        file.set_len(n_whole).map_err(Error::io(&journal.path, "write"))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io(&journal.path, "write"))?;
        journal.file = Some(file);
        Ok(journal)
    }

    /// Takes the lines that are whole; their bytes.
    fn read(&mut self, text: &str, oid: &str, size: u64) -> u64 {
        let mut n_whole = 0;
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            if self.upload.is_none() {
                let upload: Option<Upload> = serde_json::from_str(line).ok();
                let Some(upload) = upload.filter(|upload| upload.oid == oid && upload.size == size)
                else {
                    return 0;
                };
                self.upload = Some(upload);
            } else {
                let Ok(Taken { number, etag }) = serde_json::from_str(line) else { break };
                self.taken.insert(number, etag);
            }
            n_whole += line.len() as u64;
        }
        n_whole
    }

    /// The upload that was begun and not ended.
    pub(super) fn begun(&self) -> Option<Upload> {
        self.upload.clone()
    }

    /// Notes a new upload in place of what was there.
    pub(super) fn begin(&mut self, upload: &Upload) -> Result<()> {
        self.taken.clear();
        self.upload = Some(upload.clone());
        if let Some(file) = &mut self.file {
            file.set_len(0).map_err(Error::io(&self.path, "write"))?;
            file.rewind().map_err(Error::io(&self.path, "write"))?;
        }
        self.line(upload)
    }

    /// The tag of a part that the storage has.
    pub(super) fn taken(&self, number: u64) -> Option<&str> {
        self.taken.get(&number).map(String::as_str)
    }

    /// Notes that the storage took a part.
    pub(super) fn take(&mut self, number: u64, etag: &str) -> Result<()> {
        self.taken.insert(number, etag.to_owned());
        self.line(&Taken { number, etag: etag.to_owned() })
    }

    /// Forgets the upload, which has ended or is not known any more.
    pub(super) fn end(mut self) -> Result<()> {
        match self.file.take() {
            Some(_) => remove(&self.path),
            None => Ok(()),
        }
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let text = serde_json::to_string(value).unwrap_or_default();
        let written =
            file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_data());
        written.map_err(Error::io(&self.path, "write"))
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(path, "remove")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload() -> Upload {
        let parts = (1..=3).map(|n| (n, format!("https://storage/{n}"))).collect();
        Upload {
            oid: "ab".to_owned(),
            size: 25,
            part_size: 10,
            parts,
            completion: "https://hub/complete".to_owned(),
            verify: None,
        }
    }

    #[test]
    fn what_was_taken_is_known_again_and_a_cut_line_is_not() {
        let cache = tempfile::tempdir().unwrap();
        let settings = Settings { cache: cache.path().to_owned(), ..Settings::from_env() };
        let repo: Repo = "me/model".parse().unwrap();
        let open = |size| Journal::open(&settings, &repo, "ab", size).unwrap();
        let mut first = open(25);
        assert_eq!(first.begun(), None);
        first.begin(&upload()).unwrap();
        first.take(1, "\"one\"").unwrap();
        // Another process goes without while it is held.
        let mut beside = open(25);
        assert_eq!(beside.begun(), None);
        beside.begin(&upload()).unwrap();
        beside.end().unwrap();
        first.take(2, "\"two\"").unwrap();
        let path = first.path.clone();
        drop(first);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        let mut again = open(25);
        assert_eq!(again.begun(), Some(upload()));
        assert_eq!((again.taken(1), again.taken(2)), (Some("\"one\""), None));
        again.take(2, "\"two\"").unwrap();
        drop(again);
        assert_eq!(fs::read(&path).unwrap(), whole);
        // Of a file that has changed nothing is known.
        assert_eq!(open(26).begun(), None);
        open(25).end().unwrap();
        assert!(!path.exists());
    }
}
