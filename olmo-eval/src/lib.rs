//! Evaluation of OLMo models.
//!
//! [`PerplexityEval`] measures the perplexity and the bits per byte of documents, with the windows
//! of the Paloma benchmark.

pub mod error;
pub mod perplexity;
pub mod windows;

pub use error::{Error, Result};
pub use perplexity::{FirstToken, Perplexity, PerplexityEval, TokenizedDocument};
