//! Progress bars on standard error, shown where that is a terminal.

#[cfg(feature = "net")]
use std::sync::OnceLock;
use std::time::Duration;

#[cfg(feature = "net")]
use indicatif::MultiProgress;
use indicatif::{ProgressBar, ProgressStyle};

/// Times a second that an idle bar turns its spinner.
const TICK: Duration = Duration::from_millis(200);

/// A bar over the bytes of the input.
pub(crate) fn bytes(n_bytes: u64, what: &str) -> ProgressBar {
    let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    with_style(ProgressBar::new(n_bytes), template, what)
}

/// A bar over the tokens of a run, whose steps may have more and more of them; the prefix counts steps,
/// the message says how it goes.
pub(crate) fn run(n_tokens: u64) -> ProgressBar {
    let template = "step {prefix} [{wide_bar}] {msg}  {eta}";
    with_style(ProgressBar::new(n_tokens), template, "")
}

/// A bar over the values of a model.
pub(crate) fn values(n_values: u64, what: &str) -> ProgressBar {
    with_style(ProgressBar::new(n_values), "{msg} [{wide_bar}] {percent}% {eta}", what)
}

/// Bars of several files at once, and one of all of them.
#[cfg(feature = "net")]
#[derive(Debug)]
pub(crate) struct Files {
    bars: MultiProgress,
    total: ProgressBar,
    /// Nothing before the files are known.
    each: OnceLock<Vec<ProgressBar>>,
}

#[cfg(feature = "net")]
impl Files {
    pub(crate) fn new(what: &str) -> Self {
        let bars = MultiProgress::new();
        let total = bars.add(bytes(0, what));
        total.enable_steady_tick(TICK);
        Self { bars, total, each: OnceLock::new() }
    }

    /// Shows the files to come.
    pub(crate) fn begin(&self, files: &[(String, u64)]) {
        // What the Hub says of sizes may be anything.
        let n_bytes = files.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
        self.total.set_length(n_bytes);
        let bar =
            |(name, size): &(String, u64)| self.bars.insert_before(&self.total, bytes(*size, name));
        self.each.get_or_init(|| files.iter().map(bar).collect());
    }

    /// Moves a file's bar, back where bytes turned out to be wrong.
    pub(crate) fn advance(&self, index: usize, n_bytes: i64) {
        let of_file = self.each.get().and_then(|files| files.get(index));
        for bar in of_file.into_iter().chain([&self.total]) {
            match u64::try_from(n_bytes) {
                Ok(n) => bar.inc(n),
                Err(_) => bar.dec(n_bytes.unsigned_abs()),
            }
        }
    }

    /// Takes a file's bar away.
    pub(crate) fn finish(&self, index: usize) {
        if let Some(bar) = self.each.get().and_then(|files| files.get(index)) {
            bar.finish_and_clear();
        }
    }

    /// Takes all bars away.
    pub(crate) fn clear(&self) {
        self.total.finish_and_clear();
        for bar in self.each.get().into_iter().flatten() {
            bar.finish_and_clear();
        }
    }
}

/// A spinner for work whose end is not known.
pub(crate) fn open_ended(what: &str) -> ProgressBar {
    let bar = with_style(ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}", what);
    bar.enable_steady_tick(TICK);
    bar
}

fn with_style(bar: ProgressBar, template: &str, what: &str) -> ProgressBar {
    // Nothing is drawn before the bar is complete.
    let bar = bar.with_message(what.to_owned());
    // The templates above are sound; should one not be, a plain bar is better than none.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
