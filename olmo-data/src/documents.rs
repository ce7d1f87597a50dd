//! Documents from files, one after another.
//!
//! The format is Dolma's: a JSON object a line with `text` and, usually, `id` and `source`; other
//! fields are ignored. A `.txt` file is one document. Either may be compressed.
//!
//! | name | content |
//! |---|---|
//! | `.jsonl`, `.json`, `.ndjson` | a document a line; blank lines are passed over |
//! | `.txt` | one document |
//! | `.parquet` | a document a row, the columns being `text`, `id` and `source` |
//! | any but the last with `.gz` or `.zst` after it | the same, compressed, of any number of members or frames |
//!
//! Difference from Dolma: a line that is no document is an error that names file and line, while
//! Dolma logs and skips it; [`BadRows::Count`] skips and counts.

use std::collections::HashSet;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::document_file::{Contents, DocumentFile};
use crate::parquet_rows::ParquetRows;
use crate::{Error, Result};

/// The longest line that is read where nothing else is said, so that a broken file cannot fill the
/// memory.
const MAX_LINE_BYTES: u64 = 1 << 28;

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id, where it has one; a number is given as text.
    pub id: Option<String>,
    /// Its text.
    pub text: String,
    /// Where it was taken from, such as `common-crawl`.
    pub source: Option<String>,
    /// The file it was read from.
    pub path: Arc<Path>,
    /// Its line in that file, or row of a Parquet file, counted from 1.
    pub line: u64,
}

/// What is done with lines that are no documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRows {
    /// The first one is an error.
    #[default]
    Error,
    /// They are skipped, counted, and handed out with the reason, see
    /// [`Documents::take_rejected`].
    Count,
}

/// A line that is no document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedRow {
    /// The file; in JSON as text, whatever its name.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// Its line, counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// A path as it is shown: one that is not UTF-8 is no error, which serde's own form of a path is.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The files of a corpus.
#[derive(Debug, Clone)]
pub struct Corpus {
    paths: Vec<PathBuf>,
    bad_rows: BadRows,
    max_line_bytes: u64,
    n_bytes: u64,
}

/// The documents of a [`Corpus`], file after file; memory holds one at a time.
///
/// After an error it ends.
#[derive(Debug)]
pub struct Documents<'a> {
    paths: std::slice::Iter<'a, PathBuf>,
    bad_rows: BadRows,
    max_line_bytes: u64,
    file: Option<OpenFile>,
    n_bad_rows: u64,
    rejected: Vec<RejectedRow>,
    n_files_done: usize,
    n_bytes_done: u64,
}

#[derive(Debug)]
enum OpenFile {
    Text(TextFile),
    Parquet(Box<ParquetRows>),
}

#[derive(Debug)]
struct TextFile {
    path: Arc<Path>,
    file: DocumentFile,
    max_line_bytes: u64,
    line: u64,
    buffer: Vec<u8>,
}

impl Corpus {
    /// A corpus of files, in the given order.
    ///
    /// # Errors
    ///
    /// [`Error::NoFiles`]; [`Error::UnknownFormat`] where a name tells no format; [`Error::Io`] where
    /// a file is not there; [`Error::SameFile`] where one is named twice, by whatever path.
    pub fn new<P: Into<PathBuf>>(
        paths: impl IntoIterator<Item = P>,
        bad_rows: BadRows,
    ) -> Result<Self> {
        let paths: Vec<PathBuf> = paths.into_iter().map(Into::into).collect();
        if paths.is_empty() {
            return Err(Error::NoFiles);
        }
        let mut n_bytes = 0;
        let mut seen = HashSet::new();
        for path in &paths {
            if !is_parquet(path) {
                DocumentFile::check_name(path)?;
            }
            n_bytes += std::fs::metadata(path).map_err(Error::io(path))?.len();
            if !seen.insert(path.canonicalize().map_err(Error::io(path))?) {
                return Err(Error::SameFile { path: path.clone() });
            }
        }
        Ok(Self { paths, bad_rows, max_line_bytes: MAX_LINE_BYTES, n_bytes })
    }

    /// Takes a line, or a text of Parquet, of more bytes for none; 256 MiB unless this is said.
    pub fn with_max_line_bytes(mut self, max_line_bytes: u64) -> Self {
        self.max_line_bytes = max_line_bytes;
        self
    }

    /// The longest line that is read.
    pub fn max_line_bytes(&self) -> u64 {
        self.max_line_bytes
    }

    /// The files.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What is done with lines that are no documents.
    pub fn bad_rows(&self) -> BadRows {
        self.bad_rows
    }

    /// Bytes of all files on disk.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Reads the documents from the beginning.
    pub fn documents(&self) -> Documents<'_> {
        Documents {
            paths: self.paths.iter(),
            bad_rows: self.bad_rows,
            max_line_bytes: self.max_line_bytes,
            file: None,
            n_bad_rows: 0,
            rejected: Vec::new(),
            n_files_done: 0,
            n_bytes_done: 0,
        }
    }
}

