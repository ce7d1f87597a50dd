//! Adam with decoupled weight decay (`AdamW`).
//!
//! torch's `_single_tensor_adam` (torch 2.9, torch/optim/adam.py), operation for operation. With
//! gradient `g` (times `grad_scale`), step `t` counted from 1 and everything per element in f32:
//!
//! ```text
//! p <- p * (1 - lr * weight_decay)
//! m <- m + (1 - beta1) * (g - m)                      torch's lerp
//! v <- v * beta2 + ((1 - beta2) * g) * g
//! p <- p + (-lr / (1 - beta1^t) * m) / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//! ```
//!
//! Scalars are computed in f64, as Python does, and rounded to f32 once. Every multiplication and
//! addition is rounded by itself, so that the result does not depend on the CPU's vector
//! instructions; torch's kernels fuse some of them where the machine can, which differs from ours in
//! the last bit.
//!
//! OLMo-core's `SkipStepAdamW` with `step_increment_bugfix=False`, which the runs before its version 2.2
//! were made with, has `t = 1` at every step; see [`AdamW::with_step_increment_bugfix`].
//!
//! There are two implementations with the same result to the bit: burn's tensor operations, for any
//! device, and one pass in place over the buffers, for the flex CPU device. The
//! reference's `selective_updates` and `amsgrad` are not implemented.

mod composed;
#[cfg(feature = "flex")]
mod fused;

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::fit::{check_dtype, check_like, checked, take_named};
use crate::{Error, Optimizer, ParamState, UpdateOptions};

/// Settings of [`AdamW`]. The defaults are those of the OLMo 2 and OLMo 3 runs; the first OLMo
/// models have `eps` 1e-5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the first and of the second moment, each at least 0 and below 1.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay of the parameters in the decaying group. [`AdamW`] itself takes the decay of each
    /// parameter from [`UpdateOptions`]; see [`crate::ParamGroups`].
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 }
    }
}

impl AdamWConfig {
    /// Checks the ranges that torch checks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with every problem found.
    pub fn validate(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        for (i, beta) in self.betas.iter().enumerate() {
            if !(0.0..1.0).contains(beta) {
                problems.push(format!("betas[{i}] is {beta}, expected at least 0 and below 1"));
            }
        }
        for (name, value) in [("eps", self.eps), ("weight_decay", self.weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                problems.push(format!("{name} is {value}, expected a finite number, 0 or more"));
            }
        }
        Error::unless_valid("AdamW configuration", problems)
    }
}

/// The `AdamW` optimizer. State tensors: `exp_avg` and `exp_avg_sq`, zeros before the first update.
#[derive(Debug)]
pub struct AdamW {
    betas: [f64; 2],
    eps: f64,
    /// Whether steps are counted.
    counts_steps: bool,
    states: BTreeMap<String, Moments>,
}

impl AdamW {
    /// An optimizer without state.
    ///
    /// # Errors
    ///
    /// See [`AdamWConfig::validate`].
    pub fn new(config: &AdamWConfig) -> Result<Self, Error> {
        config.validate()?;
        let AdamWConfig { betas, eps, .. } = *config;
        Ok(Self { betas, eps, counts_steps: true, states: BTreeMap::new() })
    }

    /// Where `is_fixed` is false, makes the mistake of OLMo-core's `SkipStepAdamW` before its version
    /// 2.2: steps are not counted, so that moments are corrected at every step as at the first.
    #[must_use]
    pub fn with_step_increment_bugfix(mut self, is_fixed: bool) -> Self {
        self.counts_steps = is_fixed;
        self
    }
}

const EXP_AVG: &str = "exp_avg";
const EXP_AVG_SQ: &str = "exp_avg_sq";

/// The state of one parameter.
#[derive(Debug)]
struct Moments {
    step: u64,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
}

impl Moments {
    fn zeros(length: usize, device: &Device) -> Self {
        let zeros = || Tensor::zeros([length], (device, DType::F32));
        Self { step: 0, exp_avg: zeros(), exp_avg_sq: zeros() }
    }
}

