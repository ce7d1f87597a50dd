//! Steps that must not be made: a loss or gradients that are no number, or far above those before.
//!
//! They are found before the weights are touched. By rule the run stops, or the step is skipped:
//! weights, moments and their step counts stay as they are, the step counts and its data are passed
//! over. Either way the batch is named, and a [`bundle`] is written that makes the step again.

pub mod bundle;
mod spike;

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use olmo_data::inspect::InspectedInstance;
use olmo_data::{Batch, describe_instances};
use olmo_model::Transformer;
use olmo_optim::SkipStep;
use serde::{Deserialize, Serialize};

pub use self::bundle::{FaultRecord, Replay, replay};
pub use self::spike::SpikeConfig;
use crate::config::TrainConfig;
use crate::data::{self, OpenData};
use crate::error::Error;

/// Instances of a batch that a message names; the bundle has all of them.
const N_NAMED: usize = 4;

/// What is done about steps that must not be made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultConfig {
    /// A loss or gradient that is infinite or no number.
    pub on_nan: Action,
    /// A loss or gradient norm far above those before; not looked for where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spike: Option<SpikeConfig>,
    /// Steps that may be skipped in a row; one more stops the run.
    pub max_skips_in_a_row: u64,
    /// Bundles in the run's folder; where there are as many, no more are written.
    pub max_bundles: usize,
}

impl Default for FaultConfig {
    fn default() -> Self {
        Self { on_nan: Action::Stop, spike: None, max_skips_in_a_row: 10, max_bundles: 3 }
    }
}

impl FaultConfig {
    /// Everything that is wrong with it.
    pub(crate) fn problems(&self) -> Vec<String> {
        let found = self.spike.and_then(|spike| spike.rule(None).err());
        found.map(|error| format!("faults.spike: {error}")).into_iter().collect()
    }
}

/// What is done about a step that must not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The run ends with an error; the checkpoints before are whole.
    #[default]
    Stop,
    /// The run goes on with the next batch.
    Skip,
}

/// Why a step must not be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// A quantity is infinite or no number.
    NonFinite {
        /// The quantity.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// The loss or the norm of the gradients is far above those before.
    Spike {
        /// The loss.
        loss: f64,
        /// The norm.
        grad_norm: f64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NonFinite { what, value } => write!(f, "{what} is {value}"),
            Self::Spike { loss, grad_norm } => write!(
                f,
                "the loss of {loss:.4} or the norm of the gradients of {grad_norm:.4} is far above those before"
            ),
        }
    }
}

/// Judges steps, and does what the rules say.
#[derive(Debug)]
pub(crate) struct Faults {
    config: FaultConfig,
    spikes: Option<SkipStep>,
    n_skipped_in_a_row: u64,
    notice: Option<String>,
}

impl Faults {
    /// Goes on from what a checkpoint kept.
    pub(crate) fn new(config: FaultConfig, saved: Option<SkipStep>) -> Result<Self, Error> {
        let spikes = config.spike.map(|spike| spike.rule(saved)).transpose()?;
        Ok(Self { config, spikes, n_skipped_in_a_row: 0, notice: None })
    }

    /// What a checkpoint keeps.
    pub(crate) fn spikes(&self) -> Option<SkipStep> {
        self.spikes.clone()
    }

    /// What was skipped since this was last asked.
    pub(crate) fn take_notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    /// Whether a step must not be made. `judges_norm` is whether a norm far above those before is a
    /// spike, too.
    pub(crate) fn judge(
        &mut self,
        loss: f64,
        grad_norm: f64,
        judges_norm: bool,
    ) -> Option<(Fault, Action)> {
        for (what, value) in [("the loss", loss), ("the norm of the gradients", grad_norm)] {
            if !value.is_finite() {
                return Some((Fault::NonFinite { what, value }, self.config.on_nan));
            }
        }
        let norm = judges_norm.then_some(grad_norm);
        let admitted = self.spikes.as_mut().is_none_or(|rule| rule.admits(loss, norm));
        match self.config.spike {
            Some(SpikeConfig { action, .. }) if !admitted => {
                Some((Fault::Spike { loss, grad_norm }, action))
            }
            _ => {
                self.n_skipped_in_a_row = 0;
                None
            }
        }
    }

    /// Names the batch, writes the bundle, and stops or lets the step be skipped.
    pub(crate) fn handle(
        &mut self,
        (fault, action): (Fault, Action),
        step: u64,
        run: &TrainConfig,
        model: &Transformer,
        batch: &Batch,
    ) -> Result<(), Error> {
        let instances = name_batch(run, &batch.indices);
        let mut report = format!("\n  batch: {}", listed(&instances, &batch.indices));
        let record = FaultRecord::new(step, &fault, batch, instances);
        match self.bundle(run, model, &record) {
            Ok(Some(dir)) => {
                let dir = dir.display();
                let _ = write!(report, "\n  `olmo replay {dir}` makes the step again");
            }
            Ok(None) => report.push_str("\n  no bundle, as there are faults.max_bundles of them"),
            // That it cannot be written must not hide what it is about.
            Err(error) => {
                let _ = write!(report, "\n  no bundle: {error}");
            }
        }
        self.n_skipped_in_a_row += 1;
        if action == Action::Skip && self.n_skipped_in_a_row <= self.config.max_skips_in_a_row {
            self.notice = Some(format!("step {step} is skipped: {fault}{report}"));
            return Ok(());
        }
        Err(match fault {
            Fault::NonFinite { what, value } => Error::NonFinite { what, value, step, report },
            Fault::Spike { .. } => Error::Spike { message: fault.to_string(), step, report },
        })
    }

    fn bundle(
        &self,
        run: &TrainConfig,
        model: &Transformer,
        record: &FaultRecord,
    ) -> Result<Option<PathBuf>, Error> {
        let folder = run.save_folder.join("faults");
        let dir = folder.join(format!("step{}", record.step));
        let n_bundles = std::fs::read_dir(&folder).map_or(0, Iterator::count);
        if n_bundles >= self.config.max_bundles && !dir.exists() {
            return Ok(None);
        }
        bundle::write(&dir, run, model, record)?;
        Ok(Some(dir))
    }
}

/// Where the instances of a batch lie; empty where the files do not tell.
fn name_batch(run: &TrainConfig, indices: &[u32]) -> Vec<InspectedInstance> {
    let Ok(OpenData { instances, .. }) = data::open(run) else { return Vec::new() };
    describe_instances(&instances, run.data.memmap_dtype, indices, None).unwrap_or_default()
}

/// The first instances of a batch in a line.
fn listed(instances: &[InspectedInstance], indices: &[u32]) -> String {
    let mut names: Vec<String> = instances.iter().take(N_NAMED).map(named).collect();
    if names.is_empty() {
        names = indices.iter().take(N_NAMED).map(|index| format!("instance {index}")).collect();
    }
    let more = indices.len().saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

fn named(instance: &InspectedInstance) -> String {
    let InspectedInstance { index, path, byte_offset, documents, .. } = instance;
    let file = Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy());
    let ids: Vec<_> = documents.iter().flatten().filter_map(|found| found.id.as_deref()).collect();
    let documents =
        if ids.is_empty() { String::new() } else { format!("; documents {}", ids.join(" ")) };
    format!("instance {index} ({file} byte {byte_offset}{documents})")
}
