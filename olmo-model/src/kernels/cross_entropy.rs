//! Cross-entropy of `softmax(x Wᵀ)` in chunks of tokens, so that the logits of a batch never exist.
//!
//! For a token with logits `l` and label `t`: `ce = logsumexp(l) - l[t]`, and the z-loss of OLMo is
//! `logsumexp(l)²`. Sums are over the labelled tokens, in f32, whatever the dtype of `x`. When a
//! gradient will be wanted it is taken in the same pass, from the chunk's logits while they are
//! there; the backward pass then only scales it.

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Shape, Slice};

use super::{Kernels, bool_dtype, linear};

/// Logits held at once, in elements: 64 MiB of f32.
pub(super) const CHUNK_ELEMENTS: usize = 16 << 20;

/// The three sums, `[objective, cross-entropy, lse²]`.
pub(super) fn forward<B: Kernels>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    z_loss: f64,
) -> FloatTensor<B> {
    let mut sums = None;
    for range in chunks::<B>(&x, &weight) {
        let logits = logits::<B>(rows::<B>(&x, &range), weight.clone());
        let targets = labels::<B>(&targets, &range);
        let (losses, _) = B::olmo_token_losses(logits, targets, z_loss, false);
        add::<B>(&mut sums, losses);
    }
    sums.unwrap_or_else(|| zeros::<B>(&x))
}

/// The sums, and the gradients of the objective by `x` and by `weight`.
pub(super) fn forward_with_gradients<B: Kernels>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    z_loss: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (mut sums, mut dweight) = (None, None);
    let mut dx_chunks = Vec::new();
    for range in chunks::<B>(&x, &weight) {
        let x = rows::<B>(&x, &range);
        let logits = logits::<B>(x.clone(), weight.clone());
        let targets = labels::<B>(&targets, &range);
        let (losses, dlogits) = B::olmo_token_losses(logits, targets, z_loss, true);
        add::<B>(&mut sums, losses);
        dx_chunks.push(B::olmo_linear_backward_input(dlogits.clone(), weight.clone()));
        // In f32: in bf16 every chunk would round the sum of those before it.
        dweight = Some(match dweight.take() {
            None => B::olmo_linear_wide_backward_weight(dlogits, x),
            Some(sum) => B::olmo_linear_add_backward_weight(sum, dlogits, x),
        });
    }
    let sums = sums.unwrap_or_else(|| zeros::<B>(&x));
    let dweight = dweight.unwrap_or_else(|| wide_zeros::<B>(&weight));
    let dweight = B::olmo_cast(dweight, weight.dtype().into());
    let dx = match dx_chunks.len() {
        0 => x,
        1 => dx_chunks.remove(0),
        _ => B::float_cat(dx_chunks, 0),
    };
    (sums, dx, dweight)
}

/// The three sums over one chunk, and the gradient by its logits in their dtype (or the logits
/// themselves, when it is not asked for).
pub(super) fn token_losses<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    z_loss: f64,
    with_gradient: bool,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (dtype, n) = (logits.dtype(), logits.shape()[0]);
    let column = Shape::new([n, 1]);
    let unlabelled =
        B::int_lower_elem(targets.clone(), 0.into(), bool_dtype::<B>(&targets.device()));
    let unlabelled = B::bool_reshape(unlabelled, column.clone());
    let targets = B::int_reshape(B::int_clamp_min(targets, 0.into()), column.clone());
    let logits = B::float_cast(logits, FloatDType::F32);
    let max = B::float_max_dim(logits.clone(), 1);
    let target_logit = B::float_gather(1, logits.clone(), targets.clone());
    let exp = B::float_exp(B::float_sub(logits, max.clone()));
    let sum = B::float_sum_dim(exp.clone(), 1);
    let lse = B::float_add(B::float_log(sum.clone()), max);
    let labelled = |x| B::float_mask_fill(x, unlabelled.clone(), 0.into());
    let ce = labelled(B::float_sub(lse.clone(), target_logit));
    let squared = labelled(B::float_mul(lse.clone(), lse.clone()));
    let (ce, squared) = (B::float_sum(ce), B::float_sum(squared));
    let objective = B::float_add(ce.clone(), B::float_mul_scalar(squared.clone(), z_loss.into()));
    let sums = B::float_cat(vec![objective, ce, squared], 0);
    if !with_gradient {
        return (sums, exp);
    }
    // d objective / d l = p (1 + 2 z lse) - [l is the label], nothing where there is no label.
    let factor = B::float_add_scalar(B::float_mul_scalar(lse, (2.0 * z_loss).into()), 1.into());
    let factor = labelled(B::float_div(factor, sum));
    let dlogits = B::float_mul(exp, factor);
    let device = dlogits.device();
    let minus_one = B::float_neg(B::float_ones(column, &device, FloatDType::F32));
    let dlogits = B::float_scatter(1, dlogits, targets, labelled(minus_one), IndexingUpdateOp::Add);
    (sums, B::float_cast(dlogits, dtype.into()))
}

/// Of a chunk. In f32 the backend's products are faster than ours, which keep an order of additions.
fn logits<B: Kernels>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    match x.dtype() {
        DType::F32 => linear::forward::<B>(x, weight),
        _ => B::olmo_linear(x, weight),
    }
}

/// Ranges of tokens whose logits are held at once.
fn chunks<B: Backend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
) -> impl Iterator<Item = Range<usize>> + use<B> {
    loss_chunks(x.shape()[0], weight.shape()[0])
}

/// Ranges of `n` tokens whose logits, `vocab` each, are held at once.
pub(crate) fn loss_chunks(n: usize, vocab: usize) -> impl Iterator<Item = Range<usize>> {
    let chunk = (CHUNK_ELEMENTS / vocab).clamp(1, n.max(1));
    // Chunks of nearly equal size: the last one is not a remainder of a few rows.
    let n_chunks = n.div_ceil(chunk);
    (0..n_chunks).map(move |i| i * n / n_chunks..(i + 1) * n / n_chunks)
}

fn rows<B: Backend>(x: &FloatTensor<B>, range: &Range<usize>) -> FloatTensor<B> {
    let d = x.shape()[1];
    B::float_slice(x.clone(), &[Slice::from(range.clone()), Slice::from(0..d)])
}

fn labels<B: Backend>(targets: &IntTensor<B>, range: &Range<usize>) -> IntTensor<B> {
    B::int_slice(targets.clone(), &[Slice::from(range.clone())])
}

fn add<B: Backend>(sum: &mut Option<FloatTensor<B>>, part: FloatTensor<B>) {
    *sum = Some(match sum.take() {
        Some(sum) => B::float_add(sum, part),
        None => part,
    });
}

fn wide_zeros<B: Backend>(like: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros(like.shape(), &like.device(), FloatDType::F32)
}

fn zeros<B: Backend>(like: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros(Shape::new([3]), &like.device(), FloatDType::F32)
}
