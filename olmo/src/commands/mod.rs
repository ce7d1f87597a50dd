//! The verbs, one a file: each parses, calls a library and prints.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod devices;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod logits;
pub(crate) mod model;
#[cfg(feature = "net")]
pub(crate) mod pull;
#[cfg(feature = "net")]
pub(crate) mod push;
pub(crate) mod quickstart;
pub(crate) mod replay;
pub(crate) mod report;
#[cfg(feature = "net")]
pub(crate) mod revisions;
pub(crate) mod train;
pub(crate) mod verify;
