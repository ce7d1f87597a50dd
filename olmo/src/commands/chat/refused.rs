//! Lines of a chat that could not be followed: whoever talks goes on, a script has to be told.

use anyhow::Result;

use crate::{failure, output};

/// How many there were, and the first.
#[derive(Debug, Default)]
pub(super) struct Refused {
    n_lines: usize,
    first: Option<anyhow::Error>,
}

impl Refused {
    /// Says why a line was not followed, and remembers it.
    pub(super) fn push(&mut self, reason: anyhow::Error) {
        output::complain(&failure::told(&reason, ": "));
        self.n_lines += 1;
        self.first.get_or_insert(reason);
    }

    /// An error where there was one.
    pub(super) fn result(self) -> Result<()> {
        let Self { n_lines, first } = self;
        let lines = if n_lines == 1 { "line was" } else { "lines were" };
        first.map_or(Ok(()), |first| Err(first.context(format!("{n_lines} {lines} refused"))))
    }
}
