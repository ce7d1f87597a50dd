//! One file of documents, decompressed as it is read.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

const BUFFER_BYTES: usize = 1 << 18;

/// What a file holds, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// A JSON object a line.
    Lines,
    /// One text.
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// An open file of documents.
pub(crate) struct DocumentFile {
    contents: Contents,
    reader: Box<dyn BufRead + Send>,
    n_bytes_read: Arc<AtomicU64>,
}

impl DocumentFile {
    /// Opens a file; what it holds is told by its name.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (contents, compression) = kind(path)?;
        let n_bytes_read = Arc::new(AtomicU64::new(0));
        let file = File::open(path).map_err(Error::io(path))?;
        let counted = Counted { file, n_bytes: Arc::clone(&n_bytes_read) };
        let raw = BufReader::with_capacity(BUFFER_BYTES, counted);
        let reader: Box<dyn BufRead + Send> = match compression {
            Compression::Plain => Box::new(raw),
            Compression::Gzip => {
                Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw)))
            }
            Compression::Zstd => {
                let decoder =
                    zstd::stream::read::Decoder::with_buffer(raw).map_err(Error::io(path))?;
                Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
            }
        };
        Ok(Self { contents, reader, n_bytes_read })
    }

    /// Checks that the name tells what is in the file.
    pub(crate) fn check_name(path: &Path) -> Result<()> {
        kind(path).map(|_| ())
    }

    pub(crate) fn contents(&self) -> Contents {
        self.contents
    }

    /// The decompressed bytes.
    pub(crate) fn reader(&mut self) -> &mut (dyn BufRead + Send) {
        &mut *self.reader
    }

    /// Bytes taken from the disk so far.
    pub(crate) fn n_bytes_read(&self) -> u64 {
        self.n_bytes_read.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for DocumentFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentFile").field("contents", &self.contents).finish_non_exhaustive()
    }
}

struct Counted {
    file: File,
    n_bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_read = self.file.read(buffer)?;
        self.n_bytes.fetch_add(n_read as u64, Ordering::Relaxed);
        Ok(n_read)
    }
}

fn kind(path: &Path) -> Result<(Contents, Compression)> {
    let unknown = || Error::UnknownFormat { path: path.to_owned() };
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let name = name.ok_or_else(unknown)?;
    let (name, compression) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, Compression::Gzip),
        Some((stem, "zst")) => (stem, Compression::Zstd),
        _ => (name.as_str(), Compression::Plain),
    };
    let contents = match name.rsplit_once('.') {
        Some((_, "jsonl" | "json" | "ndjson")) => Contents::Lines,
        Some((_, "txt")) => Contents::Text,
        _ => return Err(unknown()),
    };
    Ok((contents, compression))
}
