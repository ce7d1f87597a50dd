//! What the command does beside a run: measuring sets of documents, publishing checkpoints.

use anyhow::Result;
use olmo_train::TrainConfig;

use super::evaluate::Evaluators;
#[cfg(feature = "net")]
use super::publish::Target;

/// What a run needs of the command, looked at.
pub(super) struct Beside {
    pub(super) evaluators: Evaluators,
    #[cfg(feature = "net")]
    pub(super) target: Option<Target>,
}

impl Beside {
    /// Reads the sets of documents and looks at where checkpoints are to go, both before the run's folder
    /// is made, so that a slip in them leaves none.
    pub(super) fn open(config: &TrainConfig) -> Result<Self> {
        #[cfg(not(feature = "net"))]
        anyhow::ensure!(
            config.push.is_none(),
            "push is there, but this build has no network; build with `--features net`"
        );
        olmo_train::check_files(config)?;
        Ok(Self {
            #[cfg(feature = "net")]
            target: config.push.as_ref().map(Target::of).transpose()?,
            evaluators: Evaluators::open(config)?,
        })
    }
}
