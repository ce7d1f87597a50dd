//! Panels with AVX-512: transposing them in registers, and multiplying bf16 two elements at a time.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps,
    _mm512_load_si512, _mm512_loadu_ps, _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_epi32,
    _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_shuffle_ps, _mm512_storeu_ps, _mm512_storeu_si512,
};

use half::bf16;

use super::Strided;
use super::layout::strip_rows;
use crate::packed::{Step, WIDTH};

/// 32-bit units of a vector: elements of f32, pairs of bf16.
const LANES: usize = 16;

/// As [`panel::pack`](super::panel::pack): transposes 16 rows by 16 elements at a time.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack_f32(w: Strided<'_, f32>, n_rows: usize, out: &mut [Step<f32>]) {
    let length = out.len();
    w.check(n_rows, length);
    for first in (0..length).step_by(LANES) {
        let n = LANES.min(length - first);
        let mask = if n < LANES { (1_u16 << n) - 1 } else { u16::MAX };
        // SAFETY: `check` holds that the rows have these elements; the mask leaves out the rest.
        let load = |row: usize| unsafe {
            _mm512_maskz_loadu_epi32(mask, w.values.as_ptr().add(row * w.stride + first).cast())
        };
        pack(load, n_rows, n, out[first..].as_mut_ptr().cast());
    }
}

/// Pairs of elements of up to [`WIDTH`] rows, transposed: half as many steps as elements, rounded up.
/// The first element of a pair is the upper half, as [`multiply_bf16`] wants it.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack_bf16(w: Strided<'_, bf16>, n_rows: usize, length: usize, out: &mut [Step<u32>]) {
    w.check(n_rows, length);
    assert!(out.len() >= length.div_ceil(2));
    for first in (0..length).step_by(2 * LANES) {
        let n = (2 * LANES).min(length - first);
        let mask = if n < 2 * LANES { (1_u32 << n) - 1 } else { u32::MAX };
        // SAFETY: as above.
        let load = |row: usize| unsafe {
            let at = w.values.as_ptr().add(row * w.stride + first);
            _mm512_rol_epi32::<16>(_mm512_maskz_loadu_epi16(mask, at.cast()))
        };
        pack(load, n_rows, n.div_ceil(2), out[first / 2..].as_mut_ptr().cast());
    }
}

/// Writes the first `n` columns of [`WIDTH`] rows of units as rows; rows from `n_rows` on are zero.
#[target_feature(enable = "avx512f")]
#[inline]
fn pack(load: impl Fn(usize) -> __m512i, n_rows: usize, n: usize, out: *mut u32) {
    for half in 0..WIDTH / LANES {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (r, vector) in rows.iter_mut().enumerate() {
            if half * LANES + r < n_rows {
                *vector = load(half * LANES + r);
            }
        }
        let columns = transposed(&rows);
        for (i, column) in columns.iter().take(n).enumerate() {
            // SAFETY: callers hold that there is room for `n` rows of `WIDTH` units.
            unsafe { _mm512_storeu_si512(out.add(i * WIDTH + half * LANES).cast(), *column) };
        }
    }
}

/// The transpose of a square of units: pairs of rows, then of pairs, then of quarters of vectors.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(rows: &[__m512i; LANES]) -> [__m512i; LANES] {
    let zero = _mm512_setzero_si512();
    let (mut fours, mut columns) = ([zero; LANES], [zero; LANES]);
    for group in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| _mm512_castsi512_ps(rows[group * 4 + i]));
        // In each quarter of a vector: [a0 a1 b0 b1] and so on.
        let (ab_low, ab_high) = (_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xEE>(a, b));
        let (cd_low, cd_high) = (_mm512_shuffle_ps::<0x44>(c, d), _mm512_shuffle_ps::<0xEE>(c, d));
        let quads = [
            _mm512_shuffle_ps::<0x88>(ab_low, cd_low),
            _mm512_shuffle_ps::<0xDD>(ab_low, cd_low),
            _mm512_shuffle_ps::<0x88>(ab_high, cd_high),
            _mm512_shuffle_ps::<0xDD>(ab_high, cd_high),
        ];
        for (i, quad) in quads.into_iter().enumerate() {
            // Quarter q of this vector: column 4q + i of the four rows.
            fours[group * 4 + i] = _mm512_castps_si512(quad);
        }
    }
    for i in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|group| fours[group * 4 + i]);
        let (ab_low, ab_high) =
            (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
        let (cd_low, cd_high) =
            (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
        columns[i] = _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low);
        columns[4 + i] = _mm512_shuffle_i32x4::<0xDD>(ab_low, cd_low);
        columns[8 + i] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
        columns[12 + i] = _mm512_shuffle_i32x4::<0xDD>(ab_high, cd_high);
    }
    columns
}

