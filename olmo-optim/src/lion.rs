//! Lion with decoupled weight decay (`LionW`).
//!
//! OLMo olmo/optim.py `LionW`, and `Lion` of OLMo-core optim/lion.py, operation for operation. With
//! gradient `g` (times `grad_scale`) and everything per element in f32:
//!
//! ```text
//! p <- p * (1 - lr * weight_decay)
//! u <- m * beta1 + g * (1 - beta1)
//! p <- p - lr * sign(u)
//! m <- m * beta2 + g * (1 - beta2)
//! ```
//!
//! The sign of 0 is 0. The reference's `selective_updates` and its metric `update_cos_sim` are not
//! implemented.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::fit::{check_dtype, check_like, checked, take_named};
use crate::{Error, Optimizer, ParamState, UpdateOptions};

/// Settings of [`LionW`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LionWConfig {
    /// Decay of the momentum in the update and in what is kept, each from 0 to 1.
    pub betas: [f64; 2],
}

impl Default for LionWConfig {
    /// The defaults of the class; a configuration of the original trainer that gives none has 0.9
    /// and 0.95.
    fn default() -> Self {
        Self { betas: [0.9, 0.99] }
    }
}

impl LionWConfig {
    /// Checks the ranges that the reference checks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with every problem found.
    pub fn validate(&self) -> Result<(), Error> {
        let problem = |(i, beta): (usize, &f64)| {
            let fine = (0.0..=1.0).contains(beta);
            (!fine).then(|| format!("betas[{i}] is {beta}, expected a number from 0 to 1"))
        };
        let problems = self.betas.iter().enumerate().filter_map(problem).collect();
        Error::unless_valid("LionW configuration", problems)
    }
}

/// The `LionW` optimizer. State tensor: `exp_avg`, zeros before the first update.
#[derive(Debug)]
pub struct LionW {
    betas: [f64; 2],
    states: BTreeMap<String, Momentum>,
}

#[derive(Debug)]
struct Momentum {
    step: u64,
    exp_avg: Tensor<1>,
}

const EXP_AVG: &str = "exp_avg";

impl LionW {
    /// An optimizer without state.
    ///
    /// # Errors
    ///
    /// See [`LionWConfig::validate`].
    pub fn new(config: &LionWConfig) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self { betas: config.betas, states: BTreeMap::new() })
    }
}

impl Optimizer for LionW {
    fn state_names(&self) -> &'static [&'static str] {
        &[EXP_AVG]
    }

    fn update(
        &mut self,
        path: &str,
        weight: Tensor<1>,
        grad: Tensor<1>,
        options: &UpdateOptions,
    ) -> Result<Tensor<1>, Error> {
        let (weight, grad) = checked(path, weight, grad, options)?;
        if let Some(state) = self.states.get(path) {
            check_like(path, EXP_AVG, &state.exp_avg, &weight)?;
        }
        let Momentum { step, exp_avg } = self.states.remove(path).unwrap_or_else(|| Momentum {
            step: 0,
            exp_avg: Tensor::zeros(weight.dims(), (&weight.device(), DType::F32)),
        });
        let (weight, exp_avg) = if weight.dims()[0] == 0 {
            (weight, exp_avg)
        } else {
            self.apply(weight, exp_avg, grad, options)
        };
        self.states.insert(path.to_owned(), Momentum { step: step + 1, exp_avg });
        Ok(weight)
    }

    fn paths(&self) -> Vec<&str> {
        self.states.keys().map(String::as_str).collect()
    }

    fn state(&self, path: &str) -> Option<ParamState> {
        self.states.get(path).map(|state| ParamState {
            step: state.step,
            tensors: vec![(EXP_AVG.to_owned(), state.exp_avg.clone())],
        })
    }

    fn load_state(&mut self, path: &str, state: ParamState) -> Result<(), Error> {
        let [exp_avg] = take_named(path, [EXP_AVG], state.tensors)?.map(Tensor::inner);
        check_dtype(path, EXP_AVG, &exp_avg)?;
        self.states.insert(path.to_owned(), Momentum { step: state.step, exp_avg });
        Ok(())
    }
}

impl LionW {
    /// Weight and momentum after the update.
    fn apply(
        &self,
        weight: Tensor<1>,
        exp_avg: Tensor<1>,
        grad: Tensor<1>,
        options: &UpdateOptions,
    ) -> (Tensor<1>, Tensor<1>) {
        let [beta1, beta2] = self.betas;
        let UpdateOptions { lr, weight_decay, grad_scale } = *options;
        let grad = grad.mul_scalar(grad_scale as f32);
        let weight = weight.mul_scalar((1.0 - lr * weight_decay) as f32);
        let update = exp_avg.clone().mul_scalar(beta1 as f32)
            + grad.clone().mul_scalar((1.0 - beta1) as f32);
        let weight = weight - update.sign().mul_scalar(lr as f32);
        // What the reference multiplies by, which is beta2 but for its last bits.
        let keep = (1.0 - (1.0 - beta2)) as f32;
        let exp_avg = exp_avg.mul_scalar(keep) + grad.mul_scalar((1.0 - beta2) as f32);
        (weight, exp_avg)
    }
}

#[cfg(feature = "flex")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{tensor, values};

    #[test]
    fn every_element_moves_by_the_rate_and_none_without_a_gradient() {
        let mut lion = LionW::new(&LionWConfig::default()).unwrap();
        let options = UpdateOptions { lr: 0.5, weight_decay: 0.0, grad_scale: 1.0 };
        let grad = tensor(&[1e-20, -3.0, 0.0]);
        let weight = lion.update("w", tensor(&[1.0, 1.0, 1.0]), grad, &options).unwrap();
        assert_eq!(values(weight), [0.5, 1.5, 1.0]);
    }

    #[test]
    fn state_goes_back_where_it_came_from() {
        let options = UpdateOptions { lr: 0.1, weight_decay: 0.1, grad_scale: 0.5 };
        let mut lion = LionW::new(&LionWConfig::default()).unwrap();
        let weight = lion.update("w", tensor(&[1.0, 2.0]), tensor(&[3.0, -4.0]), &options).unwrap();
        let mut again = LionW::new(&LionWConfig::default()).unwrap();
        again.load_named(lion.named_tensors(), lion.steps()).unwrap();
        assert_eq!(again.step("w"), Some(1));
        let next = |lion: &mut LionW| {
            values(lion.update("w", weight.clone(), tensor(&[-0.1, 0.2]), &options).unwrap())
        };
        assert_eq!(next(&mut lion), next(&mut again));

        let wrong = ParamState { step: 1, tensors: vec![("exp_avg_sq".into(), tensor(&[1.0]))] };
        let message = lion.load_state("w", wrong).unwrap_err().to_string();
        assert!(message.contains("[exp_avg_sq], expected [exp_avg]"), "{message}");
    }

    #[test]
    fn an_empty_shard_takes_part_and_a_wrong_gradient_does_not() {
        let options = UpdateOptions { lr: 0.1, weight_decay: 0.1, grad_scale: 1.0 };
        let mut lion = LionW::new(&LionWConfig::default()).unwrap();
        lion.update("empty", tensor(&[]), tensor(&[]), &options).unwrap();
        assert_eq!(lion.step("empty"), Some(1));
        assert!(lion.update("w", tensor(&[1.0]), tensor(&[1.0, 2.0]), &options).is_err());
        assert!(LionW::new(&LionWConfig { betas: [0.9, 1.5] }).is_err());
    }
}
