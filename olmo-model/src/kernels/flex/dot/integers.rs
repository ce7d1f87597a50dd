//! Products of quantised weights, in whole numbers.
//!
//! Activations are [rounded](super::rounded) too: each block of a row to numbers from -127 to 127 and a scale. The
//! products of a block are added up exactly, as integers, and only the sums of blocks are scaled and
//! added in f32, one after the other. Weights are stored with an offset that makes them positive,
//! which the sum of a block's activations takes off again. It is how llama.cpp multiplies its `q8_0`.

use super::super::lanes::vectorized;
use super::rounded::{GROUPS, Operand};
use crate::packed::{Step, WIDTH};
use crate::quantized::Quantization;

/// Some blocks of a panel of quantised weights.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) quantization: Quantization,
    /// `GROUPS` steps to a block of eight bits, half as many to one of four, whose steps hold a group
    /// of the block's first half in the low bits and one of its second half in the high ones.
    pub(super) groups: &'a [Step<u32>],
    /// A step to a block.
    pub(super) scales: &'a [Step<half::bf16>],
}

impl Blocks<'_> {
    /// Panics unless there are groups for every block, and `n_rows` rows of `x` for them.
    pub(super) fn check(&self, x: Operand<'_>, n_rows: usize) {
        let n_blocks = self.scales.len();
        assert_eq!(self.groups.len(), n_blocks * self.quantization.steps());
        x.groups.check(n_rows, n_blocks * GROUPS);
        x.blocks.check(n_rows, n_blocks);
    }
}

/// Adds the products of `n_rows` rows of `x` with some blocks of a panel to `sums[n_rows, WIDTH]`.
pub(super) fn multiply(x: Operand<'_>, n_rows: usize, w: Blocks<'_>, sums: &mut [f32]) {
    w.check(x, n_rows);
    vectorized(
        #[inline(always)]
        || {
            for (row, sums) in sums.as_chunks_mut::<WIDTH>().0.iter_mut().take(n_rows).enumerate() {
                multiply_row(x, row, w, sums);
            }
        },
    );
}

#[inline(always)]
fn multiply_row(x: Operand<'_>, row: usize, w: Blocks<'_>, sums: &mut [f32; WIDTH]) {
    let n_blocks = w.scales.len();
    let groups = x.groups.row(row, n_blocks * GROUPS).as_chunks::<GROUPS>().0;
    let blocks = x.blocks.row(row, n_blocks).iter().zip(groups);
    let weights = w.groups.chunks_exact(w.quantization.steps()).zip(w.scales);
    for (((scale, sum), x), (w_groups, w_scales)) in blocks.zip(weights) {
        let mut totals = [-w.quantization.offset() * sum; WIDTH];
        for (i, step) in w_groups.iter().enumerate() {
            match w.quantization {
                Quantization::Q8 => add_group(step.0, x[i], &mut totals),
                Quantization::Q4 => {
                    add_group(step.0.map(|unit| unit & 0x0F0F_0F0F), x[i], &mut totals);
                    let high = step.0.map(|unit| (unit >> 4) & 0x0F0F_0F0F);
                    add_group(high, x[i + GROUPS / 2], &mut totals);
                }
            }
        }
        for ((sum, total), w_scale) in sums.iter_mut().zip(totals).zip(w_scales.0) {
            *sum = (total as f32).mul_add(w_scale.to_f32() * scale, *sum);
        }
    }
}

#[inline(always)]
fn add_group(w: [u32; WIDTH], x: u32, totals: &mut [i32; WIDTH]) {
    let x = x.to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
    for (total, unit) in totals.iter_mut().zip(w) {
        let number = |i: usize| ((unit >> (8 * i)) & 0xFF).cast_signed() * x[i];
        *total += number(0) + number(1) + number(2) + number(3);
    }
}
