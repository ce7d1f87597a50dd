//! The safetensors files of a model folder as one set of tensors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Component, Path};

use serde::Deserialize;

use crate::error::{Error, FolderProblem, Result};
use crate::header::{Entry, Header, HeaderError};

/// The file of a model that is in one.
pub(crate) const SINGLE: &str = "model.safetensors";

/// The file that says which tensor is in which of many.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Every tensor of a folder, and the open files they are in.
#[derive(Debug, Default)]
pub(crate) struct Shards {
    files: Vec<(String, File)>,
    tensors: HashMap<String, (usize, Entry)>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Opens the files of a folder, reading each header once. What is wrong is added to
    /// `problems`, and the rest is opened all the same, so that everything can be told at once.
    ///
    /// As in transformers, `model.safetensors` counts where an index is there beside it.
    pub(crate) fn open(dir: &Path, problems: &mut Vec<FolderProblem>) -> Result<Self> {
        let mut shards = Self::default();
        let index = dir.join(INDEX);
        if dir.join(SINGLE).symlink_metadata().is_ok() {
            shards.open_file(dir, SINGLE, problems);
        } else if index.symlink_metadata().is_ok() {
            let text = fs::read(&index).map_err(Error::io(&index, "read"))?;
            let index: Index = serde_json::from_slice(&text).map_err(Error::json(&index))?;
            shards.open_index(dir, &index, problems);
        } else {
            problems.push(FolderProblem::NoTensors);
        }
        Ok(shards)
    }

    /// A tensor and the file it is in.
    pub(crate) fn get(&self, name: &str) -> Option<(&File, &Entry)> {
        let (shard, entry) = self.tensors.get(name)?;
        Some((&self.files[*shard].1, entry))
    }

    /// The name of the file that a tensor is in.
    pub(crate) fn file_name(&self, name: &str) -> &str {
        self.tensors.get(name).map_or("", |(shard, _)| self.files[*shard].0.as_str())
    }

    /// Every tensor in the order of its name.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// Names of the files.
    pub(crate) fn file_names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }

    fn open_index(&mut self, dir: &Path, index: &Index, problems: &mut Vec<FolderProblem>) {
        let files: BTreeSet<&String> = index.weight_map.values().collect();
        let mut unread = BTreeSet::new();
        for file in files {
            let n_problems = problems.len();
            if !is_plain_name(file) {
                problems.push(FolderProblem::EscapingFile { file: file.clone() });
            } else if fs::metadata(dir.join(file)).is_err() {
                problems.push(FolderProblem::MissingFile { file: file.clone() });
            } else {
                self.open_file(dir, file, problems);
            }
            if problems.len() > n_problems {
                unread.insert(file);
            }
        }
        for (name, file) in &index.weight_map {
            if !unread.contains(file) && self.file_name(name) != file {
                let (name, file) = (name.clone(), file.clone());
                problems.push(FolderProblem::Misplaced { name, file });
            }
        }
    }

    fn open_file(&mut self, dir: &Path, name: &str, problems: &mut Vec<FolderProblem>) {
        let damaged = |problem| FolderProblem::Damaged { file: name.to_owned(), problem };
        let opened = File::open(dir.join(name)).map_err(HeaderError::Io);
        let header = opened.and_then(|file| Ok((Header::read(&file)?, file)));
        let (header, file) = match header {
            Ok(read) => read,
            Err(HeaderError::Io(error)) => return problems.push(damaged(error.to_string())),
            Err(HeaderError::Problems(found)) => {
                return problems.extend(found.into_iter().map(damaged));
            }
        };
        let shard = self.files.len();
        self.files.push((name.to_owned(), file));
        for entry in header.entries {
            let tensor = entry.name.clone();
            if let Some((first, _)) = self.tensors.get(&tensor) {
                let (first, second) = (self.files[*first].0.clone(), name.to_owned());
                problems.push(FolderProblem::Duplicate { name: tensor, first, second });
            } else {
                self.tensors.insert(tensor, (shard, entry));
            }
        }
    }
}

/// Whether a name is that of a file in the folder itself on every system.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    matches!(first, Some(Component::Normal(part)) if part == name)
        && components.next().is_none()
        && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_told_apart() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for name in [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            "a/",
            "./a",
            "a\\b",
            "C:\\x",
            "C:x",
            "a\0b",
        ] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }
}
