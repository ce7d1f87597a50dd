//! Products of quantised weights with AVX-512: four numbers of each of sixteen rows at once.

use std::arch::x86_64::{
    __m512, __m512i, _mm256_load_si256, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi32_ps,
    _mm512_cvtepu16_epi32, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_si512,
    _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32,
    _mm512_srli_epi16, _mm512_storeu_ps,
};

use half::bf16;

use super::integers::Blocks;
use super::rounded::{GROUPS, Operand};
use crate::packed::{Step, WIDTH};
use crate::quantized::Quantization;

/// 32-bit units of a vector.
const LANES: usize = 16;
/// Vectors of a step.
const V: usize = WIDTH / LANES;

/// As [`integers::multiply`](super::integers::multiply), with the same results.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn multiply(x: Operand<'_>, n_rows: usize, w: Blocks<'_>, sums: &mut [f32]) {
    w.check(x, n_rows);
    assert!(sums.len() >= n_rows * WIDTH);
    let mut row = 0;
    while row < n_rows {
        let sums = &mut sums[row * WIDTH..];
        row += match (n_rows - row, w.quantization) {
            (4.., Quantization::Q8) => multiply_rows::<4, false>(x, row, w, sums),
            (4.., Quantization::Q4) => multiply_rows::<4, true>(x, row, w, sums),
            (2.., Quantization::Q8) => multiply_rows::<2, false>(x, row, w, sums),
            (2.., Quantization::Q4) => multiply_rows::<2, true>(x, row, w, sums),
            (_, Quantization::Q8) => multiply_rows::<1, false>(x, row, w, sums),
            (_, Quantization::Q4) => multiply_rows::<1, true>(x, row, w, sums),
        };
    }
}

/// Multiplies `R` rows from row `first` of `x` on; returns `R`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn multiply_rows<const R: usize, const Q4: bool>(
    x: Operand<'_>,
    first: usize,
    w: Blocks<'_>,
    sums: &mut [f32],
) -> usize {
    let n_blocks = w.scales.len();
    let steps = w.quantization.steps();
    let groups: [_; R] = std::array::from_fn(|r| x.groups.row(first + r, n_blocks * GROUPS));
    let blocks: [_; R] = std::array::from_fn(|r| x.blocks.row(first + r, n_blocks));
    assert!(sums.len() >= R * WIDTH);
    let mut sums_now: [[__m512; V]; R] = std::array::from_fn(|r| {
        std::array::from_fn(|v| {
            // SAFETY: within the sums by the assertion above.
            unsafe { _mm512_loadu_ps(sums.as_ptr().add(r * WIDTH + v * LANES)) }
        })
    });
    for (block, scales) in w.scales.iter().enumerate() {
        let mut totals: [[__m512i; V]; R] = std::array::from_fn(|r| {
            let (_, sum) = blocks[r][block];
            [_mm512_set1_epi32(-w.quantization.offset() * sum); V]
        });
        for (i, step) in w.groups[block * steps..][..steps].iter().enumerate() {
            let units = vectors(step);
            let at = block * GROUPS + i;
            if Q4 {
                let (low, high) = halves(units);
                add::<R>(&mut totals, low, std::array::from_fn(|r| groups[r][at]));
                let at = at + GROUPS / 2;
                add::<R>(&mut totals, high, std::array::from_fn(|r| groups[r][at]));
            } else {
                add::<R>(&mut totals, units, std::array::from_fn(|r| groups[r][at]));
            }
        }
        let scales = widened(scales);
        for (r, totals) in totals.iter().enumerate() {
            let scale = _mm512_set1_ps(blocks[r][block].0);
            for v in 0..V {
                let factor = _mm512_mul_ps(scales[v], scale);
                sums_now[r][v] =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(totals[v]), factor, sums_now[r][v]);
            }
        }
    }
    for (r, row) in sums_now.iter().enumerate() {
        for (v, sum) in row.iter().enumerate() {
            // SAFETY: within the sums by the assertion above.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(r * WIDTH + v * LANES), *sum) };
        }
    }
    R
}

/// Adds the products of a group of `w` with one of each row.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn add<const R: usize>(totals: &mut [[__m512i; V]; R], w: [__m512i; V], x: [u32; R]) {
    for (totals, x) in totals.iter_mut().zip(x) {
        let x = _mm512_set1_epi32(x.cast_signed());
        for (total, w) in totals.iter_mut().zip(w) {
            *total = _mm512_dpbusd_epi32(*total, w, x);
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn vectors(step: &Step<u32>) -> [__m512i; V] {
    // SAFETY: a step has `V` vectors and their alignment.
    std::array::from_fn(|v| unsafe { _mm512_load_si512(step.0.as_ptr().add(v * LANES).cast()) })
}

/// The low and the high four bits of every byte.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn halves(units: [__m512i; V]) -> ([__m512i; V], [__m512i; V]) {
    let mask = _mm512_set1_epi32(0x0F0F_0F0F);
    let low = std::array::from_fn(|v| _mm512_and_si512(units[v], mask));
    let high = std::array::from_fn(|v| _mm512_and_si512(_mm512_srli_epi16::<4>(units[v]), mask));
    (low, high)
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn widened(scales: &Step<bf16>) -> [__m512; V] {
    std::array::from_fn(|v| {
        // SAFETY: a step of bf16 has `V` half vectors and their alignment.
        let bits = unsafe { _mm256_load_si256(scales.0.as_ptr().add(v * LANES).cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    })
}
