//! Training data for language models: bytes on disk to batches of token ids.
//!
//! # Brief overview
//!
//! - [`Corpus`] reads documents from JSONL and text files, plain or compressed, and from Parquet.
//! - [`Tokenizer`] turns text into token ids and back; [`BpeTraining`] makes one from a corpus.
//! - [`TextStream`] is text as it is generated, up to a stop text; [`ChatTemplate`] makes the text
//!   of a conversation.
//! - [`Tokenize`] writes the tokens of a corpus as the files that OLMo trains on.
//! - [`TokenFile`] is one such file, [`TokenDataset`] cuts many of them into instances of a fixed
//!   length and tells where on disk an instance lies.
//! - [`instances`] has the other ways OLMo-core makes instances of documents: padded, packed,
//!   interleaved, of several lengths, mixtures, with label masks and the filter for repetitions.
//! - [`DataOrder`] is the order in which a run sees them: exactly that of OLMo's trainer, for which
//!   [`rng`] repeats NumPy's random numbers bit for bit. [`FslOrder`] is that of OLMo-core, and
//!   [`GlobalIndices`] a file that either has saved.
//! - [`Inspector`] tells what a run saw at a step, also of the runs whose [`official`] configurations
//!   are published, and when it saw a document.
//! - [`DataLoader`] reads the batches of one rank ahead, in either order, and resumes from a
//!   [`LoaderState`].
//!
//! Nothing here depends on a tensor library, so any project can use it.
//!
//! # Example: from text to batches
//!
//! ```
//! use std::sync::Arc;
//! use olmo_data::{
//!     BadRows, BpeTraining, Corpus, DataLoader, DataLoaderConfig, LoaderState, TokenDataset, Tokenize,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let documents = folder.path().join("documents.jsonl");
//! std::fs::write(&documents, r#"{"id": "a", "text": "The quick brown fox jumps over the lazy dog."}"#)?;
//! let corpus = Corpus::new([documents], BadRows::Error)?;
//!
//! let texts = corpus.documents().map(|document| document.map(|document| document.text));
//! let tokenizer = BpeTraining::new(300).train(texts)?;
//!
//! let tokens = folder.path().join("tokens");
//! let report = Tokenize::new(&tokenizer)?.run(&corpus, &tokens)?;
//! assert_eq!(report.n_documents, 1);
//!
//! let dataset = Arc::new(TokenDataset::open(&report.files, report.dtype, 8)?);
//! let mut loader = DataLoader::new(dataset, DataLoaderConfig::default(), LoaderState::default())?;
//! assert_eq!(loader.next_batch()?.tokens.len(), 8);
//! # Ok(())
//! # }
//! ```

mod atomic_file;
pub mod batch;
mod batch_reader;
pub mod chat_template;
pub mod dataset;
pub mod document_bounds;
mod document_file;
pub mod documents;
pub mod error;
pub mod fingerprint;
pub mod fsl_order;
pub mod global_indices;
pub mod inspect;
mod inspect_instances;
pub mod instance_table;
pub mod instances;
pub mod loader;
pub mod manifest;
pub mod official;
mod parquet_rows;
pub mod path_map;
mod prefetch;
pub mod rng;
pub mod sampler;
pub mod text_stream;
pub mod token_file;
pub mod token_stream;
mod token_writer;
pub mod tokenize;
mod tokenize_files;
pub mod tokenizer;
pub mod train_tokenizer;
pub mod vsl_curriculum;

pub use batch::Batch;
pub use chat_template::{ChatTemplate, Message};
pub use dataset::{Instance, TokenDataset};
pub use document_bounds::{DocumentBound, DocumentBounds};
pub use documents::{BadRows, Corpus, Document, Documents, RejectedRow};
pub use error::{Error, Result};
pub use fsl_order::{FslOrder, FslOrderConfig};
pub use global_indices::GlobalIndices;
pub use inspect::Inspector;
pub use inspect_instances::describe_instances;
pub use instance_table::{InstanceLocation, InstanceTable};
pub use loader::{BatchOrder, DataLoader, DataLoaderConfig, LoaderState};
pub use manifest::Manifest;
pub use path_map::{PathMap, PathRule};
pub use sampler::{DataOrder, DataOrderConfig, Tail};
pub use text_stream::TextStream;
pub use token_file::{TokenDtype, TokenFile};
pub use token_stream::TokenStream;
pub use tokenize::{Progress, Tokenize, TokenizeReport};
pub use tokenizer::{SpecialTokens, Tokenizer};
pub use train_tokenizer::BpeTraining;
pub use vsl_curriculum::VslCurriculum;
