//! A stand-in for the Hugging Face Hub on 127.0.0.1, for tests.
//!
//! It speaks the protocol that `huggingface_hub` 1.33, `hf-hub` and the `olmo` command speak: model
//! information, lists of files in pages, refs, files with hashes, ranges and redirects, files by Xet,
//! and uploads by git-lfs and commits. It can also cut connections, wait, change bytes, and refuse.

mod answers;
mod http;
mod store;
mod uploads;
mod xet;

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use self::http::{Reply, Request};
pub use self::store::Content;
use self::store::Store;

/// A Hub that lives as long as this value's process.
#[derive(Debug, Clone)]
pub struct StandIn {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) store: Store,
    faults: Vec<(Fault, usize)>,
    log: Vec<Logged>,
    /// Who may read what is gated or private, and write.
    pub(crate) token: Option<String>,
    /// Files in a page of a list.
    pub(crate) page: usize,
    /// Bytes of a part of an upload, `None` for uploads in one.
    pub(crate) part_size: Option<usize>,
    /// Seconds that a token for the store of chunks is good for, `None` where there is no store.
    pub(crate) xet: Option<u64>,
    /// What is answered instead, and to requests of which path.
    instead: Option<(String, Vec<u8>)>,
}

/// Something that goes wrong with an answer.
#[derive(Debug, Clone)]
pub struct Fault {
    /// In the path of the requests that it happens to.
    pub path: String,
    /// What happens.
    pub kind: FaultKind,
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The answer takes so long.
    Delay(Duration),
    /// So much time passes after each 64 KiB of the body.
    Slow(Duration),
    /// The last byte of the body is another one.
    Corrupt,
    /// The whole file comes where a range of it is asked for.
    Whole,
    /// The answer says the size of the whole file, as the Hub does where it redirects, and is a part.
    LinkedSize,
    /// The answer is this status, with a wish to be asked again at once.
    Status(u16),
    /// The answer is that there is no time before so many seconds have passed.
    Busy(u64),
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body that were sent.
    pub n_sent: usize,
    /// Whether a token came with it.
    pub has_token: bool,
}

