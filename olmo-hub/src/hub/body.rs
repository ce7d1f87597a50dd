//! The bytes of a file on the Hub from an offset on: one request for a range of it, or, with the
//! feature `xet`, its chunks.

use std::io::Read;

use ureq::SendBody;

use super::client::{Request, escaped};
use super::download::{Download, RemoteFile};
use super::error::HubError;

/// Bytes asked for at a time; a file is a row of such requests.
const CHUNK: u64 = 64 << 20;

/// A part of a file on its way here.
pub(super) struct Body {
    /// Its place in the file: what was asked for, or 0 from a server that knows no ranges.
    pub(super) begin: u64,
    /// Where it ends if it is not cut, at most the file's end.
    pub(super) end: u64,
    /// `Interrupted` says that nothing has come for a moment, and that it can be read on.
    pub(super) bytes: Box<dyn Read>,
}

impl Download<'_> {
    /// Begins to fetch a file from `at` on, in whichever way the Hub and this build both have.
    pub(super) fn open(&self, file: &RemoteFile, at: u64) -> Result<Body, HubError> {
        #[cfg(feature = "xet")]
        if let Some(body) = self.xet.open(self, file, at)? {
            return Ok(body);
        }
        self.range(file, at)
    }

    /// Where a file is.
    pub(super) fn url(&self, file: &RemoteFile) -> String {
        let path: Vec<String> = file.path.split('/').map(escaped).collect();
        self.client.url(&format!("/{}/resolve/{}/{}", self.repo.id(), self.commit, path.join("/")))
    }

    /// Up to a chunk of a file, by a range.
    fn range(&self, file: &RemoteFile, at: u64) -> Result<Body, HubError> {
        let url = self.url(file);
        let end = file.size.min(at + CHUNK);
        let headers = [
            ("range", format!("bytes={at}-{}", end - 1)),
            // A body that is compressed on the way has other offsets.
            ("accept-encoding", "identity".to_owned()),
        ];
        let request = Request { method: "GET", url: &url, headers: &headers };
        let answer = self.client.ask(request, || Ok(SendBody::none()))?;
        let answer = self.client.check(answer, self.repo)?;
        let begins = answer.header("content-range").and_then(range_start);
        let (begin, end) = match (answer.status, begins) {
            (206, Some(begins)) if begins == at => (at, end),
            // The server knows no ranges and sends the file from its beginning.
            (200, _) => (0, file.size),
            (status, _) => {
                let problem = format!("status {status} to a request for bytes from {at} on");
                return Err(HubError::Protocol { url, problem });
            }
        };
        let bytes = answer.body.into_with_config().limit(u64::MAX).reader();
        Ok(Body { begin, end, bytes: Box::new(bytes) })
    }
}

/// `begin` of `bytes begin-end/size`.
fn range_start(header: &str) -> Option<u64> {
    header.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
