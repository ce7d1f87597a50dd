//! Requests to the Hub: redirects, tries after failures, errors by their kind.

use std::thread::sleep;
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, SendBody};

use super::error::{HubError, Near};
use super::known::near_names;
use super::repo::Repo;
use super::settings::Settings;

/// How often a request is made that fails each time.
pub(super) const ATTEMPTS: u32 = 5;
/// How many redirects are followed.
const REDIRECTS: usize = 10;
/// The most bytes of an answer that is read as a whole: a list of many files.
const MAX_JSON: u64 = 64 << 20;
/// The longest wait that a busy server may ask for.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// Silence after which a connection counts as cut.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
pub(super) const USER_AGENT: &str = concat!("olmo/", env!("CARGO_PKG_VERSION"));

/// What speaks to the Hub.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    pub(super) settings: Settings,
}

/// A request without its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) url: &'a str,
    pub(super) headers: &'a [(&'a str, String)],
}

/// An answer of any status that trying again would not change.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether it is the token that is wrong, whatever was asked for.
    fn is_about_token(&self) -> bool {
        let message = self.header("x-error-message").unwrap_or_default();
        self.status == 401 && message.to_lowercase().starts_with("invalid ")
    }

    /// What the Hub says of an error.
    fn message(&self) -> String {
        self.header("x-error-message").map_or(String::new(), |text| format!(": {text}"))
    }

    pub(super) fn json<T: DeserializeOwned>(mut self) -> Result<T, HubError> {
        let text = self.body.with_config().limit(MAX_JSON).read_to_vec();
        let problem = |problem: String| HubError::Protocol { url: self.url.clone(), problem };
        let text = text.map_err(|error| problem(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| problem(error.to_string()))
    }
}

impl Client {
    pub(super) fn new(settings: Settings) -> Self {
        let config = Agent::config_builder()
            .user_agent(USER_AGENT)
            // Redirects are followed here, so that the token goes to the Hub alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .build();
        Self { agent: config.new_agent(), settings }
    }

    /// `endpoint` with a path after it.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.settings.endpoint)
    }

    pub(super) fn get(&self, url: &str) -> Result<Answer, HubError> {
        self.ask(Request { method: "GET", url, headers: &[] }, || Ok(SendBody::none()))
    }

    pub(super) fn post(&self, url: &str, kind: &str, body: &[u8]) -> Result<Answer, HubError> {
        let headers = [
            ("content-type", kind.to_owned()),
            ("accept", if kind == LFS { LFS.to_owned() } else { "application/json".to_owned() }),
        ];
        let request = Request { method: "POST", url, headers: &headers };
        self.ask(request, || Ok(SendBody::from_owned_reader(std::io::Cursor::new(body.to_vec()))))
    }

    /// Makes a request until it is answered with something other than "later" or "broken".
    pub(super) fn ask(
        &self,
        request: Request<'_>,
        body: impl Fn() -> std::io::Result<SendBody<'static>>,
    ) -> Result<Answer, HubError> {
        let endpoint = &self.settings.endpoint;
        if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(HubError::Endpoint { endpoint: endpoint.clone() });
        }
        let mut attempts = 0;
        loop {
            attempts += 1;
            let failed = match self.follow(request, &body) {
                Ok(answer) if !is_passing(answer.status) => return Ok(answer),
                Ok(answer) => Failed::Status(answer),
                Err(problem) => Failed::Network(problem),
            };
            if attempts == ATTEMPTS {
                let url = request.url.to_owned();
                return Err(match failed {
                    Failed::Network(problem) => HubError::Network { url, problem, attempts },
                    Failed::Status(answer) => {
                        let (status, message) = (answer.status, answer.message());
                        HubError::Status { url, status, message, attempts }
                    }
                });
            }
            sleep(self.wait(attempts, &failed));
        }
    }

    /// The wait before the next attempt: what the server asks for, or one that doubles.
    fn wait(&self, attempts: u32, failed: &Failed) -> Duration {
        let asked = match failed {
            Failed::Status(answer) => {
                answer.header("retry-after").and_then(|text| text.trim().parse().ok())
            }
            Failed::Network(_) => None,
        };
        let doubled = self.settings.retry_delay.saturating_mul(1 << (attempts - 1).min(10));
        asked.map_or(doubled, Duration::from_secs).min(MAX_WAIT)
    }

    fn follow(
        &self,
        request: Request<'_>,
        body: &dyn Fn() -> std::io::Result<SendBody<'static>>,
    ) -> Result<Answer, String> {
        let mut url = request.url.to_owned();
        for _ in 0..REDIRECTS {
            let mut builder =
                ureq::http::Request::builder().method(request.method).uri(url.as_str());
            for (name, value) in request.headers {
                builder = builder.header(*name, value);
            }
            if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(&url)) {
                builder = builder.header("authorization", format!("Bearer {token}"));
            }
            let body = body().map_err(|error| error.to_string())?;
            let request = builder.body(body).map_err(|error| error.to_string())?;
            let response = self.agent.run(request).map_err(|error| error.to_string())?;
            let answer = Answer::from((url.clone(), response));
            match (answer.status, answer.header("location")) {
                (301 | 302 | 303 | 307 | 308, Some(target)) => url = joined(&url, target),
                _ => return Ok(answer),
            }
        }
        Err(format!("more than {REDIRECTS} redirects"))
    }

    /// Whether an address is the Hub's own, which alone may see the token.
    fn is_hub(&self, url: &str) -> bool {
        let rest = url.strip_prefix(self.settings.endpoint.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }

    /// The repository that an address of the Hub's API is about, which after a redirect may be another
    /// than the one asked for.
    pub(super) fn repo_in(&self, url: &str) -> Option<String> {
        let rest = url.strip_prefix(self.settings.endpoint.as_str())?;
        let mut parts = rest.strip_prefix("/api/models/")?.split('/');
        Some(format!("{}/{}", parts.next()?, parts.next()?))
    }

    /// Passes an answer that is no error, and names the error otherwise.
    pub(super) fn check(&self, answer: Answer, repo: &Repo) -> Result<Answer, HubError> {
        let code = answer.header("x-error-code").unwrap_or_default().to_owned();
        let has_token = self.settings.token.is_some();
        let (id, endpoint) = (repo.id(), self.settings.endpoint.clone());
        match (answer.status, code.as_str()) {
            (200..=299, _) => Ok(answer),
            (_, "GatedRepo") => Err(HubError::Gated { repo: id, endpoint, has_token }),
            (_, "RevisionNotFound") => {
                let revision = repo.revision().to_owned();
                Err(HubError::NoRevision { repo: id, revision, near: Near::default() })
            }
            (_, "RepoNotFound") | (401 | 404, "") if !answer.is_about_token() => {
                let near = near_names(&id, &self.similar(repo));
                Err(HubError::NoRepository { repo: id, endpoint, has_token, near })
            }
            (status @ (401 | 403), _) => {
                let message = answer.message();
                Err(HubError::Forbidden { url: answer.url, status, message, has_token })
            }
            (status, _) => {
                let message = answer.message();
                Err(HubError::Status { url: answer.url, status, message, attempts: 1 })
            }
        }
    }

    /// Names that the Hub finds for a name, none where it does not answer.
    fn similar(&self, repo: &Repo) -> Vec<String> {
        #[derive(serde::Deserialize)]
        struct Found {
            id: String,
        }
        let ask = |query: String| -> Option<Vec<Found>> {
            let answer = self.get(&self.url(&format!("/api/models?{query}&limit=20"))).ok()?;
            (answer.status == 200).then(|| answer.json().ok()).flatten()
        };
        let queries = [format!("search={}", repo.name()), format!("author={}", repo.owner())];
        let found = queries.into_iter().filter_map(ask).flatten();
        found.map(|found| found.id).collect()
    }
}

