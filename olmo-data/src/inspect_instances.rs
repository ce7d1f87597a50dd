//! What instances of documents are, where they are more than one piece of a file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::Result;
use crate::document_bounds::{DocumentBound, DocumentBounds};
use crate::inspect::InspectedInstance;
use crate::instances::{InstancePart, Instances};
use crate::token_file::{TokenDtype, TokenFile};
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// A part's place in its file, and which instance's which part it is.
type Place = (Range<u64>, usize, usize);

/// What some instances are: where their tokens are from, documents, and the text where there is a
/// tokenizer.
///
/// # Errors
///
/// [`Error::InstanceIndex`](crate::Error::InstanceIndex) where an index is past the data; those of
/// reading a `.csv.gz` or the tokens.
pub fn describe_instances(
    instances: &dyn Instances,
    dtype: TokenDtype,
    indices: &[u32],
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<InspectedInstance>> {
    let parts: Vec<Vec<InstancePart<'_>>> =
        indices.iter().map(|&index| instances.parts(index as usize)).collect::<Result<_>>()?;
    let mut by_file: BTreeMap<&Path, Vec<Place>> = BTreeMap::new();
    for (row, parts) in parts.iter().enumerate() {
        for (number, part) in parts.iter().enumerate() {
            by_file.entry(part.path).or_default().push((part.tokens.clone(), row, number));
        }
    }
    let mut documents: Vec<Vec<Option<Vec<DocumentBound>>>> =
        parts.iter().map(|parts| vec![None; parts.len()]).collect();
    for (path, mut places) in by_file {
        places.sort_by_key(|(range, ..)| (range.start, range.end));
        let ranges: Vec<Range<u64>> = places.iter().map(|(range, ..)| range.clone()).collect();
        let n_tokens = TokenFile::open(path, dtype)?.len() as u64;
        let Some(bounds) = DocumentBounds::open(path, n_tokens)? else { continue };
        for ((_, row, number), found) in places.into_iter().zip(bounds.overlapping(&ranges)?) {
            documents[row][number] = Some(found);
        }
    }
    indices
        .iter()
        .zip(parts)
        .zip(documents)
        .map(|((&index, parts), documents)| {
            let text = match tokenizer {
                None => None,
                Some(tokenizer) => {
                    let tokens = instances.get(index as usize)?.input_ids;
                    Some(tokenizer.decode_lossy(&tokens, SpecialTokens::Keep)?)
                }
            };
            let first = parts.first();
            let byte_offset =
                |part: &InstancePart<'_>| part.tokens.start * dtype.item_bytes() as u64;
            let known: Vec<Vec<DocumentBound>> = documents.into_iter().flatten().collect();
            Ok(InspectedInstance {
                index,
                path: first.map(|part| part.path.display().to_string()).unwrap_or_default(),
                byte_offset: first.map_or(0, byte_offset),
                documents: (!known.is_empty()).then(|| known.concat()),
                text,
            })
        })
        .collect()
}
