//! Ctrl-C: the first asks the work to stop and clean up, the second ends the process.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};

/// Whether the user has asked to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from here on; asked again, it is the same.
    pub(crate) fn listen() -> Result<Self> {
        static LISTENING: OnceLock<Interrupt> = OnceLock::new();
        if let Some(listening) = LISTENING.get() {
            return Ok(listening.clone());
        }
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                process::exit(130);
            }
            crate::output::complain("stopping; once more to stop at once");
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(LISTENING.get_or_init(|| Self(asked)).clone())
    }

    /// Set once the user has asked.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }

    /// Asks to stop, as the user would.
    #[cfg(all(feature = "tui", unix))]
    pub(crate) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Forgets it, once what was to stop has.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