/// The media type of git-lfs.
pub(super) const LFS: &str = "application/vnd.git-lfs+json";

enum Failed {
    Network(String),
    Status(Answer),
}

impl From<(String, Response<Body>)> for Answer {
    fn from((url, response): (String, Response<Body>)) -> Self {
        let (parts, body) = response.into_parts();
        Self { url, status: parts.status.as_u16(), headers: parts.headers, body }
    }
}

/// Whether the same request may well succeed later.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// The address that a redirect names, which may be without a host.
fn joined(base: &str, target: &str) -> String {
    if target.contains("://") {
        return target.to_owned();
    }
    let host_end = base.find("://").and_then(|at| Some(at + 3 + base[at + 3..].find('/')?));
    let host = &base[..host_end.unwrap_or(base.len())];
    format!("{host}/{}", target.trim_start_matches('/'))
}

/// Text as a part of an address.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined_and_escaped() {
        assert_eq!(joined("http://a/b/c?d", "/x/y"), "http://a/x/y");
        assert_eq!(joined("http://a", "x"), "http://a/x");
        assert_eq!(joined("http://a/b", "https://c/d"), "https://c/d");
        assert_eq!(escaped("refs/pr/1 é"), "refs%2Fpr%2F1%20%C3%A9");
    }

    #[test]
    fn an_endpoint_that_is_no_address_is_not_asked() {
        let mut settings = Settings::from_env();
        settings.endpoint = "hub.example".to_owned();
        let client = Client::new(settings);
        let error = client.get(&client.url("/api/models")).expect_err("no address");
        assert!(!error.is_machine(), "it is the setting that is wrong");
        let expected =
            "HF_ENDPOINT is \"hub.example\", expected an address such as https://huggingface.co";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_token_goes_to_the_hub_alone() {
        let mut settings = Settings::from_env();
        settings.endpoint = "https://hub.example".to_owned();
        let client = Client::new(settings);
        assert!(client.is_hub("https://hub.example/api/models"));
        for other in ["https://hub.example.evil/x", "https://cdn.example/x", "http://hub.example/"]
        {
            assert!(!client.is_hub(other), "{other}");
        }
    }
}