/// Adds the products of rows in [strips](super::layout::strips) of `length` units with a panel that begins at unit
/// `start` of them to `sums[n_rows, WIDTH]`. Units of both are pairs whose first element is the upper half: the instruction adds the product of a unit's upper
/// halves before that of the lower.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn multiply_bf16(
    strips: &[u32],
    length: usize,
    start: usize,
    panel: &[Step<u32>],
    sums: &mut [f32],
) {
    let mut row = 0;
    let n_rows = sums.len() / WIDTH;
    while row < n_rows {
        let sums = &mut sums[row * WIDTH..];
        let n = strip_rows(n_rows - row);
        let x = Units { values: &strips[row * length + start * n..], row_stride: 1, stride: n };
        multiply_some(n, x, panel, sums);
        row += n;
    }
}

/// The same of rows that lie as they come, few of them.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn multiply_bf16_in_place(
    x: Strided<'_, u32>,
    n_rows: usize,
    panel: &[Step<u32>],
    sums: &mut [f32],
) {
    let mut row = 0;
    while row < n_rows {
        let n = strip_rows(n_rows - row);
        let units = Units { values: &x.values[row * x.stride..], row_stride: x.stride, stride: 1 };
        multiply_some(n, units, panel, &mut sums[row * WIDTH..]);
        row += n;
    }
}

/// Units of some rows, and how far those of two rows and two of a row are apart.
#[derive(Clone, Copy)]
struct Units<'a> {
    values: &'a [u32],
    row_stride: usize,
    stride: usize,
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn multiply_some(n_rows: usize, x: Units<'_>, panel: &[Step<u32>], sums: &mut [f32]) {
    match n_rows {
        8 => multiply_rows::<8>(x, panel, sums),
        4 => multiply_rows::<4>(x, panel, sums),
        2 => multiply_rows::<2>(x, panel, sums),
        _ => multiply_rows::<1>(x, panel, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn multiply_rows<const R: usize>(x: Units<'_>, panel: &[Step<u32>], sums: &mut [f32]) {
    const V: usize = WIDTH / LANES;
    let last = (R - 1) * x.row_stride + panel.len().saturating_sub(1) * x.stride;
    assert!(panel.is_empty() || last < x.values.len());
    assert!(sums.len() >= R * WIDTH);
    let mut totals: [[__m512; V]; R] = std::array::from_fn(|r| {
        std::array::from_fn(|v| {
            // SAFETY: within the sums by the assertion above.
            unsafe { _mm512_loadu_ps(sums.as_ptr().add(r * WIDTH + v * LANES)) }
        })
    });
    for (i, step) in panel.iter().enumerate() {
        let w: [__m512bh; V] = std::array::from_fn(|v| {
            // SAFETY: within the step, which has `V` vectors; any bits are bf16.
            unsafe {
                let bits = _mm512_load_si512(step.0.as_ptr().add(v * LANES).cast());
                std::mem::transmute::<__m512i, __m512bh>(bits)
            }
        });
        for (r, totals) in totals.iter_mut().enumerate() {
            // SAFETY: no unit lies behind the last by the assertion above; any bits are bf16.
            let x = unsafe {
                let unit = *x.values.get_unchecked(r * x.row_stride + i * x.stride);
                std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(unit.cast_signed()))
            };
            for (total, w) in totals.iter_mut().zip(w) {
                *total = _mm512_dpbf16_ps(*total, x, w);
            }
        }
    }
    for (r, totals) in totals.iter().enumerate() {
        for (v, total) in totals.iter().enumerate() {
            // SAFETY: within the sums by the assertion above.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(r * WIDTH + v * LANES), *total) };
        }
    }
}
