//! Names for what is still being written, each locked as long as its process lives.
//!
//! A lock ends with the process that holds it, however that ends. So what nobody holds was left by a process
//! that was killed, and whoever writes the same file or folder next removes it. Where the file system has no
//! locks, or those of folders on systems that do not open them, it stays.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::atomic::TEMPORARY_PREFIX;
use crate::error::{Error, Result};

/// Names that are tried before it is given up.
const ATTEMPTS: u32 = 1 << 16;

/// Tells the names of this process apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A path that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    /// Open and locked, where the system can.
    lock: Option<File>,
}

impl Temporary {
    /// Creates a file beside the place where it will stand.
    pub(crate) fn file(place: &Path) -> Result<(File, Self)> {
        Self::beside(place, |path| {
            let file = OpenOptions::new().write(true).create_new(true).open(path)?;
            let lock = file.try_clone().ok();
            Ok((file, lock))
        })
    }

    /// Creates a folder beside the place where it will stand.
    pub(crate) fn folder(place: &Path) -> Result<Self> {
        let made = Self::beside(place, |path| {
            fs::create_dir(path)?;
            Ok(((), File::open(path).ok()))
        });
        made.map(|((), temporary)| temporary)
    }

    fn beside<T>(
        place: &Path,
        make: impl Fn(&Path) -> io::Result<(T, Option<File>)>,
    ) -> Result<(T, Self)> {
        remove_left(place);
        for _ in 0..ATTEMPTS {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = prefixed(place, &format!("{TEMPORARY_PREFIX}{}-{count}-", process::id()))?;
            let (made, lock) = match make(&path) {
                // Left by a process of the same number, as those of containers are.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(Error::io(place, "create"))?,
            };
            // Whoever took it for left before it was locked is removing it, or has.
            let is_taken = lock.as_ref().is_some_and(is_held) || path.symlink_metadata().is_err();
            if !is_taken {
                return Ok((made, Self { path, lock }));
            }
        }
        let reason = io::Error::new(io::ErrorKind::AlreadyExists, "every temporary name is taken");
        Err(Error::io(place, "create")(reason))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets be what has got another name.
    pub(crate) fn keep(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // An open file cannot be removed everywhere.
        self.lock = None;
        if !self.path.as_os_str().is_empty() {
            // An error is on its way to the caller already; the leftover is known by its name.
            let _ = remove(&self.path);
        }
    }
}

/// Locks a file; whether somebody else has.
fn is_held(file: &File) -> bool {
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Removes what killed processes left of a file or folder, as far as that can be known and done.
fn remove_left(place: &Path) {
    let (Some(name), Ok(entries)) = (place.file_name(), fs::read_dir(parent(place))) else {
        return;
    };
    for entry in entries.flatten().filter(|entry| is_temporary_of(&entry.file_name(), name)) {
        // To open anything else may wait, or lead elsewhere.
        if !entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir()) {
            continue;
        }
        // The lock is held until it is gone: another process may just have made it, to lock it next.
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = remove(&entry.path());
        }
    }
}

/// Whether a name is one that something was written under, to become `name`.
fn is_temporary_of(found: &OsStr, name: &OsStr) -> bool {
    let Some(rest) = found.as_encoded_bytes().strip_prefix(TEMPORARY_PREFIX.as_bytes()) else {
        return false;
    };
    let mut parts = rest.splitn(3, |byte| *byte == b'-');
    let mut is_number =
        || parts.next().is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit));
    is_number() && is_number() && parts.next() == Some(name.as_encoded_bytes())
}

/// A path whose name has something before it.
pub(crate) fn prefixed(path: &Path, prefix: &str) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        let reason = io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a name");
        return Err(Error::io(path, "create")(reason));
    };
    let mut prefixed = OsString::from(prefix);
    prefixed.push(name);
    Ok(path.with_file_name(prefixed))
}

/// The folder that a path is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes a file, or a folder with all that is in it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_taken_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("out");
        // Those that come next, of which each is held by somebody.
        let first = COUNTER.load(Ordering::Relaxed);
        let taken = (first..first + 64).map(|count| {
            let prefix = format!("{TEMPORARY_PREFIX}{}-{count}-", process::id());
            let file = File::create_new(prefixed(&place, &prefix).unwrap()).unwrap();
            file.lock().unwrap();
            file
        });
        let taken: Vec<File> = taken.collect();
        let (_, file) = Temporary::file(&place).unwrap();
        let dir = Temporary::folder(&place).unwrap();
        assert!(file.path().is_file() && dir.path().is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), taken.len() + 2);
    }

    #[test]
    fn what_a_killed_process_left_goes_and_what_is_being_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at(".tmp-olmo-1-0-out"), "half").unwrap();
        if cfg!(unix) {
            fs::create_dir(at(".tmp-olmo-1-1-out")).unwrap();
            fs::write(at(".tmp-olmo-1-1-out/model.safetensors"), "half").unwrap();
        }
        let others = [
            "out",
            ".tmp-olmo-1-2-3-out",
            ".tmp-olmo-1-2-other",
            ".tmp-olmo-latest",
            ".tmp-olmo-1-out",
        ];
        for name in others {
            fs::write(at(name), "").unwrap();
        }
        let (_open, file) = Temporary::file(&at("out")).unwrap();
        let dir = cfg!(unix).then(|| Temporary::folder(&at("out")).unwrap());
        let (_, third) = Temporary::file(&at("out")).unwrap();
        assert!(file.path().exists() && dir.iter().all(|dir| dir.path().exists()));
        let n_temporary = 2 + dir.iter().count();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), others.len() + n_temporary);
        drop((file, dir, third));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), others.len());
        assert!(others.iter().all(|name| at(name).exists()));
    }
}
