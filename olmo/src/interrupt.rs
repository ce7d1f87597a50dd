//! Ctrl-C: the first asks the work to stop and clean up, the second ends the process.

#[cfg(unix)]
mod ignored;

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};

use crate::{failure, output};

/// Whether the user has asked to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    asked: AtomicBool,
    /// Nothing is done but to wait for input: there is nothing to clean up.
    waiting: AtomicBool,
}

impl Interrupt {
    /// Listens from here on; asked again, it is the same.
    pub(crate) fn listen() -> Result<Self> {
        static LISTENING: OnceLock<Interrupt> = OnceLock::new();
        if let Some(listening) = LISTENING.get() {
            return Ok(listening.clone());
        }
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        #[cfg(unix)]
        let ignored = ignored::Signals::now();
        ctrlc::set_handler(move || {
            let asked_before = shared.asked.swap(true, Ordering::SeqCst);
            if shared.waiting.load(Ordering::SeqCst) {
                // Behind the prompt and what the terminal shows for the key.
                let end_of_line = if io::stderr().is_terminal() { "\n" } else { "" };
                output::complain(&format!("{end_of_line}error: {Interrupted}"));
                process::exit(failure::RUNTIME.into());
            }
            if asked_before {
                process::exit(130);
            }
            output::complain("stopping; once more to stop at once");
        })
        .context("cannot listen for Ctrl-C")?;
        #[cfg(unix)]
        ignored.ignore_again();
        Ok(LISTENING.get_or_init(|| Self(state)).clone())
    }

    /// Set once the user has asked.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0.asked
    }

    /// Asks to stop, as the user would.
    #[cfg(all(feature = "tui", unix))]
    pub(crate) fn ask(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Forgets it, once what was to stop has.
    pub(crate) fn clear(&self) {
        self.0.asked.store(false, Ordering::SeqCst);
    }

    /// Waits for input, which cannot be told to stop: the process ends where the user asks.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] where the user has asked before.
    pub(crate) fn wait<T>(&self, input: impl FnOnce() -> Result<T>) -> Result<T> {
        // In this order: what is asked now is seen here or by the handler.
        self.0.waiting.store(true, Ordering::SeqCst);
        let found =
            if self.0.asked.load(Ordering::SeqCst) { Err(Interrupted.into()) } else { input() };
        self.0.waiting.store(false, Ordering::SeqCst);
        found
    }
}

/// The user asked to stop, and nothing more is to be said of it.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped on request")
    }
}

impl std::error::Error for Interrupted {}
