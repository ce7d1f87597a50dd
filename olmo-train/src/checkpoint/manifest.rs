//! `train/manifest.json`: what a checkpoint's folder holds, file by file, with SHA-256.
//!
//! It is written last, so that it speaks of everything else in the folder, and read first: a file
//! that is missing, cut short or changed by a bit is named before anything of it is believed.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use olmo_hub::write_atomic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Kept, TRAIN_FOLDER};
use crate::error::Error;

/// Name of the manifest in a checkpoint's `train` folder.
pub(crate) const MANIFEST_FILE: &str = "manifest.json";
/// Layout of the manifest that this version writes and reads.
const VERSION: u32 = 1;

/// The files of a checkpoint, and for how long it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    /// Whether a later checkpoint takes this one's place.
    pub kept: Kept,
    /// Every file but the manifest itself, sorted by path.
    pub files: Vec<FileRecord>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Path in the checkpoint's folder, with `/` on every system.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads and hashes the files of a folder, and writes the manifest beside them.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Hub`].
    pub fn write(dir: &Path, kept: Kept) -> Result<Self, Error> {
        let mut files = Vec::new();
        record_files(dir, dir, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Self { version: VERSION, kept, files };
        let path = manifest_path(dir);
        let json = serde_json::to_string_pretty(&manifest)
            .map_err(|error| Error::Io { path: path.clone(), source: error.into() })?;
        write_atomic(&path, |file| file.put(json.as_bytes()))?;
        Ok(manifest)
    }

    /// Reads the manifest of a folder; the files are not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] where it is missing or is not what this version writes.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = manifest_path(dir);
        let text = fs::read_to_string(&path).map_err(|error| damaged(&path, error.to_string()))?;
        let manifest: Self =
            serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))?;
        match manifest.version {
            VERSION => Ok(manifest),
            other => {
                Err(damaged(&path, format!("is of layout {other}, this version reads {VERSION}")))
            }
        }
    }

    /// Hashes every file again.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] with the first file that is missing or not as it was written.
    pub fn check(&self, dir: &Path) -> Result<(), Error> {
        for record in &self.files {
            let path = dir.join(&record.path);
            let found = FileRecord::of(dir, &path).map_err(|error| match error {
                Error::Io { path, source } => damaged(&path, source.to_string()),
                other => other,
            })?;
            if found.bytes != record.bytes {
                let (found, expected) = (found.bytes, record.bytes);
                return Err(damaged(&path, format!("has {found} bytes, {expected} were written")));
            }
            if found.sha256 != record.sha256 {
                let (found, expected) = (found.sha256, &record.sha256);
                let message =
                    format!("its SHA-256 is {found}, that of what was written {expected}");
                return Err(damaged(&path, message));
            }
        }
        Ok(())
    }
}

impl FileRecord {
    fn of(dir: &Path, path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut hash = Sha256::new();
        let bytes = io::copy(&mut File::open(path).map_err(io)?, &mut hash).map_err(io)?;
        let names = path.strip_prefix(dir).unwrap_or(path).components();
        let names: Vec<_> = names.map(|name| name.as_os_str().to_string_lossy()).collect();
        let mut sha256 = String::new();
        for byte in hash.finalize() {
            // Writing to a string does not fail.
            let _ = write!(sha256, "{byte:02x}");
        }
        Ok(Self { path: names.join("/"), bytes, sha256 })
    }
}

fn record_files(root: &Path, dir: &Path, records: &mut Vec<FileRecord>) -> Result<(), Error> {
    let io = |source| Error::Io { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() {
            record_files(root, &path, records)?;
        } else {
            records.push(FileRecord::of(root, &path)?);
        }
    }
    Ok(())
}

fn manifest_path(dir: &Path) -> PathBuf {
    dir.join(TRAIN_FOLDER).join(MANIFEST_FILE)
}

fn damaged(path: &Path, message: String) -> Error {
    Error::Damaged { path: path.to_owned(), message, advice: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_a_missing_byte_and_a_missing_file_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path();
        fs::create_dir(dir.join("train")).expect("writable");
        let (weights, state) = (dir.join("model.safetensors"), dir.join("train/state.json"));
        fs::write(&weights, [1_u8, 2, 3]).expect("writable");
        fs::write(&state, "{}").expect("writable");
        let manifest = Manifest::write(dir, Kept::Permanent).expect("written");
        assert_eq!(Manifest::read(dir).expect("there"), manifest);
        let paths: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["model.safetensors", "train/state.json"]);
        manifest.check(dir).expect("as it was written");

        let message = || manifest.check(dir).expect_err("damaged").to_string();
        fs::write(&weights, [1_u8, 2, 2]).expect("writable");
        assert!(message().contains("model.safetensors: its SHA-256 is"), "{}", message());
        fs::write(&weights, [1_u8, 2]).expect("writable");
        assert!(message().contains("has 2 bytes, 3 were written"), "{}", message());
        fs::write(&weights, [1_u8, 2, 3]).expect("writable");
        fs::remove_file(&state).expect("there");
        assert!(message().contains("state.json"), "{}", message());
        fs::write(manifest_path(dir), "{\"version\":").expect("writable");
        assert!(Manifest::read(dir).expect_err("cut").to_string().contains("manifest.json"));
    }
}
