//! The OLMo family of language models on burn: token ids in, logits out.

pub mod attention;
pub mod block;
pub mod cache;
pub mod config;
pub mod error;
pub mod feed_forward;
pub mod flops;
pub mod generate;
#[cfg(all(test, feature = "flex"))]
mod golden;
pub mod init;
mod kernels;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod parameters;
pub mod presets;
pub mod rope;
pub mod sampling;
pub mod transformer;
pub mod walk;

pub use cache::KvCache;
pub use config::ModelConfig;
pub use error::Error;
pub use flops::Costs;
pub use generate::Generator;
pub use init::InitConfig;
pub use loss::{Labels, LossSums, LossValues};
pub use parameters::{Parameter, Role};
pub use rope::Positions;
pub use sampling::Sampling;
pub use transformer::{LmHead, Transformer};
