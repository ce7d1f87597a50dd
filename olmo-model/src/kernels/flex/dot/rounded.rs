//! Activations in whole numbers, as products of quantised weights take them.

use pulp::Simd;
use rayon::prelude::*;

use super::super::row_blocks::PARALLEL_ELEMENTS;
use super::Strided;
use crate::quantized::BLOCK;

/// Numbers that are multiplied at once.
pub(super) const GROUP: usize = 4;
/// Groups of a block.
pub(super) const GROUPS: usize = BLOCK / GROUP;

/// Rows of activations, each [`BLOCK`] of them as numbers from -127 to 127 and a scale.
#[derive(Debug, PartialEq)]
pub(super) struct Rounded {
    /// Four numbers each, the first in the lowest byte: `[n_rows, n_blocks * GROUPS]`.
    groups: Vec<u32>,
    /// What a block's numbers are multiplied by, and their sum: `[n_rows, n_blocks]`.
    blocks: Vec<(f32, i32)>,
    pub(super) n_blocks: usize,
}

/// Rows of activations, from some place on.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) groups: Strided<'a, u32>,
    pub(super) blocks: Strided<'a, (f32, i32)>,
}

impl Rounded {
    /// Rounds rows of `k` elements, which are whole blocks.
    pub(super) fn new(x: &[f32], k: usize) -> Self {
        let mut groups = vec![0; x.len() / GROUP];
        let mut blocks = vec![(0.0, 0); x.len() / BLOCK];
        let arch = pulp::Arch::new();
        if x.len() < 2 * PARALLEL_ELEMENTS {
            arch.dispatch(Round { x, groups: &mut groups, blocks: &mut blocks });
        } else {
            let groups = groups.par_chunks_mut(PARALLEL_ELEMENTS / GROUP);
            let blocks = blocks.par_chunks_mut(PARALLEL_ELEMENTS / BLOCK);
            x.par_chunks(PARALLEL_ELEMENTS)
                .zip(groups.zip(blocks))
                .for_each(|(x, (groups, blocks))| arch.dispatch(Round { x, groups, blocks }));
        }
        Self { groups, blocks, n_blocks: k / BLOCK }
    }

    /// Rounds `n_rows` rows of `k` elements, some at a time, that `write(first row, elements)` writes.
    pub(super) fn of_rows(
        n_rows: usize,
        k: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let (n, n_blocks) = (n_rows * k, k / BLOCK);
        let (mut groups, mut blocks) = (vec![0; n / GROUP], vec![(0.0, 0); n / BLOCK]);
        let rows_per_task = (PARALLEL_ELEMENTS / k.max(1)).max(1);
        let task = |task: usize, groups: &mut [u32], blocks: &mut [(f32, i32)]| {
            let mut x = vec![0.0; blocks.len() * BLOCK];
            write(task * rows_per_task, &mut x);
            pulp::Arch::new().dispatch(Round { x: &x, groups, blocks });
        };
        if n < 2 * PARALLEL_ELEMENTS {
            task(0, &mut groups, &mut blocks);
        } else {
            let n_blocks = rows_per_task * n_blocks;
            let groups = groups.par_chunks_mut(n_blocks * GROUPS);
            let tasks = groups.zip(blocks.par_chunks_mut(n_blocks)).enumerate();
            tasks.for_each(|(i, (groups, blocks))| task(i, groups, blocks));
        }
        Self { groups, blocks, n_blocks }
    }

    /// Groups and blocks from a row and a block on.
    pub(super) fn at(&self, row: usize, block: usize) -> Operand<'_> {
        let n = self.n_blocks;
        Operand {
            groups: Strided::at(&self.groups, n * GROUPS, row, block * GROUPS),
            blocks: Strided::at(&self.blocks, n, row, block),
        }
    }
}

/// Blocks to round.
struct Round<'a> {
    x: &'a [f32],
    groups: &'a mut [u32],
    blocks: &'a mut [(f32, i32)],
}

impl pulp::WithSimd for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let outputs = self.groups.as_chunks_mut::<GROUPS>().0.iter_mut().zip(self.blocks);
        for (x, (groups, block)) in self.x.as_chunks::<BLOCK>().0.iter().zip(outputs) {
            *block = round(simd, x, groups);
        }
    }
}

/// Rounds a block; returns its scale and the sum of its numbers. What is no number makes the scale none.
///
/// Written in vectors, since of a loop over elements the compiler makes one over blocks, which gathers.
#[inline(always)]
fn round<S: Simd>(simd: S, x: &[f32; BLOCK], groups: &mut [u32; GROUPS]) -> (f32, i32) {
    // Adding 1.5 * 2^23 leaves the nearest whole number in the lowest bits, the even one of two.
    const SHIFT: f32 = 12_582_912.0;
    let vectors = S::as_simd_f32s(x).0;
    // Magnitudes are ordered as their bits are, with those that are no numbers above all.
    let mut largest = simd.splat_u32s(0);
    for x in vectors {
        let bits = simd.transmute_u32s_f32s(simd.abs_f32s(*x));
        largest = simd.select_u32s(simd.greater_than_u32s(bits, largest), bits, largest);
    }
    let mut lanes = [0; BLOCK];
    S::as_mut_simd_u32s(&mut lanes).0[0] = largest;
    let largest = lanes[..S::U32_LANES].iter().fold(0, |max, bits| *bits.max(&max));
    let largest = f32::from_bits(largest);
    let inverse = 127.0 / largest;
    // Of zeros, and of numbers so small that theirs is infinite, nothing is left.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };

    let (inverse, shift) = (simd.splat_f32s(inverse), simd.splat_f32s(SHIFT));
    let mut sums = simd.splat_f32s(0.0);
    for (x, lanes) in vectors.iter().zip(S::as_mut_simd_u32s(&mut lanes).0) {
        let shifted = simd.add_f32s(simd.mul_f32s(*x, inverse), shift);
        sums = simd.add_f32s(sums, simd.sub_f32s(shifted, shift));
        *lanes = simd.transmute_u32s_f32s(shifted);
    }
    for (group, lanes) in groups.iter_mut().zip(lanes.as_chunks::<GROUP>().0) {
        *group = u32::from_le_bytes(lanes.map(|bits| bits as u8));
    }
    (largest / 127.0, simd.reduce_sum_f32s(sums) as i32)
}
