//! torch's distributed checkpoints: `.metadata`, a pickle that lists every piece of every tensor,
//! and `*.distcp` files, in which each piece is a torch file of its own.
//!
//! Sources: `torch/distributed/checkpoint/metadata.py` and `filesystem.py` of torch 2.9;
//! `olmo_core/distributed/checkpoint/filesystem.py` of ai2-olmo-core 2.4. Both write the same; the
//! names of the model's tensors begin with `model.`, those of the optimizer's with `optim.state.`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use rayon::prelude::*;

use super::{Block, Found, MAX_PIECES, Tensor, element_size, read_list, with_file};
use crate::error::FolderProblem;
use crate::header::HeaderError;
use crate::pickle::{Global, Id, ORDERED_DICT, Pickle};
use crate::shards::is_plain_name;
use crate::torch_file;

/// What a `.metadata` may name. Classes are told by their places in this list.
const GLOBALS: &[Global] = &[
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "BytesStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    // Where torch 2.0 and 2.1 have them.
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"),
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("olmo_core.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch", "float32"),
    ("torch", "float16"),
    ("torch", "bfloat16"),
    ("torch", "float64"),
    ("torch", "int64"),
    ("torch", "int32"),
    ("torch", "int16"),
    ("torch", "int8"),
    ("torch", "uint8"),
    ("torch", "bool"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ORDERED_DICT,
];

const METADATA: usize = 0;
const TENSOR: usize = 1;
const INDEX: usize = 2;

/// What every name of a tensor of the model begins with.
pub(super) const MODEL: &str = "model.";
/// What every name of a tensor of the optimizer begins with.
pub(super) const OPTIMIZER: &str = "optim.state.";

/// Reads those tensors of the checkpoint in the folder `inside` of `dir` whose names begin with `prefix`.
pub(super) fn open(
    dir: &Path,
    inside: &str,
    prefix: &str,
    problems: &mut Vec<FolderProblem>,
) -> Found {
    let metadata = format!("{inside}.metadata");
    let Some(bytes) = read_list(dir, &metadata, problems) else { return Found::default() };
    let listed = list(&bytes, prefix);
    drop(bytes);
    let Listed { files, ends, tensors } = match listed {
        Ok(listed) => listed,
        Err(problem) => {
            problems.push(FolderProblem::Damaged { file: metadata, problem });
            return Found::default();
        }
    };
    if let Some(file) = files.iter().find(|file| !is_plain_name(file)) {
        problems.push(FolderProblem::EscapingFile { file: file.clone() });
        return Found::default();
    }
    let files: Vec<String> = files.iter().map(|file| format!("{inside}{file}")).collect();
    let n_problems = problems.len();
    problems.extend(files.iter().zip(ends).filter_map(|(file, end)| cut_short(dir, file, end)));
    if problems.len() > n_problems {
        return Found::default();
    }
    let read: Vec<Result<Tensor, Vec<FolderProblem>>> =
        tensors.into_par_iter().map(|tensor| tensor.read(dir, &files)).collect();
    let mut found = Found { files, tensors: Vec::new() };
    for tensor in read {
        match tensor {
            Ok(tensor) => found.tensors.push(tensor),
            // A file that is not there is told once, not for each of its pieces.
            Err(others) => {
                let new = others.into_iter().filter(|problem| !problems.contains(problem));
                problems.extend(new.collect::<Vec<_>>());
            }
        }
    }
    found
}

/// What is wrong with a file that ends before `end`, where the list places the last of its pieces,
/// which may be the optimizer's.
fn cut_short(dir: &Path, file: &str, end: u64) -> Option<FolderProblem> {
    let n_bytes = fs::metadata(dir.join(file)).ok()?.len();
    (n_bytes < end).then(|| FolderProblem::Damaged {
        file: file.to_owned(),
        problem: format!(
            "it has {n_bytes} bytes, and pieces up to byte {end} by the list: it is cut short"
        ),
    })
}

/// What a `.metadata` says of the model.
struct Listed {
    files: Vec<String>,
    /// Where the last piece of anything in each file ends.
    ends: Vec<u64>,
    tensors: Vec<ListedTensor>,
}

struct ListedTensor {
    name: String,
    shape: Vec<usize>,
    pieces: Vec<ListedPiece>,
}

struct ListedPiece {
    offsets: Vec<usize>,
    sizes: Vec<usize>,
    file: usize,
    /// Where its torch file begins, and how long it is.
    start: u64,
    n_bytes: u64,
}

/// Where pieces are, by the name of the tensor and their offsets in it.
#[derive(Default)]
struct Places<'a> {
    pieces: HashMap<(&'a str, Vec<u64>), (&'a str, u64, u64)>,
    /// Where the last piece of each file ends, also of what is not asked for.
    ends: HashMap<&'a str, u64>,
}