impl Documents<'_> {
    /// Lines skipped so far; see [`BadRows::Count`].
    pub fn n_bad_rows(&self) -> u64 {
        self.n_bad_rows
    }

    /// The lines skipped since this was last called.
    pub fn take_rejected(&mut self) -> Vec<RejectedRow> {
        std::mem::take(&mut self.rejected)
    }

    /// Files read to their end.
    pub fn n_files_done(&self) -> usize {
        self.n_files_done
    }

    /// Bytes read so far, as they are on disk.
    pub fn n_bytes_read(&self) -> u64 {
        self.n_bytes_done + self.file.as_ref().map_or(0, OpenFile::n_bytes_read)
    }

    fn try_next(&mut self) -> Result<Option<Document>> {
        loop {
            if self.file.is_none() {
                let Some(path) = self.paths.next() else { return Ok(None) };
                self.file = Some(OpenFile::open(path, self.max_line_bytes)?);
            }
            let Some(open) = &mut self.file else { continue };
            match open.next_document() {
                Ok(Some(document)) => return Ok(Some(document)),
                Ok(None) => {
                    self.n_bytes_done += open.n_bytes_read();
                    self.n_files_done += 1;
                    self.file = None;
                }
                Err(Error::BadRow { path, line, reason }) if self.bad_rows == BadRows::Count => {
                    self.n_bad_rows += 1;
                    self.rejected.push(RejectedRow { path, line, reason });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Iterator for Documents<'_> {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.try_next().transpose();
        if matches!(next, Some(Err(_))) {
            self.paths = [].iter();
            self.file = None;
        }
        next
    }
}

impl OpenFile {
    fn open(path: &Path, max_line_bytes: u64) -> Result<Self> {
        if is_parquet(path) {
            return Ok(Self::Parquet(Box::new(ParquetRows::open(path, max_line_bytes)?)));
        }
        let file = DocumentFile::open(path)?;
        let path = path.into();
        Ok(Self::Text(TextFile { path, file, max_line_bytes, line: 0, buffer: Vec::new() }))
    }

    fn next_document(&mut self) -> Result<Option<Document>> {
        match self {
            Self::Text(file) => file.next_document(),
            Self::Parquet(rows) => rows.next_document(),
        }
    }

    fn n_bytes_read(&self) -> u64 {
        match self {
            Self::Text(file) => file.file.n_bytes_read(),
            Self::Parquet(rows) => rows.n_bytes_read(),
        }
    }
}

impl TextFile {
    fn next_document(&mut self) -> Result<Option<Document>> {
        match self.file.contents() {
            Contents::Text => self.whole_text(),
            Contents::Lines => self.next_line(),
        }
    }

    fn next_line(&mut self) -> Result<Option<Document>> {
        loop {
            self.buffer.clear();
            let max_line_bytes = self.max_line_bytes;
            let n_read = read_line(self.file.reader(), &mut self.buffer, max_line_bytes);
            self.line += 1;
            let n_read = n_read.map_err(|error| self.read_error(error))?;
            if n_read == 0 {
                return Ok(None);
            }
            if n_read > max_line_bytes {
                self.buffer = Vec::new();
                let reason = format!("{n_read} bytes long, at most {max_line_bytes} are read");
                return Err(self.bad_row(reason));
            }
            if self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let row: Row = serde_json::from_slice(&self.buffer)
                .map_err(|error| self.bad_row(reason(&error)))?;
            return Ok(Some(Document {
                id: row.id.map(RowId::into_string),
                text: row.text,
                source: row.source.and_then(|source| source.as_str().map(str::to_owned)),
                path: Arc::clone(&self.path),
                line: self.line,
            }));
        }
    }

    fn whole_text(&mut self) -> Result<Option<Document>> {
        if self.line > 0 {
            return Ok(None);
        }
        self.line = 1;
        let mut bytes = Vec::new();
        let n_read = io::Read::read_to_end(&mut self.file.reader(), &mut bytes);
        n_read.map_err(|error| self.read_error(error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            self.bad_row(format!("the text is not UTF-8: {}", error.utf8_error()))
        })?;
        let path = Arc::clone(&self.path);
        Ok(Some(Document { id: None, text, source: None, path, line: 1 }))
    }

    fn bad_row(&self, reason: String) -> Error {
        Error::BadRow { path: self.path.to_path_buf(), line: self.line, reason }
    }

    /// A failure to read or decompress, with the line that it is in.
    fn read_error(&self, error: io::Error) -> Error {
        let message = format!("line {}: {error}", self.line.max(1));
        Error::io(&self.path)(io::Error::new(error.kind(), message))
    }
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
}

#[derive(Deserialize)]
struct Row {
    id: Option<RowId>,
    text: String,
    source: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RowId {
    Text(String),
    Number(serde_json::Number),
}

impl RowId {
    fn into_string(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

/// Reads up to and with the next newline and returns its length; of a line longer than `max_bytes`
/// the rest is passed over.
fn read_line(reader: &mut dyn BufRead, buffer: &mut Vec<u8>, max_bytes: u64) -> io::Result<u64> {
    let n_read = io::Read::take(&mut *reader, max_bytes).read_until(b'\n', buffer)? as u64;
    if n_read < max_bytes || buffer.last() == Some(&b'\n') {
        return Ok(n_read);
    }
    Ok(n_read + reader.skip_until(b'\n')? as u64)
}

/// What is wrong with a row, without serde's own "line 1".
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
    format!(
        "not a document: {what} (column {}); expected {{\"id\": …, \"text\": …}}",
        error.column()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_line_that_is_too_long_is_passed_over() {
        let mut buffer = Vec::new();
        let mut lines = io::BufReader::new(&b"ab\ncdefg\nhij"[..]);
        let mut next = |buffer: &mut Vec<u8>| {
            buffer.clear();
            read_line(&mut lines, buffer, 3).unwrap()
        };
        assert_eq!((next(&mut buffer), &buffer[..]), (3, &b"ab\n"[..]));
        assert_eq!((next(&mut buffer), &buffer[..]), (6, &b"cde"[..]));
        assert_eq!((next(&mut buffer), &buffer[..]), (3, &b"hij"[..]));
        assert_eq!(next(&mut buffer), 0);
    }
}
