//! Files and folders that are there whole or not at all.
//!
//! Everything is written under a temporary name beside its place, forced to the disk, and then
//! renamed, which the file system does in one step. Whatever interrupts a save leaves either the
//! old content or the new, and at worst a leftover, which goes when the same is written again, and
//! which [`clean_leftovers`] knows by its name.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::temporary::{Temporary, parent, prefixed, remove};

/// Begins the name of everything that is still being written.
pub const TEMPORARY_PREFIX: &str = ".tmp-olmo-";

/// Begins the name of a folder that is being replaced, for the moment between two renames.
pub const REPLACED_PREFIX: &str = ".replaced-olmo-";

/// Writes a file through `write`, and puts it in place once all of it is on the disk.
///
/// The folder must exist; a file of that name is replaced. Should `write` fail, nothing changes.
///
/// # Errors
///
/// What `write` returned, or [`Error::Io`] where the file could not be created, forced to the
/// disk or renamed.
pub fn write_atomic<T, E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut AtomicFile) -> Result<T, E>,
) -> Result<T, E> {
    let mut file = AtomicFile::create(path)?;
    let value = write(&mut file)?;
    file.commit()?;
    Ok(value)
}

/// Builds a folder through `build`, which is given a temporary folder beside the final one, and
/// puts it in place once all of it is on the disk.
///
/// Folders above are created. A folder already there is replaced as a whole; for a moment it
/// stands under another name, from which [`clean_leftovers`] brings it back should the process
/// end just then.
///
/// # Errors
///
/// What `build` returned, or [`Error::Io`] where the folder could not be created, forced to the
/// disk or renamed.
pub fn write_dir_atomic<T, E: From<Error>>(
    final_dir: &Path,
    build: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let parent = parent(final_dir);
    fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
    let temporary = Temporary::folder(final_dir)?;
    let value = build(temporary.path())?;
    sync_tree(temporary.path())?;
    replace_dir(temporary, final_dir)?;
    Ok(value)
}

/// Removes what interrupted saves left in a folder, and returns what was removed.
///
/// A folder that was being replaced is brought back under its own name if its replacement did
/// not arrive. Call it while nothing is being saved there. A folder that is not there has no
/// leftovers.
///
/// # Errors
///
/// [`Error::Io`] where the folder cannot be listed or a leftover cannot be removed.
pub fn clean_leftovers(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder, "list")(error)),
    };
    let mut removed = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(folder, "list"))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(original) = name.strip_prefix(REPLACED_PREFIX) {
            let original = folder.join(original);
            if !original.exists() {
                fs::rename(&path, &original).map_err(Error::io(&path, "rename"))?;
                continue;
            }
        } else if !name.starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        remove(&path).map_err(Error::io(&path, "remove"))?;
        removed.push(path);
    }
    removed.sort();
    Ok(removed)
}

/// A file being written under a temporary name; dropped before [`commit`](Self::commit), it
/// leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    // Dropped before `temporary`, which removes the file: an open file cannot be removed everywhere.
    writer: BufWriter<File>,
    temporary: Temporary,
    path: PathBuf,
}

impl AtomicFile {
    /// Begins the file that will stand at `path`, or where a link there leads.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where `path` names no file, or a folder or a device, or its folder cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        // Found out before there is anything to lose.
        let path = place_of(path).map_err(Error::io(path, "create"))?;
        let (file, temporary) = Temporary::file(&path)?;
        let writer = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { writer, temporary, path })
    }

    /// Where the file will stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the final path, on a full disk for one.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }

    /// Forces the file to the disk and puts it in place.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the temporary file is removed.
    pub fn commit(self) -> Result<()> {
        self.seal()?.publish()
    }

    /// Forces the file to the disk without putting it in place yet.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the temporary file is removed.
    pub fn seal(mut self) -> Result<SealedFile> {
        self.writer.flush().map_err(Error::io(&self.path, "write"))?;
        self.writer.get_ref().sync_all().map_err(Error::io(&self.path, "write"))?;
        let Self { writer, temporary, path } = self;
        drop(writer);
        Ok(SealedFile { temporary, path })
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A file that is on the disk under a temporary name, and only has to be put in place.
#[derive(Debug)]
pub struct SealedFile {
    temporary: Temporary,
    path: PathBuf,
}

impl SealedFile {
    /// Puts the file in place.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the temporary file is removed.
    pub fn publish(self) -> Result<()> {
        let Self { temporary, path } = self;
        fs::rename(temporary.path(), &path).map_err(Error::io(&path, "rename to"))?;
        temporary.keep();
        sync_dir(parent(&path))
    }
}

/// Where a file is to be replaced: at the end of links, and in place of a file only.
fn place_of(path: &Path) -> io::Result<PathBuf> {
    let Ok(found) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    if found.is_symlink() {
        return place_of(&path.canonicalize()?);
    }
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !found.is_file() {
        let reason =
            "it is no file but a device, pipe or socket, which a file would take the place of";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    Ok(path.to_owned())
}

fn replace_dir(temporary: Temporary, final_dir: &Path) -> Result<()> {
    let replaced = prefixed(final_dir, REPLACED_PREFIX)?;
    let replaces = final_dir.symlink_metadata().is_ok();
    if replaces {
        if replaced.symlink_metadata().is_ok() {
            remove(&replaced).map_err(Error::io(&replaced, "remove"))?;
        }
        fs::rename(final_dir, &replaced).map_err(Error::io(final_dir, "rename"))?;
    }
    if let Err(error) = fs::rename(temporary.path(), final_dir) {
        if replaces {
            // Whether or not this works, the error that matters is the first.
            let _ = fs::rename(&replaced, final_dir);
        }
        return Err(Error::io(final_dir, "rename to")(error));
    }
    temporary.keep();
    sync_dir(parent(final_dir))?;
    if replaces {
        remove(&replaced).map_err(Error::io(&replaced, "remove"))?;
    }
    Ok(())
}

/// Forces every file and folder under `dir` to the disk.
fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let entry = entry.map_err(Error::io(dir, "list"))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io(&path, "read"))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(Error::io(&path, "force to the disk"))?;
        }
    }
    sync_dir(dir)
}

