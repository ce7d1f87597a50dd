//! `olmo bench`: what this machine makes of the code.

mod train;

use anyhow::Result;
use clap::Subcommand;

use crate::device::DeviceName;

/// Measure speed and memory on this machine
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Train(train::Train),
}

impl Bench {
    pub(crate) fn run(self, device: DeviceName) -> Result<()> {
        match self {
            Self::Train(command) => command.run(device),
        }
    }
}
