//! Where the Hub and its cache are: the variables that Python's `huggingface_hub` goes by.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Where the Hub and its cache are, and how patiently it is asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Hub's address, without a slash at its end.
    pub endpoint: String,
    /// The folder of all cached repositories.
    pub cache: PathBuf,
    /// What opens private and gated repositories.
    pub token: Option<String>,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// The wait after a first failure; it doubles with every further one.
    pub retry_delay: Duration,
    /// Files that are fetched at a time.
    pub n_workers: usize,
    /// Whether files that the Hub keeps in chunks come from there.
    pub xet: bool,
}

impl Settings {
    /// By `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH` and
    /// `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_XET`, their older names and defaults.
    pub fn from_env() -> Self {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let is_on = |name: &str| {
            set(name).is_some_and(|value| {
                ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
            })
        };
        let user = || set("HOME").or_else(|| set("USERPROFILE")).unwrap_or_default();
        let caches = || {
            let xdg = set("XDG_CACHE_HOME").map(PathBuf::from);
            xdg.unwrap_or_else(|| PathBuf::from(user()).join(".cache"))
        };
        let home = set("HF_HOME").map_or_else(|| caches().join("huggingface"), PathBuf::from);
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let token_file = set("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let stored = || {
            let text = fs::read_to_string(token_file).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let implicit = !is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN");
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
        let token = token.map(|token| token.trim().to_owned());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.map_or_else(|| home.join("hub"), PathBuf::from),
            token: token.or_else(stored).filter(|_| implicit),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            retry_delay: Duration::from_millis(500),
            n_workers: 4,
            xet: !is_on("HF_HUB_DISABLE_XET"),
        }
    }
}

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Settings::from_variables(|name| variables.get(name).map(ToString::to_string))
    }

    #[test]
    fn places_are_those_of_python() {
        let home = settings(&[("HOME", "/h")]);
        assert_eq!(home.cache, PathBuf::from("/h/.cache/huggingface/hub"));
        assert_eq!(
            (home.endpoint.as_str(), home.offline, home.token),
            (DEFAULT_ENDPOINT, false, None)
        );
        let xdg = settings(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]);
        assert_eq!(xdg.cache, PathBuf::from("/x/huggingface/hub"));
        let hf = settings(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/x"), ("HF_HUB_OFFLINE", "1")]);
        assert_eq!((hf.cache, hf.offline), (PathBuf::from("/hf/hub"), true));
        let cache = settings(&[
            ("HF_HOME", "/hf"),
            ("HF_HUB_CACHE", "/c"),
            ("HF_ENDPOINT", "http://127.0.0.1:9/"),
            ("HF_TOKEN", " t\n"),
        ]);
        assert_eq!(cache.cache, PathBuf::from("/c"));
        assert_eq!(cache.endpoint, "http://127.0.0.1:9");
        assert_eq!(cache.token.as_deref(), Some("t"));
    }

    #[test]
    fn a_stored_token_is_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "stored\n").unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token.as_deref(), Some("stored"));
        let refused = settings(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]);
        assert_eq!(refused.token, None);
    }
}
