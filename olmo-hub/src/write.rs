//! A [`Transformer`] as a model folder: Hugging Face's, or `hf_olmo`'s where no model type of
//! `transformers` expresses it.
//!
//! Headers follow from the configuration, so the weights go to the disk tensor by tensor and
//! only one of them is ever in memory beside the model. All files are written under temporary
//! names first. Then the old `config.json` goes, everything takes its place, and the new
//! `config.json` comes last: a folder with a `config.json` is whole, whenever the save ended.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use burn::tensor::Tensor;
use olmo_model::{MatrixForm, Parameter, Transformer};

use crate::atomic::{AtomicFile, SealedFile, sync_dir, write_atomic};
use crate::config_json::{HfConfig, Special};
use crate::convert::Form;
use crate::dtype::Dtype;
use crate::error::{BadValue, Error, Result};
use crate::header::header_bytes;
use crate::layout::Fused;
use crate::plan::{PlannedFile, index_json, plan_files};
use crate::shards::{INDEX, SINGLE};
use crate::tensor_file::TensorSpec;
use crate::values::write_tensor;

/// The files beside the weights that text goes in and out by.
pub(crate) const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// How a model is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfExport {
    /// Ids of the tokens with a meaning of their own.
    pub special: Special,
    /// The dtype of the weights in the files.
    pub dtype: Dtype,
    /// Bytes of tensors in a file, unless a single tensor has more.
    pub max_shard_bytes: u64,
}

impl HfExport {
    /// Files of up to five gigabytes.
    pub fn new(special: Special, dtype: Dtype) -> Self {
        Self { special, dtype, max_shard_bytes: 5_000_000_000 }
    }
}

/// Writes a model into a folder, which is created if need be, replacing a model already there.
///
/// # Errors
///
/// [`Error::Unexpressible`] where neither a Hugging Face family nor `hf_olmo` has this architecture;
/// [`Error::LoadedToRun`] where the model's matrices are no parameters; [`Error::Value`] with the
/// first weight that is not finite or does not fit the dtype; [`Error::Io`], on a full disk for one. Up to the moment when all files are on the disk, the
/// folder's old model is untouched and a failed save leaves nothing behind.
///
/// # Panics
///
/// Panics where the model's parameters are not those of its configuration.
pub fn save(model: &Transformer, export: &HfExport, dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    if model.form() != MatrixForm::Dense {
        return Err(Error::LoadedToRun { path: dir.to_owned() });
    }
    let config_path = dir.join("config.json");
    let config = HfConfig::for_model(model.config(), &export.special, export.dtype, &config_path)?;
    fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
    let plan = Plan::new(&config, export, dir)?;
    let mut sealed = plan.write_weights(model, dir)?;
    if plan.files.len() > 1 {
        sealed.push(seal_text(&dir.join(INDEX), &index_json(&plan.files, plan.total_parameters))?);
    }
    let generation = dir.join("generation_config.json");
    sealed.push(seal_text(&generation, &export.special.to_generation_json())?);
    plan.publish(sealed, seal_text(&config_path, &config.to_json())?, dir)
}

/// Copies the tokenizer of one model folder to another: `tokenizer.json` and what belongs to it,
/// each file whole or not at all. Returns the names that were copied.
///
/// # Errors
///
/// [`Error::Io`], also where there is no `tokenizer.json`.
pub fn copy_tokenizer(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Vec<&'static str>> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let mut copied = Vec::new();
    for name in TOKENIZER_FILES {
        let source = from.join(name);
        let mut file = match fs::File::open(&source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && name != TOKENIZER_FILES[0] => {
                continue;
            }
            opened => opened.map_err(Error::io(&source, "open"))?,
        };
        let target = to.join(name);
        write_atomic(&target, |target_file| {
            io::copy(&mut file, target_file).map(drop).map_err(Error::io(&target, "write"))
        })?;
        copied.push(name);
    }
    Ok(copied)
}

/// Which tensor goes in which file, in module order.
struct Plan {
    files: Vec<PlannedFile>,
    /// The parameters that each tensor consists of, in the order of the files' tensors.
    parts: Vec<Vec<Parameter>>,
    dtype: Dtype,
    total_parameters: usize,
}

