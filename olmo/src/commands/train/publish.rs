//! Checkpoints to the Hugging Face Hub, each as a branch, while training goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, ensure};
use olmo_hub::ModelFolder;
use olmo_hub::atomic::TEMPORARY_PREFIX;
use olmo_hub::hub::{self, Push, Repo, Settings};
use olmo_train::checkpoint::{Kept, Manifest};
use olmo_train::publish::PushConfig;

use crate::commands::pull::with_revision;
use crate::commands::push::card;
use crate::{failure, output};

/// What the links of a queued checkpoint begin with: they outlast a run that is killed.
const QUEUED_PREFIX: &str = ".push-";

/// Where checkpoints are to go.
#[derive(Debug)]
pub(super) struct Target {
    repo: Repo,
    settings: Settings,
    private: bool,
}

/// Sends checkpoints one after the other on a thread of its own.
#[derive(Debug)]
pub(super) struct Publisher {
    queue: Sender<Queued>,
    thread: JoinHandle<Vec<String>>,
}

/// A checkpoint's model, as links of its own that last until it is sent: the checkpoint itself may
/// make way for others before.
#[derive(Debug)]
struct Queued {
    links: PathBuf,
    checkpoint: PathBuf,
    branch: String,
}

impl Target {
    /// What a configuration asks for, as far as it can be seen without the Hub.
    pub(super) fn of(config: &PushConfig) -> Result<Self> {
        let repo: Repo =
            config.repo.parse().with_context(|| format!("push.repo {:?}", config.repo))?;
        let settings = Settings::from_env();
        ensure!(!settings.offline, "push is there, but HF_HUB_OFFLINE is set");
        ensure!(
            settings.token.is_some(),
            "push is there: set HF_TOKEN to a token that may write {}",
            repo.id()
        );
        Ok(Self { repo, settings, private: config.private })
    }

    /// Begins with what a run that was killed had queued; nothing is asked of the Hub before a checkpoint
    /// is there.
    pub(super) fn start(self, checkpoints: &Path) -> Result<Publisher> {
        let Self { repo, settings, private } = self;
        let (queue, received) = mpsc::channel::<Queued>();
        let work = move || {
            let mut failed = Vec::new();
            for queued in received {
                if let Err(error) = queued.push(&repo, &settings, private) {
                    let (dir, branch, id) =
                        (queued.checkpoint.display(), &queued.branch, repo.id());
                    let error = failure::told(&error, ": ");
                    output::complain(&format!("warning: {dir} is not pushed: {error}"));
                    failed.push(format!("olmo push {dir} {id} --revision {branch}"));
                }
                // What cannot be removed is sent once more when the run starts again.
                let _ = fs::remove_dir_all(&queued.links);
            }
            failed
        };
        let thread = thread::Builder::new().name("push".to_owned()).spawn(work)?;
        for queued in Queued::left(checkpoints) {
            queue.send(queued).map_err(|_| anyhow!("the thread that sends has ended"))?;
        }
        Ok(Publisher { queue, thread })
    }
}

impl Publisher {
    /// Queues a checkpoint, unless it only stays until the next.
    pub(super) fn send(&self, checkpoint: &Path) -> Result<()> {
        if Manifest::read(checkpoint)?.kept == Kept::Ephemeral {
            return Ok(());
        }
        let name = checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let links = checkpoint.with_file_name(format!("{QUEUED_PREFIX}{name}"));
        link_files(checkpoint, &links).with_context(|| links.display().to_string())?;
        let queued = Queued { links, checkpoint: checkpoint.to_owned(), branch: name };
        self.queue.send(queued).map_err(|_| anyhow!("the thread that sends has ended"))
    }

    /// Waits until all are sent.
    pub(super) fn finish(self) -> Result<()> {
        drop(self.queue);
        let failed =
            self.thread.join().map_err(|_| anyhow!("the thread that sends has panicked"))?;
        ensure!(
            failed.is_empty(),
            "trained and saved, but not everything is pushed; to push it:\n  {}",
            failed.join("\n  ")
        );
        Ok(())
    }
}

impl Queued {
    /// Those of a run that was killed, oldest first.
    fn left(checkpoints: &Path) -> Vec<Self> {
        let entries = fs::read_dir(checkpoints).into_iter().flatten().flatten();
        let mut left: Vec<Self> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let branch = name.strip_prefix(QUEUED_PREFIX)?.to_owned();
                Some(Self { links: entry.path(), checkpoint: checkpoints.join(&branch), branch })
            })
            .collect();
        left.sort_by_cached_key(|queued| {
            fs::metadata(&queued.links).and_then(|m| m.modified()).ok()
        });
        left
    }

    fn push(&self, repo: &Repo, settings: &Settings, private: bool) -> Result<()> {
        let repo = with_revision(repo, Some(&self.branch))?;
        let folder = ModelFolder::open(&self.links)?;
        let card = card::files(&folder, &repo)?;
        let request = Push {
            repo: &repo,
            settings,
            dir: &self.links,
            extra: &card,
            message: &self.branch,
            private,
        };
        hub::push(&request, |_| {})?;
        Ok(())
    }
}

/// The model's files, without the state of the training: all of them, or no folder of that name.
fn link_files(from: &Path, to: &Path) -> std::io::Result<()> {
    let part = from.with_file_name(format!("{TEMPORARY_PREFIX}push"));
    for old in [&*part, to] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    fs::create_dir(&part)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = part.join(entry.file_name());
        if entry.file_type()?.is_file() && fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target)?;
        }
    }
    fs::rename(&part, to)
}
