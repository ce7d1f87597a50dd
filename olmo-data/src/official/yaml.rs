//! A configuration file of the original trainer, its fields worked out when they are asked for.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::interpolation::{find, resolve};
use super::number::{python_float, python_int};
use crate::{Error, Result};

/// The fields of a configuration file.
#[derive(Debug, Clone)]
pub struct OfficialYaml {
    path: PathBuf,
    root: Value,
}

impl OfficialYaml {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be read, [`Error::Config`] where it is no YAML mapping.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file; `path` is for messages.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where it is no YAML mapping.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        // As in `PyYAML`, `y` and `n` are no truth values; nor are `on` and `off` here.
        let options = serde_saphyr::options! { strict_booleans: true };
        let root: Value = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| Error::Config { path: path.clone(), reason: error.to_string() })?;
        Self::from_value(root, path)
    }

    /// Takes the fields of a file that was read, such as with some of them replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where it is no mapping.
    pub fn from_value(root: Value, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        if !root.is_object() {
            let reason = "not a YAML mapping of fields".to_owned();
            return Err(Error::Config { path, reason });
        }
        Ok(Self { path, root })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file as it is written, interpolations included.
    pub fn raw(&self) -> &Value {
        &self.root
    }

    /// A field by its path, such as `model.max_sequence_length`, with its interpolations worked out;
    /// `None` where it is missing or null.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where an interpolation cannot be worked out.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        let Some(value) = find(&self.root, path) else { return Ok(None) };
        let value = resolve(&self.root, value, 0)
            .map_err(|reason| self.error(&format!("{path}: {reason}")))?;
        Ok(Some(value).filter(|value| !value.is_null()))
    }

    /// A field that is a whole number of zero or more.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where it is something else.
    pub fn get_count(&self, path: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(path)? else { return Ok(None) };
        let number = python_int(&value).and_then(|number| u64::try_from(number).ok());
        let Some(number) = number else {
            let reason = format!("{path} is {value}, expected a whole number of zero or more");
            return Err(self.error(&reason));
        };
        Ok(Some(number))
    }

    /// A field that is a number.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where it is something else.
    pub fn get_float(&self, path: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(path)? else { return Ok(None) };
        let Some(number) = python_float(&value) else {
            return Err(self.error(&format!("{path} is {value}, expected a number")));
        };
        Ok(Some(number))
    }

    /// A field that is a text.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where it is something else.
    pub fn get_text(&self, path: &str) -> Result<Option<String>> {
        match self.get(path)? {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.error(&format!("{path} is {other}, expected a text"))),
        }
    }

    /// An error about this file.
    pub(super) fn error(&self, reason: &str) -> Error {
        Error::Config { path: self.path.clone(), reason: reason.to_owned() }
    }
}
