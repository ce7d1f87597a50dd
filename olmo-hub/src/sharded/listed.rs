//! Checkpoints of ai2-olmo-core 0.1: `metadata.json`, which says what part of each tensor is in which
//! file, and `rank_0.safetensors`, `rank_1.safetensors`, …, in which each part is a row of elements.
//!
//! ai2-olmo's `olmo_core` checkpointer writes one such folder of the model's tensors, `model`, and one of
//! the optimizer's, `optim`, whose names are `state.PARAMETER.__NAME`. A part is told by ranges of the
//! tensor's elements, or by a shape and its offsets. Source: `olmo_core/distributed/checkpoint.py` of
//! ai2-olmo-core 0.1.0, which also reads lists that have the ranges of each file without more.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;

use super::{Block, Found, MAX_PIECES, Tensor, element_size, read_list, with_file};
use crate::error::FolderProblem;
use crate::header::{Entry, Header};
use crate::shards::is_plain_name;
use crate::values::Piece;

/// Name of the list.
const LIST: &str = "metadata.json";
/// Where the model's tensors are, and the optimizer's.
pub(super) const MODEL: &str = "model/";
pub(super) const OPTIMIZER: &str = "optim/";

/// Whether a folder of a checkpoint is of this form; the list or the first file may be missing.
pub(super) fn is_there(dir: &Path, inside: &str) -> bool {
    [LIST, "rank_0.safetensors"]
        .iter()
        .any(|name| dir.join(inside).join(name).symlink_metadata().is_ok())
}

/// Reads the model of the checkpoint in a folder.
pub(super) fn open(dir: &Path, problems: &mut Vec<FolderProblem>) -> Found {
    open_part(dir, MODEL, &|name| Some(name.to_owned()), problems)
}

/// Reads the state of the optimizer of the checkpoint in a folder, `PARAMETER.NAME` by its names; what
/// there is besides is pickled and passed over.
pub(super) fn open_optimizer(dir: &Path, problems: &mut Vec<FolderProblem>) -> Found {
    let rename = |name: &str| {
        let (parameter, key) = name.strip_prefix("state.")?.rsplit_once(".__")?;
        Some(format!("{parameter}.{key}"))
    };
    open_part(dir, OPTIMIZER, &rename, problems)
}

/// What a tensor is called here, if it is looked for.
type Rename<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads those tensors in the folder `inside` of `dir` that `rename` has a name for.
fn open_part(
    dir: &Path,
    inside: &str,
    rename: Rename<'_>,
    problems: &mut Vec<FolderProblem>,
) -> Found {
    let name = format!("{inside}{LIST}");
    let Some(text) = read_list(dir, &name, problems) else { return Found::default() };
    let damaged = |problem| FolderProblem::Damaged { file: name.clone(), problem };
    let list = match serde_json::from_slice::<List<'_>>(&text) {
        Ok(list) => list,
        Err(error) => {
            problems.push(damaged(format!(
                "it is not the list that ai2-olmo-core 0.1 writes: {error}"
            )));
            return Found::default();
        }
    };
    match list.read(dir, inside, rename, problems) {
        Ok(found) => found,
        Err(problem) => {
            problems.push(damaged(problem));
            Found::default()
        }
    }
}

/// `metadata.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List<'a> {
    #[serde(borrow)]
    tensors: BTreeMap<String, Listed<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed<'a> {
    shape: Vec<usize>,
    /// As safetensors names it.
    dtype: String,
    #[serde(rename = "is_sharded")]
    _is_sharded: bool,
    #[serde(borrow, default)]
    shard_spec_per_file: BTreeMap<&'a str, Spec>,
    /// What stood there before.
    #[serde(borrow, default)]
    flattened_offsets_per_file: BTreeMap<&'a str, Ranges>,
}

/// What part of a tensor is in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    /// The first element of each range, and the one after its last.
    flattened_offsets: Option<Vec<(usize, usize)>>,
    local_shape: Option<Vec<usize>>,
    global_offset: Option<Vec<usize>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ranges {
    One((usize, usize)),
    Many(Vec<(usize, usize)>),
}

impl List<'_> {
    fn read(
        self,
        dir: &Path,
        inside: &str,
        rename: Rename<'_>,
        problems: &mut Vec<FolderProblem>,
    ) -> Result<Found, String> {
        let mut parts = Vec::new();
        for (name, listed) in &self.tensors {
            let Some(new) = rename(name) else { continue };
            let shown = name.escape_debug();
            let n_elements = listed.shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
            let n_elements = n_elements.ok_or_else(|| format!("{shown} is too large"))?;
            for (file, part) in
                listed.parts(n_elements).map_err(|what| format!("{shown} {what}"))?
            {
                parts.push((name.as_str(), new.clone(), listed, file, part));
            }
        }
        if parts.is_empty() {
            return Err("it lists no tensors of what is looked for".to_owned());
        }
        let mut numbers = BTreeMap::new();
        for (.., file, _) in &parts {
            if !is_plain_name(file) {
                problems.push(FolderProblem::EscapingFile { file: (*file).to_owned() });
                return Ok(Found::default());
            }
            let next = numbers.len();
            numbers.entry(*file).or_insert(next);
        }
        let mut files = vec![String::new(); numbers.len()];
        for (file, number) in &numbers {
            files[*number] = format!("{inside}{file}");
        }
        let n_problems = problems.len();
        let headers = headers(dir, &files, problems);
        if problems.len() > n_problems {
            return Ok(Found::default());
        }
        let mut tensors: BTreeMap<&str, (String, &Listed<'_>, Vec<Piece>)> = BTreeMap::new();
        let mut n_pieces = 0;
        for (name, new, listed, file, part) in parts {
            let number = numbers[file];
            let found = part.find(name, listed, number, &headers[number]);
            let pieces = found.and_then(|pieces| {
                n_pieces += pieces.len();
                let most = format!("the checkpoint is in more than {MAX_PIECES} pieces");
                if n_pieces > MAX_PIECES { Err(most) } else { Ok(pieces) }
            });
            match pieces {
                Ok(pieces) => {
                    tensors.entry(name).or_insert((new, listed, Vec::new())).2.extend(pieces);
                }
                Err(problem) => {
                    problems.push(FolderProblem::Damaged { file: files[number].clone(), problem });
                    return Ok(Found::default());
                }
            }
        }
        let joined = tensors.into_values().map(|(name, Listed { dtype, shape, .. }, pieces)| {
            Tensor::join(name, dtype.clone(), shape.clone(), pieces)
        });
        let tensors = joined.collect::<Result<_, _>>()?;
        Ok(Found { files, tensors })
    }
}

