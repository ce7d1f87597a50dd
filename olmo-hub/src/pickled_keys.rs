//! ai2-olmo's safetensors files, whose names are pickles in base64.
//!
//! Its trainer stores nested dictionaries: every key is
//! `urlsafe_base64(pickle((names, is_pickled)))`, and a value that is no tensor is stored as the
//! bytes of its own pickle, which no model has and which is refused. Source: ai2-olmo
//! `olmo/safetensors_util.py`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use crate::header::Entry;
use crate::pickle::{self, Node, Pickle};

/// Gives plain names to tensors whose names are pickles; others are left as they are.
pub(crate) fn decode(entries: &mut [Entry]) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for entry in entries.iter_mut().filter(|entry| is_pickled(&entry.name)) {
        match name(&entry.name) {
            Ok(name) => entry.name = name,
            Err(problem) => problems.push(format!("the key {}: {problem}", entry.name)),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The key of a tensor of that name.
pub(crate) fn encode(name: &str) -> String {
    URL_SAFE.encode(pickle::key(name))
}

/// Whether a name begins as the base64 of a pickle does, a byte 0x80 and a protocol from 2 to 5, and
/// has no dot, as every name of a parameter has.
fn is_pickled(name: &str) -> bool {
    let rest = name.strip_prefix("gA").unwrap_or_default();
    matches!(rest.bytes().next(), Some(b'I'..=b'X')) && !name.contains('.')
}

fn name(key: &str) -> Result<String, String> {
    let bytes = URL_SAFE.decode(key).map_err(|error| format!("it is no base64: {error}"))?;
    let pickle = Pickle::parse(&bytes, &[])?;
    let other = || "expected the pickle of ((names, …), is_pickled)".to_owned();
    let Node::Tuple(pair) = pickle.root() else { return Err(other()) };
    let [names, flag] = **pair else { return Err(other()) };
    let names = pickle.tuple(names).ok_or_else(other)?;
    let names: Option<Vec<&str>> = names.iter().map(|&name| pickle.text(name)).collect();
    let name = names.filter(|names| !names.is_empty()).ok_or_else(other)?.join(".");
    match pickle.node(flag) {
        Node::Bool(false) => Ok(name),
        Node::Bool(true) => Err(format!("{name} is a pickled value, expected a tensor")),
        _ => Err(other()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_ai2_olmo_and_come_back() {
        let key = "gASVHwAAAAAAAACMFnRyYW5zZm9ybWVyLnd0ZS53ZWlnaHSUhZSJhpQu";
        assert_eq!(name(key).unwrap(), "transformer.wte.weight");
        assert_eq!(encode("transformer.wte.weight"), key);
        let long = "x".repeat(300);
        assert_eq!(name(&encode(&long)).unwrap(), long);
    }

    #[test]
    fn keys_that_are_something_else_are_refused() {
        // `encode_key` of `STKey(("state", "step"), True)`.
        let pickled = "gASVFAAAAAAAAACMBXN0YXRllIwEc3RlcJSGlIiGlC4=";
        assert!(name(pickled).unwrap_err().contains("state.step is a pickled value"));
        // A pickle that calls `os.system`.
        let call = URL_SAFE.encode(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.");
        assert!(is_pickled(&call));
        assert!(name(&call).unwrap_err().contains("os.system"));
        assert!(name("gAS*").unwrap_err().contains("base64"));
        assert!(!is_pickled("gASp.weight"));
    }
}
