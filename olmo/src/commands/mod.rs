//! The verbs, one a file: each parses, calls a library and prints.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod data;
pub(crate) mod devices;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod logits;
pub(crate) mod model;
pub(crate) mod quickstart;
pub(crate) mod train;
