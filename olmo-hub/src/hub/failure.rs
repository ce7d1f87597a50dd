//! Why a request did not bring what was asked for, as `hf-hub` and `reqwest` say it.

use std::error::Error;
use std::time::Duration;

use hf_hub::HFError;
use reqwest::Response;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Why a request did not bring what was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was answered, with a status that is none of success.
    Refused(Refused),
    /// No answer came, or not all of one.
    Network(String),
    /// What came is not what the protocol says.
    Protocol(String),
}

/// An answer with a status that is none of success.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) url: String,
    pub(super) status: u16,
    /// The Hub's name of the error, empty where it has none.
    pub(super) code: String,
    /// What the Hub says of it, empty or beginning with a colon.
    pub(super) message: String,
    /// When it is to be asked again.
    pub(super) retry_after: Option<Duration>,
}

impl Refused {
    /// By the headers of an answer to a request of ours.
    pub(super) fn new(answer: &Response) -> Self {
        let text = |name: &str| -> Option<String> {
            Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
        };
        Self {
            url: answer.url().to_string(),
            status: answer.status().as_u16(),
            code: text("x-error-code").unwrap_or_default(),
            message: told(text("x-error-message")),
            retry_after: retry_after(answer.headers()),
        }
    }

    /// Whether it is the token that is wrong, whatever was asked for.
    pub(super) fn is_about_token(&self) -> bool {
        self.status == 401 && self.message.to_lowercase().starts_with(": invalid ")
    }

    /// Whether the same request may well succeed later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.status, 408 | 429 | 500 | 502 | 503 | 504)
    }
}

fn told(message: Option<String>) -> String {
    message.filter(|text| !text.is_empty()).map_or(String::new(), |text| format!(": {text}"))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

impl From<HFError> for Failure {
    fn from(error: HFError) -> Self {
        let (context, retry_after) = match error {
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RepoNotFound { context: Some(context), .. }
            | HFError::RevisionNotFound { context: Some(context), .. }
            | HFError::EntryNotFound { context: Some(context), .. } => (context, None),
            HFError::RateLimited { retry_after, context } => (context, retry_after),
            HFError::Request { source, .. } => return source.into(),
            HFError::Json(error) => return Self::Protocol(error.to_string()),
            HFError::MalformedResponse { what, .. } => return Self::Protocol(what),
            other => return Self::Network(reasons(&other)),
        };
        let context = *context;
        Self::Refused(Refused {
            url: context.url,
            status: context.status.as_u16(),
            code: context.error_code.unwrap_or_default(),
            message: told(context.server_message),
            retry_after,
        })
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // What was asked is told beside it, and where it went may hold a signature.
        let error = error.without_url();
        let is_json = |error: &&(dyn Error + 'static)| error.is::<serde_json::Error>();
        match causes(&error).find(is_json) {
            Some(json) => Self::Protocol(json.to_string()),
            None => Self::Network(reasons(&error)),
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// An error with its causes in one line, each said once.
pub(super) fn reasons(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error).map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
