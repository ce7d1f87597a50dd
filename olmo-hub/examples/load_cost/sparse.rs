//! A model folder whose weights are all zero and take no room on the disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use olmo_hub::{Dtype, HfConfig, Special};
use olmo_model::ModelConfig;
use serde_json::{Map, json};

/// Writes the folder; gives the bytes of the weights and of the header before them.
pub(crate) fn write(model: &ModelConfig, dtype: Dtype, dir: &Path) -> io::Result<(u64, u64)> {
    let path = dir.join("config.json");
    let config = HfConfig::for_model(model, &Special::default(), dtype, &path);
    let config = config.map_err(io::Error::other)?;
    fs::write(&path, config.to_json())?;
    let (mut header, mut end) = (Map::new(), 0_u64);
    for parameter in model.parameters() {
        let start = end;
        end += (parameter.n_elements() * dtype.size()) as u64;
        let name = config.family.and_then(|family| family.hf_name(&parameter.path));
        let name = name.unwrap_or(parameter.path);
        let dtype = if dtype == Dtype::F32 { "F32" } else { "BF16" };
        let entry =
            json!({ "dtype": dtype, "shape": parameter.shape, "data_offsets": [start, end] });
        header.insert(name, entry);
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = File::create(dir.join("model.safetensors"))?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    file.set_len(8 + header.len() as u64 + end)?;
    Ok((end, header.len() as u64))
}
