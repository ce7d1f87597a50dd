//! Signals that whoever started the process told it to ignore, as `nohup` does with SIGHUP and a
//! shell does with SIGINT for what runs in the background of a script.

use std::{mem, ptr};

use libc::{SIG_IGN, SIGHUP, SIGINT, SIGTERM, c_int, sigaction};

/// What ctrlc listens for, whether it was ignored or not.
const LISTENED_FOR: [c_int; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Signals that were ignored.
pub(super) struct Signals(Vec<c_int>);

impl Signals {
    /// Those that are ignored now.
    pub(super) fn now() -> Self {
        Self(LISTENED_FOR.into_iter().filter(|&signal| is_ignored(signal)).collect())
    }

    /// Ignores them once more, after others have installed handlers.
    pub(super) fn ignore_again(&self) {
        for &signal in &self.0 {
            // SAFETY: a structure of numbers and a null pointer at most.
            let mut action: sigaction = unsafe { mem::zeroed() };
            action.sa_sigaction = SIG_IGN;
            // SAFETY: the action is whole, the old one is not asked for, and no handler of ours runs.
            unsafe { sigaction(signal, &raw const action, ptr::null_mut()) };
        }
    }
}

fn is_ignored(signal: c_int) -> bool {
    // SAFETY: a structure of numbers and a null pointer at most.
    let mut action: sigaction = unsafe { mem::zeroed() };
    // SAFETY: nothing is changed, and what is written is of the type that is written to.
    let asked = unsafe { sigaction(signal, ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == SIG_IGN
}
