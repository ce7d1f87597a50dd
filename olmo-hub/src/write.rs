//! A [`Transformer`] as a Hugging Face model folder.
//!
//! Headers follow from the configuration, so the weights go to the disk tensor by tensor and
//! only one of them is ever in memory beside the model. All files are written under temporary
//! names first. Then the old `config.json` goes, everything takes its place, and the new
//! `config.json` comes last: a folder with a `config.json` is whole, whenever the save ended.

use std::fs;
use std::io;
use std::path::Path;

use burn::tensor::Tensor;
use olmo_model::{MatrixForm, Transformer};

use crate::atomic::{AtomicFile, SealedFile, sync_dir, write_atomic};
use crate::config_json::{HfConfig, Special};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::family::Family;
use crate::header::header_bytes;
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
/// [`Error::Unexpressible`] where no Hugging Face family has this architecture;
/// [`Error::LoadedToRun`] where the model's matrices are no parameters; [`Error::Value`] with the first weight that is not finite or does not fit the dtype;
/// [`Error::Io`], on a full disk for one. Up to the moment when all files are on the disk, the
/// folder's old model is untouched and a failed save leaves nothing behind.
///
/// # Panics
///
/// Panics where the model's parameters are not those of its configuration, in its order.
pub fn save(model: &Transformer, export: &HfExport, dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    if model.form() != MatrixForm::Dense {
        return Err(Error::LoadedToRun { path: dir.to_owned() });
    }
    let config_path = dir.join("config.json");
    let config = HfConfig::for_model(model.config(), &export.special, export.dtype, &config_path)?;
    fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
    let plan = Plan::new(&config, export);
    let mut sealed = plan.write_weights(model, dir)?;
    if plan.files.len() > 1 {
        sealed.push(seal_text(&dir.join(INDEX), &index_json(&plan.files, plan.total_parameters))?);
    }
    let generation = dir.join("generation_config.json");
    sealed.push(seal_text(&generation, &export.special.to_generation_json())?);
    let config = seal_text(&config_path, &config.to_json())?;
    // From here on the folder is not a model, until the last line makes it one.
    remove_if_there(&config_path)?;
    sync_dir(dir)?;
    for file in sealed {
        file.publish()?;
    }
    plan.remove_stale(dir)?;
    config.publish()
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
    family: Family,
    files: Vec<PlannedFile>,
    dtype: Dtype,
    total_parameters: usize,
}

impl Plan {
    fn new(config: &HfConfig, export: &HfExport) -> Self {
        let files = plan_files(tensors(config, export.dtype), export.max_shard_bytes);
        let total_parameters = config.model.n_parameters();
        Self { family: config.family, files, dtype: export.dtype, total_parameters }
    }

    /// Writes every weights file under its temporary name.
    fn write_weights(&self, model: &Transformer, dir: &Path) -> Result<Vec<SealedFile>> {
        let mut writer = WeightsWriter { plan: self, dir, open: None, sealed: Vec::new() };
        // The visitor cannot be stopped, so what follows an error is passed over.
        let mut result = Ok(());
        model.visit_parameters(|path, shape, values| {
            if result.is_ok() {
                let name = self.family.hf_name(path);
                result = writer.put(name.as_deref(), shape, values);
            }
        });
        result.map(|()| writer.sealed)
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

/// Takes the parameters as they come and writes them into one file after the other.
struct WeightsWriter<'a> {
    plan: &'a Plan,
    dir: &'a Path,
    /// The file being written, and how many of its tensors it has.
    open: Option<(AtomicFile, usize)>,
    sealed: Vec<SealedFile>,
}

impl WeightsWriter<'_> {
    fn put(&mut self, name: Option<&str>, shape: &[usize], values: Tensor<1>) -> Result<()> {
        let planned = &self.plan.files[self.sealed.len()];
        let (mut file, n_written) = match self.open.take() {
            Some(open) => open,
            None => (self.begin(planned)?, 0),
        };
        let tensor = &planned.tensors[n_written];
        let found = (name, shape);
        assert_eq!(found, (Some(tensor.name.as_str()), tensor.shape.as_slice()), "module order");
        let path = file.path().to_owned();
        let data = values.into_data();
        let bad = |value| {
            let (path, tensor) = (path.clone(), tensor.name.clone());
            Error::Value { path, tensor, value }
        };
        let written = write_tensor(&data, self.plan.dtype, bad, |bytes| file.put(bytes));
        written.unwrap_or_else(|| {
            Err(Error::TensorDtype {
                path: path.clone(),
                tensor: tensor.name.clone(),
                found: format!("{:?}", data.dtype()),
                supported: "f32, f16 and bf16",
            })
        })?;
        if n_written + 1 == planned.tensors.len() {
            self.sealed.push(file.seal()?);
        } else {
            self.open = Some((file, n_written + 1));
        }
        Ok(())
    }

    fn begin(&self, planned: &PlannedFile) -> Result<AtomicFile> {
        let mut file = AtomicFile::create(&self.dir.join(&planned.name))?;
        file.put(&header_bytes(&planned.tensors, &[("format", "pt")]))?;
        Ok(file)
    }
}

fn tensors(config: &HfConfig, dtype: Dtype) -> Vec<TensorSpec> {
    let parameters = config.model.parameters().into_iter();
    parameters
        .map(|parameter| {
            // The family was chosen because it expresses the model.
            let name = config.family.hf_name(&parameter.path).unwrap_or(parameter.path);
            TensorSpec { name, dtype, shape: parameter.shape }
        })
        .collect()
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
