//! `olmo pull`: a model from the Hugging Face Hub.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use olmo_hub::hub::{Pulled, Repo};
use olmo_hub::write_atomic;
use serde::Serialize;

use crate::{input, output};

/// Fetch a model from the Hugging Face Hub into the cache that Python uses too
///
/// Only configuration, tokenizer and weights are fetched; what is in the cache is not fetched again,
/// and what was cut is gone on with. The variables of Python's client count: `HF_HOME`, `HF_HUB_CACHE`,
/// `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_XET`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  olmo pull allenai/OLMo-2-0425-1B
  olmo pull allenai/OLMo-2-0425-1B --revision stage1-step10000 --to OLMo-step10000")]
pub(crate) struct Pull {
    /// owner/name, or owner/name@revision
    #[arg(value_name = "REPO")]
    repo: Repo,
    /// Branch, tag or commit, or the beginning of a branch's name
    #[arg(long, value_name = "R")]
    revision: Option<String>,
    /// Copy the files to this folder too
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    path: Cow<'a, str>,
    commit: &'a str,
    revision: &'a str,
    files: &'a [String],
    bytes_fetched: u64,
}

impl Pull {
    pub(crate) fn run(&self) -> Result<()> {
        let repo = with_revision(&self.repo, self.revision.as_deref())?;
        let pulled = input::pull(&repo)?;
        if let Some(to) = &self.to {
            copy(&pulled, to)?;
        }
        let path = self.to.as_deref().unwrap_or(&pulled.path);
        if self.json {
            return Ok(output::json(&Report {
                path: path.to_string_lossy(),
                commit: &pulled.commit,
                revision: &pulled.revision,
                files: &pulled.files,
                bytes_fetched: pulled.n_fetched,
            })?);
        }
        Ok(output::line(path.display().to_string())?)
    }
}

/// A repository with the revision that an option gives, which its name may give too.
pub(crate) fn with_revision(repo: &Repo, revision: Option<&str>) -> Result<Repo> {
    match revision {
        Some(revision) => Ok(format!("{}@{revision}", repo.id()).parse()?),
        None => Ok(repo.clone()),
    }
}

/// Copies the files out of the cache, each whole or not at all.
fn copy(pulled: &Pulled, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for name in &pulled.files {
        let source = pulled.path.join(name);
        let target = to.join(name);
        let mut file =
            File::open(&source).with_context(|| format!("cannot read {}", source.display()))?;
        write_atomic(&target, |out| -> Result<()> {
            io::copy(&mut file, out)
                .with_context(|| format!("cannot write {}", target.display()))?;
            Ok(())
        })?;
    }
    Ok(())
}
