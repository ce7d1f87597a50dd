//! `olmo push`: a model to the Hugging Face Hub.

pub(crate) mod card;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use olmo_hub::ModelFolder;
use olmo_hub::hub::{self, Planned, Push as Request, Repo, Settings};
use serde::Serialize;

use super::pull::with_revision;
use crate::{output, progress};

/// Send a model folder or a run's checkpoint to the Hugging Face Hub
///
/// A README.md with curves is made from the run that the checkpoint is of, unless the folder has
/// one. What the Hub has already is not sent again, so a push that was cut goes on, within a file
/// with the parts that are missing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo push runs/small/checkpoints/latest me/small --dry-run
  olmo push runs/small/checkpoints/step1000-tokens8388608 me/small --revision step1000-tokens8M")]
pub(crate) struct Push {
    /// Folder of the model; all of it is sent but hidden files
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// owner/name, made if it is not there
    #[arg(value_name = "REPO")]
    repo: Repo,
    /// Branch, made from main if it is not there
    #[arg(long, value_name = "R")]
    revision: Option<String>,
    /// Summary of the commit
    #[arg(long, value_name = "TEXT", default_value = "Upload with olmo")]
    message: String,
    /// A repository that is made is seen by its owner only
    #[arg(long)]
    private: bool,
    /// Print what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    repo: String,
    revision: String,
    files: Vec<ReportedFile>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<Sent>,
}

#[derive(Debug, Serialize)]
struct Sent {
    commit: String,
    url: String,
    bytes: u64,
    /// Files that the repository does not take.
    ignored: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ReportedFile {
    path: String,
    size: u64,
    made: bool,
}

impl Push {
    pub(crate) fn run(&self) -> Result<()> {
        let repo = with_revision(&self.repo, self.revision.as_deref())?;
        // A folder that does not load here would be of no use there.
        let folder = ModelFolder::open(&self.dir)?;
        let mut extra = Vec::new();
        if !self.dir.join("README.md").exists() {
            extra = card::files(&folder, &repo)?;
        }
        let settings = Settings::from_env();
        let request = Request {
            repo: &repo,
            settings: &settings,
            dir: &self.dir,
            extra: &extra,
            message: &self.message,
            private: self.private,
        };
        let planned = request.plan()?;
        let mut report = Report::new(&repo, &planned);
        if !self.dry_run {
            ensure!(!settings.offline, "HF_HUB_OFFLINE is set, so nothing can be sent");
            ensure!(
                settings.token.is_some(),
                "set HF_TOKEN to a token that may write {}",
                repo.id()
            );
            let bar = progress::bytes(report.bytes, "sending");
            let pushed = hub::push(&request, |n| bar.inc(n))?;
            bar.finish_and_clear();
            let (commit, url, bytes) = (pushed.commit, pushed.url, pushed.n_sent);
            if !pushed.ignored.is_empty() {
                let names = pushed.ignored.join(", ");
                output::complain(&format!("warning: the repository ignores {names}: not sent"));
            }
            report.sent = Some(Sent { commit, url, bytes, ignored: pushed.ignored });
        }
        if self.json { Ok(output::json(&report)?) } else { report.print(&extra) }
    }
}

impl Report {
    fn new(repo: &Repo, planned: &[Planned]) -> Self {
        let file = |file: &Planned| ReportedFile {
            path: file.path.clone(),
            size: file.size,
            made: file.source.is_none(),
        };
        Self {
            repo: repo.id(),
            revision: repo.revision().to_owned(),
            files: planned.iter().map(file).collect(),
            bytes: planned.iter().map(|file| file.size).sum(),
            sent: None,
        }
    }

    fn print(&self, extra: &[(String, Vec<u8>)]) -> Result<()> {
        if let Some(sent) = &self.sent {
            output::line(&sent.url)?;
            return Ok(());
        }
        output::line(format!("to {} at {}:", self.repo, self.revision))?;
        for file in &self.files {
            let made = if file.made { "  (made here)" } else { "" };
            output::line(format!("  {:>10}  {}{made}", output::bytes(file.size), file.path))?;
        }
        output::line(format!("{} in all; nothing was sent", output::bytes(self.bytes)))?;
        for (name, content) in extra.iter().filter(|(name, _)| name == "README.md") {
            output::line(format!("\n{name}:\n{}", String::from_utf8_lossy(content)))?;
        }
        Ok(())
    }
}
