//! `olmo verify`: whether a model folder is sound, and whether two are one model.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use olmo_hub::{Comparison, Layout, ModelFolder, TensorDifference, Verification};
use serde::Serialize;

use crate::device::DeviceName;
use crate::weights::QuantizationName;
use crate::{input, output, progress};

/// Check every file, tensor and value of a model, and digest its weights
///
/// The digest does not depend on names, shards or the dtype of the files: two forms of a model have
/// the same. Every problem is printed; where there is one, the exit code is 2.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo verify OLMo-2-0425-1B
  olmo verify checkpoint-hf --against step1000-unsharded
  olmo verify OLMo-2-0425-1B --quantize q8")]
pub(crate) struct Verify {
    /// Folder of the model, in any of the forms of OLMo, or a repository of the Hub
    #[arg(value_name = "DIR|REPO")]
    model: PathBuf,
    /// Another form of the same model: how far each tensor is apart
    #[arg(long, value_name = "DIR|REPO")]
    against: Option<PathBuf>,
    /// How far the same model in 8 or 4 bits is apart
    #[arg(long, value_enum, value_name = "BITS", conflicts_with = "against")]
    quantize: Option<QuantizationName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    sound: bool,
    problems: Vec<String>,
    digest: Option<String>,
    tensors: usize,
    parameters: usize,
    dtype: String,
    layout: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Difference>,
}

#[derive(Debug, Serialize)]
struct Difference {
    different_values: usize,
    max_error: f64,
    tensors: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    tensor: String,
    values: usize,
    different: usize,
    max_error: f64,
    mean_error: f64,
    largest_value: f64,
}

impl Verify {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let dir = input::model_dir(&self.model)?;
        let n_elements = ModelFolder::read_config(&dir)?.model.n_parameters() as u64;
        let bar = progress::values(n_elements, "checking");
        let found = olmo_hub::verify(&dir, |n| bar.inc(n))?;
        bar.finish_and_clear();
        let quantized = self.quantize.map(|quantization| {
            let bar = progress::values(n_elements, "comparing");
            let (folder, device) = (ModelFolder::open(&dir)?, device.open()?);
            let to = quantization.into();
            let comparison = olmo_hub::compare_quantized(&folder, &device, to, |n| bar.inc(n))?;
            bar.finish_and_clear();
            anyhow::Ok(comparison)
        });
        let against = self.against.as_ref().map(|other| {
            let (first, second) = (ModelFolder::open(&dir)?, input::model_folder(other)?);
            let bar = progress::values(n_elements, "comparing");
            let comparison = olmo_hub::compare(&first, &second, |n| bar.inc(n))?;
            bar.finish_and_clear();
            anyhow::Ok(comparison)
        });
        let against = against.or(quantized);
        let against = if found.problems.is_empty() { against.transpose()? } else { None };
        let n_problems = found.problems.len();
        let report = Report::new(found, against);
        if self.json {
            output::json(&report)?;
        } else {
            report.print()?;
        }
        if n_problems > 0 {
            let problems = if n_problems == 1 { "problem" } else { "problems" };
            bail!("{} has {n_problems} {problems}", dir.display());
        }
        Ok(())
    }
}

impl Report {
    fn new(found: Verification, against: Option<Comparison>) -> Self {
        let row = |tensor: TensorDifference| Row {
            tensor: tensor.path,
            values: tensor.n_elements,
            different: tensor.n_different,
            max_error: tensor.max_error,
            mean_error: tensor.mean_error,
            largest_value: tensor.largest,
        };
        let against = against.map(|comparison| Difference {
            different_values: comparison.n_different(),
            max_error: comparison.max_error(),
            tensors: comparison.tensors.into_iter().map(row).collect(),
        });
        Self {
            sound: found.problems.is_empty(),
            problems: found.problems,
            digest: found.digest,
            tensors: found.n_parameters,
            parameters: found.n_elements,
            dtype: found.dtype.to_string(),
            layout: match found.layout {
                Layout::HuggingFace => "Hugging Face",
                Layout::PackedExperts => "Hugging Face, experts packed",
                Layout::Original => "ai2-olmo",
                Layout::Core => "OLMo-core",
            },
            against,
        }
    }

    fn print(&self) -> Result<()> {
        for problem in &self.problems {
            output::line(format!("problem: {problem}"))?;
        }
        output::line(format!("parameters  {}", output::grouped(self.parameters as u64)))?;
        output::line(format!("tensors     {}, by the names of {}", self.tensors, self.layout))?;
        output::line(format!("dtype       {}", self.dtype))?;
        if let Some(digest) = &self.digest {
            output::line(format!("digest      {digest}"))?;
        }
        let Some(against) = &self.against else { return Ok(()) };
        if against.different_values == 0 {
            output::line("the other is the same model, to the last bit")?;
            return Ok(());
        }
        output::line(format!(
            "{:<48} {:>12} {:>10} {:>10} {:>10}",
            "tensor", "different", "max", "mean", "largest"
        ))?;
        for row in &against.tensors {
            let Row { tensor, different, max_error, mean_error, largest_value, .. } = row;
            output::line(format!(
                "{tensor:<48} {different:>12} {max_error:>10.3e} {mean_error:>10.3e} {largest_value:>10.3e}"
            ))?;
        }
        Ok(())
    }
}
