//! Files that are there whole or not at all.
//!
//! The bytes go to a temporary file in the same folder, which is synced and then renamed. Several
//! files can be finished first and given their names together at the end.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

use crate::{Error, Result};

/// What the names of files begin with that are being written.
const TEMPORARY_PREFIX: &str = ".tmp-olmo-";

/// A file being written under a temporary name, removed when dropped.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
}

/// A file complete on disk that has not got its name yet, removed when dropped.
#[derive(Debug)]
pub(crate) struct FinishedFile {
    path: PathBuf,
    temporary: TempPath,
}

impl AtomicFile {
    /// Begins the file that will stand at `path`, or where a link there leads.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let path = &place_of(path).map_err(Error::io(path))?;
        let folder = folder_of(path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY_PREFIX);
        // Temporary files are private by default; these become ordinary files, under the umask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(Error::io(path))?;
        // Where the file system knows no locks, another process may take it for a leftover.
        let _ = file.as_file().try_lock();
        Ok(Self { path: path.to_owned(), file: BufWriter::with_capacity(1 << 20, file) })
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }

    /// Brings every byte to the disk and closes the file.
    pub(crate) fn finish(self) -> Result<FinishedFile> {
        let Self { path, file } = self;
        let file = file.into_inner().map_err(|error| Error::io(&path)(error.into_error()))?;
        file.as_file().sync_all().map_err(Error::io(&path))?;
        Ok(FinishedFile { path, temporary: file.into_temp_path() })
    }
}

impl FinishedFile {
    /// Gives the file its name, in place of one that has it.
    pub(crate) fn persist(self) -> Result<()> {
        let Self { path, temporary } = self;
        temporary.persist(&path).map_err(|error| Error::io(&path)(error.error))?;
        sync_folder(folder_of(&path)).map_err(Error::io(&path))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Removes what killed processes left half written in a folder; what is being written stays.
pub(crate) fn clean_leftovers(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_left = |path| File::open(path).is_ok_and(|file| file.try_lock().is_ok());
        if name.starts_with(TEMPORARY_PREFIX) && path.is_file() && is_left(&path) {
            std::fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Where a file is to be replaced: at the end of links, and never in place of a device or a pipe.
fn place_of(path: &Path) -> std::io::Result<PathBuf> {
    let Ok(found) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    if found.is_symlink() {
        return place_of(&path.canonicalize()?);
    }
    if !(found.is_file() || found.is_dir()) {
        let reason =
            "it is no file but a device, pipe or socket, which a file would take the place of";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason));
    }
    Ok(path.to_owned())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A rename is on disk once its folder is; only Unix can open a folder to sync it.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_only_when_persisted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"abc").unwrap();
        let finished = file.finish().unwrap();
        assert!(!path.exists());
        finished.persist().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");

        drop(AtomicFile::create(&path).unwrap().finish().unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&path, b"old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let mut file = AtomicFile::create(&link).unwrap();
        file.write_all(b"new").unwrap();
        file.finish().unwrap().persist().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(link.symlink_metadata().unwrap().is_symlink());
        let error = AtomicFile::create(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.contains("it is no file but a device"), "{error}");
    }

    #[test]
    fn leftovers_go_and_what_is_being_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(".tmp-olmo-a1b2c3");
        std::fs::write(&left, b"half").unwrap();
        let mut file = AtomicFile::create(&folder.path().join("out")).unwrap();
        clean_leftovers(folder.path()).unwrap();
        assert!(!left.exists());
        file.write_all(b"abc").unwrap();
        file.finish().unwrap().persist().unwrap();
        assert_eq!(std::fs::read(folder.path().join("out")).unwrap(), b"abc");
    }
}
