//! The sharded checkpoints of the trainers: tensors in pieces, in the files of many processes.
//!
//! | where | what |
//! |---|---|
//! | `model_and_optim/.metadata`, or `.metadata` | torch's distributed checkpoint: OLMo-core's, and ai2-olmo's `torch_new` |
//! | `model/rank0.pt`, … | ai2-olmo's `local`: the flat parameters of FSDP; the optimizer's in `optim` |
//! | `rank0.pt`, … | ai2-olmo's `torch_legacy`: sharded tensors, with everything else |
//! | `model/metadata.json`, `optim/metadata.json` | ai2-olmo's `olmo_core`: rows of elements in safetensors |
//!
//! Only the places of tensors are read, those of the model or those of the optimizer.
//! A piece may be a block of a tensor, such as half of its columns, and then is a run for each row.
//! A file that ends before the last piece that a `.metadata` places in it, whosever that is, is told of.

mod distcp;
mod flat;
mod legacy;
mod listed;

pub(crate) use legacy::{GLOBALS as LEGACY_GLOBALS, TRAINER_GLOBALS};

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::Path;

use crate::error::FolderProblem;
use crate::header::{Entry as FileEntry, HeaderError};
use crate::pickle::{Global, MAX_LIST_BYTES};
use crate::shards::leads_out;
use crate::torch_file::{self, Reader};
use crate::values::{Piece, read_exact_at};

/// The most runs of elements that a checkpoint may be cut into.
const MAX_PIECES: usize = 1 << 23;

/// What a checkpoint holds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Names of the files in the folder.
    pub(crate) files: Vec<String>,
    pub(crate) tensors: Vec<Tensor>,
}

/// A tensor in pieces, which are in the order of its elements and without gaps.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// As in safetensors.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) pieces: Vec<Piece>,
}

/// Finds a sharded checkpoint in a folder; `None` where there is none. What is wrong with it is
/// added to `problems`.
pub(crate) fn open(dir: &Path, problems: &mut Vec<FolderProblem>) -> Option<Found> {
    let there = |name: &str| dir.join(name).symlink_metadata().is_ok();
    if there("model_and_optim/.metadata") {
        Some(distcp::open(dir, "model_and_optim/", distcp::MODEL, problems))
    } else if there(".metadata") {
        Some(distcp::open(dir, "", distcp::MODEL, problems))
    } else if there("model/rank0.pt") {
        Some(flat::open(dir, problems))
    } else if listed::is_there(dir, listed::MODEL) {
        Some(listed::open(dir, problems))
    } else if there("rank0.pt") {
        Some(legacy::open(dir, problems))
    } else {
        None
    }
}

/// How a sharded checkpoint has the state of the optimizer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OptimizerForm {
    /// With the model, in a distributed checkpoint of torch.
    Distributed,
    /// As ai2-olmo-core 0.1 writes it.
    Listed,
    /// As ai2-olmo's `local` has it.
    Flat,
    /// With everything else, as ai2-olmo's `torch_legacy` has it.
    Legacy,
}

impl OptimizerForm {
    /// Finds it in a folder.
    pub(crate) fn find(dir: &Path) -> Option<Self> {
        let there = |name: &str| dir.join(name).symlink_metadata().is_ok();
        if there("model_and_optim/.metadata") {
            Some(Self::Distributed)
        } else if listed::is_there(dir, listed::OPTIMIZER) {
            Some(Self::Listed)
        } else if there("optim/rank0.pt") {
            Some(Self::Flat)
        } else {
            there("rank0.pt").then_some(Self::Legacy)
        }
    }

    /// Where in the folder it is: a folder in it, or the first of its files.
    pub(crate) fn place(self) -> &'static str {
        match self {
            Self::Distributed => "model_and_optim",
            Self::Listed | Self::Flat => "optim",
            Self::Legacy => "rank0.pt",
        }
    }

    /// Its tensors, `PARAMETER.NAME` by their names. What is wrong with it is added to `problems`.
    pub(crate) fn open(self, dir: &Path, problems: &mut Vec<FolderProblem>) -> Found {
        match self {
            Self::Distributed => distcp::open(dir, "model_and_optim/", distcp::OPTIMIZER, problems),
            Self::Listed => listed::open_optimizer(dir, problems),
            Self::Flat => flat::open_optimizer(dir, problems),
            Self::Legacy => legacy::open_optimizer(dir, problems),
        }
    }
}

