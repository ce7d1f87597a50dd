//! Where each document lies in a token file: the `.csv.gz` beside it.
//!
//! A line a document without a heading, as Dolma writes it: `start,end,id,src,loc` with the first
//! token and the end (exclusive), the document's id, its file and its line there. OLMo-core's own
//! have the first two columns only. Lines follow each other without a gap from token 0 on; a file
//! whose lines do not, or that does not end where its tokens do, belongs to other tokens and is an
//! error that names the line.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

/// One document of a token file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DocumentBound {
    /// Its first token in the file.
    pub start: u64,
    /// One past its last token.
    pub end: u64,
    /// Its id; none where the file has two columns only.
    pub id: Option<String>,
    /// The file of documents it came from.
    pub source: Option<String>,
    /// Its line there, from 1.
    pub line: Option<u64>,
}

/// The documents of a token file, in their order.
///
/// After an error it ends.
pub struct DocumentBounds {
    path: PathBuf,
    rows: csv::StringRecordsIntoIter<Box<dyn Read + Send>>,
    n_tokens: u64,
    line: u64,
    end: u64,
    done: bool,
}

impl std::fmt::Debug for DocumentBounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentBounds").field("path", &self.path).finish_non_exhaustive()
    }
}

impl DocumentBounds {
    /// The name of the file that belongs to a token file.
    pub fn path_for(tokens: &Path) -> PathBuf {
        tokens.with_extension("csv.gz")
    }

    /// Opens the documents of a token file of `n_tokens` tokens; `None` where it has no `.csv.gz`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the file is there and cannot be opened.
    pub fn open(tokens: &Path, n_tokens: u64) -> Result<Option<Self>> {
        let path = Self::path_for(tokens);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path)(error)),
        };
        let unpacked: Box<dyn Read + Send> = Box::new(MultiGzDecoder::new(BufReader::new(file)));
        let rows = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(unpacked)
            .into_records();
        Ok(Some(Self { path, rows, n_tokens, line: 0, end: 0, done: false }))
    }

    /// The documents that have a token in one of some ranges, which are in order and apart; numbers
    /// of ranges with documents. Stops reading after the last range.
    ///
    /// # Errors
    ///
    /// As of iterating.
    pub fn overlapping(self, ranges: &[Range<u64>]) -> Result<Vec<Vec<DocumentBound>>> {
        let mut found = vec![Vec::new(); ranges.len()];
        let mut first = 0;
        for bound in self {
            let bound = bound?;
            while first < ranges.len() && ranges[first].end <= bound.start {
                first += 1;
            }
            if first == ranges.len() {
                break;
            }
            for (range, documents) in ranges.iter().zip(&mut found).skip(first) {
                if range.start >= bound.end {
                    break;
                }
                documents.push(bound.clone());
            }
        }
        Ok(found)
    }

    fn try_next(&mut self) -> Result<Option<DocumentBound>> {
        self.line += 1;
        let Some(row) = self.rows.next() else {
            if self.end != self.n_tokens {
                let (end, n) = (self.end, self.n_tokens);
                return Err(self.wrong(format!(
                    "the documents end at token {end}, but the token file has {n}"
                )));
            }
            return Ok(None);
        };
        let row = row.map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) => {
                let message = format!("line {}: {error}", self.line);
                Error::io(&self.path)(std::io::Error::new(error.kind(), message))
            }
            other => self.wrong(format!("not a line of bounds: {other:?}")),
        })?;
        let number = |column: usize| row.get(column).and_then(|text| text.parse::<u64>().ok());
        let (Some(start), Some(end)) = (number(0), number(1)) else {
            return Err(self.wrong("expected start,end,id,src,loc".to_owned()));
        };
        if start != self.end || end < start {
            let before = self.end;
            return Err(self.wrong(format!(
                "tokens {start}..{end} do not follow the document before, which ends at {before}"
            )));
        }
        if end > self.n_tokens {
            let n = self.n_tokens;
            return Err(
                self.wrong(format!("tokens {start}..{end} reach past the {n} of the token file"))
            );
        }
        self.end = end;
        let text = |column: usize| row.get(column).map(str::to_owned);
        Ok(Some(DocumentBound { start, end, id: text(2), source: text(3), line: number(4) }))
    }

    fn wrong(&self, reason: String) -> Error {
        Error::BadRow { path: self.path.clone(), line: self.line, reason }
    }
}

impl Iterator for DocumentBounds {
    type Item = Result<DocumentBound>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.try_next().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn written(text: &str, n_tokens: u64, cut: usize) -> Result<Vec<DocumentBound>> {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("part-0-00000.npy");
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(text.as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        let path = DocumentBounds::path_for(&tokens);
        std::fs::write(&path, &packed[..packed.len() - cut]).unwrap();
        DocumentBounds::open(&tokens, n_tokens)?.unwrap().collect()
    }

    #[test]
    fn both_kinds_of_lines_are_read() {
        let bounds = written("0,3,\"a,1\",docs.jsonl,7\r\n3,4,b,docs.jsonl,9\r\n", 4, 0).unwrap();
        assert_eq!(bounds[0].id.as_deref(), Some("a,1"));
        assert_eq!((bounds[1].start, bounds[1].end, bounds[1].line), (3, 4, Some(9)));
        let short = written("0,3\n3,4\n", 4, 0).unwrap();
        assert_eq!((&short[1].id, short[1].end), (&None, 4));
    }

    #[test]
    fn lines_that_do_not_fit_the_tokens_are_errors_by_line() {
        for (text, n_tokens, line) in [
            ("0,3\n4,5\n", 5, 2),
            ("0,3\n3,6\n", 5, 2),
            ("0,3\n", 5, 2),
            ("0,3\nx,5\n", 5, 2),
            ("3,0\n", 5, 1),
            ("", 5, 1),
        ] {
            match written(text, n_tokens, 0) {
                Err(Error::BadRow { line: found, .. }) => assert_eq!(found, line, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
        let cut = written("0,3\n3,5\n", 5, 9).unwrap_err();
        assert!(matches!(&cut, Error::Io { .. }), "{cut}");
        assert!(cut.to_string().contains("line "), "{cut}");
    }

    #[test]
    fn overlapping_documents_are_found_in_one_pass() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("a.npy");
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(b"0,3,a,f,1\n3,4,b,f,2\n4,10,c,f,3\n").unwrap();
        std::fs::write(DocumentBounds::path_for(&tokens), packed.finish().unwrap()).unwrap();
        let open = || DocumentBounds::open(&tokens, 10).unwrap().unwrap();
        let found = open().overlapping(&[0..2, 2..4, 6..8, 8..10]).unwrap();
        let ids = |bounds: &[DocumentBound]| -> Vec<String> {
            bounds.iter().map(|bound| bound.id.clone().unwrap()).collect()
        };
        assert_eq!(
            found.iter().map(|f| ids(f)).collect::<Vec<_>>(),
            [vec!["a"], vec!["a", "b"], vec!["c"], vec!["c"]]
        );
        assert!(DocumentBounds::open(Path::new("/nowhere/a.npy"), 1).unwrap().is_none());
    }
}