impl StandIn {
    /// Starts a Hub without repositories.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let state = State { page: 1000, ..State::default() };
        let hub = Self { endpoint, state: Arc::new(Mutex::new(state)) };
        let serving = hub.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = serving.clone();
                thread::spawn(move || hub.serve(stream));
            }
        });
        hub
    }

    /// Its address, for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes a commit of these files, which replace all others, on a branch; its hash.
    pub fn commit(&self, repo: &str, branch: &str, files: &[(&str, Vec<u8>)]) -> String {
        self.lock().store.commit(repo, branch, files)
    }

    /// The files of a branch.
    pub fn files(&self, repo: &str, branch: &str) -> Vec<(String, Vec<u8>)> {
        self.lock().store.files(repo, branch)
    }

    /// Lets only the bearer of a token read a repository: after accepting terms, or at all.
    pub fn close(&self, repo: &str, gated: bool) {
        self.lock().store.close(repo, gated);
    }

    /// Gives a repository another name; the old one redirects.
    pub fn rename(&self, repo: &str, to: &str) {
        self.lock().store.rename(repo, to);
    }

    /// The token that opens what is closed, and without which nothing is written.
    pub fn set_token(&self, token: &str) {
        self.lock().token = Some(token.to_owned());
    }

    /// Lists files in pages of so many.
    pub fn set_page(&self, n_files: usize) {
        self.lock().page = n_files;
    }

    /// Takes large files in parts of so many bytes.
    pub fn set_part_size(&self, n_bytes: usize) {
        self.lock().part_size = Some(n_bytes);
    }

    /// Keeps large files in chunks too, in a store that a token opens for so many seconds.
    pub fn set_xet(&self, seconds: u64) {
        self.lock().xet = Some(seconds);
    }

    /// Forgets the uploads in parts that have not ended, as storage does in time.
    pub fn forget_uploads(&self) {
        self.lock().store.uploads.clear();
    }

    /// Answers requests with these bytes from now on, where their path contains `path`; an empty
    /// path answers as usual.
    pub fn answer_with(&self, path: &str, body: &[u8]) {
        let instead = (path.to_owned(), body.to_vec());
        self.lock().instead = Some(instead).filter(|(path, _)| !path.is_empty());
    }

    /// Lets something go wrong so many times.
    pub fn fail(&self, path: &str, kind: FaultKind, times: usize) {
        self.lock().faults.push((Fault { path: path.to_owned(), kind }, times));
    }

    /// Lets nothing go wrong any more.
    pub fn mend(&self) {
        self.lock().faults.clear();
    }

    /// How often something is still to go wrong. A request counts once it has come as a whole.
    pub fn n_faults_left(&self) -> usize {
        self.lock().faults.iter().map(|(_, n)| n).sum()
    }

    /// Every request that was answered so far.
    pub fn log(&self) -> Vec<Logged> {
        self.lock().log.clone()
    }

    /// Forgets the requests so far.
    pub fn clear_log(&self) {
        self.lock().log.clear();
    }

    /// Bytes of files that were sent so far.
    pub fn n_sent(&self) -> usize {
        let places = ["/cdn/", "/resolve/", "/xorbs/"];
        let is_file = |logged: &&Logged| places.iter().any(|place| logged.path.contains(place));
        self.log().iter().filter(is_file).map(|logged| logged.n_sent).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the requests of one connection until it ends.
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        while let Some(request) = Request::read(&mut stream) {
            let fault = self.lock().take_fault(&request);
            if let Some(FaultKind::Delay(wait)) = fault {
                thread::sleep(wait);
            }
            let mut reply = match fault {
                Some(FaultKind::Status(status)) => Reply::new(status).with("retry-after", "0"),
                Some(FaultKind::Busy(seconds)) => Reply::new(429).with("retry-after", seconds),
                Some(FaultKind::Whole) => self.answer(&request.without_range()),
                _ => self.answer(&request),
            };
            if fault == Some(FaultKind::LinkedSize) {
                reply = reply.with_linked_size();
            }
            if fault == Some(FaultKind::Corrupt)
                && let Some(last) = reply.body.last_mut()
            {
                *last ^= 0xFF;
            }
            let cut = if let Some(FaultKind::Cut(after)) = fault { Some(after) } else { None };
            let wait = if let Some(FaultKind::Slow(wait)) = fault { wait } else { Duration::ZERO };
            let n_sent = reply.write(&mut stream, request.method == "HEAD", cut, wait);
            self.lock().log.push(Logged {
                has_token: request.header("authorization").is_some(),
                method: request.method,
                path: request.path,
                status: reply.status,
                n_sent: n_sent.unwrap_or(0),
            });
            if cut.is_some() || n_sent.is_none() {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        let mut state = self.lock();
        if let Some((path, body)) = &state.instead
            && request.path.contains(path)
        {
            return Reply::new(200).with_body(body);
        }
        if request.method == "GET" || request.method == "HEAD" {
            answers::get(&state, &self.endpoint, request)
        } else {
            uploads::answer(&mut state, &self.endpoint, request)
        }
    }
}

impl State {
    /// The fault that happens to a request, if any; each happens so often as it was asked for. What
    /// is wrong with a body does not happen where none is sent.
    fn take_fault(&mut self, request: &Request) -> Option<FaultKind> {
        let happens = |kind: FaultKind| {
            use FaultKind::{Busy, Delay, Status};
            matches!(kind, Busy(_) | Delay(_) | Status(_)) || request.method != "HEAD"
        };
        let fault = self.faults.iter_mut().find(|(fault, n)| {
            *n > 0 && request.path.contains(&fault.path) && happens(fault.kind)
        })?;
        fault.1 -= 1;
        Some(fault.0.kind)
    }

    /// Whether a request may read what is closed.
    pub(crate) fn is_trusted(&self, request: &Request) -> bool {
        let given = request.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
        self.token.as_deref().is_some_and(|token| given == Some(token))
    }
}
