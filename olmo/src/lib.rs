//! OLMo on burn: the OLMo family of language models, trained, run and measured in Rust.
//!
//! This crate only gathers the others under one name; each can be used alone.
//!
//! | module | crate | what it is for |
//! |---|---|---|
//! | [`model`] | `olmo-model` | the network: token ids in, logits out; generation |
//! | [`optim`] | `olmo-optim` | optimizers, gradient clipping, learning-rate schedules |
//! | [`data`] | `olmo-data` | tokenizers, token files, batches in OLMo's order |
//! | [`hub`] | `olmo-hub` | checkpoints as Hugging Face folders |
//! | [`train`] | `olmo-train` | the training step, the trainer, checkpoints, metrics |
//! | [`eval`] | `olmo-eval` | perplexity and bits per byte |
//!
//! The `olmo` command comes with it; `olmo --help` lists its verbs.
//!
//! # Example
//!
//! ```no_run
//! use olmo::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = ModelFolder::open("OLMo-2-0425-1B")?;
//! let model = folder.load_to_run(&Device::flex(), None)?;
//! let tokenizer = Tokenizer::from_file("OLMo-2-0425-1B/tokenizer.json")?;
//!
//! let prompt = tokenizer.encode("The capital of France is")?;
//! let mut text = TokenStream::new(tokenizer, SpecialTokens::Skip);
//! for token in model.generate(&prompt, Sampling::top_p(0.9, 0.7).seed(0))?.take(32) {
//!     if let Some(piece) = text.push(token?)? {
//!         print!("{piece}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! To train, as `examples/train_tiny.rs` does from documents on:
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//! use olmo::prelude::*;
//!
//! struct Print;
//!
//! impl Observer for Print {
//!     fn on_step(&mut self, metrics: &StepMetrics) {
//!         println!("step {}  loss {:.3}", metrics.step, metrics.cross_entropy);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = TrainConfig::read(Path::new("small.yaml"), &["max_duration=100".to_owned()])?;
//! let mut trainer = Trainer::new(config, &Device::flex())?;
//! let outcome = trainer.run(&mut Print, &AtomicBool::new(false))?;
//! assert_eq!(outcome, Outcome::Finished);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! Each adds a burn backend: `flex` (pure Rust on the CPU, the default), `wgpu`, `vulkan`, `metal`,
//! `cuda`, `rocm` and `tch` (libtorch). Which one runs is chosen by the [`Device`](prelude::Device)
//! at run time.

pub use olmo_data as data;
pub use olmo_eval as eval;
pub use olmo_hub as hub;
pub use olmo_model as model;
pub use olmo_optim as optim;
pub use olmo_train as train;

/// What most programs need, for `use olmo::prelude::*`.
pub mod prelude {
    pub use burn::tensor::{Device, Int, Tensor};
    pub use olmo_data::{
        BadRows, ChatTemplate, Corpus, DataLoader, DataLoaderConfig, LoaderState, Message,
        SpecialTokens, TextStream, TokenDataset, TokenDtype, TokenStream, Tokenizer,
    };
    pub use olmo_eval::{FirstToken, Perplexity, PerplexityEval, TokenizedDocument};
    pub use olmo_hub::ModelFolder;
    pub use olmo_model::{
        BeamSearch, InitConfig, KvCache, ModelConfig, Sampling, Transformer, presets, token_tensor,
    };
    pub use olmo_train::{Observer, Outcome, StepMetrics, TrainConfig, Trainer};
}
