//! Which tensor goes in which file of a model folder.

use serde_json::{Map, Value, json};

use crate::shards::SINGLE;
use crate::tensor_file::TensorSpec;

/// A file of weights, and its tensors in order.
#[derive(Debug)]
pub(crate) struct PlannedFile {
    pub(crate) name: String,
    pub(crate) tensors: Vec<TensorSpec>,
}

/// Fills files of up to `max_bytes` of tensors in order, unless a single tensor has more.
pub(crate) fn plan_files(tensors: Vec<TensorSpec>, max_bytes: u64) -> Vec<PlannedFile> {
    let mut groups: Vec<Vec<TensorSpec>> = Vec::new();
    let mut room = 0_u64;
    for tensor in tensors {
        let n_bytes = tensor.n_bytes() as u64;
        if let Some(left) = room.checked_sub(n_bytes)
            && let Some(group) = groups.last_mut()
        {
            room = left;
            group.push(tensor);
        } else {
            room = max_bytes.saturating_sub(n_bytes);
            groups.push(vec![tensor]);
        }
    }
    let n_files = groups.len();
    let name = |index: usize| match n_files {
        1 => SINGLE.to_owned(),
        _ => format!("model-{:05}-of-{n_files:05}.safetensors", index + 1),
    };
    let files = groups.into_iter().enumerate();
    files.map(|(index, tensors)| PlannedFile { name: name(index), tensors }).collect()
}

/// `model.safetensors.index.json` as transformers writes it.
pub(crate) fn index_json(files: &[PlannedFile], total_parameters: usize) -> String {
    let mut weight_map = Map::new();
    for file in files {
        for tensor in &file.tensors {
            weight_map.insert(tensor.name.clone(), file.name.clone().into());
        }
    }
    let tensors = files.iter().flat_map(|file| &file.tensors);
    let total_size: usize = tensors.map(TensorSpec::n_bytes).sum();
    let metadata = json!({ "total_parameters": total_parameters, "total_size": total_size });
    let index = json!({ "metadata": metadata, "weight_map": Value::Object(weight_map) });
    format!("{index:#}\n")
}
