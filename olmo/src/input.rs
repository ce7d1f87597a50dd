//! What several verbs read: a model folder, its tokenizer, token rows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use olmo_data::Tokenizer;
#[cfg(feature = "net")]
use olmo_hub::hub::{self, Repo};
use olmo_hub::{ModelFolder, linked};

#[cfg(feature = "net")]
use crate::interrupt::Interrupt;

/// Opens a model without reading its weights: a folder, or a repository of the Hub, `owner/name` or
/// `owner/name@revision`, which is pulled unless it is in the cache.
pub(crate) fn model_folder(model: &Path) -> Result<ModelFolder> {
    Ok(ModelFolder::open(model_dir(model)?)?)
}

/// The folder of a model, which is pulled where it is the name of a repository.
pub(crate) fn model_dir(model: &Path) -> Result<PathBuf> {
    if model.exists() {
        let dir = linked(model)?;
        ensure!(dir.is_dir(), "{} is a file, expected a model folder", dir.display());
        return Ok(dir);
    }
    #[cfg(feature = "net")]
    if let Some(repo) = as_repo(model) {
        return Ok(pull(&repo)?.path);
    }
    bail!("there is no model folder {}{}", model.display(), why_no_repo(model))
}

/// What is to be said of a name that is no folder's, where it could have been a repository's.
fn why_no_repo(model: &Path) -> String {
    let is_path = !model.is_relative() || model.starts_with(".") || model.starts_with("..");
    #[cfg(feature = "net")]
    if let (false, Some(Err(error))) = (is_path, model.to_str().map(str::parse::<Repo>)) {
        return format!(", and {error}");
    }
    if is_path { String::new() } else { " here".to_owned() }
}

/// The repository that a name is of, which a path that begins like one is not.
#[cfg(feature = "net")]
fn as_repo(model: &Path) -> Option<Repo> {
    let repo: Repo = model.to_str()?.parse().ok()?;
    // `runs/small` with a folder `runs` is a slip in a path.
    (!Path::new(repo.owner()).is_dir()).then_some(repo)
}

/// Brings a model into the cache, with a bar for each file and one for all.
#[cfg(feature = "net")]
pub(crate) fn pull(repo: &Repo) -> Result<hub::Pulled> {
    let settings = hub::Settings::from_env();
    let interrupt = Interrupt::listen()?;
    let bars = crate::progress::Files::new(&repo.to_string());
    let request = hub::Pull { repo, settings: &settings, stop: interrupt.flag() };
    let pulled = hub::pull(&request, &|event| match event {
        hub::Event::Planned(files) => bars.begin(files),
        hub::Event::Progress(index, n_bytes) => bars.advance(index, n_bytes),
        hub::Event::Done(index) => bars.finish(index),
    });
    bars.clear();
    let pulled = pulled?;
    if let Some(name) = &pulled.moved_to {
        crate::output::complain(&format!("note: {} has moved to {name}", repo.id()));
    }
    Ok(pulled)
}

/// Where the tokenizer of a model folder would be.
pub(crate) fn tokenizer_path(folder: &ModelFolder) -> PathBuf {
    folder.path().join("tokenizer.json")
}

/// The tokenizer of a model folder, if it has one.
pub(crate) fn tokenizer(folder: &ModelFolder) -> Result<Option<Tokenizer>> {
    let path = tokenizer_path(folder);
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(Tokenizer::from_file(path)?))
}

/// Reads rows of token ids, JSON `[[ids], …]`, and checks them against a model's vocabulary.
pub(crate) fn token_rows(path: &Path, vocab_size: usize) -> Result<Vec<Vec<u32>>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows: Vec<Vec<u32>> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no JSON of token ids [[ids], …]", path.display()))?;
    ensure!(!rows.is_empty(), "{} has no rows, expected [[ids], …]", path.display());
    for (i, row) in rows.iter().enumerate() {
        let row_number = i + 1;
        ensure!(!row.is_empty(), "row {row_number} of {} has no tokens", path.display());
        if let Some(position) = row.iter().position(|&id| id as usize >= vocab_size) {
            bail!(
                "row {row_number} of {}: token id {} at position {position} is past the \
                 vocabulary of {vocab_size}",
                path.display(),
                row[position],
            );
        }
    }
    Ok(rows)
}
