//! All cross-crate checks, in one binary so that it is linked once.

mod batch_warmup;
mod chain;
mod checkpoints;
mod core_trainer;
mod curve;
mod data;
mod fault_rules;
mod faults;
mod hub;
mod load;
mod parity;
mod resume;
mod tidy;
mod trainer;