impl Optimizer for AdamW {
    fn state_names(&self) -> &'static [&'static str] {
        &[EXP_AVG, EXP_AVG_SQ]
    }

    fn update(
        &mut self,
        path: &str,
        weight: Tensor<1>,
        grad: Tensor<1>,
        options: &UpdateOptions,
    ) -> Result<Tensor<1>, Error> {
        let (weight, grad) = checked(path, weight, grad, options)?;
        if let Some(moments) = self.states.get(path) {
            check_like(path, EXP_AVG, &moments.exp_avg, &weight)?;
            check_like(path, EXP_AVG_SQ, &moments.exp_avg_sq, &weight)?;
        }

        // Out of the map, so that no second handle keeps the update from running in place.
        let Moments { step, exp_avg, exp_avg_sq } = self
            .states
            .remove(path)
            .unwrap_or_else(|| Moments::zeros(weight.dims()[0], &weight.device()));
        let scalars = Scalars::new(self.betas, self.eps, step + 1, options);
        let step = step + u64::from(self.counts_steps);
        let (weight, exp_avg, exp_avg_sq) = apply(weight, exp_avg, exp_avg_sq, grad, &scalars);
        self.states.insert(path.to_owned(), Moments { step, exp_avg, exp_avg_sq });
        Ok(weight)
    }

    fn paths(&self) -> Vec<&str> {
        self.states.keys().map(String::as_str).collect()
    }

    fn state(&self, path: &str) -> Option<ParamState> {
        self.states.get(path).map(|moments| ParamState {
            step: moments.step,
            tensors: vec![
                (EXP_AVG.to_owned(), moments.exp_avg.clone()),
                (EXP_AVG_SQ.to_owned(), moments.exp_avg_sq.clone()),
            ],
        })
    }

    fn load_state(&mut self, path: &str, state: ParamState) -> Result<(), Error> {
        let tensors = take_named(path, [EXP_AVG, EXP_AVG_SQ], state.tensors)?;
        let [exp_avg, exp_avg_sq] = tensors.map(Tensor::inner);
        check_dtype(path, EXP_AVG, &exp_avg)?;
        check_like(path, EXP_AVG_SQ, &exp_avg_sq, &exp_avg)?;
        self.states.insert(path.to_owned(), Moments { step: state.step, exp_avg, exp_avg_sq });
        Ok(())
    }
}

/// The numbers of one update, as f32, the type of the elements.
#[derive(Debug, Clone, Copy)]
struct Scalars {
    /// Multiplies the gradient first.
    grad_scale: f32,
    /// `1 - lr * weight_decay`.
    keep: f32,
    /// 1 - beta1, the weight of the gradient in the first moment.
    lerp: f32,
    beta2: f32,
    /// 1 - beta2.
    one_minus_beta2: f32,
    /// sqrt(1 - beta2^t).
    bias_correction2_sqrt: f32,
    eps: f32,
    /// -lr / (1 - beta1^t).
    minus_step_size: f32,
}

impl Scalars {
    fn new([beta1, beta2]: [f64; 2], eps: f64, step: u64, options: &UpdateOptions) -> Self {
        let bias_correction1 = 1.0 - beta1.powf(step as f64);
        let bias_correction2 = 1.0 - beta2.powf(step as f64);
        Self {
            grad_scale: options.grad_scale as f32,
            keep: (1.0 - options.lr * options.weight_decay) as f32,
            lerp: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            bias_correction2_sqrt: bias_correction2.sqrt() as f32,
            eps: eps as f32,
            minus_step_size: (-(options.lr / bias_correction1)) as f32,
        }
    }

    /// From a weight of 0.5 up torch's lerp counts from the other end: `g + (lerp - 1) * (g - m)`.
    fn lerp_from_grad(&self) -> bool {
        self.lerp.abs() >= 0.5
    }
}

/// Weight, first and second moment after the update. All tensors f32, of one length and device.
fn apply(
    weight: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    grad: Tensor<1>,
    scalars: &Scalars,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    // A rank may own no element of a small parameter.
    if weight.dims()[0] == 0 {
        return (weight, exp_avg, exp_avg_sq);
    }
    #[cfg(feature = "flex")]
    if crate::flex::is_flex(&weight) {
        return fused::update(weight, exp_avg, exp_avg_sq, grad, scalars);
    }
    composed::update(weight, exp_avg, exp_avg_sq, grad, scalars)
}

#[cfg(feature = "flex")]
#[cfg(test)]
mod tests;
