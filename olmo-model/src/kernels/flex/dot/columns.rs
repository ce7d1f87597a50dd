//! Operands that are stored transposed, as the backward passes of a product have them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::super::lanes::vectorized;
use super::super::shared::is_there;
use super::Rows;
use crate::packed::{Step, WIDTH, pair_of};

/// Pairs of rows that are asked for ahead of those that are packed.
const PREFETCHED: usize = 12;
/// Rows and units of a tile: its lines of the source stay in the first-level cache.
const TILE: usize = 32;

/// Units of two elements of the columns `columns` of `w`, rows of `stride` elements; the last of an
/// odd number of rows is beside zeros, and so are columns that are not there.
pub(super) fn pack_pairs(w: &[bf16], stride: usize, columns: Range<usize>, out: &mut [Step<u32>]) {
    let n = columns.len();
    vectorized(
        #[inline(always)]
        || {
            const ZEROS: [bf16; WIDTH] = [bf16::ZERO; WIDTH];
            for (i, (step, rows)) in out.iter_mut().zip(w.chunks(2 * stride)).enumerate() {
                for ahead in 2 * (i + PREFETCHED)..2 * (i + PREFETCHED + 1) {
                    prefetch(w, ahead * stride + columns.start);
                }
                let first = &rows[columns.clone()];
                let is_alone = rows.len() == stride;
                let second = if is_alone { &ZEROS[..n] } else { &rows[stride..][columns.clone()] };
                if let (Ok(first), Ok(second)) = (first.try_into(), second.try_into()) {
                    pack_step(step, first, second);
                } else {
                    let (mut a, mut b) = (ZEROS, ZEROS);
                    a[..n].copy_from_slice(first);
                    b[..n].copy_from_slice(second);
                    pack_step(step, &a, &b);
                }
            }
        },
    );
}

/// Asks for the cache line of an element, where there is one: rows lie further apart than the machine sees
/// ahead of itself.
#[inline(always)]
fn prefetch(values: &[bf16], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(value) = values.get(index) {
        // SAFETY: the address is that of an element.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, index);
}

#[inline(always)]
fn pack_step(step: &mut Step<u32>, first: &[bf16; WIDTH], second: &[bf16; WIDTH]) {
    for ((unit, a), b) in step.0.iter_mut().zip(first).zip(second) {
        *unit = pair_of(*a, *b);
    }
}

/// A matrix `[k, n_rows]` as rows of `k` elements in f32.
pub(super) fn transposed_f32(matrix: Rows<'_>, n_rows: usize, k: usize) -> Vec<f32> {
    match matrix {
        Rows::F32(values) => transposed(n_rows, k, |row, i| values[i * n_rows + row]),
        Rows::F16(values) => transposed(n_rows, k, |row, i| values[i * n_rows + row].to_f32()),
        Rows::Bf16(values) => transposed(n_rows, k, |row, i| values[i * n_rows + row].to_f32()),
    }
}

/// Rows of `length` units, each of which `unit(row, index)` gives.
pub(super) fn transposed<U: Copy + Send>(
    n_rows: usize,
    length: usize,
    unit: impl Fn(usize, usize) -> U + Sync,
) -> Vec<U> {
    let n = n_rows * length;
    let mut out = Vec::with_capacity(n);
    if n == 0 {
        return out;
    }
    let room: &mut [MaybeUninit<U>] = &mut out.spare_capacity_mut()[..n];
    room.par_chunks_mut(TILE * length).enumerate().for_each(|(tile, rows)| {
        for first in (0..length).step_by(TILE) {
            let end = length.min(first + TILE);
            for (i, row) in rows.chunks_exact_mut(length).enumerate() {
                for (index, out) in (first..end).zip(&mut row[first..end]) {
                    out.write(unit(tile * TILE + i, index));
                }
            }
        }
    });
    // SAFETY: the tiles are all of it.
    unsafe { is_there(out, n) }
}
