//! Names of repositories.

use std::fmt;
use std::str::FromStr;

use super::error::{HubError, Near};
use super::known::near_released;

/// A model repository, `owner/name`, and a revision of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    owner: String,
    name: String,
    /// A branch, a tag, a commit, or the beginning of a branch's name; `main` where none is given.
    pub revision: Option<String>,
}

impl Repo {
    /// `owner/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// Who it belongs to.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Its name without its owner's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The revision asked for.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The name of its folder in the cache.
    pub(super) fn folder_name(&self) -> String {
        format!("models--{}--{}", self.owner, self.name)
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

impl FromStr for Repo {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong =
            |problem| HubError::Name { name: text.to_owned(), problem, near: Near::default() };
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = id.split_once('/').ok_or_else(|| HubError::Name {
            name: text.to_owned(),
            problem: "it has no owner",
            near: near_released(id),
        })?;
        for part in [owner, name] {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if part.is_empty() || part.len() > 96 || !part.chars().all(allowed) {
                return Err(wrong("a name has 1 to 96 of letters, digits, '-', '_' and '.'"));
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
                return Err(wrong("a name neither begins nor ends with '-' or '.'"));
            }
            if part.contains("--") || part.contains("..") {
                return Err(wrong("a name has neither '--' nor '..'"));
            }
        }
        if revision.is_some_and(|revision| !is_revision(revision)) {
            return Err(wrong("its revision is none that git could have"));
        }
        let revision = revision.map(ToOwned::to_owned);
        Ok(Self { owner: owner.to_owned(), name: name.to_owned(), revision })
    }
}

/// Whether a text can name a branch, tag or commit, and a file under `refs/`.
pub(super) fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_graphic() && !"\\:?*[~^".contains(c);
    !text.is_empty()
        && text.len() <= 200
        && text.chars().all(allowed)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_what_is_none_is_refused() {
        let repo: Repo = "allenai/OLMo-7B@step1000-tokens4B".parse().unwrap();
        assert_eq!((repo.id().as_str(), repo.revision()), ("allenai/OLMo-7B", "step1000-tokens4B"));
        assert_eq!(repo.folder_name(), "models--allenai--OLMo-7B");
        let main: Repo = "allenai/OLMo-2-0425-1B".parse().unwrap();
        assert_eq!(
            (main.revision(), main.to_string().as_str()),
            ("main", "allenai/OLMo-2-0425-1B")
        );
        assert!("a/b@refs/pr/1".parse::<Repo>().is_ok());
        for name in [
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "../x",
            "a/..",
            "a/b@",
            "a/b@../x",
            "a/b@x/../../y",
            "a b/c",
            "a/b@/etc",
            "a--b/c",
            "a/b@x y",
        ] {
            assert!(name.parse::<Repo>().is_err(), "{name:?}");
        }
    }
}
