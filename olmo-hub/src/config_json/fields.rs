//! A JSON object taken apart field by field, so that none is left over unnoticed.

pub(super) use olmo_model::config::MAX_SIZE;
use serde_json::{Map, Value};

use crate::error::FieldProblem;

/// The fields of an object that were not asked for yet, and the problems of those that were.
///
/// A field that is null counts as absent wherever absence has a meaning.
#[derive(Debug)]
pub(super) struct Fields {
    object: Map<String, Value>,
    /// Dotted path of the object with its dot, empty for the outermost.
    prefix: String,
    problems: Vec<FieldProblem>,
}

impl Fields {
    pub(super) fn new(object: Map<String, Value>) -> Self {
        Self { object, prefix: String::new(), problems: Vec::new() }
    }

    pub(super) fn problem(
        &mut self,
        name: &str,
        found: impl ToString,
        expected: impl Into<String>,
    ) {
        self.problems.push(FieldProblem {
            field: format!("{}{name}", self.prefix),
            found: found.to_string(),
            expected: expected.into(),
        });
    }

    /// The value of a field that is still to be taken.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.object.get(name)
    }

    /// The value, null included; `None` where the field is absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name)
    }

    /// The value, `None` where the field is absent or null.
    pub(super) fn take_set(&mut self, name: &str) -> Option<Value> {
        self.take(name).filter(|value| !value.is_null())
    }

    pub(super) fn size(&mut self, name: &str, default: usize) -> usize {
        self.optional_size(name).unwrap_or(default)
    }

    pub(super) fn optional_size(&mut self, name: &str) -> Option<usize> {
        let value = self.take_set(name)?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| (1..=MAX_SIZE).contains(size));
        if size.is_none() {
            self.problem(name, value, format!("a whole number from 1 to {MAX_SIZE}"));
        }
        size
    }

    pub(super) fn real(&mut self, name: &str, default: f64) -> f64 {
        self.optional_real(name).unwrap_or(default)
    }

    pub(super) fn optional_real(&mut self, name: &str) -> Option<f64> {
        let value = self.take_set(name)?;
        let real = value.as_f64();
        if real.is_none() {
            self.problem(name, value, "a number");
        }
        real
    }

    pub(super) fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.take_set(name) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(other) => {
                self.problem(name, other, "true or false");
                default
            }
        }
    }

    /// The text of a field, `None` where it is absent, null or not text.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.take_set(name)? {
            Value::String(text) => Some(text),
            other => {
                self.problem(name, other, "a string");
                None
            }
        }
    }

    /// The fields of a field that is an object, `None` where it is absent, null or no object.
    pub(super) fn object(&mut self, name: &str) -> Option<Self> {
        match self.take_set(name)? {
            Value::Object(object) => {
                let prefix = format!("{}{name}.", self.prefix);
                Some(Self { object, prefix, problems: Vec::new() })
            }
            other => {
                self.problem(name, other, "an object");
                None
            }
        }
    }

    /// A field of which we run only one value, which is also its default.
    pub(super) fn only(&mut self, name: &str, supported: impl Into<Value>) {
        let supported = supported.into();
        let Some(found) = self.take_set(name) else { return };
        let equal = match (found.as_f64(), supported.as_f64()) {
            (Some(found), Some(supported)) => found.to_bits() == supported.to_bits(),
            _ => found == supported,
        };
        if !equal {
            self.problem(name, found, format!("{supported}, which is all that is supported"));
        }
    }

    /// Drops fields that have no bearing on the network.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.object.remove(*name);
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(|value| !value.is_null())
    }

    pub(super) fn is_null(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(Value::is_null)
    }

    /// Takes over the problems of an object within this one, its leftovers included.
    pub(super) fn absorb(&mut self, inner: Self, where_from: &str) {
        self.problems.extend(inner.finish(where_from));
    }

    /// Every problem of the fields that were asked for.
    pub(super) fn into_problems(self) -> Vec<FieldProblem> {
        self.problems
    }

    /// Every problem; a field that nobody asked for and that says something is one.
    pub(super) fn finish(mut self, where_from: &str) -> Vec<FieldProblem> {
        let leftover = std::mem::take(&mut self.object);
        for (name, value) in leftover.into_iter().filter(|(_, value)| !value.is_null()) {
            let expected = format!("to be absent: it has no known meaning for {where_from}");
            self.problem(&name, value, expected);
        }
        self.problems
    }
}