/// Part of a tensor: a block of it, in a file where its rows follow each other.
struct Block {
    offsets: Vec<usize>,
    sizes: Vec<usize>,
    file: usize,
    start: u64,
}

impl Block {
    /// Adds the runs of elements that a block is in a tensor of that shape.
    fn runs(&self, shape: &[usize], n_bytes: usize, runs: &mut Vec<Piece>) -> Result<(), String> {
        let fits = self.offsets.len() == shape.len()
            && self.sizes.len() == shape.len()
            && (self.offsets.iter().zip(&self.sizes).zip(shape)).all(
                |((&offset, &size), &whole)| {
                    offset.checked_add(size).is_some_and(|end| end <= whole)
                },
            );
        if !fits {
            let Self { offsets, sizes, .. } = self;
            return Err(format!("has a piece of {sizes:?} at {offsets:?} in a shape of {shape:?}"));
        }
        // Dimensions after the last that is cut are whole, so that their elements follow each other.
        let cut = (0..shape.len()).rev().find(|&axis| self.sizes[axis] != shape[axis]).unwrap_or(0);
        let inner: usize = self.sizes[cut.min(shape.len())..].iter().product();
        let outer: usize = self.sizes[..cut].iter().product();
        if inner == 0 || outer == 0 {
            return Ok(());
        }
        if runs.len().saturating_add(outer) > MAX_PIECES {
            return Err(format!("is in more than {MAX_PIECES} pieces; unshard it in its trainer"));
        }
        let mut strides = vec![1_usize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        for index in 0..outer {
            // The place of the run among the leading dimensions, the last of them running fastest.
            let (mut rest, mut first) = (index, 0);
            for axis in (0..cut).rev() {
                first += (self.offsets[axis] + rest % self.sizes[axis]) * strides[axis];
                rest /= self.sizes[axis];
            }
            first += shape.get(cut).map_or(0, |_| self.offsets[cut] * strides[cut]);
            let start = self.start + (index * inner * n_bytes) as u64;
            runs.push(Piece { first, n_elements: inner, file: self.file, start });
        }
        Ok(())
    }
}

impl Tensor {
    /// Joins pieces; what is there twice, as in replicas, is taken once.
    fn join(
        name: String,
        dtype: String,
        shape: Vec<usize>,
        mut pieces: Vec<Piece>,
    ) -> Result<Self, String> {
        let n_elements = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
        let n_elements = n_elements.ok_or_else(|| format!("{name} is too large for any file"))?;
        pieces.retain(|piece| piece.n_elements > 0);
        pieces.sort_unstable();
        pieces.dedup_by_key(|piece| (piece.first, piece.n_elements));
        let mut end = 0;
        for piece in &pieces {
            if piece.first != end {
                break;
            }
            end += piece.n_elements;
        }
        if end != n_elements {
            return Err(
                match pieces
                    .iter()
                    .find(|piece| piece.first < end && piece.first + piece.n_elements > end)
                {
                    Some(_) => format!("{name} has pieces that overlap at element {end}"),
                    None => {
                        format!("{name} has {n_elements} elements, and element {end} is in no file")
                    }
                },
            );
        }
        Ok(Self { name, dtype, shape, pieces })
    }
}

/// A tensor as one process has it; without pieces it is of no dtype.
struct Part {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    pieces: Vec<Piece>,
}

impl Part {
    /// All of a tensor in one file.
    fn whole(entry: FileEntry, file: usize) -> Self {
        let (first, n_elements) = (0, entry.n_elements());
        let pieces = vec![Piece { first, n_elements, file, start: entry.start }];
        Self { name: entry.name, dtype: entry.dtype, shape: entry.shape, pieces }
    }

    /// Takes the dtype of pieces that are to come, which must be that of those that are there.
    fn take_dtype(&mut self, dtype: String) -> Result<(), String> {
        if !self.pieces.is_empty() && self.dtype != dtype {
            let (name, other) = (self.name.escape_debug(), &self.dtype);
            return Err(format!("{name} is {dtype} there and {other} in another piece of it"));
        }
        self.dtype = dtype;
        Ok(())
    }

