//! `olmo train`: a configuration, trained.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use olmo_train::{Observer, Outcome, StepMetrics, TrainConfig, Trainer};

use crate::device::DeviceName;
use crate::interrupt::Interrupt;
use crate::{output, progress};

/// Train a model, or go on where an interrupted run stopped
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo train configs/small.yaml
  olmo train configs/small.yaml max_duration=200 optimizer.learning_rate=1e-3

Ctrl-C or SIGTERM finishes the step and saves; the same command goes on from there.")]
pub(crate) struct Train {
    /// YAML configuration
    #[arg(value_name = "CONFIG.yaml")]
    config: PathBuf,
    /// key.path=value: fields to replace, values in YAML
    #[arg(value_name = "KEY.PATH=VALUE")]
    overrides: Vec<String>,
    /// Print each step's metrics as a line of JSON
    #[arg(long)]
    json: bool,
}

impl Train {
    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        let config = TrainConfig::read(&self.config, &self.overrides)?;
        let mut trainer = Trainer::new(config, &device.open()?)?;
        for (path, error) in trainer.set_aside() {
            output::complain(&format!("went back to before {}: {error}", path.display()));
        }
        run(&mut trainer, &Interrupt::listen()?, self.json)?;
        if self.json {
            return Ok(());
        }
        let folder = trainer.config().save_folder.display();
        let checkpoint = trainer.last_checkpoint().map(Path::display);
        output::line(format!("step {} of {folder}", trainer.global_step()))?;
        if let Some(checkpoint) = checkpoint {
            output::line(format!("model: {checkpoint}"))?;
            output::line(format!("next:  olmo generate --model {checkpoint} --prompt \"Once\""))?;
        }
        Ok(())
    }
}

/// Runs a trainer to its end under a progress bar. An interruption is an error: nothing is lost,
/// but what was asked for is not done.
pub(super) fn run(trainer: &mut Trainer, interrupt: &Interrupt, json: bool) -> Result<()> {
    let bar = progress::steps(trainer.config().max_duration);
    let mut shown = Shown { bar, json, broken: None };
    let outcome = trainer.run(&mut shown, interrupt.flag())?;
    shown.bar.finish_and_clear();
    if let Some(error) = shown.broken {
        return Err(error.into());
    }
    match outcome {
        Outcome::Finished => Ok(()),
        Outcome::Interrupted => {
            bail!(Stopped { step: trainer.global_step(), max_steps: trainer.config().max_duration })
        }
    }
}

/// The user stopped a run.
#[derive(Debug)]
pub(crate) struct Stopped {
    step: u64,
    max_steps: u64,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, max_steps } = self;
        write!(f, "stopped at step {step} of {max_steps}, which is saved; the same command goes on")
    }
}

impl std::error::Error for Stopped {}

/// What a user sees of a run.
struct Shown {
    bar: ProgressBar,
    json: bool,
    /// The first failure to print; the run goes on, it is the reader that has gone.
    broken: Option<std::io::Error>,
}

impl Observer for Shown {
    fn on_start(&mut self, step: u64, _: u64) {
        self.bar.set_position(step);
        self.bar.reset_eta();
    }

    fn on_step(&mut self, metrics: &StepMetrics) {
        self.bar.set_position(metrics.step);
        self.bar.set_message(format!(
            "loss {:.3}  lr {:.1e}  {:.0} tokens/s",
            metrics.cross_entropy, metrics.learning_rate, metrics.tokens_per_second
        ));
        if self.json
            && self.broken.is_none()
            && let Err(error) = output::json(metrics)
        {
            self.broken = Some(error);
        }
    }

    fn on_checkpoint(&mut self, path: &Path) {
        if !self.bar.is_hidden() {
            self.bar.println(format!("saved {}", path.display()));
        }
    }

    fn on_save_failed(&mut self, error: &olmo_train::Error) {
        self.bar.suspend(|| {
            output::complain(&format!("warning: not saved, which is tried again: {error}"));
        });
    }
}
