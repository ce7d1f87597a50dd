//! Metrics of single parameters, by interval: as ai2-olmo's `Optimizer.clip_grads_and_collect_metrics` and
//! `AdamW.get_post_step_metrics` name and measure them (`olmo/optim.py`, 0.6.0).
//!
//! `optim/grad/NAME.min`, `.max`, `.avg` and `.norm` are of a gradient before it is clipped; `param`
//! of the weight and `exp_avg` and others of the optimizer's state, all before the step. The least and
//! the largest are of magnitudes. `optim/step/NAME.norm` and `.max` are of what Adam adds to the weight,
//! its decay left out. Names are those of the original trainer, where query, key and value are one
//! parameter, and gate and up projection; where it has no such model, they are paths.
//!
//! Difference: state that is not there yet, in the first step, has no metrics, where the original has
//! infinities and no numbers.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use olmo_hub::Layout;
use olmo_model::Transformer;
use olmo_optim::{AdaptiveClip, Optimizer};

use crate::config::{Compat, OptimizerConfig, TrainConfig};
use crate::error::Error;
use crate::step::{Clipping, Gradients, clipped_with};

/// What is measured of the elements of one parameter, or of several that are one in the original.
#[derive(Debug, Clone, Copy)]
struct Statistics {
    least: f64,
    largest: f64,
    sum: f64,
    sum_of_squares: f64,
    n: f64,
}

/// Metrics of single parameters, of the step that is being made.
#[derive(Debug)]
pub(crate) struct ParameterMetrics {
    config: OptimizerConfig,
    /// Whether this step is one of the interval.
    is_due: bool,
    /// The name of each path.
    names: BTreeMap<String, String>,
    statistics: BTreeMap<String, Statistics>,
    values: BTreeMap<String, f64>,
}

impl ParameterMetrics {
    /// For a run, nothing measured yet.
    pub(crate) fn new(config: &TrainConfig) -> Self {
        let TrainConfig { model, optimizer, .. } = config;
        let named = model.parameters().into_iter().map(|parameter| {
            let name = Layout::Original.name(model, &parameter);
            (parameter.path.clone(), name.unwrap_or(parameter.path))
        });
        Self {
            config: optimizer.clone(),
            is_due: false,
            names: named.collect(),
            statistics: BTreeMap::new(),
            values: BTreeMap::new(),
        }
    }

    /// Measures weights, gradients and state before a step, where it is one of the interval.
    ///
    /// # Errors
    ///
    /// [`Error::Optim`] where a tensor cannot be read.
    pub(crate) fn before(
        &mut self,
        step: u64,
        model: &Transformer,
        gradients: &Gradients,
        optimizer: &dyn Optimizer,
        clipping: &Clipping,
        averages: &AdaptiveClip,
    ) -> Result<(), Error> {
        let interval = self.config.metrics_log_interval;
        self.is_due = interval.is_some_and(|interval| step.is_multiple_of(interval));
        if !self.is_due {
            return Ok(());
        }
        let mut weights = Vec::new();
        model.visit_parameters(|path, _, values| weights.push((path.to_owned(), values)));
        for (path, values) in weights {
            self.measure("param", &path, values)?;
            for (name, values) in optimizer.state(&path).map_or_else(Vec::new, |s| s.tensors) {
                self.measure(&name, &path, values)?;
            }
        }
        for (path, sum) in gradients.iter() {
            self.measure("grad", path, sum.clone())?;
        }
        let mut clipped: BTreeMap<&str, bool> = BTreeMap::new();
        for (path, name) in &self.names {
            *clipped.entry(name).or_default() |= clipping.factor(path) < 1.0;
            let average = averages.averages();
            let average =
                average.get(path).or_else(|| average.get(&clipped_with(Compat::Olmo, path)));
            if let Some(average) = average {
                let metric = format!("optim/grad_norm_exp_avg/{name}");
                self.values.insert(metric, f64::from(*average));
            }
        }
        let n_clipped = clipped.values().filter(|clipped| **clipped).count();
        let rate = n_clipped as f64 / clipped.len().max(1) as f64;
        self.values.insert("optim/clipping_rate".to_owned(), rate);
        Ok(())
    }

    /// Measures what Adam has added to each weight, where that is asked for.
    ///
    /// # Errors
    ///
    /// [`Error::Optim`] where a tensor cannot be read.
    pub(crate) fn after(&mut self, optimizer: &dyn Optimizer, lr: f64) -> Result<(), Error> {
        if !self.is_due || !self.config.record_update_metrics {
            return Ok(());
        }
        let OptimizerConfig { betas, eps, step_increment_bugfix, .. } = self.config;
        let paths: Vec<String> = self.names.keys().cloned().collect();
        for path in paths {
            let Some(state) = optimizer.state(&path) else { continue };
            // What was not counted was this step all the same.
            let step = state.step + u64::from(!step_increment_bugfix);
            let step = i32::try_from(step).unwrap_or(i32::MAX);
            let [(first, mean), (second, square)] = &state.tensors[..] else { continue };
            if (first.as_str(), second.as_str()) != ("exp_avg", "exp_avg_sq") {
                continue;
            }
            let [correction, correction_of_square] = betas.map(|beta| 1.0 - beta.powi(step));
            let denominator = square.clone().sqrt() / correction_of_square.sqrt() + eps;
            self.measure("step", &path, mean.clone() / denominator * (-lr / correction))?;
        }
        Ok(())
    }

    /// What was measured of a step, by its names.
    pub(crate) fn take(&mut self) -> BTreeMap<String, f64> {
        let mut values = std::mem::take(&mut self.values);
        for (name, found) in std::mem::take(&mut self.statistics) {
            let norm = found.sum_of_squares.sqrt();
            values.extend([(format!("{name}.norm"), norm), (format!("{name}.max"), found.largest)]);
            if !name.starts_with("optim/step/") {
                let average = found.sum / found.n;
                values.extend([
                    (format!("{name}.min"), found.least),
                    (format!("{name}.avg"), average),
                ]);
            }
        }
        values
    }

    fn measure(&mut self, kind: &str, path: &str, values: Tensor<1>) -> Result<(), Error> {
        let name = self.names.get(path).map_or(path, String::as_str);
        let found = Statistics::of(path, values)?;
        let name = format!("optim/{kind}/{name}");
        self.statistics.entry(name).and_modify(|all| all.join(found)).or_insert(found);
        Ok(())
    }
}

impl Statistics {
    /// Those of a tensor, in one reading of the device.
    fn of(path: &str, values: Tensor<1>) -> Result<Self, Error> {
        let [n] = values.dims();
        let magnitudes = values.clone().abs();
        let parts = vec![
            magnitudes.clone().min(),
            magnitudes.clone().max(),
            values.sum(),
            magnitudes.powi_scalar(2).sum(),
        ];
        let read =
            Tensor::cat(parts, 0).try_into_data().map_err(|error| olmo_optim::Error::Read {
                what: "metrics of a parameter",
                reason: format!("{path}: {error}"),
            })?;
        let found: Vec<f64> = read.iter::<f64>().collect();
        let at = |i: usize| found.get(i).copied().unwrap_or(f64::NAN);
        let (least, largest) = (at(0), at(1));
        Ok(Self { least, largest, sum: at(2), sum_of_squares: at(3), n: n as f64 })
    }

    fn join(&mut self, other: Self) {
        self.least = self.least.min(other.least);
        self.largest = self.largest.max(other.largest);
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
        self.n += other.n;
    }
}
