//! Standard output for results, standard error for complaints.
//!
//! Writing gives an error instead of a panic where the reader has gone, so that
//! [`failure`](crate::failure) can end quietly.

use std::fmt;
use std::io::{self, Write as _};

use serde::Serialize;

/// Standard output cannot be written to.
#[derive(Debug)]
struct Unwritable(io::Error);

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

impl std::error::Error for Unwritable {}

/// Says of an error that it is standard output's.
fn of_stdout(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Unwritable(error))
}

/// Whether an error is that nobody reads standard output any more, as of `olmo model list | head -1`.
pub(crate) fn has_no_reader(error: &io::Error) -> bool {
    let is_of_stdout = matches!(error.get_ref(), Some(inner) if inner.is::<Unwritable>());
    is_of_stdout && error.kind() == io::ErrorKind::BrokenPipe
}

/// Prints a line.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref()).map_err(of_stdout)
}

/// Prints a part of a line at once.
pub(crate) fn piece(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(of_stdout)
}

/// Prints a value as one line of JSON. Paths stand in it as text: serde refuses one that is not UTF-8,
/// and what was asked for is done by then.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value).map_err(io::Error::from)?;
    line(text)
}

/// Prints a line on standard error; that it cannot be written has nowhere to be said.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A count with a comma every three digits.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count in thousands, millions, …, to three digits: `1.48 B`.
pub(crate) fn scaled(count: u64) -> String {
    scaled_by(count, 1000.0, &["", " k", " M", " B", " T", " Q"])
}

/// A number of bytes to three digits: `27.2 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    scaled_by(count, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

fn scaled_by(count: u64, step: f64, units: &[&str]) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    // 999.5 would be written as 1000.
    while value >= step.min(999.5) && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_to_three_digits() {
        assert_eq!(grouped(1_484_916_736), "1,484,916,736");
        assert_eq!(
            (grouped(0), grouped(999), grouped(1000)),
            ("0".into(), "999".into(), "1,000".into())
        );
        assert_eq!((scaled(12), scaled(1_484_916_736)), ("12".into(), "1.48 B".into()));
        assert_eq!((scaled(999_600), scaled(65_000_000_000)), ("1.00 M".into(), "65.0 B".into()));
        assert_eq!((bytes(512), bytes(4 << 30)), ("512 B".into(), "4.00 GiB".into()));
        assert_eq!(bytes(1000 << 20), "0.98 GiB");
        assert_eq!(scaled(u64::MAX), "18447 Q");
    }
}
