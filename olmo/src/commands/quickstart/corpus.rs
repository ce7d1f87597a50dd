//! The quickstart's corpus: this project's own sources and documents, embedded by `build.rs`.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;

/// JSONL, one file a line, compressed.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/corpus.jsonl.gz"));

/// One file of this many is held out.
const HELD_OUT_EVERY: usize = 20;

/// Documents as JSONL, those to train on and those to measure on.
pub(super) struct Corpus {
    pub(super) train: String,
    pub(super) held_out: String,
}

impl Corpus {
    /// Unpacks the corpus and parts it.
    pub(super) fn embedded() -> Result<Self> {
        let mut text = String::new();
        GzDecoder::new(EMBEDDED).read_to_string(&mut text).context("the embedded corpus")?;
        let (mut train, mut held_out) = (String::new(), String::new());
        for (i, line) in text.split_inclusive('\n').enumerate() {
            let part = if i % HELD_OUT_EVERY == 7 { &mut held_out } else { &mut train };
            part.push_str(line);
        }
        Ok(Self { train, held_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_this_project_in_two_parts() {
        let Corpus { train, held_out } = Corpus::embedded().unwrap();
        assert!(train.contains("olmo/src/commands/quickstart/corpus.rs"));
        assert!(train.len() > 10 * held_out.len() && held_out.len() > 1000);
        for line in train.lines().chain(held_out.lines()) {
            let document: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(document["text"].is_string() && document["id"].is_string());
        }
    }
}
