//! Documents by their end-of-text token: in a file, and in an instance.

use std::ops::Range;

use crate::Result;
use crate::token_file::TokenFile;

/// Tokens looked at in one go.
const CHUNK: usize = 1 << 16;

/// The tokens of each document of a file, its end token included.
///
/// # Errors
///
/// Those of reading the file.
pub fn document_ranges(file: &TokenFile, eos_token_id: u32) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut tokens = vec![0; CHUNK];
    let (mut start, mut at) = (0, 0);
    while at < file.len() {
        let tokens = &mut tokens[..CHUNK.min(file.len() - at)];
        file.read_into(at, tokens)?;
        for (i, _) in tokens.iter().enumerate().filter(|&(_, &token)| token == eos_token_id) {
            let end = (at + i + 1) as u64;
            ranges.push(start..end);
            start = end;
        }
        at += tokens.len();
    }
    Ok(ranges)
}

/// Lengths of the documents in an instance, which add up to its own; for masks that keep documents
/// from seeing each other. With a beginning-of-text token a document ends only where one follows.
pub fn document_lengths(
    input_ids: &[u32],
    eos_token_id: u32,
    bos_token_id: Option<u32>,
) -> Vec<u32> {
    let mut lengths = Vec::new();
    let mut start = 0;
    for (i, &token) in input_ids.iter().enumerate() {
        let last = i + 1 == input_ids.len();
        let ends = token == eos_token_id
            && bos_token_id.is_none_or(|bos| input_ids.get(i + 1).is_some_and(|&next| next == bos));
        if ends || last {
            lengths.push((i + 1 - start) as u32);
            start = i + 1;
        }
    }
    lengths
}
