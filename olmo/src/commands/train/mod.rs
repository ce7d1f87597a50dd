//! `olmo train`: a configuration, trained.

mod beside;
#[cfg(all(feature = "tui", unix))]
mod dashboard;
mod dry_run;
mod evaluate;
#[cfg(feature = "net")]
mod publish;
mod shown;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use olmo_train::metrics::measure_peak_flops;
use olmo_train::official::Note;
use olmo_train::{Outcome, TrainConfig, Trainer};

use self::beside::Beside;
use self::shown::Shown;
use crate::device::DeviceName;
use crate::interrupt::Interrupt;
use crate::{failure, memory, output};

/// Train a model, or go on where an interrupted run stopped
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo train small.yaml
  olmo train small.yaml max_duration=200 optimizer.learning_rate=1e-3
  olmo train small.yaml --tui
  olmo train OLMo-1B.yaml 'path_map={https://olmo-data.org: /data}' save_folder=runs/1b
  olmo train OLMo-1B.yaml 'data.paths=[part-0.npy]' 'evaluators=[]' save_folder=runs/1b
  olmo train configs/olmo2-7b-stage1.yaml --dry-run --devices 1024

CONFIG.yaml is ours or the original trainer's, as it is; what of that has no effect here is said.
README.md has a small.yaml that is complete.

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
    /// Print the resolved configuration, and what the run takes: memory, FLOPs, days, energy
    #[arg(long)]
    dry_run: bool,
    /// Devices that days, memory and energy are reckoned for, with --dry-run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// Part of the device's peak FLOPs that is made use of, with --dry-run
    #[arg(long, value_name = "PART", default_value_t = 0.4, value_parser = part)]
    mfu: f64,
    /// Show the run on the whole terminal: curves, log; q stops and saves
    #[cfg(all(feature = "tui", unix))]
    #[arg(long, conflicts_with = "json")]
    tui: bool,
}

/// A number above 0 and at most 1.
fn part(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    let fine = number > 0.0 && number <= 1.0;
    if fine { Ok(number) } else { Err("expected a number above 0 and at most 1".to_owned()) }
}

impl Train {
    #[cfg(all(feature = "tui", unix))]
    fn tui(&self) -> bool {
        self.tui
    }

    #[cfg(not(all(feature = "tui", unix)))]
    fn tui(&self) -> bool {
        false
    }

    /// The folder of the run whose configuration is read, where that names another.
    fn folder_left_behind(&self, save_folder: &Path) -> Option<String> {
        let folder = self.config.parent()?;
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let is_of_a_run =
            self.config.ends_with("config.yaml") && folder.join("checkpoints").is_dir();
        let is_other = save_folder.canonicalize().ok() != folder.canonicalize().ok();
        (is_of_a_run && is_other).then(|| folder.display().to_string())
    }

    pub(crate) fn run(&self, device: DeviceName) -> Result<()> {
        ensure!(
            !self.tui() || io::stdout().is_terminal(),
            "--tui needs a terminal to draw on; leave it out where output goes to a file"
        );
        let (config, notes) = TrainConfig::read_noting(&self.config, &self.overrides)?;
        for Note { field, reason } in notes {
            output::complain(&format!("{field} has no effect here, because {reason}"));
        }
        if let Some(folder) = self.folder_left_behind(&config.save_folder) {
            output::complain(&format!(
                "the run is in {}, as save_folder says; to go on in {folder}, give save_folder={folder}",
                config.save_folder.display()
            ));
        }
        if self.dry_run {
            let machine = dry_run::Machine { n_devices: self.devices as usize, mfu: self.mfu };
            return dry_run::print(&config, machine, self.json);
        }
        let (device, name) = (device.open()?, device);
        memory::check_run(&config, name)?;
        let beside = Beside::open(&config)?;
        let mut trainer = Trainer::new(config, &device)?;
        for (path, error) in trainer.set_aside() {
            output::complain(&format!("went back to before {}: {error}", path.display()));
        }
        if trainer.config().device_peak_flops.is_none() {
            trainer.set_peak_flops(measure_peak_flops(&device, trainer.config().precision));
        }
        let interrupt = Interrupt::listen()?;
        let shown = Shown::new(trainer.config(), beside, &interrupt, self.json, self.tui())?;
        let before = trainer.global_step();
        run_shown(&mut trainer, &interrupt, shown)?;
        if before > 0 && trainer.global_step() == before {
            let end = trainer.config().max_duration.steps;
            output::complain(&format!(
                "the run was at its end already, with max_duration={end}; a larger one goes on"
            ));
        }
        if self.json {
            return Ok(());
        }
        let folder = trainer.config().save_folder.display();
        let checkpoint = trainer.last_checkpoint().map(Path::display);
        output::line(format!("step {} of {folder}", trainer.global_step()))?;
        if let Some(checkpoint) = checkpoint {
            output::line(format!("model: {checkpoint}"))?;
            let how = match trainer.config().tokenizer {
                Some(_) => "--prompt \"Once\"",
                None => "--tokens FILE",
            };
            output::line(format!("next:  olmo generate --model \"{checkpoint}\" {how}"))?;
        }
        Ok(())
    }
}

/// Runs a trainer to its end under a progress bar. An interruption is an error: nothing is lost,
/// but what was asked for is not done.
pub(super) fn run(trainer: &mut Trainer, interrupt: &Interrupt, json: bool) -> Result<()> {
    let beside = Beside::open(trainer.config())?;
    run_shown(trainer, interrupt, Shown::new(trainer.config(), beside, interrupt, json, false)?)
}

fn run_shown(trainer: &mut Trainer, interrupt: &Interrupt, mut shown: Shown) -> Result<()> {
    let outcome = memory::explained(|| trainer.run(&mut shown, interrupt.flag()));
    // Also after an error: what is yet to be pushed is.
    let shown = shown.finish();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            if let Err(also) = shown {
                output::complain(&format!("warning: {}", failure::told(&also, ": ")));
            }
            return Err(error);
        }
    };
    match outcome {
        Outcome::Finished => {}
        Outcome::LossRose => {
            output::complain("the loss rose by more than early_stopping_factor, so the run ends");
        }
        // Whether or not someone was still reading, the run is not at its end.
        Outcome::Interrupted => {
            bail!(Stopped {
                step: trainer.global_step(),
                max_steps: trainer.config().max_duration.steps
            })
        }
    }
    shown
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
