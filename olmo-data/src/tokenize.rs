//! A corpus to token files: Dolma's `tokens` step.
//!
//! For each document, in the order of the files: the text without white space at its ends (a
//! document without any text is left out), its tokens, and the end-of-text token unless the last
//! token is that already. The output is what OLMo and OLMo-core train on:
//!
//! - `part-0-00000.npy`: the tokens of all documents, raw, see [`token_file`](crate::token_file);
//! - `part-0-00000.csv.gz`: a line a document without a heading, `start,end,id,src,loc`: first token
//!   and end (exclusive) in that file, the document's id, its file and its line there.
//!
//! - `manifest.json`: settings, counts, inputs, and size and SHA-256 of every file;
//! - `rejected.jsonl`: lines that are no documents, with the reason, where they are counted.
//!
//! One series of files over the whole input is [`Tokenize::run`]; a series for each input file, many
//! at a time, which goes on where it was stopped, is [`Tokenize::run_by_file`].
//!
//! With one process, `--ring-size 1` and a local shuffle of 1, Dolma 1.2.1 writes the same bytes for
//! the same order of files. Differences: nothing is shuffled unless asked for, since the trainer
//! shuffles instances; `uint16` or `uint32` is chosen by the vocabulary; a document without an id gets an
//! empty one, where Dolma skips it; output appears all at once at the end.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::atomic_file::{AtomicFile, clean_leftovers};
use crate::documents::{Corpus, Document, Documents, RejectedRow};
use crate::manifest::{Counts, InputFile, Manifest, Settings};
use crate::rng::Generator;
use crate::token_file::TokenDtype;
use crate::token_writer::PartWriter;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Documents and bytes of text that are encoded at a time.
const CHUNK_DOCUMENTS: usize = 4096;
const CHUNK_BYTES: usize = 1 << 24;

/// Tokens that a file ends before, as in Dolma.
const MAX_TOKENS_PER_FILE: u64 = 1 << 30;

/// Settings for tokenizing a corpus.
#[derive(Debug, Clone)]
pub struct Tokenize {
    tokenizer: Tokenizer,
    eos_id: u32,
    dtype: TokenDtype,
    max_tokens_per_file: u64,
    shuffle_seed: Option<u64>,
}

/// How far tokenizing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Documents written.
    pub n_documents: u64,
    /// Tokens written.
    pub n_tokens: u64,
    /// Bytes of the input files read, as they are on disk.
    pub n_bytes_read: u64,
    /// Bytes of all input files.
    pub n_bytes: u64,
    /// Input files read to their end.
    pub n_files_done: usize,
    /// Input files.
    pub n_files: usize,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenizeReport {
    /// Documents written.
    pub n_documents: u64,
    /// Documents left out because they have no text.
    pub n_empty_documents: u64,
    /// Lines left out because they are no documents; see [`BadRows`](crate::BadRows).
    pub n_bad_rows: u64,
    /// Tokens written, end-of-text tokens included.
    pub n_tokens: u64,
    /// Bytes of text that they stand for.
    pub n_text_bytes: u64,
    /// Type of the tokens on disk.
    pub dtype: TokenDtype,
    /// The token files, in order; each has its `.csv.gz` beside it. In JSON as text, whatever the
    /// folder's name.
    #[serde(serialize_with = "as_texts")]
    pub files: Vec<PathBuf>,
}

/// Paths as they are shown: one that is not UTF-8 is no error.
fn as_texts<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

