//! The Hugging Face Hub: models from it, revisions on it, models to it.
//!
//! The cache has the layout and the places of Python's `huggingface_hub`, so that what either put
//! there the other uses. The protocol is that of `huggingface_hub` 1.33, spoken by the `hf-hub` crate;
//! files that the Hub keeps in chunks come by `hf-xet`. A download goes on where it was cut, and every
//! file is checked against the hash that the Hub gives.
//!
//! What is `hf-hub`'s and what is ours, and why: see ARCHITECTURE.md, "Decisions".

mod body;
mod cache;
mod client;
mod download;
mod error;
mod failure;
mod known;
mod large;
mod pull;
mod push;
mod repo;
mod requests;
mod revisions;
mod settings;
mod uploads;
mod waiter;
mod xet;

pub use error::HubError;
pub use pull::{Event, Pull, Pulled, pull};
pub use push::{Planned, Push, Pushed, push};
pub use repo::Repo;
pub use revisions::{Checkpoint, Filter, Stage, checkpoints, revisions};
pub use settings::Settings;
