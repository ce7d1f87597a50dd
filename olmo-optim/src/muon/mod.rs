//! Muon: momentum whose step is orthogonalised, for matrices; `AdamW` for all other parameters.
//!
//! torch 2.9 torch/optim/_muon.py, with the choice of parameters and the defaults of OLMo-core's
//! optim/muon.py: matrices inside blocks take Muon's step, embeddings, head and norms `AdamW`'s. With
//! gradient `G` (times `grad_scale`):
//!
//! ```text
//! M <- M + (1 - momentum) * (G - M)
//! U <- M, or with nesterov G + momentum * (M - G)
//! W <- W * (1 - lr * weight_decay)
//! W <- W - adjusted lr * orthogonalised U
//! ```
//!
//! Deliberate difference: the iteration that orthogonalises runs in f32, see `newton_schulz.rs`.
//! OLMo-core's own Muon is of a package that keeps `M` without the factor `1 - momentum`; the step is
//! the same, since it does not depend on the scale of `U`.
//!
//! A matrix must be whole: a rank that holds a piece of it cannot orthogonalise it.

mod newton_schulz;

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::fit::{check_dtype, check_like, checked, take_named};
use crate::{AdamW, AdamWConfig, Error, Optimizer, ParamState, UpdateOptions};
use newton_schulz::orthogonalize;

/// Settings of [`Muon`]. The defaults are OLMo-core's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonConfig {
    /// Decay of the momentum, at least 0 and below 1.
    pub momentum: f64,
    /// Whether the step looks ahead of the momentum.
    pub nesterov: bool,
    /// Steps of the iteration that orthogonalises.
    pub ns_steps: usize,
    /// How the learning rate depends on a matrix's shape.
    pub adjust_lr: AdjustLr,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self { momentum: 0.95, nesterov: false, ns_steps: 5, adjust_lr: AdjustLr::RmsNorm }
    }
}

/// What the learning rate is multiplied by for a matrix of `rows` outputs and `columns` inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustLr {
    /// `0.2 sqrt(max(rows, columns))`: steps as large as `AdamW`'s, so that its learning rate and
    /// weight decay fit. torch calls it `match_rms_adamw`.
    #[default]
    RmsNorm,
    /// `sqrt(rows / columns)`: the same rate for models of all widths.
    SpectralNorm,
    /// `sqrt(max(1, rows / columns))`, as Muon was first published; torch's default.
    Original,
}

impl AdjustLr {
    fn factor(self, [rows, columns]: [usize; 2]) -> f64 {
        let (rows, columns) = (rows as f64, columns as f64);
        match self {
            Self::RmsNorm => 0.2 * rows.max(columns).sqrt(),
            Self::SpectralNorm => (rows / columns).sqrt(),
            Self::Original => (rows / columns).max(1.0).sqrt(),
        }
    }
}

impl MuonConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with every problem found.
    pub fn validate(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        if !(0.0..1.0).contains(&self.momentum) {
            problems
                .push(format!("momentum is {}, expected at least 0 and below 1", self.momentum));
        }
        if !(1..100).contains(&self.ns_steps) {
            problems.push(format!("ns_steps is {}, expected 1 to 99", self.ns_steps));
        }
        Error::unless_valid("Muon configuration", problems)
    }
}

/// The Muon optimizer. State tensors: `momentum_buffer` of a matrix; those of [`AdamW`] of the other
/// parameters.
#[derive(Debug)]
pub struct Muon {
    config: MuonConfig,
    /// The parameters that are orthogonalised, and their shapes.
    matrices: BTreeMap<String, [usize; 2]>,
    states: BTreeMap<String, Momentum>,
    adamw: AdamW,
}

#[derive(Debug)]
struct Momentum {
    step: u64,
    buffer: Tensor<1>,
}

const MOMENTUM: &str = "momentum_buffer";

impl Muon {
    /// An optimizer without state, which orthogonalises the parameters `matrices`, named with their
    /// rows and columns, and updates all others by `AdamW`.
    ///
    /// # Errors
    ///
    /// See [`MuonConfig::validate`] and [`AdamWConfig::validate`].
    pub fn new<P: Into<String>>(
        config: &MuonConfig,
        adamw: &AdamWConfig,
        matrices: impl IntoIterator<Item = (P, [usize; 2])>,
    ) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self {
            config: config.clone(),
            matrices: matrices.into_iter().map(|(path, shape)| (path.into(), shape)).collect(),
            states: BTreeMap::new(),
            adamw: AdamW::new(adamw)?,
        })
    }

    /// Weight and momentum after the update.
    fn apply(
        &self,
        weight: Tensor<1>,
        buffer: Tensor<1>,
        grad: Tensor<1>,
        shape: [usize; 2],
        options: &UpdateOptions,
    ) -> (Tensor<1>, Tensor<1>) {
        let MuonConfig { momentum, nesterov, ns_steps, adjust_lr } = self.config;
        let UpdateOptions { lr, weight_decay, grad_scale } = *options;
        let grad = grad.mul_scalar(grad_scale as f32);
        let change = (grad.clone() - buffer.clone()).mul_scalar((1.0 - momentum) as f32);
        let buffer = buffer + change;
        let update = if nesterov {
            grad.clone() + (buffer.clone() - grad).mul_scalar(momentum as f32)
        } else {
            buffer.clone()
        };
        let update = orthogonalize(update.reshape(shape), ns_steps).reshape(weight.dims());
        let adjusted = (lr * adjust_lr.factor(shape)) as f32;
        let weight = weight.mul_scalar((1.0 - lr * weight_decay) as f32);
        (weight - update.mul_scalar(adjusted), buffer)
    }
}

