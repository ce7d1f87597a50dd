//! What moves the weights of a language model: the optimizer, gradient clipping, parameter groups
//! and the learning rate, as AI2's OLMo trainers do them.
//!
//! The crate knows parameters, not models. A parameter is a path such as
//! `blocks.0.attention.w_q.weight` and a flat f32 tensor: the whole weight, or the piece of it that
//! one rank owns. Everything an optimizer remembers is kept under that path, so that a checkpoint
//! can be written, split and put together again without knowing the optimizer.
//!
//! - [`AdamW`]: as torch computes it, operation for operation; on the CPU in place, in one pass.
//! - [`LionW`] and [`Muon`], likewise, and [`SkipStep`], which says when a step is not to be made.
//! - [`Optimizer`]: what a trainer and a checkpoint need of any optimizer.
//! - [`global_norm`] and [`clip_coefficient`]: torch's `clip_grad_norm_`, whose multiplication is
//!   part of the update ([`UpdateOptions::grad_scale`]) and so costs no pass of its own.
//! - [`AdaptiveClip`]: a limit for each parameter, from what its gradients were.
//! - [`ParamGroups`]: which parameters decay.
//! - [`Schedule`]: the learning rate as a function of the step.
//! - [`BatchWarmup`]: a batch that grows in the course of a run.
//!
//! # Example
//!
//! A training step for one parameter:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use olmo_optim::{
//!     AdamW, AdamWConfig, GroupRules, Optimizer, ParamGroups, ParamKind, Schedule, UpdateOptions,
//!     clip_coefficient, global_norm,
//! };
//!
//! # fn main() -> Result<(), olmo_optim::Error> {
//! # #[cfg(feature = "flex")]
//! # {
//! let device = Device::flex();
//! let path = "blocks.0.feed_forward.w1.weight";
//! let mut weight = Tensor::<1>::from_floats([1.0, -2.0, 0.5], &device);
//!
//! let config = AdamWConfig::default();
//! let mut optimizer = AdamW::new(&config)?;
//! let groups =
//!     ParamGroups::new([(path, ParamKind::Linear)], GroupRules::default(), config.weight_decay)?;
//! let schedule = Schedule::cosine_with_warmup(2_000);
//!
//! for step in 1..=3 {
//!     let grad = weight.clone() * 10.0; // in place of a backward pass
//!     let norm = global_norm([&grad])?;
//!     let options = UpdateOptions {
//!         lr: schedule.at(4e-4, step, 100_000),
//!         weight_decay: groups.weight_decay(path).unwrap_or(0.0),
//!         grad_scale: clip_coefficient(norm.value(), 1.0),
//!     };
//!     weight = optimizer.update(path, weight, grad, &options)?;
//! }
//! assert_eq!(optimizer.step(path), Some(3));
//! # }
//! # Ok(())
//! # }
//! ```

mod adamw;
mod batch_warmup;
mod clip;
mod error;
mod fit;
#[cfg(all(test, feature = "flex"))]
mod fixtures;
#[cfg(feature = "flex")]
mod flex;
mod groups;
mod lion;
mod muon;
mod optimizer;
mod schedule;
mod skip_step;

pub use adamw::{AdamW, AdamWConfig};
pub use batch_warmup::{BatchPlan, BatchStage, BatchUnits, BatchWarmup, RateAdjustment};
pub use clip::{
    AdaptiveClip, GradNorm, GradNormLimit, clip_coefficient, global_norm, sums_of_squares,
};
pub use error::Error;
pub use groups::{GroupRules, ParamGroup, ParamGroups, ParamKind};
pub use lion::{LionW, LionWConfig};
pub use muon::{AdjustLr, Muon, MuonConfig};
pub use optimizer::{Optimizer, ParamState, UpdateOptions};
pub use schedule::{
    BoltOnWarmup, CosineThenLinear, Decay, Extent, InverseSqrt, Power, Schedule, Sequential,
    StableDecay, StablePeriods, Warmup,
};
pub use skip_step::{SkipStep, SkipStepConfig};
