//! The OLMo family of language models on burn: token ids in, logits out.
//!
//! # Brief overview
//!
//! - [`ModelConfig`] describes an architecture of the family as data; [`presets`] are the released
//!   ones. [`ModelConfig::parameters`] lists every parameter by name, shape and role without
//!   allocating any.
//! - [`Transformer`] is the model. It is built from a source of values ([`Transformer::build`]) or
//!   from fresh ones ([`Transformer::init`], [`InitConfig`]), and one [`Transformer::forward`]
//!   serves training, prompts and decoding with a [`KvCache`].
//! - [`Transformer::generate`] is an iterator over new tokens, chosen by a [`Sampling`];
//!   [`Transformer::generate_batch`] continues several prompts at once, and
//!   [`Transformer::beam_search`] looks for the likeliest texts.
//! - [`Transformer::loss`] sums the loss over [`Labels`] without ever holding a batch's logits.
//! - [`walk`] visits, replaces and differentiates parameters by path.
//!
//! The crate opens no file and knows no text. A device is given, never chosen; models on any of
//! burn's backends are the same code, chosen by cargo features.
//!
//! # Example: a small model, forward and generated from
//!
//! ```
//! use burn::tensor::{Device, Int, Tensor};
//! use olmo_model::{InitConfig, Sampling, Transformer, presets};
//!
//! # #[cfg(feature = "flex")]
//! # fn main() -> Result<(), olmo_model::Error> {
//! let device = Device::flex();
//! // Width 32, 2 layers, 4 heads, 100 tokens.
//! let config = presets::small_olmo2(32, 2, 4, 100);
//! let model = Transformer::init(&config, &InitConfig::default(), 0, &device)?;
//!
//! let tokens: Tensor<2, Int> = Tensor::from_ints([[3, 1, 4, 1, 5]], &device);
//! let logits = model.forward(tokens, None)?;
//! assert_eq!(logits.dims(), [1, 5, 100]);
//!
//! let new: Result<Vec<u32>, _> = model.generate(&[3, 1, 4], Sampling::greedy())?.take(8).collect();
//! assert_eq!(new?.len(), 8);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "flex"))]
//! # fn main() {}
//! ```
//!
//! Tensors and devices are those of the burn that this crate was built with, which is [`olmo_model::burn`](burn).

pub use burn;

pub mod attention;
pub mod backward;
pub mod beam_search;
pub mod block;
pub mod cache;
pub mod config;
pub mod dtype;
pub mod error;
pub mod feed_forward;
pub mod flops;
pub mod generate;
#[cfg(all(test, feature = "flex"))]
mod golden;
pub mod init;
mod integers;
mod kernels;
pub mod linear;
pub mod log_probs;
pub mod loss;
pub mod moe;
pub mod norm;
pub mod packed;
pub mod parameters;
mod prefill;
pub mod presets;
pub mod quantized;
pub mod rope;
pub mod sampling;
pub mod transformer;
pub mod walk;

pub use beam_search::{Beam, BeamSearch};
pub use cache::KvCache;
pub use config::ModelConfig;
pub use dtype::check_dtype;
pub use error::Error;
pub use flops::{Costs, Sharding};
pub use generate::{BatchGenerator, Generator, NewToken};
pub use init::InitConfig;
pub use integers::token_tensor;
pub use linear::MatrixForm;
pub use log_probs::LogProbs;
pub use loss::{Labels, LossSums, LossValues};
pub use moe::{RouterLosses, RouterWeights};
pub use parameters::{Parameter, Role};
pub use quantized::Quantization;
pub use rope::Positions;
pub use sampling::Sampling;
pub use transformer::{LmHead, Transformer};
