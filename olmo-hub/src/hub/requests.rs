//! Requests that `hf-hub` has no function for: lists of files with their hashes, tokens for the store
//! of chunks, and what is sent.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::future::{Either, select};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use reqwest::{Body, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use super::client::{Client, SILENCE, bearer};
use super::error::HubError;
use super::failure::{Failure, Refused};
use super::waiter::MOMENT;

/// The media type of git-lfs.
pub(super) const LFS: &str = "application/vnd.git-lfs+json";
/// The most bytes of an answer: a list of many files.
const MAX_ANSWER: usize = 64 << 20;
/// Bytes of a file that are read at a time.
const BUFFER: u64 = 1 << 16;

/// An answer of success.
#[derive(Debug)]
pub(super) struct Answer {
    /// What was asked in the end, after redirects.
    pub(super) url: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, HubError> {
        serde_json::from_slice(&self.body).map_err(|error| HubError::Protocol {
            url: self.url.clone(),
            problem: error.to_string(),
        })
    }
}

/// An answer, or a refusal that trying again would not change.
pub(super) type Answered = Result<Answer, Refused>;

impl Client<'_> {
    pub(super) fn get(&self, url: &str) -> Result<Answered, HubError> {
        self.ask(url, || self.answer(self.http.get(url), url))
    }

    pub(super) fn post(&self, url: &str, kind: &str, body: &[u8]) -> Result<Answered, HubError> {
        let accept = if kind == LFS { LFS } else { "application/json" };
        self.ask(url, || {
            let request = self.http.post(url).header(CONTENT_TYPE, kind).header(ACCEPT, accept);
            self.answer(request.body(body.to_vec()), url)
        })
    }

    /// Sends a part of a file by `uploads`, a client that waits for an answer as long as the part takes.
    pub(super) fn put(
        &self,
        uploads: &reqwest::Client,
        (path, start, n_bytes): (&Path, u64, u64),
        url: &str,
        headers: &[(&str, String)],
    ) -> Result<Answered, HubError> {
        self.ask(url, async || {
            let n_sent = Arc::new(AtomicU64::new(0));
            let part = Part::open(path, start, n_bytes, Arc::clone(&n_sent));
            let part = part.map_err(|error| Failure::Network(error.to_string()))?;
            let mut request = uploads.put(url).header(CONTENT_LENGTH, n_bytes);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let request = request.body(Body::wrap_stream(futures::stream::iter(part)));
            let (answer, silence) = (self.answer(request, url), silence(&n_sent));
            match select(std::pin::pin!(answer), std::pin::pin!(silence)).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => {
                    Err(Failure::Network(format!("nothing moved for {} s", SILENCE.as_secs())))
                }
            }
        })
    }

    /// Sends a request and reads its answer as a whole.
    async fn answer(&self, mut request: RequestBuilder, url: &str) -> Result<Answer, Failure> {
        let token = self.settings.token.as_deref().filter(|_| self.is_hub(url));
        if let Some(token) = token.and_then(bearer) {
            request = request.header(AUTHORIZATION, token);
        }
        let response = request.send().await?;
        if !response.status().is_success() {
            return Err(Failure::Refused(Refused::new(&response)));
        }
        let (url, headers) = (response.url().to_string(), response.headers().clone());
        Ok(Answer { url, headers, body: whole(response).await? })
    }

    /// The repository that an address of the Hub's API is about, which after a redirect may be another
    /// than the one asked for.
    pub(super) fn repo_in(&self, url: &str) -> Option<String> {
        let rest = url.strip_prefix(self.settings.endpoint.as_str())?;
        let mut parts = rest.strip_prefix("/api/models/")?.split('/');
        Some(format!("{}/{}", parts.next()?, parts.next()?))
    }

    /// Whether an address is the Hub's own, which alone may see the token.
    fn is_hub(&self, url: &str) -> bool {
        let rest = url.strip_prefix(self.settings.endpoint.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }
}

/// The body of an answer, as far as it is not longer than one may be.
async fn whole(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        if body.len() + bytes.len() > MAX_ANSWER {
            return Err(Failure::Protocol(format!("it is longer than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// Ends when nothing was sent for as long as a connection may be silent.
async fn silence(n_sent: &AtomicU64) {
    let mut moved = (0, Instant::now());
    while moved.1.elapsed() < SILENCE {
        tokio::time::sleep(MOMENT).await;
        let n_bytes = n_sent.load(Ordering::Relaxed);
        if n_bytes != moved.0 {
            moved = (n_bytes, Instant::now());
        }
    }
}

/// A part of a file, read as it is sent.
struct Part {
    file: io::Take<File>,
    n_sent: Arc<AtomicU64>,
}

impl Part {
    fn open(path: &Path, start: u64, n_bytes: u64, n_sent: Arc<AtomicU64>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(Self { file: file.take(n_bytes), n_sent })
    }
}

impl Iterator for Part {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        match self.file.by_ref().take(BUFFER).read_to_end(&mut bytes) {
            Ok(0) => None,
            Ok(n) => {
                self.n_sent.fetch_add(n as u64, Ordering::Relaxed);
                Some(Ok(bytes))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::super::waiter::GO_ON;
    use super::*;

    #[test]
    fn the_token_goes_to_the_hub_alone() {
        let settings =
            Settings { endpoint: "https://hub.example".to_owned(), ..Settings::from_env() };
        let client = Client::new(&settings, &GO_ON).expect("an address");
        assert!(client.is_hub("https://hub.example/api/models"));
        for other in ["https://hub.example.evil/x", "https://cdn.example/x", "http://hub.example/"]
        {
            assert!(!client.is_hub(other), "{other}");
        }
    }

    #[test]
    fn a_part_is_the_bytes_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let n_sent = Arc::new(AtomicU64::new(0));
        let part = Part::open(&path, 1_000, 150_000, Arc::clone(&n_sent)).unwrap();
        let pieces: Vec<Vec<u8>> = part.map(Result::unwrap).collect();
        assert!(pieces.len() > 1 && pieces.concat() == content[1_000..151_000]);
        assert_eq!(n_sent.load(Ordering::Relaxed), 150_000);
    }
}