impl Plan {
    fn new(config: &HfConfig, export: &HfExport, dir: &Path) -> Result<Self> {
        let fused = Form::of(config).tensors(config).ok_or_else(|| Error::NoTensor {
            path: dir.to_owned(),
            name: "of this architecture".to_owned(),
        })?;
        let dtype = export.dtype;
        let spec = |Fused { name, shape, parts }| (TensorSpec { name, dtype, shape }, parts);
        let (specs, parts) = fused.into_iter().map(spec).unzip();
        let files = plan_files(specs, export.max_shard_bytes);
        Ok(Self { files, parts, dtype, total_parameters: config.model.n_parameters() })
    }

    /// Gives the files their names. In between the folder is not a model; `config`, the last, makes it one.
    fn publish(&self, files: Vec<SealedFile>, config: SealedFile, dir: &Path) -> Result<()> {
        remove_if_there(&dir.join("config.json"))?;
        sync_dir(dir)?;
        for file in files {
            file.publish()?;
        }
        self.remove_stale(dir)?;
        config.publish()
    }

    /// Writes every weights file under its temporary name.
    fn write_weights(&self, model: &Transformer, dir: &Path) -> Result<Vec<SealedFile>> {
        // Handles, which copy no values.
        let mut values = HashMap::new();
        model.visit_parameters(|path, shape, tensor| {
            values.insert(path.to_owned(), (shape.to_vec(), tensor));
        });
        let mut parts = self.parts.iter();
        let write_file = |planned: &PlannedFile| {
            let mut file = AtomicFile::create(&dir.join(&planned.name))?;
            file.put(&header_bytes(&planned.tensors, &[("format", "pt")]))?;
            for (tensor, parts) in planned.tensors.iter().zip(parts.by_ref()) {
                let mut first = 0;
                for part in parts {
                    let (shape, values) = values.remove(&part.path).expect("each is there, once");
                    assert_eq!(shape, part.shape, "{} is as the configuration has it", part.path);
                    self.put(&mut file, &tensor.name, first, values)?;
                    first += part.n_elements();
                }
            }
            file.seal()
        };
        self.files.iter().map(write_file).collect()
    }

    /// Writes values that are those of a tensor from element `first` on.
    fn put(
        &self,
        file: &mut AtomicFile,
        tensor: &str,
        first: usize,
        values: Tensor<1>,
    ) -> Result<()> {
        let (path, data) = (file.path().to_owned(), values.into_data());
        let bad = |value: BadValue| {
            let value = BadValue { index: first + value.index, ..value };
            Error::Value { path: path.clone(), tensor: tensor.to_owned(), value }
        };
        let written = write_tensor(&data, self.dtype, bad, |bytes| file.put(bytes));
        written.unwrap_or_else(|| {
            Err(Error::TensorDtype {
                path: path.clone(),
                tensor: tensor.to_owned(),
                found: format!("{:?}", data.dtype()),
                supported: "f32, f16 and bf16",
            })
        })
    }

    /// Removes the weights of the model that was there before, where their names differ.
    fn remove_stale(&self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
            let name = entry.map_err(Error::io(dir, "list"))?.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_old = is_weights_file(name) && self.files.iter().all(|file| file.name != name);
            if is_old || (name == INDEX && self.files.len() == 1) {
                remove_if_there(&dir.join(name))?;
            }
        }
        sync_dir(dir)
    }
}

/// Whether a name is one that weights are written under, here or in transformers.
fn is_weights_file(name: &str) -> bool {
    let part = || name.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-");
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name == SINGLE || part().is_some_and(|(index, n)| is_number(index) && is_number(n))
}

fn seal_text(path: &Path, text: &str) -> Result<SealedFile> {
    let mut file = AtomicFile::create(path)?;
    file.put(text.as_bytes())?;
    file.seal()
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(path, "remove")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_that_ends_between_two_files_leaves_no_model_that_looks_whole() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        fs::write(&config, "{}").unwrap();
        let [first, second] = ["1", "2"].map(|n| folder.path().join(format!("{n}.safetensors")));
        let sealed = [&first, &second].map(|path| seal_text(path, "new").unwrap());
        let sealed_config = seal_text(&config, "{}").unwrap();
        // A folder in the place of the second: the first takes its place, the second cannot.
        fs::create_dir(&second).unwrap();
        let plan =
            Plan { files: Vec::new(), parts: Vec::new(), dtype: Dtype::F32, total_parameters: 0 };
        let error = plan.publish(sealed.into(), sealed_config, folder.path()).unwrap_err();
        assert!(error.to_string().contains("2.safetensors"), "{error}");
        assert_eq!(fs::read(first).unwrap(), b"new");
        assert!(!config.exists());
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".tmp")));
    }
}
