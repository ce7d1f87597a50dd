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
use crate::values::Piece;

/// What the files may name besides plain tensors.
const GLOBALS: &[Global] = &[
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
    // Of the trainer's state.
    ("pathlib", "PosixPath"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
];

/// Reads the checkpoint of a folder.
pub(super) fn open(dir: &Path, problems: &mut Vec<FolderProblem>) -> Found {
    let (files, parts) = each_rank(dir, "", GLOBALS, problems, |rank, reader| {
        read(rank, reader).map_err(|problem| vec![problem])
    });
    join(files, parts.into_iter().flatten(), problems)
}

fn read(rank: usize, reader: &Reader<'_>) -> Result<Vec<Part>, String> {
    let pickle = reader.pickle;
    let model = pickle.entry(pickle.root_id(), "model").and_then(|id| pickle.dict(id));
    let model = model.ok_or("it has no model as ai2-olmo's torch_legacy checkpoints do")?;
    let part = |&(name, value): &(Id, Id)| {
        let name = pickle.text(name).ok_or("it has a name that is no text")?;
        if let Some((shape, shards)) = sharded_tensor(reader, value) {
            return shards_of(reader, rank, name, &shape, shards);
        }
        // Not every tensor is sharded.
        let entry = reader.tensor(name.to_owned(), value)?;
        let (first, n_elements) = (0, entry.n_elements());
        let pieces = vec![Piece { first, n_elements, file: rank, start: entry.start }];
        Ok(Part { name: entry.name, dtype: entry.dtype, shape: entry.shape, pieces })
    };
    model.iter().map(part).collect()
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
        block
            .runs(shape, element_size(&entry.dtype), &mut part.pieces)
            .map_err(|problem| format!("{name} {problem}"))?;
        part.dtype = entry.dtype;
    }
    Ok(part)
}
