//! ai2-olmo's `torch_legacy` checkpoints: each process's model, optimizer and trainer state in one
//! torch file, tensors as torch's `ShardedTensor`.
//!
//! Sources: ai2-olmo `olmo/checkpoint.py`, `TorchLegacyShardedCheckpointer`;
//! `torch/distributed/_shard/sharded_tensor/api.py` of torch 2.9. The trainer's state holds the
//! random states of Python and NumPy, so that their classes may be named; like all of the pickle
//! they are values here and never made.

use std::path::Path;

use super::{Block, Found, Part, each_rank, element_size, join};
use crate::error::FolderProblem;
use crate::pickle::{Global, Id};
use crate::torch_file::Reader;

/// What the files may name besides plain tensors and [`TRAINER_GLOBALS`].
pub(crate) const GLOBALS: &[Global] = &[
    ("torch", "Size"),
    ("torch", "device"),
    ("torch", "float32"),
    ("torch", "float16"),
    ("torch", "bfloat16"),
    ("torch.serialization", "_get_layout"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch._utils", "_rebuild_wrapper_subclass"),
    ("torch.distributed.remote_device", "_remote_device"),
    ("torch.distributed._shard.metadata", "ShardMetadata"),
    ("torch.distributed._shard.sharded_tensor.api", "ShardedTensor"),
    ("torch.distributed._shard.sharded_tensor.shard", "Shard"),
    ("torch.distributed._shard.sharded_tensor.metadata", "ShardedTensorMetadata"),
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"),
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"),
    ("torch.distributed._shard.sharding_spec.chunk_sharding_spec", "ChunkShardingSpec"),
    ("torch.distributed._shard.sharding_spec.api", "EnumerableShardingSpec"),
    // `getattr(ShardedTensor, "ProcessGroupState")`.
    ("__builtin__", "getattr"),
    ("builtins", "getattr"),
];

/// What the trainer's state may name, here and where it is in a file of its own: folders of checkpoints,
/// and states of random numbers.
pub(crate) const TRAINER_GLOBALS: &[Global] = &[
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
];

/// Reads the model of the checkpoint in a folder.
pub(super) fn open(dir: &Path, problems: &mut Vec<FolderProblem>) -> Found {
    open_with(dir, problems, |rank, reader| {
        let pickle = reader.pickle;
        let model = pickle.entry(pickle.root_id(), "model").and_then(|id| pickle.dict(id));
        let model = model.ok_or("it has no model as ai2-olmo's torch_legacy checkpoints do")?;
        let part = |&(name, value): &(Id, Id)| {
            let name = pickle.text(name).ok_or("it has a name that is no text")?;
            read(rank, reader, name.to_owned(), value)
        };
        model.iter().map(part).collect()
    })
}

/// Reads the state of the optimizer of the checkpoint in a folder, `PARAMETER.NAME` by its names.
pub(super) fn open_optimizer(dir: &Path, problems: &mut Vec<FolderProblem>) -> Found {
    open_with(dir, problems, |rank, reader| {
        let pickle = reader.pickle;
        let optimizer = pickle.entry(pickle.root_id(), "optim");
        let states = optimizer.and_then(|id| pickle.dict(pickle.entry(id, "state")?));
        let states = states.ok_or("it has no optim as ai2-olmo's torch_legacy checkpoints do")?;
        let mut parts = Vec::new();
        for &(name, state) in states {
            let name = pickle.text(name).ok_or("its optim is of a name that is no text")?;
            let state = pickle.dict(state).ok_or_else(|| format!("{name} has no dictionary"))?;
            for &(key, value) in state {
                let key = pickle.text(key);
                let key = key.ok_or_else(|| format!("{name} has a key that is no text"))?;
                // Plain numbers, and nothing, are not read here.
                if pickle.call(value).is_some() {
                    parts.push(read(rank, reader, format!("{name}.{key}"), value)?);
                }
            }
        }
        Ok(parts)
    })
}

fn open_with(
    dir: &Path,
    problems: &mut Vec<FolderProblem>,
    read: impl Fn(usize, &Reader<'_>) -> Result<Vec<Part>, String>,
) -> Found {
    let (files, parts) =
        each_rank(dir, "", &[GLOBALS, TRAINER_GLOBALS], problems, |rank, reader| {
            read(rank, reader).map_err(|problem| vec![problem])
        });
    join(files, parts.into_iter().flatten(), problems)
}

/// What a process has of a tensor.
fn read(rank: usize, reader: &Reader<'_>, name: String, value: Id) -> Result<Part, String> {
    if let Some((shape, shards)) = sharded_tensor(reader, value) {
        return shards_of(reader, rank, &name, &shape, shards);
    }
    // Not every tensor is sharded.
    let entry = reader.tensor(name, value)?;
    Ok(Part::whole(entry, rank))
}

/// The shape and the local shards of what `_rebuild_from_type_v2(…, …, …, state)` would make:
/// a `ShardedTensor`, whose state begins with its shards and its metadata.
fn sharded_tensor<'a>(reader: &'a Reader<'_>, id: Id) -> Option<(Vec<usize>, &'a [Id])> {
    let pickle = reader.pickle;
    let (_, arguments) = pickle.call(id)?;
    let [_, _, _, state] = *arguments else { return None };
    let [shards, metadata, ..] = *pickle.tuple(state)? else { return None };
    let shape = pickle.sizes(pickle.attribute(metadata, "size")?)?;
    let shape = shape.into_iter().map(|size| size as usize).collect();
    Some((shape, pickle.items(shards)?))
}

fn shards_of(
    reader: &Reader<'_>,
    rank: usize,
    name: &str,
    shape: &[usize],
    shards: &[Id],
) -> Result<Part, String> {
    let pickle = reader.pickle;
    let mut part =
        Part { name: name.to_owned(), dtype: String::new(), shape: shape.to_vec(), pieces: vec![] };
    for &shard in shards {
        let odd = || format!("{} has a shard that is not as torch writes it", name.escape_debug());
        let tensor = pickle.attribute(shard, "tensor").ok_or_else(odd)?;
        let metadata = pickle.attribute(shard, "metadata").ok_or_else(odd)?;
        let sizes = |what: &str| -> Option<Vec<usize>> {
            let sizes = pickle.sizes(pickle.attribute(metadata, what)?)?;
            Some(sizes.into_iter().map(|size| size as usize).collect())
        };
        let (offsets, sizes) = sizes("shard_offsets").zip(sizes("shard_sizes")).ok_or_else(odd)?;
        let entry = reader.tensor(name.to_owned(), tensor)?;
        if entry.shape != sizes {
            return Err(format!("{name} has a shard of {:?}, expected {sizes:?}", entry.shape));
        }
        let block = Block { offsets, sizes, file: rank, start: entry.start };
        let n_bytes = element_size(&entry.dtype);
        part.take_dtype(entry.dtype)?;
        block
            .runs(shape, n_bytes, &mut part.pieces)
            .map_err(|problem| format!("{name} {problem}"))?;
    }
    Ok(part)
}
