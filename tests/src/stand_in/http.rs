//! As much of HTTP/1.1 as the Hub's clients use.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// The most bytes of a body: uploads in tests are small.
const MAX_BODY: usize = 256 << 20;

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The next request, `None` where the connection has ended.
    pub(super) fn read(stream: &mut TcpStream) -> Option<Self> {
        // One byte after another is slow and takes nothing of the next request.
        let mut reader = BufReader::with_capacity(1, stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace().map(ToOwned::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let mut request = Self { method, path, headers, body: Vec::new() };
        if request.header("expect").is_some() {
            reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        let length = request.header("content-length").and_then(|text| text.parse().ok());
        if let Some(length) = length.filter(|length| *length <= MAX_BODY) {
            request.body = vec![0; length];
            reader.read_exact(&mut request.body).ok()?;
        } else if request.header("transfer-encoding").is_some() {
            request.body = chunked(&mut reader)?;
        }
        Some(request)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The same, of all of a file.
    pub(super) fn without_range(&self) -> Self {
        let mut headers = self.headers.clone();
        headers.remove("range");
        let (method, path) = (self.method.clone(), self.path.clone());
        Self { method, path, headers, body: self.body.clone() }
    }

    /// The path without its query, each part freed of escapes.
    pub(crate) fn parts(&self) -> Vec<String> {
        let path = self.path.split('?').next().unwrap_or_default();
        path.split('/').skip(1).map(unescaped).collect()
    }

    /// A value of the query.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.path.split_once('?')?;
        let pair =
            query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
        pair.map(|(_, value)| unescaped(value))
    }

    /// `begin..end` of the range that is asked for, in a file of so many bytes.
    pub(crate) fn range(&self, length: usize) -> Option<(usize, usize)> {
        let (begin, end) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let end: usize = end.parse::<usize>().map_or(length, |last| last + 1);
        Some((begin.parse().ok()?, end.min(length)))
    }
}

fn chunked(reader: &mut impl std::io::BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; size];
        reader.read_exact(&mut chunk).ok()?;
        body.extend(chunk);
        reader.read_line(&mut String::new()).ok()?;
        if size == 0 {
            return Some(body);
        }
    }
}

fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let byte = code.filter(|_| bytes[at] == b'%');
        at += if byte.is_some() { 3 } else { 1 };
        out.push(byte.unwrap_or(bytes[at - 1]));
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        let mut reply = Self::new(200).with("content-type", "application/json");
        reply.body = value.to_string().into_bytes();
        reply
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn with_body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// The part of a file that is asked for, or all of it.
    pub(crate) fn file(mut self, content: &[u8], request: &Request) -> Self {
        let length = content.len();
        let Some((begin, end)) = request.range(length) else {
            self.body = content.to_vec();
            return self;
        };
        if begin >= length {
            self.status = 416;
            return self.with("content-range", format!("bytes */{length}"));
        }
        self.status = 206;
        self.body = content[begin..end].to_vec();
        self.with("content-range", format!("bytes {begin}-{}/{length}", end - 1))
    }

    /// Says how long the file is that this may be a part of.
    pub(super) fn with_linked_size(self) -> Self {
        let range = self.header("content-range").and_then(|range| range.rsplit('/').next());
        let size = range.map_or(self.body.len().to_string(), ToOwned::to_owned);
        self.with("x-linked-size", size)
    }

    /// Sends the answer, up to `cut` bytes of its body, and waits after each 64 KiB of it; the
    /// bytes of the body that were sent.
    pub(super) fn write(
        &self,
        stream: &mut TcpStream,
        head_only: bool,
        cut: Option<usize>,
        wait: Duration,
    ) -> Option<usize> {
        let mut head = format!("HTTP/1.1 {} status\r\n", self.status);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "content-length: {}\r\n\r\n", self.body.len());
        stream.write_all(head.as_bytes()).ok()?;
        if head_only {
            return Some(0);
        }
        let n = cut.unwrap_or(self.body.len()).min(self.body.len());
        for part in self.body[..n].chunks(1 << 16) {
            stream.write_all(part).ok()?;
            stream.flush().ok()?;
            if !wait.is_zero() {
                thread::sleep(wait);
            }
        }
        Some(n)
    }
}
