//! Files that are there whole or not at all.
//!
//! The bytes go to a temporary file in the same folder, which is synced and then renamed. Several
//! files can be finished first and given their names together at the end.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

use crate::{Error, Result};

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
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".partial-");
        // Temporary files are private by default; these become ordinary files, under the umask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(Error::io(path))?;
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
}
