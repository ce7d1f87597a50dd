//! Tiles of dot products with AVX-512, in f32 and with its bf16 instruction.
//!
//! A tile keeps `R * C` vectors of partial sums in registers: 24 for 4 rows by 6, which with the
//! operands fills the 32 there are. `R + C` vectors are loaded for `R * C` multiplications, so the
//! multipliers, not the loads, set the pace.

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_permutexvar_ps, _mm512_setr_epi32,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_storeu_ps,
};

use half::bf16;

use super::{Strided, StridedMut};

/// Elements of a vector of f32.
const F32_LANES: usize = 16;
/// Elements of a vector of bf16.
const BF16_LANES: usize = 32;

/// Adds `x[r] · w[c]` to `out[r][c]`; operands are `k` long.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn f32_tile<const R: usize, const C: usize>(
    x: Strided<'_, f32>,
    w: Strided<'_, f32>,
    k: usize,
    out: &mut StridedMut<'_>,
) {
    x.check(R, k);
    w.check(C, k);
    let (x, x_stride) = (x.values.as_ptr(), x.stride);
    let (w, w_stride) = (w.values.as_ptr(), w.stride);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    let whole = k - k % F32_LANES;
    for at in (0..whole).step_by(F32_LANES) {
        // SAFETY: `check` holds that `k` elements follow each row's start, and `at` is a whole
        // vector short of that.
        let load = |p: *const f32, row| unsafe { _mm512_loadu_ps(p.add(row + at)) };
        accumulate(&mut sums, |r| load(x, r * x_stride), |c| load(w, c * w_stride));
    }
    if whole < k {
        let mask = (1_u16 << (k - whole)) - 1;
        // SAFETY: the mask leaves out what is past the row's end.
        let load = |p: *const f32, row| unsafe { _mm512_maskz_loadu_ps(mask, p.add(row + whole)) };
        accumulate(&mut sums, |r| load(x, r * x_stride), |c| load(w, c * w_stride));
    }
    add_sums(&sums, out);
}

/// As [`f32_tile`] on bf16 operands: products of pairs are added in f32.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn bf16_tile<const R: usize, const C: usize>(
    x: Strided<'_, bf16>,
    w: Strided<'_, bf16>,
    k: usize,
    out: &mut StridedMut<'_>,
) {
    x.check(R, k);
    w.check(C, k);
    let (x, x_stride) = (x.values.as_ptr(), x.stride);
    let (w, w_stride) = (w.values.as_ptr(), w.stride);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    for at in (0..k).step_by(BF16_LANES) {
        let mask = if k - at < BF16_LANES { (1_u32 << (k - at)) - 1 } else { u32::MAX };
        // SAFETY: `check` holds that `k` elements follow each row's start, and the mask leaves out
        // what is past them. Sixteen pairs of bf16 and sixteen 32-bit integers are the same bits.
        let load = |p: *const bf16, row| unsafe {
            let bits = _mm512_maskz_loadu_epi16(mask, p.add(row + at).cast());
            std::mem::transmute::<_, __m512bh>(bits)
        };
        let mut ws = [load(w, 0); C];
        for (c, w_vector) in ws.iter_mut().enumerate() {
            *w_vector = load(w, c * w_stride);
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = load(x, r * x_stride);
            for (sum, w) in sums.iter_mut().zip(ws) {
                *sum = _mm512_dpbf16_ps(*sum, x, w);
            }
        }
    }
    add_sums(&sums, out);
}

#[target_feature(enable = "avx512f")]
#[inline]
fn accumulate<const R: usize, const C: usize>(
    sums: &mut [[__m512; C]; R],
    x: impl Fn(usize) -> __m512,
    w: impl Fn(usize) -> __m512,
) {
    let mut ws = [_mm512_setzero_ps(); C];
    for (c, w_vector) in ws.iter_mut().enumerate() {
        *w_vector = w(c);
    }
    for (r, sums) in sums.iter_mut().enumerate() {
        let x = x(r);
        for (sum, w) in sums.iter_mut().zip(ws) {
            *sum = _mm512_fmadd_ps(x, w, *sum);
        }
    }
}

/// Adds the sum of each vector to its element of the output, sixteen vectors at a time.
#[target_feature(enable = "avx512f")]
#[inline]
fn add_sums<const R: usize, const C: usize>(sums: &[[__m512; C]; R], out: &mut StridedMut<'_>) {
    let mut totals = [0.0_f32; F32_LANES];
    for first in (0..R * C).step_by(F32_LANES) {
        let mut vectors = [_mm512_setzero_ps(); F32_LANES];
        let n = F32_LANES.min(R * C - first);
        for (i, vector) in vectors.iter_mut().take(n).enumerate() {
            *vector = sums[(first + i) / C][(first + i) % C];
        }
        // SAFETY: the array holds one vector.
        unsafe { _mm512_storeu_ps(totals.as_mut_ptr(), totals_of(&vectors)) };
        for (i, total) in totals.iter().take(n).enumerate() {
            out.add((first + i) / C, (first + i) % C, *total);
        }
    }
}

/// Element `i` is the sum of vector `i`: a tree of additions of halves, quarters, pairs.
#[target_feature(enable = "avx512f")]
#[inline]
fn totals_of(v: &[__m512; 16]) -> __m512 {
    let mut halves = [_mm512_setzero_ps(); 8];
    for (i, half) in halves.iter_mut().enumerate() {
        let low = _mm512_shuffle_f32x4::<0x44>(v[i], v[i + 8]);
        let high = _mm512_shuffle_f32x4::<0xEE>(v[i], v[i + 8]);
        *half = _mm512_add_ps(low, high);
    }
    let mut quarters = [_mm512_setzero_ps(); 4];
    for (i, quarter) in quarters.iter_mut().enumerate() {
        let even = _mm512_shuffle_f32x4::<0x88>(halves[i], halves[i + 4]);
        let odd = _mm512_shuffle_f32x4::<0xDD>(halves[i], halves[i + 4]);
        *quarter = _mm512_add_ps(even, odd);
    }
    let mut pairs = [_mm512_setzero_ps(); 2];
    for (i, pair) in pairs.iter_mut().enumerate() {
        let low = _mm512_shuffle_ps::<0x44>(quarters[i], quarters[i + 2]);
        let high = _mm512_shuffle_ps::<0xEE>(quarters[i], quarters[i + 2]);
        *pair = _mm512_add_ps(low, high);
    }
    let even = _mm512_shuffle_ps::<0x88>(pairs[0], pairs[1]);
    let odd = _mm512_shuffle_ps::<0xDD>(pairs[0], pairs[1]);
    let order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    _mm512_permutexvar_ps(order, _mm512_add_ps(even, odd))
}
