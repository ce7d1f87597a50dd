//! The fields of an official configuration, each taken once.

use std::collections::BTreeSet;

use olmo_data::official::{OfficialYaml, python_float, python_int};
use serde_json::Value;

use super::Note;
use crate::error::Error;

/// Sections whose fields are taken one by one.
const SECTIONS: &[&str] = &["optimizer", "scheduler", "tokenizer", "fsdp"];

/// Takes fields, and remembers which, so that none is left out in silence.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    yaml: &'a OfficialYaml,
    taken: BTreeSet<String>,
    notes: Vec<Note>,
    problems: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(yaml: &'a OfficialYaml) -> Self {
        Self { yaml, taken: BTreeSet::new(), notes: Vec::new(), problems: Vec::new() }
    }

    /// A field, `None` where it is missing or null.
    pub(super) fn get(&mut self, path: &str) -> Option<Value> {
        self.taken.insert(path.to_owned());
        match self.yaml.get(path) {
            Ok(value) => value,
            Err(olmo_data::Error::Config { reason, .. }) => {
                self.problem(reason);
                None
            }
            Err(error) => {
                self.problem(error.to_string());
                None
            }
        }
    }

    pub(super) fn float(&mut self, path: &str) -> Option<f64> {
        let value = self.get(path)?;
        let number = python_float(&value);
        if number.is_none() {
            self.problem(format!("{path} is {value}, expected a number"));
        }
        number
    }

    /// A whole number of zero or more.
    pub(super) fn count(&mut self, path: &str) -> Option<u64> {
        let value = self.get(path)?;
        let number = python_int(&value).and_then(|number| u64::try_from(number).ok());
        if number.is_none() {
            self.problem(format!("{path} is {value}, expected a whole number of zero or more"));
        }
        number
    }

    pub(super) fn flag(&mut self, path: &str) -> Option<bool> {
        match self.get(path)? {
            Value::Bool(flag) => Some(flag),
            other => {
                self.problem(format!("{path} is {other}, expected true or false"));
                None
            }
        }
    }

    pub(super) fn text(&mut self, path: &str) -> Option<String> {
        match self.get(path)? {
            Value::String(text) => Some(text),
            other => {
                self.problem(format!("{path} is {other}, expected a text"));
                None
            }
        }
    }

    /// Something that cannot be followed.
    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// A field that has no effect here.
    pub(super) fn note(&mut self, field: &str, reason: &str) {
        self.taken.insert(field.to_owned());
        self.notes.push(Note { field: field.to_owned(), reason: reason.to_owned() });
    }

    /// As [`note`](Self::note), unless that was said.
    pub(super) fn note_once(&mut self, field: &str, reason: &str) {
        if !self.taken.contains(field) {
            self.note(field, reason);
        }
    }

    /// Whether a field says something: null and false say nothing.
    pub(super) fn says_something(&self, path: &str) -> bool {
        let found = path.split('.').try_fold(self.yaml.raw(), |value, name| value.get(name));
        found.is_some_and(|value| !value.is_null() && *value != Value::Bool(false))
    }

    /// Whether a field of the file itself is there, if only as null.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.yaml.raw().get(name).is_some()
    }

    pub(super) fn take(&mut self, path: &str) {
        self.taken.insert(path.to_owned());
    }

    /// The notes, where every field was taken and nothing is wrong.
    pub(super) fn finish(mut self) -> Result<Vec<Note>, Error> {
        for path in self.leftover() {
            self.problems.push(format!("{path} is no field of the original trainer"));
        }
        if self.problems.is_empty() {
            return Ok(self.notes);
        }
        Err(Error::Config {
            origin: self.yaml.path().display().to_string(),
            message: self.problems.join("\n  "),
        })
    }

    fn leftover(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (name, value) in self.yaml.raw().as_object().into_iter().flatten() {
            if self.taken.contains(name) {
                continue;
            }
            match value {
                Value::Object(section) if SECTIONS.contains(&name.as_str()) => {
                    let paths = section.keys().map(|field| format!("{name}.{field}"));
                    left.extend(paths.filter(|path| !self.taken.contains(path)));
                }
                Value::Null if SECTIONS.contains(&name.as_str()) => {}
                _ => left.push(name.clone()),
            }
        }
        left
    }
}
