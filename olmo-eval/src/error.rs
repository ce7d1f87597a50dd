//! Errors of this crate.

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Documents could not be read or tokenized.
    #[error(transparent)]
    Data(#[from] olmo_data::Error),
    /// The model does not know a token of a document.
    #[error("document {document}: {source}")]
    Document {
        /// Number of the document, counted from 1.
        document: u64,
        /// The token, and where it is.
        source: olmo_model::Error,
    },
    /// The model does not know the token that stands before each document.
    #[error("token id {id} cannot stand before documents: the vocabulary has {vocab_size}")]
    ContextToken {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A setting makes no sense.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        found: usize,
        /// What would work.
        expected: String,
    },
    /// No document has a token that can be scored.
    #[error("no tokens to score in {n_documents} documents")]
    NothingToScore {
        /// Documents given.
        n_documents: u64,
    },
    /// The loss is not a number.
    #[error(
        "the loss of documents {first} to {last} is not finite: the weights are damaged, or the \
         activations do not fit their dtype"
    )]
    NonFiniteLoss {
        /// Number of the first document of the batch, counted from 1.
        first: u64,
        /// Number of its last document.
        last: u64,
    },
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
}
