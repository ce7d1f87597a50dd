//! `olmo bench`: what this machine makes of the code.

mod inference;
mod memory;
mod train;

use anyhow::Result;
use clap::Subcommand;

use crate::device::DeviceName;

/// Measure speed and memory on this machine
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Prefill(inference::Prefill),
    Decode(inference::Decode),
    Train(train::Train),
}

impl Bench {
    pub(crate) fn run(self, device: DeviceName) -> Result<()> {
        match self {
            Self::Prefill(command) => command.run(device),
            Self::Decode(command) => command.run(device),
            Self::Train(command) => command.run(device),
        }
    }
}
