//! What is computed row by row, shared among the threads in blocks of rows.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::lanes::vectorized;
use super::shared::is_there;

/// Elements below which a second thread costs more than it saves.
pub(super) const PARALLEL_ELEMENTS: usize = 16 * 1024;

/// Calls `f(first_row, rows)` for blocks of whole rows of `out`, in parallel where that pays.
///
/// `f` runs with the widest vector instructions of the machine enabled.
pub(super) fn for_row_blocks<T: Send>(
    out: &mut [T],
    row: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if out.is_empty() {
        return;
    }
    let rows_per_block = (PARALLEL_ELEMENTS / row).max(1);
    let run = |(block, rows): (usize, &mut [T])| {
        vectorized(
            #[inline(always)]
            || f(block * rows_per_block, rows),
        );
    };
    if out.len() < 2 * PARALLEL_ELEMENTS {
        out.chunks_mut(rows_per_block * row).enumerate().for_each(run);
    } else {
        out.par_chunks_mut(rows_per_block * row).enumerate().for_each(run);
    }
}

/// The same for `n` elements that are not there yet: `f` finds zeros.
pub(super) fn row_blocks<T: Copy + Default + Send>(
    n: usize,
    row: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    let mut out = Vec::with_capacity(n);
    for_row_blocks(
        &mut out.spare_capacity_mut()[..n],
        row,
        #[inline(always)]
        |first, rows| f(first, zeroed(rows)),
    );
    // SAFETY: the blocks are all of it.
    unsafe { is_there(out, n) }
}

/// Fills a block with zeros: still in the cache when it is written, which memory for all of it would not be.
#[inline(always)]
pub(super) fn zeroed<T: Copy + Default>(block: &mut [MaybeUninit<T>]) -> &mut [T] {
    for x in block.iter_mut() {
        x.write(T::default());
    }
    // SAFETY: all of it has been written.
    unsafe { &mut *(std::ptr::from_mut(block) as *mut [T]) }
}
