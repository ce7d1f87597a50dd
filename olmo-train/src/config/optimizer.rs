//! The optimizer of a run.

use olmo_model::{ModelConfig, Role};
use olmo_optim::{
    AdamW, AdamWConfig, GroupRules, LionW, LionWConfig, Muon, MuonConfig, Optimizer, ParamGroups,
    ParamKind,
};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The optimizer and its parameter groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a field of the configuration of its own")]
pub struct OptimizerConfig {
    /// Which optimizer.
    pub name: OptimizerName,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decay of the moving averages of gradients and of their squares.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay, decoupled.
    pub weight_decay: f64,
    /// Whether weights of norms decay too.
    pub decay_norm_and_bias: bool,
    /// Whether the embedding decays too.
    pub decay_embeddings: bool,
    /// Whether `skip_step_adamw` counts its steps; false for runs of OLMo-core before 2.2, which did not.
    pub step_increment_bugfix: bool,
    /// Steps between metrics of every parameter, its gradient and its state; none where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_log_interval: Option<u64>,
    /// Whether those have what Adam adds to each weight too.
    pub record_update_metrics: bool,
    /// Settings of `muon`; OLMo-core's where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muon: Option<MuonConfig>,
}

/// The optimizers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay.
    #[default]
    Adamw,
    /// Lion with decoupled weight decay.
    Lionw,
    /// Adam that makes no step where loss or gradient are far above the usual, by `faults.spike`.
    SkipStepAdamw,
    /// Muon for the matrices of blocks, Adam for all else.
    Muon,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        let AdamWConfig { betas, eps, weight_decay } = AdamWConfig::default();
        Self {
            name: OptimizerName::default(),
            learning_rate: 3e-4,
            betas,
            eps,
            weight_decay,
            decay_norm_and_bias: true,
            decay_embeddings: false,
            step_increment_bugfix: true,
            metrics_log_interval: None,
            record_update_metrics: false,
            muon: None,
        }
    }
}

impl OptimizerConfig {
    /// The optimizer for a model, without state.
    ///
    /// # Errors
    ///
    /// [`Error::Optim`] for settings out of range.
    pub fn build(&self, model: &ModelConfig) -> Result<Box<dyn Optimizer>, Error> {
        Ok(match self.name {
            OptimizerName::Adamw | OptimizerName::SkipStepAdamw => {
                let adamw = AdamW::new(&self.adamw())?;
                Box::new(adamw.with_step_increment_bugfix(self.step_increment_bugfix))
            }
            OptimizerName::Lionw => Box::new(LionW::new(&self.lionw())?),
            OptimizerName::Muon => Box::new(Muon::new(
                &self.muon.clone().unwrap_or_default(),
                &self.adamw(),
                matrices(model),
            )?),
        })
    }

    /// Which parameters decay.
    ///
    /// # Errors
    ///
    /// [`Error::Optim`], where a model has a path twice.
    pub fn groups(&self, model: &ModelConfig) -> Result<ParamGroups, Error> {
        let Self { decay_norm_and_bias, decay_embeddings, .. } = *self;
        let rules = GroupRules { decay_norm_and_bias, decay_embeddings };
        let parameters = model.parameters().into_iter().map(|parameter| {
            let kind = match parameter.role {
                Role::Embedding => ParamKind::Embedding,
                Role::Norm => ParamKind::Norm,
                _ => ParamKind::Linear,
            };
            (parameter.path, kind)
        });
        Ok(ParamGroups::new(parameters, rules, self.weight_decay)?)
    }

    fn adamw(&self) -> AdamWConfig {
        let Self { betas, eps, weight_decay, .. } = *self;
        AdamWConfig { betas, eps, weight_decay }
    }

    fn lionw(&self) -> LionWConfig {
        LionWConfig { betas: self.betas }
    }

    /// What is wrong with the settings, one sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let lr = self.learning_rate;
        if !(lr.is_finite() && lr > 0.0) {
            problems.push(format!("optimizer.learning_rate is {lr}, expected a positive number"));
        }
        if self.muon.is_some() && self.name != OptimizerName::Muon {
            problems.push("optimizer.muon is there, expected only with `name: muon`".to_owned());
        }
        if !self.step_increment_bugfix && self.name != OptimizerName::SkipStepAdamw {
            problems.push(
                "optimizer.step_increment_bugfix is false, expected only with `name: skip_step_adamw`"
                    .to_owned(),
            );
        }
        if self.metrics_log_interval == Some(0) {
            problems.push(
                "optimizer.metrics_log_interval is 0, expected at least 1 step, or nothing for none"
                    .to_owned(),
            );
        }
        problems.extend(self.adamw().validate().err().map(|e| e.to_string()));
        let of_muon = self.muon.as_ref().and_then(|muon| muon.validate().err());
        problems.extend(of_muon.map(|e| e.to_string()));
        problems
    }
}

/// The matrices inside blocks.
fn matrices(model: &ModelConfig) -> Vec<(String, [usize; 2])> {
    let parameters = model.parameters().into_iter().filter_map(|parameter| {
        let inside = !matches!(parameter.role, Role::Embedding | Role::Output | Role::Norm);
        match parameter.shape[..] {
            [rows, columns] if inside => Some((parameter.path, [rows, columns])),
            _ => None,
        }
    });
    parameters.collect()
}
