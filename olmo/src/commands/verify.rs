//! `olmo verify`: whether a model folder is sound, and whether two are one model.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use olmo_hub::{Comparison, Layout, ModelFolder, TensorDifference, Verification};
use serde::Serialize;

use crate::device::DeviceName;
use crate::weights::QuantizationName;
use crate::{failure, input, output, progress};

/// Check every file, tensor and value of a model, and digest its weights
///
/// The digest does not depend on names, shards or the dtype of the files: two forms of a model have
/// the same. Every problem is printed; where there is one, the exit code is 2, or 1 where a file cannot
/// be read.
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

/// What was found; of a folder whose configuration cannot be read, only its problem.
#[derive(Debug, Default, Serialize)]
struct Report {
    sound: bool,
    problems: Vec<String>,
    digest: Option<String>,
    tensors: Option<usize>,
    parameters: Option<usize>,
    dtype: Option<String>,
    layout: Option<&'static str>,
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
        let found = check(&dir).inspect_err(|error| {
            if self.json {
                let problems = vec![error.to_string()];
                // The error is told in any case.
                let _ = output::json(&Report { problems, ..Report::default() });
            }
        })?;
        let n_elements = found.n_elements as u64;
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
            let told = format!("{} has {n_problems} {problems}", dir.display());
            return Err(match unreadable(&dir) {
                Some(error) => error.context(told),
                None => anyhow!(told),
            });
        }
        Ok(())
    }
}

/// Reads everything, under a bar.
fn check(dir: &Path) -> Result<Verification, olmo_hub::Error> {
    let n_elements = ModelFolder::read_config(dir)?.model.n_parameters() as u64;
    let bar = progress::values(n_elements, "checking");
    let found = olmo_hub::verify(dir, |n| bar.inc(n))?;
    bar.finish_and_clear();
    Ok(found)
}

/// What keeps files of a folder from being read, where it is the machine and not the model.
fn unreadable(dir: &Path) -> Option<anyhow::Error> {
    let weights = ModelFolder::open(dir).map(drop).map_err(anyhow::Error::from);
    let path = dir.join("tokenizer.json");
    let tokenizer = File::open(&path).map(drop).with_context(|| path.display().to_string());
    [weights, tokenizer].into_iter().filter_map(Result::err).find(failure::is_of_the_machine)
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
            tensors: Some(found.n_parameters),
            parameters: Some(found.n_elements),
            dtype: Some(found.dtype.to_string()),
            layout: Some(match found.layout {
                Layout::HuggingFace => "Hugging Face",
                Layout::PackedExperts => "Hugging Face, experts packed",
                Layout::Original => "ai2-olmo",
                Layout::Core => "OLMo-core",
            }),
            against,
        }
    }

    fn print(&self) -> Result<()> {
        for problem in &self.problems {
            output::line(format!("problem: {problem}"))?;
        }
        if let Some(parameters) = self.parameters {
            output::line(format!("parameters  {}", output::grouped(parameters as u64)))?;
        }
        if let (Some(tensors), Some(layout)) = (self.tensors, self.layout) {
            output::line(format!("tensors     {tensors}, by the names of {layout}"))?;
        }
        if let Some(dtype) = &self.dtype {
            output::line(format!("dtype       {dtype}"))?;
        }
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
