//! What a trainer and a checkpoint need of any optimizer.
//!
//! Skipping a step, as OLMo-core's `SkipStepOptimizer` does, is not part of the trait: with its
//! factor at 0 neither weight, moments nor step count change, so that a caller who skips a step
//! simply does not call [`Optimizer::update`]. [`crate::SkipStep`] says when.

use std::collections::BTreeMap;
use std::fmt::Debug;

use burn::tensor::Tensor;

use crate::Error;

/// What one update of one parameter depends on besides the gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateOptions {
    /// Learning rate of this step.
    pub lr: f64,
    /// Weight decay of the parameter's group, 0 for none.
    pub weight_decay: f64,
    /// The gradient is multiplied by this, rounded to f32, before anything else, as torch's
    /// `clip_grad_norm_` multiplies it by its coefficient. 1 for no clipping.
    pub grad_scale: f64,
}

impl UpdateOptions {
    /// Checks that every number is finite and the rate and the decay are not negative.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with every problem found.
    pub fn validate(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        for (name, value) in [("lr", self.lr), ("weight_decay", self.weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                problems.push(format!("{name} is {value}, expected a finite number, 0 or more"));
            }
        }
        if !self.grad_scale.is_finite() {
            problems.push(format!(
                "grad_scale is {}, expected a finite number: is the gradient's norm finite?",
                self.grad_scale
            ));
        }
        Error::unless_valid("update", problems)
    }
}

/// What an optimizer remembers of one parameter.
#[derive(Debug, Clone)]
pub struct ParamState {
    /// Updates made so far.
    pub step: u64,
    /// Named tensors, each as long as the weight, f32, in the order of
    /// [`Optimizer::state_names`], of which a parameter may have only some.
    pub tensors: Vec<(String, Tensor<1>)>,
}

/// An optimizer whose state is kept by parameter path.
///
/// Paths are free text without meaning to the optimizer. Tensors are flat and f32; a weight of
/// another shape is reshaped by the caller, which copies nothing.
pub trait Optimizer: Debug + Send {
    /// The names of the state tensors kept for parameters, e.g. `exp_avg`. No name has a dot.
    fn state_names(&self) -> &'static [&'static str];

    /// Takes one step for one parameter and returns its new weight.
    ///
    /// The result is on the weight's device, without autodiff. Hand over the only handles to
    /// `weight` and `grad`: an update in place needs them, and falls back to a copy otherwise.
    ///
    /// # Errors
    ///
    /// When `options` are invalid, or `grad` or the state loaded for `path` do not fit the weight in
    /// length, dtype or device. The optimizer is unchanged then.
    fn update(
        &mut self,
        path: &str,
        weight: Tensor<1>,
        grad: Tensor<1>,
        options: &UpdateOptions,
    ) -> Result<Tensor<1>, Error>;

    /// The paths that have state, sorted.
    fn paths(&self) -> Vec<&str>;

    /// The state of one parameter; `None` before its first update.
    ///
    /// The tensors are handles to the live ones. Drop them before the next update, which would
    /// otherwise have to copy them.
    fn state(&self, path: &str) -> Option<ParamState>;

    /// Puts back what [`Optimizer::state`] gave, replacing what is there.
    ///
    /// # Errors
    ///
    /// When the tensors are not those of [`Optimizer::state_names`], differ in length, or are not
    /// f32.
    fn load_state(&mut self, path: &str, state: ParamState) -> Result<(), Error>;

    /// Updates made so far for one parameter; `None` before the first.
    fn step(&self, path: &str) -> Option<u64> {
        self.state(path).map(|state| state.step)
    }

    /// Every state tensor under `<path>.<name>`, sorted by path: what a checkpoint stores beside
    /// [`Optimizer::steps`].
    fn named_tensors(&self) -> Vec<(String, Tensor<1>)> {
        let mut named = Vec::new();
        for path in self.paths() {
            let tensors = self.state(path).map_or_else(Vec::new, |state| state.tensors);
            named.extend(tensors.into_iter().map(|(name, t)| (format!("{path}.{name}"), t)));
        }
        named
    }

    /// The step count of every path, sorted by path.
    fn steps(&self) -> Vec<(String, u64)> {
        let paths = self.paths().into_iter();
        paths.filter_map(|path| self.step(path).map(|step| (path.to_owned(), step))).collect()
    }

    /// Puts back what [`Optimizer::named_tensors`] and [`Optimizer::steps`] gave, in any order.
    /// Paths that are not named keep their state.
    ///
    /// # Errors
    ///
    /// [`Error::MissingStep`] for a tensor without a step count, [`Error::DuplicatePath`] for two
    /// step counts of one path, and whatever [`Optimizer::load_state`] finds; paths that come before
    /// the faulty one are loaded then.
    fn load_named(
        &mut self,
        tensors: Vec<(String, Tensor<1>)>,
        steps: Vec<(String, u64)>,
    ) -> Result<(), Error> {
        for (path, state) in group_by_path(tensors, steps)? {
            self.load_state(&path, state)?;
        }
        Ok(())
    }
}

/// Joins tensors named `<path>.<name>` and step counts into one state per path.
fn group_by_path(
    tensors: Vec<(String, Tensor<1>)>,
    steps: Vec<(String, u64)>,
) -> Result<BTreeMap<String, ParamState>, Error> {
    let mut states = BTreeMap::new();
    for (path, step) in steps {
        if states.insert(path.clone(), ParamState { step, tensors: Vec::new() }).is_some() {
            return Err(Error::DuplicatePath { path });
        }
    }
    for (full_name, tensor) in tensors {
        let (path, name) = full_name.rsplit_once('.').unwrap_or(("", &full_name));
        let Some(state) = states.get_mut(path) else {
            return Err(Error::MissingStep { path: path.to_owned(), tensor: full_name });
        };
        state.tensors.push((name.to_owned(), tensor));
    }
    Ok(states)
}
