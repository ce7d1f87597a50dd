//! Tokenizing each input file into files of its own, many at a time.
//!
//! Input `i` becomes `part-i-00000.npy` and so on, and when all of them have their names, a manifest
//! `part-i.json`. Where that is there with the same input and settings, and the files it names are, the
//! input is passed over: so work that was stopped goes on with the files that are left. What was half
//! written has no name and is removed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::atomic_file::clean_leftovers;
use crate::documents::{BadRows, Corpus};
use crate::manifest::{Counts, InputFile, Manifest, Settings};
use crate::tokenize::{Progress, Tokenize, TokenizeReport, write_rejected};
use crate::{Error, Result};

/// Changes the progress of all files together and asks whether to go on.
type Advance<'a> = dyn Fn(&dyn Fn(&mut Progress)) -> ControlFlow<()> + 'a;

impl Tokenize {
    /// Writes the tokens of each file of a corpus into files of its own, on all cores, and goes on
    /// where an earlier call with the same arguments was stopped. The callback is told the progress
    /// and can stop the work.
    ///
    /// # Errors
    ///
    /// As of [`Tokenize::run`]; [`Error::OtherOutput`] where the folder holds tokens of other files
    /// or made with other settings. Inputs that were finished before an error stay finished.
    pub fn run_by_file(
        &self,
        corpus: &Corpus,
        folder: impl AsRef<Path>,
        progress: &mut (dyn FnMut(Progress) -> ControlFlow<()> + Send),
    ) -> Result<TokenizeReport> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        clean_leftovers(folder)?;
        let settings = self.settings()?;
        let n_digits = (corpus.paths().len() - 1).to_string().len();
        let n_files = corpus.paths().len();
        let total = Progress { n_bytes: corpus.n_bytes(), n_files, ..Progress::default() };
        let shared = Mutex::new((total, progress));
        let done: Vec<Manifest> = corpus
            .paths()
            .par_iter()
            .enumerate()
            .map(|(i, path)| {
                let prefix = format!("part-{i:0n_digits$}");
                let advance = |change: &dyn Fn(&mut Progress)| {
                    // A panic elsewhere ends the work anyway.
                    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    let (total, progress) = &mut *shared;
                    change(total);
                    progress(*total)
                };
                self.tokenize_file(path, corpus, folder, prefix, &settings, &advance)
            })
            .collect::<Result<_>>()?;
        let mut counts = Counts::default();
        let mut files: Vec<PathBuf> = Vec::new();
        for manifest in done {
            counts += manifest.counts;
            let paths = manifest.outputs.iter().map(|output| folder.join(&output.name));
            files.extend(paths.filter(|path| path.extension() == Some("npy".as_ref())));
        }
        if counts.n_documents == 0 {
            return Err(Error::EmptyCorpus { n_documents: counts.n_empty_documents });
        }
        Ok(TokenizeReport::new(counts, self.dtype(), files))
    }

    fn tokenize_file(
        &self,
        path: &Path,
        corpus: &Corpus,
        folder: &Path,
        prefix: String,
        settings: &Settings,
        advance: &Advance<'_>,
    ) -> Result<Manifest> {
        let manifest_path = folder.join(format!("{prefix}.json"));
        let input = InputFile::of(path)?;
        if let Some(manifest) = finished(&manifest_path, &input, corpus.bad_rows(), settings)? {
            let counts = manifest.counts;
            let stop = advance(&|total| {
                total.n_documents += counts.n_documents;
                total.n_tokens += counts.n_tokens;
                total.n_bytes_read += input.bytes;
                total.n_files_done += 1;
            });
            return if stop.is_break() { Err(Error::Cancelled) } else { Ok(manifest) };
        }
        let inputs = vec![input];
        let corpus =
            Corpus::new([path], corpus.bad_rows())?.with_max_line_bytes(corpus.max_line_bytes());
        let mut before = (0, 0, 0);
        let rejected_path = folder.join(format!("{prefix}-rejected.jsonl"));
        let series = self.write_series(&corpus, folder, prefix, &mut |counts, documents| {
            let now = (counts.n_documents, counts.n_tokens, documents.n_bytes_read());
            let stop = advance(&|total| {
                total.n_documents += now.0 - before.0;
                total.n_tokens += now.1 - before.1;
                total.n_bytes_read += now.2 - before.2;
            });
            before = now;
            stop
        })?;
        let (_, outputs) = series.writer.finish()?;
        write_rejected(&rejected_path, &series.rejected)?;
        let manifest =
            Manifest { settings: settings.clone(), inputs, counts: series.counts, outputs };
        manifest.write(&manifest_path)?;
        let stop = advance(&|total| total.n_files_done += 1);
        if stop.is_break() { Err(Error::Cancelled) } else { Ok(manifest) }
    }
}

/// What was made of an input before, where all of it is there.
fn finished(
    path: &Path,
    input: &InputFile,
    bad_rows: BadRows,
    settings: &Settings,
) -> Result<Option<Manifest>> {
    if !path.exists() {
        return Ok(None);
    }
    let manifest = Manifest::read(path)?;
    let is_same = matches!(&manifest.inputs[..], [before] if input.is_still(before));
    let was_refused = bad_rows == BadRows::Error && manifest.counts.n_bad_rows > 0;
    if !is_same || was_refused || manifest.settings != *settings {
        return Err(Error::OtherOutput { path: path.to_owned() });
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(manifest.has_outputs(folder).then_some(manifest))
}
