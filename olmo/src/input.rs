//! What several verbs read: a model folder, token rows, a floating-point format.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use olmo_data::Tokenizer;
use olmo_hub::{Dtype, ModelFolder};
use olmo_model::Transformer;

use crate::device::DeviceName;

/// The dtype that a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ComputeDtype {
    F32,
    Bf16,
}

impl From<ComputeDtype> for Dtype {
    fn from(dtype: ComputeDtype) -> Self {
        match dtype {
            ComputeDtype::F32 => Self::F32,
            ComputeDtype::Bf16 => Self::Bf16,
        }
    }
}

/// Opens a model folder without reading its weights.
pub(crate) fn model_folder(dir: &Path) -> Result<ModelFolder> {
    ensure!(dir.exists(), "there is no model folder {}", dir.display());
    ensure!(dir.is_dir(), "{} is a file, expected a model folder", dir.display());
    Ok(ModelFolder::open(dir)?)
}

/// Reads a model's weights to a device.
pub(crate) fn load(
    folder: &ModelFolder,
    device: DeviceName,
    dtype: ComputeDtype,
) -> Result<Transformer> {
    let device = device.open()?;
    let bar = crate::progress::open_ended("loading the model");
    let model = folder.load(&device, Some(dtype.into()))?;
    bar.finish_and_clear();
    Ok(model)
}

/// Where the tokenizer of a model folder would be.
pub(crate) fn tokenizer_path(folder: &ModelFolder) -> PathBuf {
    folder.path().join("tokenizer.json")
}

/// The tokenizer of a model folder, if it has one.
pub(crate) fn tokenizer(folder: &ModelFolder) -> Result<Option<Tokenizer>> {
    let path = tokenizer_path(folder);
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(Tokenizer::from_file(path)?))
}

/// Reads rows of token ids, JSON `[[ids], …]`, and checks them against a model's vocabulary.
pub(crate) fn token_rows(path: &Path, vocab_size: usize) -> Result<Vec<Vec<u32>>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows: Vec<Vec<u32>> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no JSON of token ids [[ids], …]", path.display()))?;
    ensure!(!rows.is_empty(), "{} has no rows, expected [[ids], …]", path.display());
    for (i, row) in rows.iter().enumerate() {
        let row_number = i + 1;
        ensure!(!row.is_empty(), "row {row_number} of {} has no tokens", path.display());
        if let Some(position) = row.iter().position(|&id| id as usize >= vocab_size) {
            bail!(
                "row {row_number} of {}: token id {} at position {position} is past the \
                 vocabulary of {vocab_size}",
                path.display(),
                row[position],
            );
        }
    }
    Ok(rows)
}
