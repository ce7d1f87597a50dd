//! ai2-olmo's `local` checkpoints: each process's part of FSDP's flat parameters, as they are.
//!
//! A flat parameter is all parameters of a module one after another, cut into as many equal parts
//! as there are processes; `model/rank0.pt` says of each part what it holds. Source: ai2-olmo
//! `olmo/checkpoint.py`, `LocalShardedCheckpointer`, whose reader knows the fields of torch up to 2.0
//! and of torch from 2.1 on, as this one does.

use std::path::Path;

use super::{Found, MAX_PIECES, Part, each_rank, element_size, join};
use crate::error::FolderProblem;
use crate::pickle::{Global, Id};
use crate::torch_file::Reader;
use crate::values::Piece;

/// What the files may name besides tensors.
const GLOBALS: &[Global] = &[
    ("torch", "Size"),
    ("torch.distributed.fsdp.flat_param", "_ShardParamInfo"),
    ("torch.distributed.fsdp._flat_param", "_ShardParamInfo"),
];

/// Reads the checkpoint of a folder.
pub(super) fn open(dir: &Path, problems: &mut Vec<FolderProblem>) -> Found {
    let (files, parts) = each_rank(dir, "model/", GLOBALS, problems, |rank, reader| {
        Flat { reader, rank, parts: Vec::new() }.read().map_err(|problem| vec![problem])
    });
    join(files, parts.into_iter().flatten(), problems)
}

/// One process's file.
struct Flat<'a> {
    reader: &'a Reader<'a>,
    rank: usize,
    parts: Vec<Part>,
}

impl Flat<'_> {
    fn read(mut self) -> Result<Vec<Part>, String> {
        let pickle = self.reader.pickle;
        let other = || "it has no flat parameters as ai2-olmo's local checkpoints do".to_owned();
        let modules = pickle.entry(pickle.root_id(), "modules").and_then(|id| pickle.items(id));
        for &module in modules.ok_or_else(other)? {
            let name = pickle.entry(module, "name").and_then(|id| pickle.text(id));
            let handles = pickle.entry(module, "handles").and_then(|id| pickle.items(id));
            let (name, handles) = name.zip(handles).ok_or_else(other)?;
            for &handle in handles {
                self.handle(name, handle)?;
            }
        }
        Ok(self.parts)
    }

    /// The parts of a flat parameter.
    fn handle(&mut self, module: &str, handle: Id) -> Result<(), String> {
        let pickle = self.reader.pickle;
        let field = |name: &str| pickle.entry(handle, &format!("flat_param.{name}"));
        let lacks =
            |name: &str| format!("a flat parameter of {} lacks {name}", module.escape_debug());
        let data = field("data").ok_or_else(|| lacks("data"))?;
        let data = self.reader.tensor(format!("a flat parameter of {module}"), data)?;
        let items =
            |name: &str| field(name).and_then(|id| pickle.items(id)).ok_or_else(|| lacks(name));
        let (names, shapes) = (items("_fqns")?, items("_shapes")?);
        // Of each parameter here: its place in the lists, where it begins in the part, and the first
        // and the last of its elements that are in the part.
        let mut ranges = Vec::new();
        if let Some(indices) = field("_shard_indices") {
            let indices = pickle.sizes(indices).ok_or_else(|| lacks("_shard_indices"))?;
            let begin = *indices.first().ok_or_else(|| lacks("_shard_indices"))? as usize;
            let mut at = 0_u64;
            for (index, &range) in items("_shard_param_offsets")?.iter().enumerate() {
                let range = pickle.sizes(range).ok_or_else(|| lacks("_shard_param_offsets"))?;
                let [first, last] = range[..] else { return Err(lacks("_shard_param_offsets")) };
                ranges.push((begin.saturating_add(index), at, first, last));
                at = at.saturating_add(last.saturating_sub(first)).saturating_add(1);
            }
        } else {
            for (index, &info) in items("_shard_param_infos")?.iter().enumerate() {
                // In the part or not, its place there, its size there, first and last element.
                let fields = pickle.call(info).map_or(&[][..], |(_, fields)| fields);
                let sizes: Vec<Option<u64>> = fields.iter().map(|&id| pickle.size(id)).collect();
                match sizes[..] {
                    [_, Some(at), Some(_), Some(first), Some(last)] => {
                        ranges.push((index, at, first, last));
                    }
                    [_, None, None, None, None] => {}
                    _ => return Err(lacks("_shard_param_infos")),
                }
            }
        }
        for (index, at, first, last) in ranges {
            let name = names.get(index).and_then(|&id| pickle.text(id));
            let shape = shapes.get(index).and_then(|&id| pickle.sizes(id));
            let (name, shape) = name.zip(shape).ok_or_else(|| lacks("_fqns"))?;
            let name = if module.is_empty() { name.to_owned() } else { format!("{module}.{name}") };
            let n_there = data.n_elements() as u64;
            let n_elements = last.checked_sub(first).and_then(|n| n.checked_add(1));
            let fits = n_elements.filter(|&n| at.checked_add(n).is_some_and(|end| end <= n_there));
            let Some(n_elements) = fits else {
                return Err(format!(
                    "{name} is not in the {n_there} elements of its flat parameter"
                ));
            };
            if self.parts.len() == MAX_PIECES {
                return Err(format!("it has more than {MAX_PIECES} parts of parameters"));
            }
            let start = data.start + at * element_size(&data.dtype) as u64;
            let (dtype, file) = (data.dtype.clone(), self.rank);
            let shape = shape.into_iter().map(|size| size as usize).collect();
            let (first, n_elements) = (first as usize, n_elements as usize);
            let pieces = vec![Piece { first, n_elements, file, start }];
            self.parts.push(Part { name, dtype, shape, pieces });
        }
        Ok(())
    }
}