impl Optimizer for Muon {
    fn state_names(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq", MOMENTUM]
    }

    fn update(
        &mut self,
        path: &str,
        weight: Tensor<1>,
        grad: Tensor<1>,
        options: &UpdateOptions,
    ) -> Result<Tensor<1>, Error> {
        let Some(&shape) = self.matrices.get(path) else {
            return self.adamw.update(path, weight, grad, options);
        };
        let (weight, grad) = checked(path, weight, grad, options)?;
        let ([found], expected) = (weight.dims(), shape[0] * shape[1]);
        if found != expected {
            return Err(Error::Length {
                path: path.to_owned(),
                tensor: "weight, which must be the whole matrix,".to_owned(),
                expected,
                found,
            });
        }
        if let Some(state) = self.states.get(path) {
            check_like(path, MOMENTUM, &state.buffer, &weight)?;
        }
        let Momentum { step, buffer } = self.states.remove(path).unwrap_or_else(|| Momentum {
            step: 0,
            buffer: Tensor::zeros(weight.dims(), (&weight.device(), DType::F32)),
        });
        let (weight, buffer) = self.apply(weight, buffer, grad, shape, options);
        self.states.insert(path.to_owned(), Momentum { step: step + 1, buffer });
        Ok(weight)
    }

    fn paths(&self) -> Vec<&str> {
        let mut paths = self.adamw.paths();
        paths.extend(self.states.keys().map(String::as_str));
        paths.sort_unstable();
        paths
    }

    fn state(&self, path: &str) -> Option<ParamState> {
        let Some(state) = self.states.get(path) else { return self.adamw.state(path) };
        let tensors = vec![(MOMENTUM.to_owned(), state.buffer.clone())];
        Some(ParamState { step: state.step, tensors })
    }

    fn load_state(&mut self, path: &str, state: ParamState) -> Result<(), Error> {
        if !self.matrices.contains_key(path) {
            return self.adamw.load_state(path, state);
        }
        let [buffer] = take_named(path, [MOMENTUM], state.tensors)?.map(Tensor::inner);
        check_dtype(path, MOMENTUM, &buffer)?;
        self.states.insert(path.to_owned(), Momentum { step: state.step, buffer });
        Ok(())
    }
}

#[cfg(feature = "flex")]
#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::fixtures::{tensor, values};

    fn muon() -> Muon {
        Muon::new(&MuonConfig::default(), &AdamWConfig::default(), [("w", [2, 3])]).unwrap()
    }

    const OPTIONS: UpdateOptions = UpdateOptions { lr: 0.1, weight_decay: 0.1, grad_scale: 0.5 };

    #[test]
    fn rows_come_out_orthogonal_and_of_length_about_one() {
        let matrix = Tensor::<2>::from_floats([[3.0, 1.0, 0.0], [1.0, 2.0, -1.0]], &Device::flex());
        for matrix in [matrix.clone(), matrix.transpose()] {
            let x = orthogonalize(matrix.clone(), 5);
            assert_eq!(x.dims(), matrix.dims());
            let [rows, columns] = x.dims();
            let gram = if rows < columns {
                x.clone().matmul(x.transpose())
            } else {
                x.clone().transpose().matmul(x)
            };
            let gram = gram.into_data().try_into_vec::<f32>().unwrap();
            assert!((0.4..1.5).contains(&gram[0]) && (0.4..1.5).contains(&gram[3]), "{gram:?}");
            assert!(gram[1].abs() < 0.4, "{gram:?}");
        }
    }

    #[test]
    fn a_gradient_of_zeros_only_decays() {
        let weight = muon().update("w", tensor(&[1.0; 6]), tensor(&[0.0; 6]), &OPTIONS).unwrap();
        assert!(values(weight).iter().all(|x| (x - 0.99).abs() < 1e-6));
    }

    #[test]
    fn state_of_both_kinds_goes_back_where_it_came_from() {
        let mut optimizer = muon();
        let grads = [1.0, -2.0, 0.5, 0.0, 1.0, 3.0];
        let weight = optimizer.update("w", tensor(&[1.0; 6]), tensor(&grads), &OPTIONS).unwrap();
        optimizer.update("b", tensor(&[1.0; 2]), tensor(&[0.1, 0.2]), &OPTIONS).unwrap();
        assert_eq!(optimizer.paths(), ["b", "w"]);
        let mut again = muon();
        again.load_named(optimizer.named_tensors(), optimizer.steps()).unwrap();
        let next = |optimizer: &mut Muon| {
            values(optimizer.update("w", weight.clone(), tensor(&grads), &OPTIONS).unwrap())
        };
        assert_eq!(next(&mut optimizer), next(&mut again));
        assert_eq!((again.step("b"), again.step("w")), (Some(1), Some(2)));
    }

    #[test]
    fn a_piece_of_a_matrix_is_refused() {
        let error = muon().update("w", tensor(&[1.0; 3]), tensor(&[1.0; 3]), &OPTIONS).unwrap_err();
        assert!(error.to_string().contains("the whole matrix"), "{error}");
        let config = MuonConfig { momentum: 1.0, ns_steps: 0, ..MuonConfig::default() };
        let none = std::iter::empty::<(String, [usize; 2])>();
        let message = Muon::new(&config, &AdamWConfig::default(), none).unwrap_err().to_string();
        assert!(message.contains("momentum") && message.contains("ns_steps"), "{message}");
    }
}