/// The tensors of each file by their names.
fn headers(
    dir: &Path,
    files: &[String],
    problems: &mut Vec<FolderProblem>,
) -> Vec<HashMap<String, Entry>> {
    let read = files.par_iter().map(|file| {
        let mut problems = Vec::new();
        let header = with_file(dir, file, &mut problems, Header::read);
        let entries = header.map(|header| header.entries).unwrap_or_default();
        let by_name = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        (by_name, problems)
    });
    let read: Vec<(HashMap<String, Entry>, Vec<FolderProblem>)> = read.collect();
    read.into_iter()
        .map(|(entries, others)| {
            problems.extend(others);
            entries
        })
        .collect()
}

/// A part of a tensor in a file; it is not empty.
enum Part<'a> {
    Ranges(&'a [(usize, usize)]),
    Block { offsets: &'a [usize], sizes: &'a [usize] },
}

impl Listed<'_> {
    /// The parts of the tensor by their files.
    fn parts(&self, n_elements: usize) -> Result<Vec<(&str, Part<'_>)>, String> {
        let old = self.flattened_offsets_per_file.iter().map(|(file, ranges)| {
            let ranges = match ranges {
                Ranges::One(range) => std::slice::from_ref(range),
                Ranges::Many(ranges) => ranges,
            };
            Ok((*file, Part::Ranges(ranges)))
        });
        let new = self.shard_spec_per_file.iter().map(|(file, spec)| match spec {
            Spec { flattened_offsets: Some(ranges), local_shape: None, global_offset: None } => {
                Ok((*file, Part::Ranges(ranges)))
            }
            Spec {
                flattened_offsets: None,
                local_shape: Some(sizes),
                global_offset: Some(offsets),
            } => Ok((*file, Part::Block { offsets, sizes })),
            _ => Err(format!(
                "has a part in {} of which neither ranges nor a shape and its offsets are given",
                file.escape_debug()
            )),
        });
        let mut parts = Vec::new();
        for part in old.chain(new) {
            let (file, part) = part?;
            let is_empty = match &part {
                Part::Ranges(ranges) => {
                    if let Some(range) = ranges.iter().find(|(a, b)| a > b || *b > n_elements) {
                        return Err(format!("has {n_elements} elements, and a part at {range:?}"));
                    }
                    ranges.iter().all(|(first, end)| first == end)
                }
                Part::Block { sizes, .. } => sizes.contains(&0),
            };
            if !is_empty {
                parts.push((file, part));
            }
        }
        Ok(parts)
    }
}

impl Part<'_> {
    /// The pieces of the part in a file with these tensors.
    fn find(
        &self,
        name: &str,
        listed: &Listed<'_>,
        file: usize,
        entries: &HashMap<String, Entry>,
    ) -> Result<Vec<Piece>, String> {
        let shown = name.escape_debug();
        let entry = entries
            .get(name)
            .ok_or_else(|| format!("it has no {shown}, of which {LIST} places a part there"))?;
        if entry.dtype != listed.dtype {
            let (found, expected) = (&entry.dtype, &listed.dtype);
            return Err(format!("{shown} is {found} there and {expected} in {LIST}"));
        }
        let size = element_size(&entry.dtype);
        let mut pieces = Vec::new();
        match *self {
            Part::Ranges(ranges) => {
                let mut start = entry.start;
                for &(first, end) in ranges {
                    pieces.push(Piece { first, n_elements: end - first, file, start });
                    start += ((end - first) * size) as u64;
                }
            }
            Part::Block { offsets, sizes } => {
                let (offsets, sizes) = (offsets.to_vec(), sizes.to_vec());
                let block = Block { offsets, sizes, file, start: entry.start };
                block
                    .runs(&listed.shape, size, &mut pieces)
                    .map_err(|problem| format!("{shown} {problem}"))?;
            }
        }
        let expected = pieces.iter().try_fold(0_usize, |n, piece| n.checked_add(piece.n_elements));
        if entry.shape.len() != 1 || expected != Some(entry.n_elements()) {
            let (found, expected) = (&entry.shape, expected.unwrap_or(usize::MAX));
            return Err(format!("{shown} is {found:?} there, expected [{expected}] by {LIST}"));
        }
        Ok(pieces)
    }
}
