//! `olmo revisions`: the training checkpoints of a model on the Hub.

use anyhow::Result;
use clap::Args;
use olmo_hub::hub::{self, Filter, Repo, Settings};

use crate::output;

/// List a model's training checkpoints on the Hub, by stage and step
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo revisions allenai/OLMo-2-0425-1B
  olmo revisions allenai/OLMo-2-0425-1B --from 100000 --every 50000 --json")]
pub(crate) struct Revisions {
    /// owner/name
    #[arg(value_name = "REPO")]
    repo: Repo,
    /// Steps from one checkpoint to the next, at least
    #[arg(long, value_name = "STEPS")]
    every: Option<u64>,
    /// The first step
    #[arg(long, value_name = "STEP")]
    from: Option<u64>,
    /// The last step
    #[arg(long, value_name = "STEP")]
    to: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Revisions {
    pub(crate) fn run(&self) -> Result<()> {
        let filter = Filter { every: self.every, from: self.from, to: self.to };
        let all = hub::checkpoints(&self.repo, &Settings::from_env())?;
        let n_all = all.len();
        let listed = filter.apply(all);
        if self.json {
            return Ok(output::json(&listed)?);
        }
        if n_all == 0 {
            output::complain(&format!("{} has no branches named for steps", self.repo.id()));
            return Ok(());
        }
        if listed.is_empty() {
            output::complain(&format!(
                "{} has {n_all} checkpoints, none of them of such a step",
                self.repo.id()
            ));
            return Ok(());
        }
        let width = listed.iter().map(|found| found.revision.len()).max().unwrap_or(0).max(8);
        output::line(format!("{:<width$} {:>10} {:>10}  commit", "revision", "step", "tokens"))?;
        for found in listed {
            let tokens = found.tokens_billions.map_or("-".to_owned(), |n| format!("{n}B"));
            let commit = found.commit.get(..8).unwrap_or_default();
            output::line(format!(
                "{:<width$} {:>10} {tokens:>10}  {commit}",
                found.revision, found.step
            ))?;
        }
        Ok(())
    }
}
