//! Losses of one chunk of tokens; the gradient takes the place of the logits.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::lanes::vectorized;
use super::{from_vec, into_vec, lanes, last_dim};

/// Elements that are added up in f32.
const PART: usize = 512;

pub(super) fn token_losses(
    logits: FlexTensor,
    targets: FlexTensor,
    z_loss: f64,
    with_gradient: bool,
) -> (FlexTensor, FlexTensor) {
    let shape = logits.layout().shape().clone();
    let vocab = last_dim(&logits);
    let targets = targets.to_contiguous();
    let targets: &[i32] = targets.as_slice().expect("callers hold i32 targets");
    let mut logits = into_vec(logits);
    let losses: Vec<[f64; 2]> = logits
        .par_chunks_mut(vocab)
        .zip(targets)
        .map(|(row, target)| {
            vectorized(
                #[inline(always)]
                || row_losses(row, *target, z_loss, with_gradient),
            )
        })
        .collect();
    let [ce, squared] = losses.iter().fold([0.0; 2], |[a, b], [ce, sq]| [a + ce, b + sq]);
    let sums = [ce + z_loss * squared, ce, squared].map(|sum| sum as f32);
    (from_vec(sums.to_vec(), [3]), from_vec(logits, shape))
}

/// Cross-entropy and squared log-sum-exp of one token; see the composed form for the formulas.
#[inline(always)]
fn row_losses(row: &mut [f32], target: i32, z_loss: f64, with_gradient: bool) -> [f64; 2] {
    let Ok(target) = usize::try_from(target) else {
        row.fill(0.0);
        return [0.0; 2];
    };
    let target_logit = row[target];
    let max = lanes::max(row);
    let sum = if with_gradient {
        for x in row.iter_mut() {
            *x = lanes::exp(*x - max);
        }
        long_sum(row, |x| x)
    } else {
        long_sum(row, |x| lanes::exp(x - max))
    };
    let lse = sum.ln() + f64::from(max);
    if with_gradient {
        let factor = ((1.0 + 2.0 * z_loss * lse) / sum) as f32;
        for x in row.iter_mut() {
            *x *= factor;
        }
        row[target] -= 1.0;
    }
    [lse - f64::from(target_logit), lse * lse]
}

/// Sum of `f` over a vocabulary: long enough that f32 would lose a digit, so parts of it are added
/// up in f64.
#[inline(always)]
fn long_sum(row: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    row.chunks(PART).map(|part| f64::from(lanes::sum(part, &f))).sum()
}
