//! The Hugging Face Hub: models from it, revisions on it, models to it.
//!
//! The cache has the layout and the places of Python's `huggingface_hub`, so that what either put
//! there the other uses. The protocol is that of `huggingface_hub` 1.33. A download goes on where
//! it was cut, and every file is checked against the hash that the Hub gives. With the feature `xet`,
//! files that the Hub keeps in chunks come from there.
//!
//! Why not the `hf-hub` crate: see ARCHITECTURE.md, "Decisions".

mod body;
mod cache;
mod client;
mod download;
mod error;
mod known;
mod large;
mod pull;
mod push;
mod repo;
mod revisions;
mod settings;
mod uploads;
#[cfg(feature = "xet")]
mod xet;

pub use error::HubError;
pub use pull::{Event, Pull, Pulled, pull};
pub use push::{Planned, Push, Pushed, push};
pub use repo::Repo;
pub use revisions::{Checkpoint, Filter, Stage, checkpoints, revisions};
pub use settings::Settings;
