//! What speaks to the Hub: `hf-hub`'s client, tries after failures, errors by their kind.

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::TryStreamExt as _;
use hf_hub::repository::RepoTypeModel;
use hf_hub::{HFClient, HFRepository, HFResult};
use reqwest::ClientBuilder;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};

use super::error::{HubError, Near};
use super::failure::{Failure, Refused, reasons};
use super::known::near_names;
use super::repo::Repo;
use super::settings::Settings;
use super::waiter::Waiter;

/// How often a request is made that fails each time.
pub(super) const ATTEMPTS: u32 = 5;
/// The longest wait that a busy server may ask for.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// Silence after which a connection counts as cut.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
pub(super) const USER_AGENT: &str = concat!("olmo/", env!("CARGO_PKG_VERSION"));
/// In place of a token where there is none: without one `hf-hub` looks for one itself, and this one
/// it cannot send, as no header may have it.
const NO_TOKEN: &str = "\n";
/// Names that are asked for at a time.
const NAMES: usize = 20;

/// What speaks to the Hub, until it is to stop.
#[derive(Debug)]
pub(super) struct Client<'a> {
    hub: HFClient,
    /// What `hub` sends its requests by, for those that it has no function for.
    pub(super) http: reqwest::Client,
    pub(super) settings: Settings,
    pub(super) waiter: Waiter<'a>,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &Settings, stop: &'a AtomicBool) -> Result<Self, HubError> {
        let Settings { endpoint, token, .. } = settings;
        let is_address = ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
            && reqwest::Url::parse(endpoint).is_ok();
        if !is_address {
            return Err(HubError::Endpoint { endpoint: endpoint.clone() });
        }
        if token.as_deref().is_some_and(|token| bearer(token).is_none()) {
            return Err(HubError::Token);
        }
        let start = |problem: String| HubError::Start { problem };
        let http = http().read_timeout(SILENCE).build().map_err(|error| start(reasons(&error)))?;
        let hub = HFClient::builder()
            .client(http.clone())
            .endpoint(endpoint)
            .token(token.as_deref().unwrap_or(NO_TOKEN))
            .user_agent(USER_AGENT)
            .cache_dir(&settings.cache)
            .cache_enabled(false)
            // It is tried again here.
            .retry_max_attempts(0)
            .build()
            .map_err(|error| start(reasons(&error)))?;
        let waiter = Waiter::new(stop).map_err(|error| start(error.to_string()))?;
        Ok(Self { hub, http, settings: settings.clone(), waiter })
    }

    /// `hf-hub`'s functions of all repositories.
    pub(super) fn hub(&self) -> &HFClient {
        &self.hub
    }

    /// `hf-hub`'s functions of one repository.
    pub(super) fn of(&self, repo: &Repo) -> HFRepository<RepoTypeModel> {
        self.hub.model(repo.owner(), repo.name())
    }

    /// `endpoint` with a path after it.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.settings.endpoint)
    }

    /// What a future comes to, unless it is to stop before.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, HubError> {
        self.waiter.wait(future)
    }

    /// Lets the time pass after so many failures in a row, unless it is to stop.
    pub(super) fn pause(&self, n_failures: u32) -> Result<(), HubError> {
        self.waiter.pause(self.doubled(n_failures))
    }

    fn doubled(&self, n_failures: u32) -> Duration {
        let doubled = self.settings.retry_delay.saturating_mul(1 << (n_failures - 1).min(10));
        doubled.min(MAX_WAIT)
    }

    /// Makes a request until it is answered with something other than "later" or "broken"; a refusal
    /// that trying again would not change is for the caller to understand. `url` is what is asked.
    pub(super) fn ask<T, E: Into<Failure>, F: Future<Output = Result<T, E>>>(
        &self,
        url: &str,
        request: impl Fn() -> F,
    ) -> Result<Result<T, Refused>, HubError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let failure = match self.wait(request())? {
                Ok(value) => return Ok(Ok(value)),
                Err(error) => error.into(),
            };
            let url = url.to_owned();
            let wait = match failure {
                Failure::Refused(refused) if !refused.is_passing() => return Ok(Err(refused)),
                Failure::Refused(Refused { status, message, .. }) if attempts == ATTEMPTS => {
                    return Err(HubError::Status { url, status, message, attempts });
                }
                Failure::Network(problem) if attempts == ATTEMPTS => {
                    return Err(HubError::Network { url, problem, attempts });
                }
                Failure::Protocol(problem) => return Err(HubError::Protocol { url, problem }),
                Failure::Refused(refused) => refused.retry_after,
                Failure::Network(_) => None,
            };
            self.waiter.pause(wait.unwrap_or(self.doubled(attempts)).min(MAX_WAIT))?;
        }
    }

    /// Makes a request about a repository, and says what a refusal means.
    pub(super) fn want<T, E: Into<Failure>, F: Future<Output = Result<T, E>>>(
        &self,
        repo: &Repo,
        url: &str,
        request: impl Fn() -> F,
    ) -> Result<T, HubError> {
        self.ask(url, request)?.map_err(|refused| self.meaning(refused, repo))
    }

    /// The error that a refusal of a request about a repository is.
    pub(super) fn meaning(&self, refused: Refused, repo: &Repo) -> HubError {
        let has_token = self.settings.token.is_some();
        let (id, endpoint) = (repo.id(), self.settings.endpoint.clone());
        let is_about_token = refused.is_about_token();
        let Refused { url, status, code, message, .. } = refused;
        match (status, code.as_str()) {
            (_, "GatedRepo") => HubError::Gated { repo: id, endpoint, has_token },
            (_, "RevisionNotFound") => {
                let revision = repo.revision().to_owned();
                HubError::NoRevision { repo: id, revision, near: Near::default() }
            }
            (_, "RepoNotFound") | (401 | 404, "") if !is_about_token => {
                let near = near_names(&id, &self.similar(repo));
                HubError::NoRepository { repo: id, endpoint, has_token, near }
            }
            (401 | 403, _) => HubError::Forbidden { url, status, message, has_token },
            _ => HubError::Status { url, status, message, attempts: 1 },
        }
    }

    /// Names that the Hub finds for a name, none where it does not answer.
    fn similar(&self, repo: &Repo) -> Vec<String> {
        let list = async |name: Option<&str>, owner: Option<&str>| -> HFResult<Vec<String>> {
            let found = self.hub.list_models().maybe_search(name).maybe_author(owner);
            let found = found.limit(NAMES).send()?;
            found.map_ok(|model| model.id).try_collect().await
        };
        let queries = [(Some(repo.name()), None), (None, Some(repo.owner()))];
        let url = self.url("/api/models");
        let ask = |(name, owner)| self.ask(&url, || list(name, owner)).ok()?.ok();
        queries.into_iter().filter_map(ask).flatten().collect()
    }
}

