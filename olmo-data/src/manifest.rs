//! What tokenizing made, and from what: counts, sizes and hashes.
//!
//! `manifest.json` stands beside the token files. With one it can be checked that files are whole
//! and untouched, and that work can go on where it was stopped.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::atomic_file::AtomicFile;
use crate::fingerprint::sha256;
use crate::token_file::TokenDtype;
use crate::{Error, Result};

/// The contents of a `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What decides the output, besides the input.
    pub settings: Settings,
    /// Files of documents, in order.
    pub inputs: Vec<InputFile>,
    /// What was read and written.
    pub counts: Counts,
    /// Files written, those of tokens each before the `.csv.gz` that belongs to it.
    pub outputs: Vec<OutputFile>,
}

/// Settings of tokenizing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// SHA-256 of the tokenizer.
    pub tokenizer_sha256: String,
    /// Token after each document.
    pub eos_id: u32,
    /// Type of the tokens on disk.
    pub dtype: TokenDtype,
    /// Tokens that a file stays below.
    pub max_tokens_per_file: u64,
    /// Seed of the shuffle, where documents are shuffled.
    pub shuffle_seed: Option<u64>,
}

/// What was read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Documents written.
    pub n_documents: u64,
    /// Documents left out because they have no text.
    pub n_empty_documents: u64,
    /// Lines left out because they are no documents.
    pub n_bad_rows: u64,
    /// Tokens written, end-of-text tokens included.
    pub n_tokens: u64,
    /// Bytes of text that they stand for.
    pub n_text_bytes: u64,
}

/// A file of documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Its path as it was given.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<u64>,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Its name in the folder of the manifest.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.n_documents += other.n_documents;
        self.n_empty_documents += other.n_empty_documents;
        self.n_bad_rows += other.n_bad_rows;
        self.n_tokens += other.n_tokens;
        self.n_text_bytes += other.n_text_bytes;
    }
}

impl InputFile {
    /// A file that is there, under a name that JSON can hold.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        if path.to_str().is_none() {
            let reason = "its name is not UTF-8, which manifest.json needs; give it another";
            return Err(Error::Config { path: path.to_owned(), reason: reason.to_owned() });
        }
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        let since_1970 =
            metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = since_1970.and_then(|time| u64::try_from(time.as_nanos()).ok());
        Ok(Self { path: path.to_owned(), bytes: metadata.len(), modified })
    }

    /// Whether this is the other as it was, as far as both say.
    pub(crate) fn is_still(&self, other: &Self) -> bool {
        let times = self.modified.zip(other.modified);
        self.path == other.path
            && self.bytes == other.bytes
            && times.is_none_or(|(ours, theirs)| ours == theirs)
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be read, [`Error::Config`] where it is none.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Config { path: path.to_owned(), reason: error.to_string() })
    }

    /// Checks that every file it names is in its folder with the size and hash it gives, and returns
    /// the names of those that are not.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where a file is there and cannot be read.
    pub fn changed_files(&self, folder: impl AsRef<Path>) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for output in &self.outputs {
            let path = folder.as_ref().join(&output.name);
            let same = match std::fs::read(&path) {
                Ok(bytes) => bytes.len() as u64 == output.bytes && sha256(&bytes) == output.sha256,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
                Err(error) => return Err(Error::io(&path)(error)),
            };
            if !same {
                changed.push(output.name.clone());
            }
        }
        Ok(changed)
    }

    /// Whether every file it names is there with its size.
    pub(crate) fn has_outputs(&self, folder: &Path) -> bool {
        self.outputs.iter().all(|output| {
            std::fs::metadata(folder.join(&output.name))
                .is_ok_and(|file| file.len() == output.bytes)
        })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::io(path)(e.into()))?;
        let mut file = AtomicFile::create(path)?;
        file.write_all(json.as_bytes())?;
        file.finish()?.persist()
    }
}
