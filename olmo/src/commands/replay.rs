//! `olmo replay`: a step that must not be made, made again.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use olmo_train::faults::{Replay as Replayed, replay};

use crate::device::DeviceName;
use crate::output;

/// Parameters that are printed without --json.
const SHOWN: usize = 12;

/// Make a step again whose loss or gradients were no number or a spike
///
/// When `olmo train` meets such a step, it leaves a bundle in the run's folder: the weights before
/// the step, its batch, and the configuration. This prints the loss, the norm of the gradients, and
/// the parameters whose weights or gradients are no number, or else those of the largest gradients.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo replay runs/small/faults/step120 --json")]
pub(crate) struct Replay {
    /// Folder of the bundle
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Print JSON, with every parameter
    #[arg(long)]
    json: bool,
}

impl Replay {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let found = replay(&self.bundle, &device.open()?)?;
        if self.json {
            return Ok(output::json(&found)?);
        }
        let Replayed { step, fault, cross_entropy, total_grad_norm, parameters } = found;
        output::line(format!("step {step}: {fault}"))?;
        output::line(format!("loss           {cross_entropy}"))?;
        output::line(format!("gradient norm  {total_grad_norm}"))?;
        let is_bad = |p: &&_| {
            let p: &olmo_train::faults::bundle::ReplayedParameter = p;
            p.n_bad_weights + p.n_bad_gradients > 0
        };
        let mut shown: Vec<_> = parameters.iter().filter(is_bad).collect();
        if shown.is_empty() {
            shown = parameters.iter().collect();
            shown.sort_by(|a, b| b.grad_norm.total_cmp(&a.grad_norm));
        }
        let more = shown.len().saturating_sub(SHOWN);
        for p in shown.into_iter().take(SHOWN) {
            output::line(format!(
                "  {}: gradient norm {}, {} of its elements no numbers, {} of the weight's",
                p.path, p.grad_norm, p.n_bad_gradients, p.n_bad_weights
            ))?;
        }
        if more > 0 {
            output::line(format!("  and {more} more; --json has all"))?;
        }
        Ok(())
    }
}
