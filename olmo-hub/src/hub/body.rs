//! The bytes of a file on the Hub from an offset on: its chunks from the Hub's store of them, or a
//! range of it.

use std::ops::Range;
use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use hf_hub::HFResult;

use super::client::escaped;
use super::download::{Download, RemoteFile};
use super::error::HubError;
use super::failure::reasons;

/// Bytes asked for at a time; a file is a row of such requests.
const CHUNK: u64 = 64 << 20;

/// Bytes as they come; at a cut, why no more do.
pub(super) type Bytes = Pin<Box<dyn Stream<Item = Result<Vec<u8>, String>> + Send>>;

/// A part of a file on its way here.
pub(super) struct Body {
    /// Its place in the file: what was asked for, or 0 from a server that knows no ranges.
    pub(super) begin: u64,
    /// Where it ends if it is not cut, at most the file's end.
    pub(super) end: u64,
    pub(super) bytes: Bytes,
}

impl Download<'_> {
    /// Begins to fetch a file from `at` on, in whichever way the Hub has and the settings allow.
    pub(super) fn open(&self, file: &RemoteFile, at: u64) -> Result<Body, HubError> {
        match self.xet.open(self, file, at)? {
            Some(body) => Ok(body),
            None => self.range(file, at),
        }
    }

    /// Where a file is.
    pub(super) fn url(&self, file: &RemoteFile) -> String {
        let path: Vec<String> = file.path.split('/').map(escaped).collect();
        self.client.url(&format!("/{}/resolve/{}/{}", self.repo.id(), self.commit, path.join("/")))
    }

    /// Up to a chunk of a file, by a range.
    ///
    /// `hf-hub` tells neither the status of the answer nor its place in the file, but how long it is.
    /// A length that is not the range's is the whole file's, from its beginning, or that of the whole
    /// where only the range comes; which it is, a server shows where one byte is asked for.
    fn range(&self, file: &RemoteFile, at: u64) -> Result<Body, HubError> {
        let end = file.size.min(at + CHUNK);
        let (length, bytes) = self.stream(file, Some(at..end))?;
        if length == Some(end - at) {
            return Ok(Body { begin: at, end, bytes });
        }
        if at == 0 {
            // What comes is the beginning in either case.
            let end = if length == Some(file.size) { file.size } else { end };
            return Ok(Body { begin: 0, end, bytes });
        }
        if self.knows_ranges(file)? {
            return Ok(Body { begin: at, end, bytes });
        }
        let (_, bytes) = self.stream(file, None)?;
        Ok(Body { begin: 0, end: file.size, bytes })
    }

    /// Whether a server that is asked for a file's first byte sends no more than that.
    fn knows_ranges(&self, file: &RemoteFile) -> Result<bool, HubError> {
        let repo = self.client.of(self.repo);
        let n_bytes =
            self.client.want(self.repo, &self.url(file), async || -> HFResult<usize> {
                let stream = repo.download_file_stream().filename(&file.path).revision(self.commit);
                let (_, mut bytes) = stream.range(0..1).send().await?;
                let mut n_bytes = 0;
                while n_bytes < 2
                    && let Some(bytes) = bytes.next().await.transpose()?
                {
                    n_bytes += bytes.len();
                }
                Ok(n_bytes)
            })?;
        Ok(n_bytes == 1)
    }

    /// Asks for a range of a file, or all of it: how long the answer says it is, and its bytes.
    fn stream(
        &self,
        file: &RemoteFile,
        range: Option<Range<u64>>,
    ) -> Result<(Option<u64>, Bytes), HubError> {
        let repo = self.client.of(self.repo);
        let (length, bytes) = self.client.want(self.repo, &self.url(file), || {
            let stream = repo.download_file_stream().filename(&file.path).revision(self.commit);
            stream.maybe_range(range.clone()).send()
        })?;
        let bytes = bytes.map(|bytes| bytes.map(Vec::from).map_err(|error| reasons(&error)));
        Ok((length, Box::pin(bytes)))
    }
}
