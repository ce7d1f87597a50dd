//! What can go wrong with the Hub, each with what would have worked.

use std::fmt;

/// An error of the Hub or on the way to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that no repository can have.
    #[error(
        "{name:?} is no repository of the Hub: {problem}, expected owner/name or owner/name@revision{near}"
    )]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
        /// Released models that may have been meant.
        near: Near,
    },
    /// No such repository, or it is private and the token does not open it.
    #[error("there is no repository {repo} on {endpoint}, or it is private{}{near}", token_hint(*.has_token))]
    NoRepository {
        /// The repository.
        repo: String,
        /// The Hub's address.
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
        /// Names like it.
        near: Near,
    },
    /// A repository whose terms have to be accepted first.
    #[error("{repo} is gated: accept its terms at {endpoint}/{repo}{}", token_hint(*.has_token))]
    Gated {
        /// The repository.
        repo: String,
        /// The Hub's address.
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// No such branch, tag or commit.
    #[error("{repo} has no revision {revision}; `olmo revisions {repo}` lists them{near}")]
    NoRevision {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// Revisions like it.
        near: Near,
    },
    /// A prefix of more than one revision.
    #[error("{revision} begins {n} revisions of {repo}, such as {example}; write more of it")]
    AmbiguousRevision {
        /// The repository.
        repo: String,
        /// The prefix.
        revision: String,
        /// How many it begins.
        n: usize,
        /// One of them.
        example: String,
    },
    /// The Hub forbids it.
    #[error("{url} refused it with status {status}{message}{}", token_hint(*.has_token))]
    Forbidden {
        /// What was asked.
        url: String,
        /// 401 or 403.
        status: u16,
        /// What the Hub said, empty or beginning with a colon.
        message: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The Hub answered with an error that trying again did not mend.
    #[error("{url} answered with status {status}{message}, after {attempts} attempts")]
    Status {
        /// What was asked.
        url: String,
        /// The status.
        status: u16,
        /// What the Hub said, empty or beginning with a colon.
        message: String,
        /// How often it was asked.
        attempts: u32,
    },
    /// The Hub's address is none.
    #[error("HF_ENDPOINT is {endpoint:?}, expected an address such as https://huggingface.co")]
    Endpoint {
        /// The setting.
        endpoint: String,
    },
    /// The token is none that could be sent.
    #[error(
        "the token, from HF_TOKEN or the file that HF_TOKEN_PATH names, has characters that no token of the Hub has"
    )]
    Token,
    /// There is no way to speak to the Hub on this machine.
    #[error(
        "cannot begin to speak to the Hub: {problem}; it needs the system's CA certificates, as the package ca-certificates has them or SSL_CERT_FILE names them"
    )]
    Start {
        /// What is missing.
        problem: String,
    },
    /// The network failed, however often it was tried.
    #[error("cannot reach {url} after {attempts} attempts: {problem}")]
    Network {
        /// What was asked.
        url: String,
        /// The last reason.
        problem: String,
        /// How often it was asked.
        attempts: u32,
    },
    /// An answer that is not of the protocol.
    #[error("{url} answered with what is not the Hub's protocol: {problem}")]
    Protocol {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The client of the Hub's store of chunks does not start.
    #[error("cannot fetch by Xet: {problem}; HF_HUB_DISABLE_XET=1 does without it")]
    Xet {
        /// What its client says.
        problem: String,
    },
    /// What was fetched is not what the Hub says it has.
    #[error(
        "{file} of {repo} has {hash} {found}, the Hub says {expected}; fetched twice, and refused"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// The repository.
        repo: String,
        /// The kind of hash.
        hash: &'static str,
        /// The hash of what came.
        found: String,
        /// The hash that was promised.
        expected: String,
    },
    /// A repository without a model that is read here.
    #[error("{repo} at {commit} has no {missing}; its files are {files}")]
    NoModel {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
        /// What is missing.
        missing: &'static str,
        /// Some of its files.
        files: String,
    },
    /// Offline, and not in the cache.
    #[error(
        "{repo}@{revision} is not in the cache {cache}, and HF_HUB_OFFLINE forbids to fetch it: {problem}"
    )]
    Offline {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// The cache.
        cache: String,
        /// What is missing.
        problem: String,
    },
    /// Offline, and what was asked is in no cache.
    #[error("HF_HUB_OFFLINE is set, and {what} are known to the Hub alone")]
    OnlyOnline {
        /// What was asked for, in the plural.
        what: String,
    },
    /// The caller asked to stop; what was fetched stays and is gone on with.
    #[error("stopped; what was fetched stays, and the same command goes on from there")]
    Stopped,
}

/// Names that may have been meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Near(pub Vec<String>);

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, "; did you mean {}?", self.0.join(" or "))
        }
    }
}

fn token_hint(has_token: bool) -> &'static str {
    if has_token {
        " (a token was sent; it may lack the right)"
    } else {
        " (no token was sent; set HF_TOKEN to one that may read it)"
    }
}

impl HubError {
    /// Whether it is the network's or the Hub's fault rather than that of what was asked.
    pub fn is_machine(&self) -> bool {
        matches!(
            self,
            Self::Status { .. }
                | Self::Network { .. }
                | Self::Protocol { .. }
                | Self::Corrupt { .. }
                | Self::Start { .. }
                | Self::Xet { .. }
                | Self::Stopped
        )
    }
}