    /// Adds what another process has of the same tensor.
    fn add(&mut self, other: Self) -> Result<(), String> {
        if self.shape != other.shape {
            let (name, found, first) = (self.name.escape_debug(), &other.shape, &self.shape);
            return Err(format!("{name} is of shape {found:?} there and {first:?} elsewhere"));
        }
        if !other.pieces.is_empty() {
            self.take_dtype(other.dtype)?;
            self.pieces.extend(other.pieces);
        }
        Ok(())
    }
}

/// Joins what all processes have, unless their files could not be read.
fn join(
    files: Vec<String>,
    parts: impl Iterator<Item = Part>,
    problems: &mut Vec<FolderProblem>,
) -> Found {
    let mut found = Found { files, tensors: Vec::new() };
    let mut by_name: BTreeMap<String, Part> = BTreeMap::new();
    for part in parts {
        match by_name.entry(part.name.clone()) {
            Entry::Vacant(entry) => drop(entry.insert(part)),
            Entry::Occupied(mut entry) => {
                let file = part.pieces.first().and_then(|piece| found.files.get(piece.file));
                let file = file.or(found.files.last()).cloned().unwrap_or_default();
                if let Err(problem) = entry.get_mut().add(part) {
                    problems.push(FolderProblem::Damaged { file, problem });
                }
            }
        }
    }
    if !problems.is_empty() {
        return found;
    }
    for Part { name, dtype, shape, pieces } in by_name.into_values() {
        match Tensor::join(name, dtype, shape, pieces) {
            Ok(tensor) => found.tensors.push(tensor),
            Err(problem) => {
                let file = found.files.last().cloned().unwrap_or_default();
                problems.push(FolderProblem::Damaged { file, problem });
            }
        }
    }
    found
}

/// Bytes of an element of a dtype as safetensors names it, where it is one that torch files have.
fn element_size(dtype: &str) -> usize {
    match dtype {
        "F64" | "I64" => 8,
        "F32" | "I32" => 4,
        "F16" | "BF16" | "I16" => 2,
        _ => 1,
    }
}

/// Opens a file that must be in the folder and no link out of it, and lets `take` read it.
fn with_file<T>(
    dir: &Path,
    name: &str,
    problems: &mut Vec<FolderProblem>,
    take: impl FnOnce(&File) -> Result<T, HeaderError>,
) -> Option<T> {
    let damaged = |problem| FolderProblem::Damaged { file: name.to_owned(), problem };
    if let Some(target) = leads_out(dir, name) {
        let target = target.display().to_string();
        problems.push(FolderProblem::Link { file: name.to_owned(), target });
        return None;
    }
    let opened = File::open(dir.join(name)).map_err(HeaderError::Io);
    match opened.and_then(|file| take(&file)) {
        Ok(taken) => return Some(taken),
        Err(HeaderError::Io(error)) => problems.push(FolderProblem::unreadable(name, &error)),
        Err(HeaderError::Problems(found)) => problems.extend(found.into_iter().map(damaged)),
    }
    None
}

/// The bytes of a file that lists what is in others.
fn read_list(dir: &Path, name: &str, problems: &mut Vec<FolderProblem>) -> Option<Vec<u8>> {
    with_file(dir, name, problems, |file| {
        let n_bytes = file.metadata()?.len();
        if n_bytes > MAX_LIST_BYTES as u64 {
            let text = format!("it has {n_bytes} bytes, expected at most {MAX_LIST_BYTES}");
            return Err(HeaderError::Problems(vec![text]));
        }
        let mut bytes = vec![0; n_bytes as usize];
        read_exact_at(file, &mut bytes, 0)?;
        Ok(bytes)
    })
}

/// Reads `rank0.pt`, `rank1.pt`, … of a folder, as far as they follow each other.
fn each_rank<T>(
    dir: &Path,
    folder: &str,
    globals: &[&[Global]],
    problems: &mut Vec<FolderProblem>,
    take: impl Fn(usize, &Reader<'_>) -> Result<T, Vec<String>>,
) -> (Vec<String>, Vec<T>) {
    let (mut files, mut taken) = (Vec::new(), Vec::new());
    loop {
        let name = format!("{folder}rank{}.pt", files.len());
        if dir.join(&name).symlink_metadata().is_err() {
            return (files, taken);
        }
        let index = files.len();
        let read = |file: &File| {
            let length = file.metadata()?.len();
            torch_file::read_with(file, 0, length, globals, |reader| take(index, reader))
        };
        taken.extend(with_file(dir, &name, problems, read));
        files.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(shape: &[usize], offsets: &[usize], sizes: &[usize]) -> Result<Vec<Piece>, String> {
        let block = Block { offsets: offsets.to_vec(), sizes: sizes.to_vec(), file: 0, start: 100 };
        let mut runs = Vec::new();
        block.runs(shape, 2, &mut runs)?;
        Ok(runs)
    }

    fn piece(first: usize, n_elements: usize, start: u64) -> Piece {
        Piece { first, n_elements, file: 0, start }
    }

    #[test]
    fn blocks_are_runs_of_elements() {
        assert_eq!(runs(&[], &[], &[]).unwrap(), [piece(0, 1, 100)]);
        assert_eq!(runs(&[6], &[2], &[3]).unwrap(), [piece(2, 3, 100)]);
        assert_eq!(runs(&[4, 3], &[1, 0], &[2, 3]).unwrap(), [piece(3, 6, 100)]);
        // Two of three columns.
        let columns = [piece(1, 2, 100), piece(4, 2, 104), piece(7, 2, 108), piece(10, 2, 112)];
        assert_eq!(runs(&[4, 3], &[0, 1], &[4, 2]).unwrap(), columns);
        let inner = runs(&[2, 3, 4], &[1, 1, 2], &[1, 2, 2]).unwrap();
        assert_eq!(inner, [piece(18, 2, 100), piece(22, 2, 104)]);
        assert_eq!(
            runs(&[2, 3, 4], &[0, 1, 0], &[2, 2, 4]).unwrap(),
            [piece(4, 8, 100), piece(16, 8, 116)]
        );
        assert_eq!(runs(&[4, 3], &[4, 0], &[0, 3]).unwrap(), []);
        for (offsets, sizes) in [([3, 0], [2, 3]), ([0, usize::MAX], [4, 3])] {
            assert!(runs(&[4, 3], &offsets, &sizes).unwrap_err().contains("[4, 3]"));
        }
        assert!(runs(&[4, 3], &[0], &[4]).is_err());
        assert!(runs(&[1 << 30, 2], &[0, 0], &[1 << 30, 1]).unwrap_err().contains("pieces"));
    }

    #[test]
    fn pieces_must_make_a_tensor() {
        let join =
            |pieces: &[Piece]| Tensor::join("w".into(), "F32".into(), vec![2, 3], pieces.to_vec());
        let whole =
            join(&[piece(4, 2, 0), piece(0, 4, 8), piece(4, 2, 99), piece(2, 0, 0)]).unwrap();
        assert_eq!(whole.pieces, [piece(0, 4, 8), piece(4, 2, 0)]);
        assert!(join(&[piece(0, 4, 0)]).unwrap_err().contains("element 4 is in no file"));
        assert!(join(&[]).unwrap_err().contains("element 0 is in no file"));
        assert!(
            join(&[piece(0, 4, 0), piece(3, 3, 0)]).unwrap_err().contains("overlap at element 4")
        );
        assert!(join(&[piece(0, 7, 0)]).is_err());
    }

    #[test]
    fn processes_must_agree_on_dtype_and_shape() {
        let part = |dtype: &str, columns: usize, pieces: &[Piece]| Part {
            name: "w".into(),
            dtype: dtype.into(),
            shape: vec![2, columns],
            pieces: pieces.to_vec(),
        };
        let join_with = |second: Part| {
            let first = part("F32", 3, &[piece(0, 4, 0)]);
            // Of no dtype, as whoever has none of the tensor.
            let empty = part("", 3, &[]);
            let (files, mut problems) = (vec!["rank0.pt".into(), "rank1.pt".into()], Vec::new());
            let found = join(files, [empty, first, second].into_iter(), &mut problems);
            let dtypes: Vec<String> = found.tensors.into_iter().map(|found| found.dtype).collect();
            (dtypes, problems.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let rest = [Piece { first: 4, n_elements: 2, file: 1, start: 0 }];
        assert_eq!(join_with(part("F32", 3, &rest)), (vec!["F32".into()], vec![]));
        let (found, problems) = join_with(part("BF16", 3, &rest));
        assert_eq!(problems, ["rank1.pt: w is BF16 there and F32 in another piece of it"]);
        assert!(found.is_empty());
        let (_, problems) = join_with(part("F32", 2, &rest));
        assert_eq!(problems, ["rank1.pt: w is of shape [2, 2] there and [2, 3] elsewhere"]);
        // The shards of one process, whose dtype is taken before their pieces.
        let mut shards = part("", 3, &[]);
        shards.take_dtype("F32".into()).unwrap();
        shards.pieces.push(piece(0, 4, 0));
        assert!(shards.take_dtype("F16".into()).unwrap_err().contains("w is F16 there and F32"));
        shards.take_dtype("F32".into()).unwrap();
    }
}
