//! `olmo convert`: a model in another form.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use olmo_hub::{Conversion, Dtype, Form};

use crate::interrupt::Interrupt;
use crate::{input, output, progress};

/// Write a model in another form: for transformers, for ai2-olmo, by the names of OLMo-core
///
/// Tensors are copied one after another, so that memory does not grow with the model. Where the
/// dtype stays, there and back is the identity to the last bit.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo convert step1000-unsharded OLMo-hf --to hf --dtype bf16
  olmo convert OLMo-2-0425-1B original --to olmo

Ctrl-C leaves nothing behind.")]
pub(crate) struct Convert {
    /// Folder of the model, in any of the forms of OLMo, or a repository of the Hub
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Folder to write, which must not be there yet
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// The form to write
    #[arg(long, value_enum)]
    to: Target,
    /// The dtype of the weights, rounded to nearest even; each tensor's own if not given
    #[arg(long, value_enum)]
    dtype: Option<StoredDtype>,
    /// Bytes of tensors in a file at most, where the form allows for several
    #[arg(long, value_name = "BYTES", default_value_t = 5_000_000_000)]
    max_shard_bytes: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// config.json and model*.safetensors, for transformers
    Hf,
    /// config.yaml and model.pt, for ai2-olmo
    Olmo,
    /// config.yaml and model.safetensors with pickled names, as ai2-olmo's trainer can save
    OlmoSafetensors,
    /// config.json of model type `hf_olmo`, `generation_config.json` and model*.safetensors
    HfOlmo,
    /// config.json and model*.safetensors by the names of OLMo-core
    Core,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StoredDtype {
    F32,
    F16,
    Bf16,
}

impl Convert {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.max_shard_bytes > 0, "--max-shard-bytes is 0, expected a number of bytes");
        let folder = input::model_folder(&self.input)?;
        for note in folder.notes() {
            output::complain(&format!("note: {note}"));
        }
        let form = match self.to {
            Target::Hf => Form::HuggingFace,
            Target::Olmo => Form::Original,
            Target::OlmoSafetensors => Form::OriginalSafetensors,
            Target::HfOlmo => Form::HfOlmo,
            Target::Core => Form::Core,
        };
        for left_out in form.leaves_out(folder.special()) {
            output::complain(&format!("note: {left_out}"));
        }
        let dtype = self.dtype.map(|dtype| match dtype {
            StoredDtype::F32 => Dtype::F32,
            StoredDtype::F16 => Dtype::F16,
            StoredDtype::Bf16 => Dtype::Bf16,
        });
        let written = dtype.unwrap_or_else(|| folder.stored_dtype());
        let n_bytes = folder.model_config().n_parameters() * written.size();
        let bar = progress::bytes(n_bytes as u64, "writing");
        let conversion = Conversion { form, dtype, max_shard_bytes: self.max_shard_bytes };
        let interrupt = Interrupt::listen()?;
        olmo_hub::convert(&folder, &conversion, &self.out, |n| {
            bar.inc(n);
            if interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        bar.finish_and_clear();
        output::line(format!(
            "{} in {written}, {}",
            self.out.display(),
            output::bytes(n_bytes as u64)
        ))?;
        Ok(())
    }
}