/// Forces a folder's list of names to the disk, where the system lets folders be opened.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(Error::io(dir, "force to the disk"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn fail(path: &Path) -> Error {
        Error::io(path, "write")(io::Error::from(io::ErrorKind::StorageFull))
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_atomic::<_, Error>(&link, |file| file.put(b"new")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(link.symlink_metadata().unwrap().is_symlink());
        std::os::unix::fs::symlink("/dev/null", folder.path().join("null")).unwrap();
        for device in [Path::new("/dev/null"), &folder.path().join("null")] {
            let error = AtomicFile::create(device).unwrap_err().to_string();
            assert!(error.contains("it is no file but a device"), "{error}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write_atomic::<_, Error>(&path, |file| file.put(b"old")).unwrap();
        let error = write_atomic::<(), Error>(&path, |file| {
            file.put(b"half of the n")?;
            assert_eq!(names(folder.path()).len(), 2, "the temporary stands beside the file");
            Err(fail(&path))
        });
        assert!(error.unwrap_err().to_string().contains("state.json"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["state.json"]);
        write_atomic::<_, Error>(&path, |file| file.put(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_file_that_would_be_a_folder_is_refused_before_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let written = write_atomic::<(), Error>(folder.path(), |_| panic!("it is a folder"));
        assert!(written.unwrap_err().to_string().contains("is a directory"));
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn a_folder_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let step = folder.path().join("checkpoints/step1");
        let build = |text: &'static str, fails: bool| {
            write_dir_atomic::<_, Error>(&step, |dir| {
                fs::create_dir(dir.join("train")).unwrap();
                fs::write(dir.join("train/state"), text).unwrap();
                if fails { Err(fail(dir)) } else { Ok(()) }
            })
        };
        build("first", false).unwrap();
        build("second", true).unwrap_err();
        assert_eq!(fs::read_to_string(step.join("train/state")).unwrap(), "first");
        build("third", false).unwrap();
        assert_eq!(fs::read_to_string(step.join("train/state")).unwrap(), "third");
        assert_eq!(names(&folder.path().join("checkpoints")), ["step1"]);
    }

    #[test]
    fn leftovers_are_removed_and_replaced_folders_brought_back() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at(".tmp-olmo-1-0-step3")).unwrap();
        fs::write(at(".tmp-olmo-1-0-step3/model.safetensors"), "x").unwrap();
        fs::write(at(".tmp-olmo-1-1-config.json"), "x").unwrap();
        fs::create_dir(at(".replaced-olmo-step1")).unwrap();
        fs::create_dir(at(".replaced-olmo-step2")).unwrap();
        fs::create_dir(at("step2")).unwrap();
        fs::write(at(".tmp-of-another-program"), "x").unwrap();
        let removed = clean_leftovers(folder.path()).unwrap();
        assert_eq!(removed.len(), 3);
        assert_eq!(names(folder.path()), [".tmp-of-another-program", "step1", "step2"]);
        assert_eq!(clean_leftovers(&at("nowhere")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_path_without_a_name_or_a_folder_is_an_error() {
        let nowhere = Path::new("/");
        assert!(write_atomic::<(), Error>(nowhere, |_| Ok(())).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no/such/folder/file");
        let error = write_atomic::<(), Error>(&path, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("no/such/folder/file"), "{error}");
    }
}