/// How connections are made. Redirects are followed, and the token stays behind where they lead to
/// another host.
pub(super) fn http() -> ClientBuilder {
    let mut headers = HeaderMap::new();
    // A body that is compressed on the way has other offsets.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .referer(false)
        .connect_timeout(SILENCE)
}

/// The header that a token goes in, `None` where it is none that a header may have.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
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
    use super::super::waiter::GO_ON;
    use super::*;

    #[test]
    fn settings_that_no_request_could_be_made_by_are_refused() {
        let with = |endpoint: &str, token: Option<&str>| {
            let (endpoint, token) = (endpoint.to_owned(), token.map(ToOwned::to_owned));
            let settings = Settings { endpoint, token, ..Settings::from_env() };
            Client::new(&settings, &GO_ON).map(drop)
        };
        for endpoint in ["hub.example", "https://"] {
            let error = with(endpoint, None).expect_err("no address");
            assert!(!error.is_machine(), "it is the setting that is wrong");
            let expected = format!(
                "HF_ENDPOINT is {endpoint:?}, expected an address such as https://huggingface.co"
            );
            assert_eq!(error.to_string(), expected);
        }
        let error = with("https://hub.example", Some("a\nb")).expect_err("no token");
        assert!(error.to_string().contains("HF_TOKEN") && !error.is_machine(), "{error}");
        with("https://hub.example", Some("hf_ab")).expect("a token");
    }

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(escaped("refs/pr/1 é"), "refs%2Fpr%2F1%20%C3%A9");
    }

    #[test]
    fn no_token_is_one_that_is_not_sent() {
        assert_eq!(bearer(NO_TOKEN), None);
    }
}
