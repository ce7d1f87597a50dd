//! Saving while training goes on.
//!
//! A [`Saver`] writes one checkpoint at a time on a thread of its own, from handles to the tensors
//! as they were ([`Contents`]). Meanwhile the device holds what the next updates write elsewhere, up
//! to the size of weights and optimizer state once more. The next save waits for the one before it.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use super::{Contents, SaveRules, save};
use crate::error::Error;

/// Writes checkpoints, by rules, in the background or at once.
#[derive(Debug)]
pub struct Saver {
    checkpoints: PathBuf,
    rules: SaveRules,
    in_background: bool,
    under_way: Option<UnderWay>,
    newest: Option<(u64, PathBuf)>,
}

#[derive(Debug)]
struct UnderWay {
    step: u64,
    thread: JoinHandle<Result<Saved, Error>>,
}

/// A checkpoint that is there.
#[derive(Debug)]
pub struct Saved {
    /// Its folder.
    pub path: PathBuf,
    /// Why older ones, which were to make way, did not.
    pub not_pruned: Option<Error>,
}

impl Saver {
    /// Saves under the folder `checkpoints`, where `newest` is the newest that is there.
    pub fn new(
        checkpoints: PathBuf,
        rules: SaveRules,
        in_background: bool,
        newest: Option<(u64, PathBuf)>,
    ) -> Self {
        Self { checkpoints, rules, in_background, under_way: None, newest }
    }

    /// The newest checkpoint that is whole, with its step.
    pub fn newest(&self) -> Option<(u64, &Path)> {
        self.newest.as_ref().map(|(step, path)| (*step, path.as_path()))
    }

    /// Whether a step is saved or is being saved.
    pub fn has(&self, step: u64) -> bool {
        let saving = self.under_way.as_ref().is_some_and(|under_way| under_way.step == step);
        saving || self.newest.as_ref().is_some_and(|(newest, _)| *newest == step)
    }

    /// Begins to save; the save before must have been [`wait`](Self::wait)ed for.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where no thread can be started.
    pub fn begin(&mut self, contents: Contents) -> Result<(), Error> {
        let (checkpoints, rules) = (self.checkpoints.clone(), self.rules);
        let step = contents.state.global_step;
        let thread = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || {
                let path = save(&checkpoints, contents)?;
                let not_pruned = rules.prune(&checkpoints).err();
                Ok(Saved { path, not_pruned })
            })
            .map_err(|source| Error::Io { path: self.checkpoints.clone(), source })?;
        self.under_way = Some(UnderWay { step, thread });
        Ok(())
    }

    /// What came of the save under way, `None` where there is none or it is not done yet. One that
    /// is not to be in the background is waited for.
    pub fn poll(&mut self) -> Option<Result<Saved, Error>> {
        let is_done = |under_way: &UnderWay| !self.in_background || under_way.thread.is_finished();
        if self.under_way.as_ref().is_some_and(is_done) { self.wait() } else { None }
    }

    /// Waits for the save under way; `None` where there is none.
    pub fn wait(&mut self) -> Option<Result<Saved, Error>> {
        let UnderWay { step, thread } = self.under_way.take()?;
        let result = thread.join().unwrap_or_else(|_| {
            // The panic's message is on standard error already.
            let message = "the thread that saves has panicked".to_owned();
            Err(Error::Checkpoint { path: self.checkpoints.clone(), message })
        });
        if let Ok(saved) = &result {
            self.newest = Some((step, saved.path.clone()));
        }
        Some(result)
    }
}

impl Drop for Saver {
    /// A run that ends with an error still finishes the save it has begun.
    fn drop(&mut self) {
        let _ = self.wait();
    }
}
