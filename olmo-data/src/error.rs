//! Errors of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong between files and batches.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name of a token type is not known.
    #[error("unknown token type {found:?}; expected uint8, uint16, uint32 or uint64")]
    UnknownDtype {
        /// The name given.
        found: String,
    },
    /// A token file has a NumPy header, where the format has none.
    #[error(
        "{} begins with a NumPy header, but token files are raw little-endian integers without one \
         (in spite of their .npy name); write the array with `array.tofile(path)`, not `numpy.save`",
        path.display()
    )]
    NumpyHeader {
        /// The file.
        path: PathBuf,
    },
    /// A token file does not hold a whole number of tokens.
    #[error(
        "{} has {bytes} bytes, which is no multiple of the {item_bytes} bytes of a {dtype} token; \
         the file is cut short or the token type is wrong",
        path.display()
    )]
    PartialToken {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The token type it was opened with.
        dtype: &'static str,
        /// Bytes of one token.
        item_bytes: usize,
    },
    /// A range of tokens reaches past the end of a file.
    #[error(
        "tokens {start}..{end} reach past the {n_tokens} tokens of {}",
        path.display()
    )]
    TokenRange {
        /// The file.
        path: PathBuf,
        /// First token asked for.
        start: u64,
        /// End of the range, exclusive.
        end: u64,
        /// Tokens in the file.
        n_tokens: u64,
    },
    /// A token is too large for the vocabulary, or for 32 bits.
    #[error(
        "token {token} at position {position} of {} is not below {limit}; \
         the token type or the vocabulary size is wrong",
        path.display()
    )]
    TokenOutOfRange {
        /// The file.
        path: PathBuf,
        /// Index of the token in the file.
        position: u64,
        /// The token.
        token: u64,
        /// What it must be below.
        limit: u64,
    },
    /// A dataset was given no files.
    #[error("no files given; expected at least one")]
    NoFiles,
    /// The sequence length is zero or absurdly large.
    #[error("a sequence length of {seq_len} is out of range; expected 1 to {max}")]
    SeqLen {
        /// The length asked for.
        seq_len: usize,
        /// The largest possible.
        max: usize,
    },
    /// No file is long enough for one instance.
    #[error(
        "no instance of {seq_len} tokens in {n_files} files with {n_tokens} tokens in all \
         (the rest of each file is dropped); give longer files or a shorter sequence"
    )]
    NoInstances {
        /// Tokens of an instance.
        seq_len: usize,
        /// Files looked at.
        n_files: usize,
        /// Tokens in all of them.
        n_tokens: u64,
    },
    /// More instances than 32-bit indices can number.
    #[error("{n_instances} instances are too many; their indices are u32, so fewer than {max} fit")]
    TooManyInstances {
        /// Instances there are.
        n_instances: u64,
        /// One more than the most there may be.
        max: u64,
    },
    /// An instance index is past the end of the dataset.
    #[error("instance {index} is past the end of a dataset of {n_instances}")]
    InstanceIndex {
        /// The index asked for.
        index: usize,
        /// Instances in the dataset.
        n_instances: usize,
    },
    /// A buffer has the wrong length for one instance.
    #[error("a buffer of {found} tokens was given for an instance of {expected}")]
    BufferLen {
        /// Length given.
        found: usize,
        /// Tokens of an instance.
        expected: usize,
    },
    /// A setting of the data order or the loader is wrong.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        found: u64,
        /// What would work.
        expected: String,
    },
    /// A mask of labels is not that of its tokens.
    #[error(
        "{} has {found} values, but its token file {} has {expected} tokens",
        path.display(), tokens.display()
    )]
    LabelMaskLen {
        /// The mask.
        path: PathBuf,
        /// Values in it.
        found: u64,
        /// The token file.
        tokens: PathBuf,
        /// Tokens in that.
        expected: u64,
    },
    /// A mixture cannot be made.
    #[error("the mixture cannot be made: {reason}")]
    Mixture {
        /// What is wrong.
        reason: String,
    },
    /// Batches of several lengths cannot be put in order.
    #[error("the curriculum has no order: {reason}")]
    Curriculum {
        /// What is missing.
        reason: String,
    },
    /// An epoch has no batch.
    #[error(
        "an epoch of {n_instances} instances has no batch of {global_batch_size}; \
         use a smaller batch, more data, or keep the last, smaller batch"
    )]
    NoBatches {
        /// Instances of an epoch, over all ranks.
        n_instances: usize,
        /// Instances of a batch, over all ranks.
        global_batch_size: usize,
    },
    /// The thread that reads ahead has stopped after an earlier error.
    #[error("the data loader has stopped after an earlier error; make a new one from its state")]
    LoaderStopped,
    /// A range to draw integers from is empty.
    #[error("no integers from {low} up to {high}; expected low below high")]
    EmptyRange {
        /// Lower bound.
        low: u64,
        /// Upper bound.
        high: u64,
    },
    /// A tokenizer file is not one.
    #[error("{origin} is no usable tokenizer.json: {reason}")]
    TokenizerFile {
        /// The file, or "the given bytes".
        origin: String,
        /// What the tokenizer library said.
        reason: String,
    },
    /// A chat template is none, or objects to a conversation.
    #[error("the chat template of {origin} cannot be used: {reason}")]
    ChatTemplate {
        /// The file.
        origin: String,
        /// What the template or the template library said.
        reason: String,
    },
    /// The tokenizer library could not encode, decode or train.
    #[error("the tokenizer cannot {task}: {reason}")]
    Tokenizer {
        /// What it was doing.
        task: &'static str,
        /// What it said.
        reason: String,
    },
    /// A token id has no entry in the tokenizer.
    #[error("token id {id} is not in the tokenizer, which has {vocab_size} tokens")]
    UnknownTokenId {
        /// The id.
        id: u32,
        /// Tokens of the tokenizer, added ones included.
        vocab_size: usize,
    },
    /// A token has no entry in the tokenizer.
    #[error("the tokenizer has no token {token:?}; name another end-of-text token or give its id")]
    UnknownToken {
        /// The token looked for.
        token: String,
    },
    /// A vocabulary is too small to hold every byte.
    #[error(
        "a vocabulary of {vocab_size} is too small; {n_special} special tokens and the 256 bytes \
         need at least {min}"
    )]
    VocabTooSmall {
        /// Size asked for.
        vocab_size: usize,
        /// Special tokens asked for.
        n_special: usize,
        /// Smallest size that works.
        min: usize,
    },
    /// Token ids do not fit the token type to write.
    #[error("token ids up to {max_id} do not fit {dtype}; use {fits}")]
    DtypeTooSmall {
        /// Largest id that would be written.
        max_id: u32,
        /// Type asked for.
        dtype: &'static str,
        /// Smallest type that works.
        fits: &'static str,
    },
    /// There is no text in the input.
    #[error("no text to work on: {n_documents} documents given, and none has any text")]
    EmptyCorpus {
        /// Documents given.
        n_documents: u64,
    },
    /// The name of a document file tells no known format.
    #[error(
        "{}: unknown kind of document file; expected .jsonl, .json, .ndjson or .txt, \
         plain or with .gz or .zst after it, or .parquet",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A Parquet file is none, is damaged, or lacks a column.
    #[error("{}: no usable Parquet file of documents: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A document file is named twice.
    #[error("{} is named twice; its documents would be there twice", path.display())]
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// A row of a document file is no document.
    #[error("{}:{line}: {reason}", path.display())]
    BadRow {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration file cannot be used.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        reason: String,
    },
    /// The data of a configuration is made by Python code.
    #[error(
        "data.custom_dataset names Python code, which cannot be run here; \
         write its tokens to files and name them in data.paths"
    )]
    CustomDataset,
    /// A rule for paths has no two sides.
    #[error(
        "{found:?} is no rule for paths; expected FROM=TO, the beginning of a path and its place"
    )]
    PathRule {
        /// What was given.
        found: String,
    },
    /// A path is a URL, and it is not known where its file is.
    #[error(
        "{path} is not on this machine; say where its files are with a rule FROM=TO for its beginning"
    )]
    RemotePath {
        /// The URL.
        path: String,
    },
    /// A saved order is of other data.
    #[error(
        "{} has {found} indices, but the files hold {n_instances} instances: it is the order of \
         other files, another sequence length or another token type",
        path.display()
    )]
    OtherOrder {
        /// The file.
        path: PathBuf,
        /// Indices in it.
        found: usize,
        /// Instances of the data.
        n_instances: usize,
    },
    /// Output of another input or with other settings is there already.
    #[error("{} was made from other input or with other settings; choose another folder", path.display())]
    OtherOutput {
        /// The manifest of what is there.
        path: PathBuf,
    },
    /// The output is there already.
    #[error("{} exists already; choose another folder or remove it first", path.display())]
    OutputExists {
        /// The file in the way.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("stopped on request; nothing was written")]
    Cancelled,
}

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Puts the name of a file to an error of the system.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }
}