fn list(bytes: &[u8], prefix: &str) -> Result<Listed, String> {
    let pickle = Pickle::parse_list(bytes, GLOBALS)?;
    let other = || "it is no Metadata of torch.distributed.checkpoint".to_owned();
    let root = pickle.root_id();
    let is_metadata = pickle.call(root).is_some_and(|(class, _)| class == METADATA);
    let attribute = |name: &str| pickle.attribute(root, name).filter(|_| is_metadata);
    let tensors =
        attribute("state_dict_metadata").and_then(|id| pickle.dict(id)).ok_or_else(other)?;
    let places = attribute("storage_data").and_then(|id| pickle.dict(id)).ok_or_else(other)?;
    let places = read_places(&pickle, places, prefix)?;
    let mut listed = Listed { files: Vec::new(), ends: Vec::new(), tensors: Vec::new() };
    let mut files = HashMap::new();
    let mut n_pieces = 0;
    for &(name, value) in tensors {
        let Some(full_name) = pickle.text(name) else { return Err(other()) };
        let is_tensor = pickle.call(value).is_some_and(|(class, _)| class == TENSOR);
        let Some(name) = full_name.strip_prefix(prefix).filter(|_| is_tensor) else { continue };
        let mut file = |file: &str| {
            *files.entry(file.to_owned()).or_insert_with(|| {
                listed.files.push(file.to_owned());
                listed.ends.push(places.ends.get(file).copied().unwrap_or(0));
                listed.files.len() - 1
            })
        };
        let tensor = read_tensor(&pickle, full_name, value, &places, &mut file)?;
        n_pieces += tensor.pieces.len();
        if n_pieces > MAX_PIECES {
            return Err(format!("it lists more than {MAX_PIECES} pieces"));
        }
        listed.tensors.push(ListedTensor { name: name.to_owned(), ..tensor });
    }
    if listed.tensors.is_empty() {
        let first: Vec<&str> =
            tensors.iter().filter_map(|&(name, _)| pickle.text(name)).take(3).collect();
        return Err(format!(
            "none of its names begins with {prefix}, as those of the trainers' checkpoints do; the \
             first are {}",
            first.join(", ").escape_debug()
        ));
    }
    Ok(listed)
}

fn read_places<'a>(
    pickle: &Pickle<'a>,
    pairs: &[(Id, Id)],
    prefix: &str,
) -> Result<Places<'a>, String> {
    let mut places = Places::default();
    for &(index, info) in pairs {
        let text = |object: Id, name: &str| pickle.text(pickle.attribute(object, name)?);
        let size = |object: Id, name: &str| pickle.size(pickle.attribute(object, name)?);
        let is_index = pickle.call(index).is_some_and(|(class, _)| class == INDEX);
        let name = text(index, "fqn").filter(|_| is_index);
        let name = name.ok_or("it has a place of what is no MetadataIndex")?;
        let place = (|| {
            Some((text(info, "relative_path")?, size(info, "offset")?, size(info, "length")?))
        })();
        if let Some((file, start, n_bytes)) = place {
            let end = places.ends.entry(file).or_default();
            *end = start.saturating_add(n_bytes).max(*end);
        }
        if !name.starts_with(prefix) {
            continue;
        }
        // Pickled objects have none.
        let offset = pickle.attribute(index, "offset").and_then(|id| pickle.sizes(id));
        let Some(offset) = offset else { continue };
        let place = place.ok_or_else(|| format!("{name} has a place that is no _StorageInfo"))?;
        places.pieces.insert((name, offset), place);
    }
    Ok(places)
}

