//! Progress bars on standard error, shown where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Times a second that an idle bar turns its spinner.
const TICK: Duration = Duration::from_millis(200);

/// A bar over the bytes of the input.
pub(crate) fn bytes(n_bytes: u64, what: &str) -> ProgressBar {
    let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    with_style(ProgressBar::new(n_bytes), template, what)
}

/// A bar over training steps; the message says how it goes.
pub(crate) fn steps(n_steps: u64) -> ProgressBar {
    let template = "step {pos}/{len} [{wide_bar}] {msg}  {eta}";
    with_style(ProgressBar::new(n_steps), template, "")
}

/// A spinner for work whose end is not known.
pub(crate) fn open_ended(what: &str) -> ProgressBar {
    let bar = with_style(ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}", what);
    bar.enable_steady_tick(TICK);
    bar
}

fn with_style(bar: ProgressBar, template: &str, what: &str) -> ProgressBar {
    bar.set_message(what.to_owned());
    // The templates above are sound; should one not be, a plain bar is better than none.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
