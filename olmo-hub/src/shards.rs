//! The weight files of a model folder as one set of tensors, in whichever form they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, FolderProblem, Result};
use crate::header::{Entry, Header, HeaderError};
use crate::layout::plain_names;
use crate::pickled_keys;
use crate::sharded;
use crate::text_file;
use crate::torch_file;
use crate::values::{Piece, Source};

/// The file of a model that is in one.
pub(crate) const SINGLE: &str = "model.safetensors";

/// The file that says which tensor is in which of many.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The file of a checkpoint of ai2-olmo's trainer.
pub(crate) const ORIGINAL: &str = "model.pt";

/// The files of a model before safetensors.
const OLD_SINGLE: &str = "pytorch_model.bin";
const OLD_INDEX: &str = "pytorch_model.bin.index.json";

/// In the order of preference; transformers has the same, as far as it knows them.
const FILES: [&str; 5] = [SINGLE, INDEX, ORIGINAL, OLD_SINGLE, OLD_INDEX];

/// Every tensor of a folder, and the files they are in.
#[derive(Debug, Default)]
pub(crate) struct Shards {
    /// By their names in the folder.
    names: Vec<String>,
    /// Open, where every tensor is whole in one of them.
    files: Vec<File>,
    /// Where tensors are in pieces.
    paths: Vec<PathBuf>,
    tensors: HashMap<String, Tensor>,
}

/// A tensor of a folder.
#[derive(Debug)]
pub(crate) struct Tensor {
    /// As in safetensors.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// In a file, from a byte on.
    Whole(usize, u64),
    /// In the order of the elements, without gaps.
    Pieces(Vec<Piece>),
}

impl Tensor {
    pub(crate) fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The file it begins in.
    fn file(&self) -> usize {
        match &self.place {
            Place::Whole(file, _) => *file,
            Place::Pieces(pieces) => pieces.first().map_or(0, |piece| piece.file),
        }
    }
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
    /// Names are freed of what wrappers add to them, see [`plain_names`].
    pub(crate) fn open(dir: &Path, problems: &mut Vec<FolderProblem>) -> Result<Self> {
        let mut shards = Self::default();
        let there = |name: &&str| dir.join(name).symlink_metadata().is_ok();
        match FILES.into_iter().find(there) {
            None => shards.open_sharded(dir, problems),
            Some(name) if name.ends_with(".index.json") => {
                let index = dir.join(name);
                let text = text_file::read(&index, text_file::MAX_BYTES)?;
                let index: Index = serde_json::from_slice(&text).map_err(Error::json(&index))?;
                shards.open_index(dir, &index, problems);
            }
            Some(name) => shards.open_file(dir, name, problems),
        }
        shards.rename(problems);
        Ok(shards)
    }

    /// A tensor by its name.
    pub(crate) fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// What the values of a tensor of these are read from.
    pub(crate) fn source<'a>(&'a self, tensor: &'a Tensor) -> Source<'a> {
        match &tensor.place {
            Place::Whole(file, start) => Source::File(&self.files[*file], *start),
            Place::Pieces(pieces) => Source::Pieces { paths: &self.paths, pieces, first: 0 },
        }
    }

    /// The name of the file that a tensor is in, or begins in.
    pub(crate) fn file_name(&self, name: &str) -> &str {
        self.tensors.get(name).map_or("", |tensor| self.name_of(tensor))
    }

    fn name_of(&self, tensor: &Tensor) -> &str {
        self.names.get(tensor.file()).map_or("", String::as_str)
    }

    /// Every tensor in the order of its name.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// Names of the files.
    pub(crate) fn file_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
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

    /// Gives every tensor its plain name.
    fn rename(&mut self, problems: &mut Vec<FolderProblem>) {
        let mut tensors: Vec<_> = std::mem::take(&mut self.tensors).into_iter().collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let names = plain_names(tensors.iter().map(|(name, _)| name.as_str()));
        for (name, (_, tensor)) in names.into_iter().zip(tensors) {
            self.add(name, tensor, problems);
        }
    }

    fn open_file(&mut self, dir: &Path, name: &str, problems: &mut Vec<FolderProblem>) {
        let damaged = |problem| FolderProblem::Damaged { file: name.to_owned(), problem };
        if let Some(target) = leads_out(dir, name) {
            let target = target.display().to_string();
            return problems.push(FolderProblem::Link { file: name.to_owned(), target });
        }
        let opened = File::open(dir.join(name)).map_err(HeaderError::Io);
        let read = opened.and_then(|file| Ok((entries(&file, name)?, file)));
        let (entries, file) = match read {
            Ok(read) => read,
            Err(HeaderError::Io(error)) => {
                return problems.push(FolderProblem::unreadable(name, &error));
            }
            Err(HeaderError::Problems(found)) => {
                return problems.extend(found.into_iter().map(damaged));
            }
        };
        let index = self.files.len();
        self.files.push(file);
        self.names.push(name.to_owned());
        for Entry { name, dtype, shape, start } in entries {
            let tensor = Tensor { dtype, shape, place: Place::Whole(index, start) };
            self.add(name, tensor, problems);
        }
    }

    /// The sharded forms of the trainers.
    fn open_sharded(&mut self, dir: &Path, problems: &mut Vec<FolderProblem>) {
        let Some(found) = sharded::open(dir, problems) else {
            return problems.push(FolderProblem::NoTensors);
        };
        self.paths = found.files.iter().map(|name| dir.join(name)).collect();
        self.names = found.files;
        for sharded::Tensor { name, dtype, shape, pieces } in found.tensors {
            let tensor = Tensor { dtype, shape, place: Place::Pieces(pieces) };
            self.add(name, tensor, problems);
        }
    }

    fn add(&mut self, name: String, tensor: Tensor, problems: &mut Vec<FolderProblem>) {
        if let Some(first) = self.tensors.get(&name) {
            let (first, second) =
                (self.name_of(first).to_owned(), self.name_of(&tensor).to_owned());
            problems.push(FolderProblem::Duplicate { name, first, second });
        } else {
            self.tensors.insert(name, tensor);
        }
    }
}

/// The tensors of one file, by its extension.
fn entries(file: &File, name: &str) -> Result<Vec<Entry>, HeaderError> {
    let is_safetensors = Path::new(name).extension() == Some("safetensors".as_ref());
    let mut entries = if is_safetensors {
        Header::read(file)?.entries
    } else {
        let length = file.metadata()?.len();
        torch_file::read(file, 0, length)?
    };
    pickled_keys::decode(&mut entries).map_err(HeaderError::Problems)?;
    Ok(entries)
}

/// Where a file leads that is a link out of its folder, `None` where it stays.
///
/// In the cache of `huggingface_hub` every file is a link to `../../blobs`, which counts as inside.
pub(crate) fn leads_out(dir: &Path, name: &str) -> Option<PathBuf> {
    let path = dir.join(name);
    if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
        return None;
    }
    let target = path.canonicalize().ok()?;
    let dir = dir.canonicalize().ok()?;
    let snapshots = dir.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|root| root.join("blobs"));
    let is_inside =
        target.starts_with(&dir) || blobs.is_some_and(|blobs| target.starts_with(blobs));
    (!is_inside).then_some(target)
}

/// Whether a name is that of a file in the folder itself on every system.
pub(crate) fn is_plain_name(name: &str) -> bool {
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
