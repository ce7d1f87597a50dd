//! OLMo checkpoints between formats and machines.
//!
//! A model folder is what `transformers` writes with `save_pretrained`: a `config.json` and one
//! or many `.safetensors` files. [`ModelFolder`] reads one, [`save`] writes one, and both go
//! tensor by tensor, so that a model is never in memory twice.
//!
//! - [`config_json`]: `config.json` and [`ModelConfig`](olmo_model::ModelConfig)
//! - [`keys`]: the names of a tensor here and there
//! - [`layout`]: which of a checkpoint's tensors a parameter is, or is a part of
//! - [`mod@read`] and [`mod@write`]: model folders
//! - [`mod@convert`] and [`mod@verify`]: a folder in another form; whether one is sound
//! - [`trainer_state`]: the optimizer's state and the progress in the trainers' checkpoints
//! - [`tensor_file`]: any named tensors, for optimizer state
//! - [`atomic`]: files and folders that are there whole or not at all
//!
//! # Example: a model written, opened, converted and compared
//!
//! ```
//! use std::ops::ControlFlow;
//! use burn::tensor::Device;
//! use olmo_hub::{Conversion, Dtype, Form, HfExport, ModelFolder, Special, compare, convert, save};
//! use olmo_model::{InitConfig, Transformer, presets};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "flex")]
//! # {
//! let folder = tempfile::tempdir()?;
//! let (hf, original) = (folder.path().join("hf"), folder.path().join("original"));
//! let config = presets::small_olmo2(32, 2, 4, 100);
//! let model = Transformer::init(&config, &InitConfig::default(), 0, &Device::flex())?;
//! let special = Special { bos_token_id: None, eos_token_id: vec![3], pad_token_id: Some(1) };
//! std::fs::create_dir(&hf)?;
//! save(&model, &HfExport::new(special, Dtype::F32), &hf)?;
//!
//! let opened = ModelFolder::open(&hf)?;
//! convert(&opened, &Conversion::to(Form::Original), &original, |_| ControlFlow::Continue(()))?;
//! let same = compare(&opened, &ModelFolder::open(&original)?, |_| ())?;
//! assert_eq!(same.n_different(), 0);
//!
//! let model = opened.load_to_run(&Device::flex(), None)?;
//! # }
//! # Ok(())
//! # }
//! ```

pub mod atomic;
pub mod config_json;
pub mod convert;
pub mod dtype;
pub mod error;
pub mod family;
mod header;
#[cfg(feature = "net")]
pub mod hub;
pub mod keys;
pub mod layout;
mod load;
mod pickle;
mod pickled_keys;
mod plan;
pub mod read;
mod sharded;
mod shards;
mod temporary;
pub mod tensor_file;
mod text_file;
mod tied_output;
mod torch_file;
mod torch_optimizer;
pub mod trainer_state;
mod values;
pub mod verify;
pub mod write;
mod zip;

pub use atomic::{AtomicFile, clean_leftovers, write_atomic, write_dir_atomic};
pub use config_json::{HfConfig, Special};
pub use convert::{Conversion, Form, convert};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use family::Family;
pub use layout::Layout;
pub use read::{ModelFolder, linked};
pub use tensor_file::{TensorFile, TensorSpec, write_tensors, write_tensors_in_parts};
pub use trainer_state::{SavedData, SavedOptimizer, SavedProgress, Seen};
pub use verify::{Comparison, TensorDifference, Verification, compare, compare_quantized, verify};
pub use write::{HfExport, copy_tokenizer, save};
