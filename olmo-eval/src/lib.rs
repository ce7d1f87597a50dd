//! Evaluation of OLMo models.
//!
//! [`PerplexityEval`] measures the perplexity and the bits per byte of documents, with the windows
//! of the Paloma benchmark.
//!
//! # Example: a model that knows nothing yet
//!
//! ```
//! use std::ops::ControlFlow;
//! use burn::tensor::Device;
//! use olmo_eval::{FirstToken, PerplexityEval, TokenizedDocument};
//! use olmo_model::{InitConfig, Transformer, presets};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "flex")]
//! # {
//! let config = presets::small_olmo2(32, 2, 4, 100);
//! let model = Transformer::init(&config, &InitConfig::default(), 0, &Device::flex())?;
//! // `TokenizedDocument::encode` makes them of texts.
//! let document = TokenizedDocument { tokens: vec![7, 8, 9], n_bytes: Some(12) };
//!
//! let eval = PerplexityEval::new(&model, FirstToken::After(0))?;
//! let sums = eval.run([Ok(document)], &mut |_| ControlFlow::Continue(()))?;
//! assert_eq!(sums.n_tokens, 3);
//! // About one of a hundred tokens is as likely as another.
//! assert!((50.0..200.0).contains(&sums.perplexity()));
//! assert!(sums.bits_per_byte().is_some());
//! # }
//! # Ok(())
//! # }
//! ```

pub mod error;
pub mod perplexity;
pub mod windows;

pub use error::{Error, Result};
pub use perplexity::{FirstToken, Perplexity, PerplexityEval, TokenizedDocument};
