//! What each gradient of a step is multiplied by.

use std::collections::BTreeMap;

use olmo_optim::{AdaptiveClip, GradNorm, clip_coefficient, sums_of_squares};

use super::Gradients;
use crate::config::{Compat, Position, TrainConfig};
use crate::error::Error;

/// The norm of all gradients of a step, and their factors.
#[derive(Debug)]
pub(crate) struct Clipping {
    /// Norm of all gradients together, before they are multiplied.
    pub(crate) total_norm: GradNorm,
    /// The factor of all, or the smallest of them.
    pub(crate) coefficient: f64,
    /// Factors by parameter, where they differ.
    by_path: BTreeMap<String, f64>,
}

impl Clipping {
    /// The factor of one parameter's gradient.
    pub(crate) fn factor(&self, path: &str) -> f64 {
        self.by_path.get(path).copied().unwrap_or(self.coefficient)
    }
}

/// Norms and factors of a step's gradients. `averages` changes only where all norms are finite.
///
/// # Errors
///
/// [`Error::Optim`] where a gradient cannot be read.
pub(crate) fn clip(
    config: &TrainConfig,
    gradients: &Gradients,
    averages: &mut AdaptiveClip,
    at: Position,
) -> Result<Clipping, Error> {
    let squares = sums_of_squares(gradients.iter().map(|(_, sum)| sum))?;
    let total_norm = GradNorm::from_sum_of_squares(squares.iter().sum());
    let mut clipping = Clipping { total_norm, coefficient: 1.0, by_path: BTreeMap::new() };
    let Some(norm) = total_norm.finite() else { return Ok(clipping) };
    if let Some(ratio) = config.max_grad_norm_ratio_at(at) {
        let paths: Vec<&str> = gradients.iter().map(|(path, _)| path).collect();
        let mut norms: BTreeMap<String, f64> = BTreeMap::new();
        for (path, square) in paths.iter().zip(squares) {
            *norms.entry(clipped_with(config.compat, path)).or_default() += square;
        }
        let betas = config.optimizer.betas;
        let factor = |(name, square): (&String, &f64)| {
            let factor = averages.coefficient(name, square.sqrt(), ratio, betas, at.step);
            (name.clone(), factor)
        };
        let factors: BTreeMap<String, f64> = norms.iter().map(factor).collect();
        clipping.coefficient = factors.values().copied().fold(1.0, f64::min);
        let of = |path: &&str| ((*path).to_owned(), factors[&clipped_with(config.compat, path)]);
        clipping.by_path = paths.iter().map(of).collect();
    } else if let Some(limit) = config.max_grad_norm_at(at) {
        clipping.coefficient = clip_coefficient(norm, limit);
    }
    Ok(clipping)
}

/// The name under which a gradient's norm is averaged: its path, or in the original trainer the
/// first of those that are one parameter there.
pub(crate) fn clipped_with(compat: Compat, path: &str) -> String {
    if compat != Compat::Olmo {
        return path.to_owned();
    }
    let fused = [(".w_k.", ".w_q."), (".w_v.", ".w_q."), (".w1.", ".w3.")];
    let pair = fused.into_iter().find(|(part, _)| path.contains(part));
    pair.map_or_else(|| path.to_owned(), |(part, first)| path.replace(part, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_trainer_has_some_parameters_in_one() {
        for (path, name) in [
            ("blocks.0.attention.w_v.weight", "blocks.0.attention.w_q.weight"),
            ("blocks.0.attention.w_q.weight", "blocks.0.attention.w_q.weight"),
            ("blocks.0.attention.w_out.weight", "blocks.0.attention.w_out.weight"),
            ("blocks.1.feed_forward.w1.weight", "blocks.1.feed_forward.w3.weight"),
            ("blocks.1.feed_forward.w2.weight", "blocks.1.feed_forward.w2.weight"),
        ] {
            assert_eq!(clipped_with(Compat::Olmo, path), name);
            assert_eq!(clipped_with(Compat::None, path), path);
        }
    }
}
