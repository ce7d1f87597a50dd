//! Configurations and lists, which come from anywhere: read as a whole, up to a size.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::error::{Error, Result};

/// The most bytes of a configuration or an index: those of the released models have up to 400 kB.
pub(crate) const MAX_BYTES: u64 = 1 << 24;

/// The bytes of a file, where there are no more than `max_bytes`.
///
/// # Errors
///
/// [`Error::Io`], also of a file that has more.
pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut bytes = Vec::new();
    // One byte more tells a file that is longer, whatever its size is said to be.
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > max_bytes {
        let problem = format!("it has more than {max_bytes} bytes, the most that such a file may");
        return Err(Error::io(path, "read")(io::Error::new(io::ErrorKind::InvalidData, problem)));
    }
    Ok(bytes)
}

/// The text of a file, where it has no more than [`MAX_BYTES`].
///
/// # Errors
///
/// As [`read`], and of a file that is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let text = String::from_utf8(read(path, MAX_BYTES)?);
    text.map_err(|_| {
        let problem = io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
        Error::io(path, "read")(problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_longer_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(read(file.path(), 3).unwrap(), b"abc");
        assert_eq!(read_text(file.path()).unwrap(), "abc");
        let name = file.path().file_name().unwrap().to_str().unwrap();
        let error = read(file.path(), 2).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("more than 2 bytes"), "{error}");
        std::fs::write(file.path(), [0xFF]).unwrap();
        assert!(read_text(file.path()).unwrap_err().to_string().contains("UTF-8"));
    }
}