fn read_tensor(
    pickle: &Pickle<'_>,
    name: &str,
    id: Id,
    places: &Places<'_>,
    file: &mut impl FnMut(&str) -> usize,
) -> Result<ListedTensor, String> {
    let shown = name.escape_debug().to_string();
    let odd = || format!("{shown} has no size or chunks as torch writes them");
    let sizes = |object: Id, what: &str| {
        pickle.attribute(object, what).and_then(|id| pickle.sizes(id)).ok_or_else(odd)
    };
    let narrow = |sizes: &[u64]| sizes.iter().map(|&size| size as usize).collect::<Vec<_>>();
    let shape = narrow(&sizes(id, "size")?);
    let chunks = pickle.attribute(id, "chunks").and_then(|id| pickle.items(id)).ok_or_else(odd)?;
    let mut pieces = Vec::new();
    for &chunk in chunks {
        let (offsets, sizes) = (sizes(chunk, "offsets")?, sizes(chunk, "sizes")?);
        if sizes.contains(&0) {
            continue;
        }
        let place = places.pieces.get(&(name, offsets.clone()));
        let (path, start, n_bytes) = *place
            .ok_or_else(|| format!("{shown} has a piece at {offsets:?} that is in no file"))?;
        let (offsets, sizes) = (narrow(&offsets), narrow(&sizes));
        pieces.push(ListedPiece { offsets, sizes, file: file(path), start, n_bytes });
    }
    Ok(ListedTensor { name: String::new(), shape, pieces })
}

impl ListedTensor {
    /// Looks at the pieces themselves.
    fn read(self, dir: &Path, files: &[String]) -> Result<Tensor, Vec<FolderProblem>> {
        let Self { name, shape, pieces } = self;
        let mut problems = Vec::new();
        let (mut runs, mut dtypes) = (Vec::new(), HashSet::new());
        for piece in pieces {
            let file = &files[piece.file];
            let ListedPiece { offsets, sizes, start, n_bytes, .. } = piece;
            let taken = with_file(dir, file, &mut problems, |opened| {
                let wrong = |what: String| HeaderError::Problems(vec![format!("{name} {what}")]);
                let length = opened.metadata()?.len();
                if start.checked_add(n_bytes).is_none_or(|end| end > length) {
                    let what = format!("would end after byte {length}, where the file ends");
                    return Err(wrong(what));
                }
                let entries = torch_file::read(opened, start, n_bytes)?;
                let [entry] = &entries[..] else {
                    return Err(wrong("is not one tensor there".to_owned()));
                };
                if entry.shape != sizes {
                    let found = &entry.shape;
                    return Err(wrong(format!("has a piece of {found:?}, expected {sizes:?}")));
                }
                let block = Block { offsets, sizes, file: piece.file, start: entry.start };
                block.runs(&shape, element_size(&entry.dtype), &mut runs).map_err(wrong)?;
                Ok(entry.dtype.clone())
            });
            dtypes.extend(taken);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let damaged = |problem: String| {
            let file = files.first().cloned().unwrap_or_default();
            vec![FolderProblem::Damaged { file, problem }]
        };
        let mut dtypes = dtypes.into_iter();
        match (dtypes.next(), dtypes.next()) {
            (Some(dtype), None) => Tensor::join(name, dtype, shape, runs).map_err(damaged),
            (None, _) => Err(damaged(format!("{name} has no pieces"))),
            _ => Err(damaged(format!("{name} has pieces of different dtypes"))),
        }
    }
}
