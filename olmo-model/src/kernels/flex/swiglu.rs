//! `silu(gate) * up` and its gradients, one pass each.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::element::Element;
use super::lanes::vectorized;
use super::{PARALLEL_ELEMENTS, for_row_blocks, from_vec, into_vec, lanes, typed, values};

pub(super) fn forward<E: Element>(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let shape = gate.layout().shape().clone();
    let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
    let (gate, up): (&[E], &[E]) = (typed(&gate), typed(&up));
    let mut out = vec![E::default(); gate.len()];
    for_row_blocks(
        &mut out,
        1,
        #[inline(always)]
        |first, out| {
            let (gate, up) = (&gate[first..][..out.len()], &up[first..][..out.len()]);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gated(gate.widen(), *up);
            }
        },
    );
    from_vec(out, shape)
}

/// `silu(gate) * up`, each step rounded to `E`.
#[inline(always)]
pub(super) fn gated<E: Element>(gate: f32, up: E) -> E {
    let silu = E::narrow(gate * lanes::sigmoid(gate));
    E::narrow(silu.widen() * up.widen())
}

/// Gradients by `gate` and by `up`.
pub(super) fn backward(
    gate: FlexTensor,
    up: FlexTensor,
    grad: FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let shape = gate.layout().shape().clone();
    let (gate, grad) = (gate.to_contiguous(), grad.to_contiguous());
    let (gate, grad) = (values(&gate), values(&grad));
    let mut dgate = vec![0.0; gate.len()];
    // `up` is read once per element, just before the gradient by it takes its place.
    let mut dup = into_vec(up);
    dgate
        .par_chunks_mut(PARALLEL_ELEMENTS)
        .zip(dup.par_chunks_mut(PARALLEL_ELEMENTS))
        .zip(gate.par_chunks(PARALLEL_ELEMENTS).zip(grad.par_chunks(PARALLEL_ELEMENTS)))
        .for_each(|((dgate, dup), (gate, grad))| {
            vectorized(
                #[inline(always)]
                || backward_block(dgate, dup, gate, grad),
            );
        });
    (from_vec(dgate, shape.clone()), from_vec(dup, shape))
}

/// Writes the gradient by `gate`, and puts that by `up` in the place of `up`.
#[inline(always)]
fn backward_block(dgate: &mut [f32], up: &mut [f32], gate: &[f32], grad: &[f32]) {
    for (((dgate, up), x), g) in dgate.iter_mut().zip(up).zip(gate).zip(grad) {
        let s = lanes::sigmoid(*x);
        *dgate = g * *up * (s * (1.0 + x * (1.0 - s)));
        *up = g * (x * s);
    }
}
