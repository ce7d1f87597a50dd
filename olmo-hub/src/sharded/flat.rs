//! ai2-olmo's `local` checkpoints: each process's part of FSDP's flat parameters, as they are.
//!
//! A flat parameter is all parameters of a module one after another, cut into as many equal parts
//! as there are processes; `model/rank0.pt` says of each part what it holds. `optim/rank0.pt` is what the
//! process's optimizer has of the same parts, without saying of which elements: that the model's file
//! says. Source: ai2-olmo `olmo/checkpoint.py`, `LocalShardedCheckpointer`, whose reader knows the fields
//! of torch up to 2.0 and of torch from 2.1 on, as this one does.

use std::collections::HashMap;
use std::path::Path;

use super::{Found, MAX_PIECES, Part, each_rank, element_size, join};
use crate::error::FolderProblem;
use crate::layout::WRAPPER;
use crate::pickle::{Global, Id};
use crate::torch_file::Reader;
use crate::torch_optimizer;
use crate::values::Piece;

/// What the files may name besides tensors.
const GLOBALS: &[Global] = &[
    ("torch", "Size"),
    ("torch.distributed.fsdp.flat_param", "_ShardParamInfo"),
    ("torch.distributed.fsdp._flat_param", "_ShardParamInfo"),
];

/// Reads the model of the checkpoint in a folder.
pub(super) fn open(dir: &Path, problems: &mut Vec<FolderProblem>) -> Found {
    let (files, parts) = model_parts(dir, problems);
    join(files, parts.into_iter().flatten(), problems)
}

/// What each process has of the model.
fn model_parts(dir: &Path, problems: &mut Vec<FolderProblem>) -> (Vec<String>, Vec<Vec<Part>>) {
    each_rank(dir, "model/", &[GLOBALS], problems, |rank, reader| {
        Flat { reader, rank, parts: Vec::new() }.read().map_err(|problem| vec![problem])
    })
}

/// Reads the state of the optimizer of the checkpoint in a folder, `PARAMETER.NAME` by its names.
pub(super) fn open_optimizer(dir: &Path, problems: &mut Vec<FolderProblem>) -> Found {
    let (model_files, model) = model_parts(dir, problems);
    // Where a file cannot be read, the others are not by its number any more.
    if !problems.is_empty() {
        return Found::default();
    }
    let by_name = |parts: Vec<Part>| -> HashMap<String, Part> {
        parts.into_iter().map(|part| (part.name.replace(WRAPPER, ""), part)).collect()
    };
    let model: Vec<HashMap<String, Part>> = model.into_iter().map(by_name).collect();
    let (files, parts) = each_rank(dir, "optim/", &[], problems, |rank, reader| {
        optimizer_parts(reader, rank, model.get(rank)).map_err(|problem| vec![problem])
    });
    if files.len() < model_files.len() {
        let file = format!("optim/rank{}.pt", files.len());
        let problem = format!("it is not there, and {} is", model_files[files.len()]);
        problems.push(FolderProblem::Damaged { file, problem });
    }
    join(files, parts.into_iter().flatten(), problems)
}

/// What a process's optimizer has of those parts of the model.
fn optimizer_parts(
    reader: &Reader<'_>,
    rank: usize,
    model: Option<&HashMap<String, Part>>,
) -> Result<Vec<Part>, String> {
    let model = model.ok_or_else(|| format!("there is no model/rank{rank}.pt"))?;
    let mut parts = Vec::new();
    for (name, tensors) in torch_optimizer::states(reader)? {
        let name = name.replace(WRAPPER, "");
        for (key, entry) in tensors {
            let n_elements = entry.n_elements();
            let part = if entry.shape.is_empty() {
                Part::whole(entry, rank)
            } else if n_elements == 0 {
                continue;
            } else {
                let lacks =
                    || format!("model/rank{rank}.pt has no part of {}", name.escape_debug());
                let Part { shape, pieces, .. } = model.get(&name).ok_or_else(lacks)?;
                let of_model = pieces.first().ok_or_else(lacks)?;
                if of_model.n_elements != n_elements {
                    let expected = of_model.n_elements;
                    return Err(format!(
                        "{name}.{key} has {n_elements} elements, expected {expected} as in model/rank{rank}.pt"
                    ));
                }
                let piece =
                    Piece { first: of_model.first, n_elements, file: rank, start: entry.start };
                Part {
                    name: String::new(),
                    dtype: entry.dtype,
                    shape: shape.clone(),
                    pieces: vec![piece],
                }
            };
            parts.push(Part { name: format!("{name}.{key}"), ..part });
        }
    }
    Ok(parts)
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
