//! Where files are now, for the paths that a configuration names.
//!
//! Official configurations name URLs and folders of other machines. Each rule replaces the beginning
//! of a path; the longest that fits is taken, whatever the order they are given in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::{Error, Result};

/// Rules `FROM=TO`.
///
/// ```
/// use olmo_data::PathMap;
///
/// # fn main() -> olmo_data::Result<()> {
/// let map = PathMap::new(["s3://bucket=/data".parse()?, "s3://bucket/books=/books".parse()?]);
/// assert_eq!(map.resolve("s3://bucket/wiki/a.npy")?, std::path::Path::new("/data/wiki/a.npy"));
/// assert_eq!(map.resolve("s3://bucket/books/a.npy")?, std::path::Path::new("/books/a.npy"));
/// assert_eq!(map.resolve("here/a.npy")?, std::path::Path::new("here/a.npy"));
/// assert!(map.resolve("https://elsewhere.org/a.npy").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathMap {
    rules: Vec<PathRule>,
}

/// One rule of a [`PathMap`]: a beginning, and what stands in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    from: String,
    to: String,
}

impl FromStr for PathRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (from, to) =
            text.split_once('=').ok_or_else(|| Error::PathRule { found: text.to_owned() })?;
        Self::new(from, to)
    }
}

impl PathRule {
    /// A rule: a beginning of paths, and what stands in its place.
    ///
    /// # Errors
    ///
    /// [`Error::PathRule`] where the beginning is empty, which every path has.
    pub fn new(from: &str, to: &str) -> Result<Self> {
        if from.is_empty() {
            return Err(Error::PathRule { found: format!("{from}={to}") });
        }
        Ok(Self { from: from.to_owned(), to: to.to_owned() })
    }
}

/// As configurations give it, `{FROM: TO}`.
impl<'de> Deserialize<'de> for PathMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rules = BTreeMap::<String, String>::deserialize(deserializer)?;
        let rules =
            rules.iter().map(|(from, to)| PathRule::new(from, to).map_err(D::Error::custom));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }
}

impl PathMap {
    /// A map of rules.
    pub fn new(rules: impl IntoIterator<Item = PathRule>) -> Self {
        Self { rules: rules.into_iter().collect() }
    }

    /// The map with more rules, which count before those that begin with the same.
    pub fn with(mut self, rules: impl IntoIterator<Item = PathRule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// The local path of a path as it is written. Of two rules with the same beginning the later counts.
    ///
    /// # Errors
    ///
    /// [`Error::RemotePath`] where it is a URL that no rule fits.
    pub fn resolve(&self, path: &str) -> Result<PathBuf> {
        let rule = self
            .rules
            .iter()
            .filter(|rule| path.starts_with(&rule.from))
            .max_by_key(|rule| rule.from.len());
        if let Some(rule) = rule {
            return Ok(PathBuf::from(format!("{}{}", rule.to, &path[rule.from.len()..])));
        }
        match path.split_once("://") {
            None => Ok(PathBuf::from(path)),
            Some(("file", local)) => Ok(PathBuf::from(local)),
            Some(_) => Err(Error::RemotePath { path: path.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_two_sides() {
        for wrong in ["", "a", "=b"] {
            assert!(wrong.parse::<PathRule>().is_err(), "{wrong}");
        }
        let map = PathMap::new(["a=".parse().unwrap()]);
        assert_eq!(map.resolve("a/b").unwrap(), PathBuf::from("/b"));
        assert_eq!(map.resolve("file:///a/b").unwrap(), PathBuf::from("/a/b"));
        let map = map.with(["a=/c".parse().unwrap()]);
        assert_eq!(map.resolve("a/b").unwrap(), PathBuf::from("/c/b"));
    }
}
