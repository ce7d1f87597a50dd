//! The files that tokenizing writes: tokens and, beside them, where each document lies.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::atomic_file::{AtomicFile, FinishedFile};
use crate::documents::Document;
use crate::fingerprint::hex;
use crate::manifest::OutputFile;
use crate::token_file::TokenDtype;
use crate::{Error, Result};

/// Writes documents one after another into as many parts as they need.
#[derive(Debug)]
pub(crate) struct PartWriter {
    folder: PathBuf,
    /// Beginning of the names.
    prefix: String,
    dtype: TokenDtype,
    max_tokens: u64,
    open: Option<Part>,
    /// Complete parts, which get their names together at the end.
    finished: Vec<FinishedPart>,
    n_documents: u64,
    n_tokens: u64,
}

/// A part complete on disk that has not got its name yet.
#[derive(Debug)]
struct FinishedPart {
    path: PathBuf,
    tokens: (FinishedFile, OutputFile),
    bounds: (FinishedFile, OutputFile),
}

/// A file that is hashed as it is written.
#[derive(Debug)]
struct HashedFile {
    name: String,
    file: AtomicFile,
    hash: Sha256,
    n_bytes: u64,
}

#[derive(Debug)]
struct Part {
    tokens_path: PathBuf,
    bounds_path: PathBuf,
    tokens: HashedFile,
    bounds: csv::Writer<GzEncoder<HashedFile>>,
    n_tokens: u64,
    buffer: Vec<u8>,
}

impl PartWriter {
    pub(crate) fn new(folder: &Path, prefix: String, dtype: TokenDtype, max_tokens: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            prefix,
            dtype,
            max_tokens,
            open: None,
            finished: Vec::new(),
            n_documents: 0,
            n_tokens: 0,
        }
    }

    pub(crate) fn n_documents(&self) -> u64 {
        self.n_documents
    }

    pub(crate) fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Writes one document, whose tokens fit the type, in a new part where the old one is full.
    pub(crate) fn write(&mut self, document: &Document, tokens: &[u32]) -> Result<()> {
        let n_new = tokens.len() as u64;
        // Dolma's own condition: a part stays below the limit.
        let full = self.open.take_if(|part| part.n_tokens + n_new >= self.max_tokens);
        if let Some(part) = full {
            self.finished.push(part.finish()?);
        }
        let part = match &mut self.open {
            Some(part) => part,
            empty => empty.insert(Part::create(&self.folder, &self.prefix, self.finished.len())?),
        };
        part.write(document, tokens, self.dtype)?;
        self.n_documents += 1;
        self.n_tokens += n_new;
        Ok(())
    }

    /// Gives every part its name and returns the paths of the tokens, and what is in all files.
    pub(crate) fn finish(mut self) -> Result<(Vec<PathBuf>, Vec<OutputFile>)> {
        if let Some(part) = self.open.take() {
            self.finished.push(part.finish()?);
        }
        let mut paths = Vec::new();
        let mut outputs = Vec::new();
        for FinishedPart { path, tokens, bounds } in self.finished {
            // The bounds first: where there are tokens, there are bounds.
            bounds.0.persist()?;
            tokens.0.persist()?;
            paths.push(path);
            outputs.extend([tokens.1, bounds.1]);
        }
        Ok((paths, outputs))
    }
}

impl HashedFile {
    fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, file: AtomicFile::create(path)?, hash: Sha256::new(), n_bytes: 0 })
    }

    fn finish(self) -> Result<(FinishedFile, OutputFile)> {
        let sha256 = hex(&self.hash.finalize());
        let output = OutputFile { name: self.name, bytes: self.n_bytes, sha256 };
        Ok((self.file.finish()?, output))
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.file.write(bytes)?;
        self.hash.update(&bytes[..n_written]);
        self.n_bytes += n_written as u64;
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Part {
    fn create(folder: &Path, prefix: &str, number: usize) -> Result<Self> {
        let tokens_path = folder.join(format!("{prefix}-{number:05}.npy"));
        let bounds_path = folder.join(format!("{prefix}-{number:05}.csv.gz"));
        let packed = GzEncoder::new(HashedFile::create(&bounds_path)?, Compression::default());
        Ok(Self {
            tokens: HashedFile::create(&tokens_path)?,
            // As Python's csv.writer does by default.
            bounds: csv::WriterBuilder::new()
                .has_headers(false)
                .terminator(csv::Terminator::CRLF)
                .from_writer(packed),
            tokens_path,
            bounds_path,
            n_tokens: 0,
            buffer: Vec::new(),
        })
    }

    fn write(&mut self, document: &Document, tokens: &[u32], dtype: TokenDtype) -> Result<()> {
        self.buffer.clear();
        for &token in tokens {
            dtype.encode(token, &mut self.buffer);
        }
        self.tokens.write_all(&self.buffer).map_err(Error::io(&self.tokens_path))?;
        let start = self.n_tokens;
        self.n_tokens += tokens.len() as u64;
        let row = [
            &start.to_string(),
            &self.n_tokens.to_string(),
            document.id.as_deref().unwrap_or_default(),
            &*document.path.to_string_lossy(),
            &document.line.to_string(),
        ];
        self.bounds.write_record(row).map_err(|error| self.bounds_error(error.into()))
    }

    fn finish(self) -> Result<FinishedPart> {
        let tokens = self.tokens.finish()?;
        let at = |source| Error::Io { path: self.bounds_path.clone(), source };
        let packed = self.bounds.into_inner().map_err(|error| at(error.into_error()))?;
        let bounds = packed.finish().map_err(at)?.finish()?;
        Ok(FinishedPart { path: self.tokens_path, tokens, bounds })
    }

    fn bounds_error(&self, source: std::io::Error) -> Error {
        Error::Io { path: self.bounds_path.clone(), source }
    }
}