impl Tokenize {
    /// Tokenizing with a tokenizer that has an [`END_OF_TEXT`](crate::tokenizer::END_OF_TEXT) token.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] where it has not.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        Self::with_eos_id(tokenizer, tokenizer.eos_id()?)
    }

    /// Tokenizing with another token after each document.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTokenId`] where the tokenizer has no such token.
    pub fn with_eos_id(tokenizer: &Tokenizer, eos_id: u32) -> Result<Self> {
        tokenizer.check_id(eos_id)?;
        let dtype = smallest_dtype(tokenizer);
        let max_tokens_per_file = MAX_TOKENS_PER_FILE;
        let shuffle_seed = None;
        Ok(Self { tokenizer: tokenizer.clone(), eos_id, dtype, max_tokens_per_file, shuffle_seed })
    }

    /// Sets the type of the tokens on disk, which is else chosen by the vocabulary.
    ///
    /// # Errors
    ///
    /// [`Error::DtypeTooSmall`] where some token does not fit it.
    pub fn with_dtype(mut self, dtype: TokenDtype) -> Result<Self> {
        let max_id = self.tokenizer.max_id();
        if max_id > dtype.max_token() {
            let fits = smallest_dtype(&self.tokenizer).name();
            return Err(Error::DtypeTooSmall { max_id, dtype: dtype.name(), fits });
        }
        self.dtype = dtype;
        Ok(self)
    }

    /// Sets the number of tokens that a file stays below. A document is never split: a longer one
    /// gets a file of its own.
    pub fn with_max_tokens_per_file(mut self, max_tokens_per_file: u64) -> Self {
        self.max_tokens_per_file = max_tokens_per_file;
        self
    }

    /// Shuffles the documents by a seed, within a few thousand at a time so that memory stays
    /// bounded; without it they keep their order.
    pub fn with_shuffle_seed(mut self, seed: u64) -> Self {
        self.shuffle_seed = Some(seed);
        self
    }

    /// The type of the tokens on disk.
    pub fn dtype(&self) -> TokenDtype {
        self.dtype
    }

    /// Writes the tokens of a corpus into a folder, which is made if need be.
    ///
    /// # Errors
    ///
    /// [`Error::OutputExists`] where the folder holds token files, [`Error::EmptyCorpus`] where no
    /// document has text, and those of reading and writing. Nothing is left behind after an error.
    pub fn run(&self, corpus: &Corpus, folder: impl AsRef<Path>) -> Result<TokenizeReport> {
        self.run_with(corpus, folder, &mut |_| ControlFlow::Continue(()))
    }

    /// The same, telling the progress every few thousand documents. The callback can stop the work.
    ///
    /// # Errors
    ///
    /// As of [`Tokenize::run`]; [`Error::Cancelled`] where the callback breaks.
    pub fn run_with(
        &self,
        corpus: &Corpus,
        folder: impl AsRef<Path>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<TokenizeReport> {
        let folder = folder.as_ref();
        let inputs = corpus.paths().iter().map(|path| InputFile::of(path));
        let inputs = inputs.collect::<Result<_>>()?;
        prepare(folder)?;
        let prefix = "part-0".to_owned();
        let series = self.write_series(corpus, folder, prefix, &mut |series, documents| {
            progress(Progress {
                n_documents: series.n_documents,
                n_tokens: series.n_tokens,
                n_bytes_read: documents.n_bytes_read(),
                n_bytes: corpus.n_bytes(),
                n_files_done: documents.n_files_done(),
                n_files: corpus.paths().len(),
            })
        })?;
        if series.counts.n_documents == 0 {
            return Err(Error::EmptyCorpus { n_documents: series.counts.n_empty_documents });
        }
        let (files, outputs) = series.writer.finish()?;
        let counts = series.counts;
        write_rejected(&folder.join("rejected.jsonl"), &series.rejected)?;
        let manifest = Manifest { settings: self.settings()?, inputs, counts, outputs };
        manifest.write(&folder.join("manifest.json"))?;
        Ok(TokenizeReport::new(counts, self.dtype, files))
    }

    /// Writes the documents of a corpus as one series of files, which have no names yet.
    pub(crate) fn write_series(
        &self,
        corpus: &Corpus,
        folder: &Path,
        prefix: String,
        progress: &mut dyn FnMut(&Counts, &Documents<'_>) -> ControlFlow<()>,
    ) -> Result<Series> {
        let mut writer = PartWriter::new(folder, prefix, self.dtype, self.max_tokens_per_file);
        let mut counts = Counts::default();
        let mut rejected = Vec::new();
        let mut rng = self.shuffle_seed.map(Generator::new);
        let mut documents = corpus.documents();
        loop {
            let mut chunk = next_chunk(&mut documents, &mut counts.n_empty_documents)?;
            rejected.append(&mut documents.take_rejected());
            counts.n_bad_rows = documents.n_bad_rows();
            if chunk.is_empty() {
                return Ok(Series { writer, counts, rejected });
            }
            if let Some(rng) = &mut rng {
                rng.shuffle(&mut chunk);
            }
            let texts: Vec<&str> = chunk.iter().map(|document| trimmed(&document.text)).collect();
            counts.n_text_bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
            for (document, mut tokens) in chunk.iter().zip(self.tokenizer.encode_batch(&texts)?) {
                if tokens.last() != Some(&self.eos_id) {
                    tokens.push(self.eos_id);
                }
                writer.write(document, &tokens)?;
            }
            (counts.n_documents, counts.n_tokens) = (writer.n_documents(), writer.n_tokens());
            if progress(&counts, &documents).is_break() {
                return Err(Error::Cancelled);
            }
        }
    }

    /// What decides the output, besides the input.
    pub(crate) fn settings(&self) -> Result<Settings> {
        Ok(Settings {
            tokenizer_sha256: self.tokenizer.sha256()?,
            eos_id: self.eos_id,
            dtype: self.dtype,
            max_tokens_per_file: self.max_tokens_per_file,
            shuffle_seed: self.shuffle_seed,
        })
    }
}

/// A series of files still without names, and what went into it.
pub(crate) struct Series {
    pub(crate) writer: PartWriter,
    pub(crate) counts: Counts,
    pub(crate) rejected: Vec<RejectedRow>,
}

impl TokenizeReport {
    pub(crate) fn new(counts: Counts, dtype: TokenDtype, files: Vec<PathBuf>) -> Self {
        let Counts { n_documents, n_empty_documents, n_bad_rows, n_tokens, n_text_bytes } = counts;
        Self { n_documents, n_empty_documents, n_bad_rows, n_tokens, n_text_bytes, dtype, files }
    }
}

/// Writes the lines that are no documents aside; nothing where there are none.
pub(crate) fn write_rejected(path: &Path, rejected: &[RejectedRow]) -> Result<()> {
    if rejected.is_empty() {
        return Ok(());
    }
    let mut file = AtomicFile::create(path)?;
    for row in rejected {
        let line = serde_json::to_string(row).map_err(|e| Error::io(path)(e.into()))?;
        file.write_all(line.as_bytes())?;
        file.write_all(b"\n")?;
    }
    file.finish()?.persist()
}

fn smallest_dtype(tokenizer: &Tokenizer) -> TokenDtype {
    TokenDtype::for_vocab_size(tokenizer.max_id() as usize + 1)
}

/// Makes the folder and refuses one whose older parts would be taken for new ones.
fn prepare(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    clean_leftovers(folder)?;
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("part-") && (name.ends_with(".npy") || name.ends_with(".csv.gz")) {
            return Err(Error::OutputExists { path });
        }
    }
    Ok(())
}

/// The next documents that have text; none at the end of the corpus.
fn next_chunk(
    documents: &mut impl Iterator<Item = Result<Document>>,
    n_empty: &mut u64,
) -> Result<Vec<Document>> {
    let mut chunk = Vec::new();
    let mut n_bytes = 0;
    while chunk.len() < CHUNK_DOCUMENTS && n_bytes < CHUNK_BYTES {
        let Some(document) = documents.next().transpose()? else { break };
        if trimmed(&document.text).is_empty() {
            *n_empty += 1;
            continue;
        }
        n_bytes += document.text.len();
        chunk.push(document);
    }
    Ok(chunk)
}

/// Python's `str.strip`, which takes four control characters for white space that Rust does not.
fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}
