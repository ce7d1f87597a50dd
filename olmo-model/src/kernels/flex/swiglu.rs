//! `silu(gate) * up` and its gradients, one pass each.

use std::mem::MaybeUninit;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::element::Element;
use super::lanes::vectorized;
use super::row_blocks::{PARALLEL_ELEMENTS, row_blocks, zeroed};
use super::shared::is_there;
use super::{from_vec, lanes, typed};

pub(super) fn forward<E: Element>(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let shape = gate.layout().shape().clone();
    let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
    let (gate, up): (&[E], &[E]) = (typed(&gate), typed(&up));
    let out = row_blocks(
        gate.len(),
        1,
        #[inline(always)]
        |first, out: &mut [E]| {
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
pub(super) fn backward<E: Element>(
    gate: FlexTensor,
    up: FlexTensor,
    grad: FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let shape = gate.layout().shape().clone();
    let [gate, up, grad] = [gate, up, grad].map(|x| x.to_contiguous());
    let [gate, up, grad]: [&[E]; 3] = [&gate, &up, &grad].map(typed);
    let n = gate.len();
    let (mut dgate, mut dup) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let [dgate_room, dup_room] = [&mut dgate, &mut dup].map(|out| {
        let room: &mut [MaybeUninit<E>] = &mut out.spare_capacity_mut()[..n];
        room.par_chunks_mut(PARALLEL_ELEMENTS)
    });
    let inputs = gate.par_chunks(PARALLEL_ELEMENTS).zip(up.par_chunks(PARALLEL_ELEMENTS));
    dgate_room.zip(dup_room).zip(inputs.zip(grad.par_chunks(PARALLEL_ELEMENTS))).for_each(
        |((dgate, dup), ((gate, up), grad))| {
            vectorized(
                #[inline(always)]
                || backward_block(zeroed(dgate), zeroed(dup), gate, up, grad),
            );
        },
    );
    // SAFETY: the chunks are all of them.
    let [dgate, dup] = unsafe { [is_there(dgate, n), is_there(dup, n)] };
    (from_vec(dgate, shape.clone()), from_vec(dup, shape))
}

#[inline(always)]
fn backward_block<E: Element>(dgate: &mut [E], dup: &mut [E], gate: &[E], up: &[E], grad: &[E]) {
    let inputs = gate.iter().zip(up).zip(grad);
    for ((dgate, dup), ((x, up), g)) in dgate.iter_mut().zip(dup).zip(inputs) {
        let (x, up, g) = (x.widen(), up.widen(), g.widen());
        let s = lanes::sigmoid(x);
        *dgate = E::narrow(g * up * (s * (1.0 + x * (1.0 - s))));
        *dup = E::narrow(g * (x * s));
    }
}
