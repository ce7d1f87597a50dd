//! The left operand of a product as the norm of what is given: a row is normalised straight into the form
//! that it is multiplied in.

use std::borrow::Cow;

use burn::tensor::DType;

use super::super::element::Element;
use super::super::lanes::vectorized;
use super::super::norm::{Normalize, widen_row};
use super::super::row_blocks::row_blocks;
use super::input::pair_row;
use super::isa::Isa;
use super::rounded::Rounded;
use super::{Input, Weight};

impl Input<'static> {
    /// The norm of rows of `k` elements, to be multiplied with `weights`.
    pub(in super::super) fn normed<E: Element>(
        x: &[E],
        k: usize,
        norm: Normalize<'_, E>,
        weights: &[Weight<'_>],
    ) -> Self {
        Self::normed_with_isa(x, k, norm, weights, Isa::detect())
    }

    pub(super) fn normed_with_isa<E: Element>(
        x: &[E],
        k: usize,
        norm: Normalize<'_, E>,
        weights: &[Weight<'_>],
        isa: Isa,
    ) -> Self {
        let n_rows = x.len().checked_div(k).unwrap_or(0);
        let of = Normed { x, k, norm };
        let (mut f32, mut pairs, mut rounded) = (Vec::new(), Vec::new(), None);
        if weights.iter().all(Weight::is_quantized) {
            rounded = Some(of.rounded(n_rows));
        } else if isa.pairs() && E::dtype() == DType::BF16 {
            pairs = of.pairs(n_rows);
        } else {
            f32 = of.wide();
        }
        if weights.iter().any(Weight::is_quantized) && rounded.is_none() {
            rounded = Some(Rounded::new(&f32, k));
        }
        Self { f32: Cow::Owned(f32), pairs, rounded, n_rows, k, isa }
    }
}

/// Rows of `k` elements and their norm.
struct Normed<'a, E> {
    x: &'a [E],
    k: usize,
    norm: Normalize<'a, E>,
}

impl<E: Element> Normed<'_, E> {
    /// In f32.
    fn wide(&self) -> Vec<f32> {
        row_blocks(
            self.x.len(),
            self.k,
            #[inline(always)]
            |first, rows: &mut [f32]| self.rows(first, rows),
        )
    }

    /// As units of two.
    fn pairs(&self, n_rows: usize) -> Vec<u32> {
        let length = self.k.div_ceil(2);
        row_blocks(
            n_rows * length,
            length,
            #[inline(always)]
            |first, units: &mut [u32]| {
                let (mut wide, mut normed) = (vec![0.0; self.k], vec![E::default(); self.k]);
                for (i, units) in units.chunks_exact_mut(length).enumerate() {
                    self.row(first + i, &mut wide, &mut normed, |x| x);
                    pair_row(bytemuck::cast_slice(&normed), units);
                }
            },
        )
    }

    /// In whole numbers.
    fn rounded(&self, n_rows: usize) -> Rounded {
        Rounded::of_rows(n_rows, self.k, |first, rows| {
            vectorized(
                #[inline(always)]
                || self.rows(first, rows),
            );
        })
    }

    /// Some rows in f32.
    #[inline(always)]
    fn rows(&self, first: usize, out: &mut [f32]) {
        let mut wide = vec![0.0; self.k];
        for (i, out) in out.chunks_exact_mut(self.k).enumerate() {
            self.row(first + i, &mut wide, out, E::widen);
        }
    }

    #[inline(always)]
    fn row<T>(&self, row: usize, wide: &mut [f32], out: &mut [T], form: impl Fn(E) -> T) {
        widen_row(&self.x[row * self.k..][..self.k], wide);
        self.norm.write(wide, out, form);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use half::{bf16, f16};

    use super::super::tests::{every_isa, narrowed};
    use super::super::{Rows, Weight};
    use super::*;
    use crate::packed::PackedMatrix;
    use crate::quantized::Quantization;

    /// Rows of every form against those of the norm as an operation of its own.
    fn check<E: Element>(rows: impl Fn(&[E]) -> Rows<'_>) {
        for (n_rows, k) in [(1, 1), (1, 7), (3, 33), (5, 96), (450, 96)] {
            let values = |n: usize, step: f32| -> Vec<E> {
                narrowed(&(0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>())
            };
            let (x, weight) = (values(n_rows * k, 0.7), values(k, 1.3));
            let rms = |cast_first| Normalize::Rms { weight: &weight, eps: 1e-6, cast_first };
            for norm in [Normalize::Layer { eps: 1e-5 }, rms(false), rms(true)] {
                let mut apart = vec![E::default(); x.len()];
                for (x, out) in x.chunks(k).zip(apart.chunks_mut(k)) {
                    let wide: Vec<f32> = x.iter().map(|x| x.widen()).collect();
                    vectorized(
                        #[inline(always)]
                        || norm.write(&wide, out, |x| x),
                    );
                }
                let mut weights = vec![vec![Weight::Rows(rows(&weight))]];
                let quantized = (E::dtype() == DType::F32 && k % 32 == 0).then(|| {
                    let to = Quantization::Q8;
                    PackedMatrix::quantized(&vec![1.0; k], [1, k], to, &Device::flex())
                });
                if let Some(quantized) = &quantized {
                    let quantized = quantized.as_ref().expect("whole blocks");
                    let packed = Weight::Packed(quantized.panels());
                    weights.extend([vec![packed], vec![Weight::Rows(rows(&weight)), packed]]);
                }
                for (weights, isa) in
                    weights.iter().flat_map(|of| every_isa().into_iter().map(move |isa| (of, isa)))
                {
                    let found = Input::normed_with_isa(&x, k, norm, weights, isa);
                    let expected = Input::with_isa(rows(&apart), k, weights, isa);
                    assert_eq!(found.f32, expected.f32, "{n_rows} rows of {k}");
                    assert_eq!(found.pairs, expected.pairs, "{n_rows} rows of {k}");
                    assert_eq!(found.rounded, expected.rounded, "{n_rows} rows of {k}");
                    assert_eq!((found.n_rows, found.k), (n_rows, k));
                }
            }
        }
    }

    #[test]
    fn a_norm_on_the_way_changes_no_bit() {
        check::<f32>(|x| Rows::F32(x));
        check::<f16>(|x| Rows::F16(x));
        check::<bf16>(|x| Rows::Bf16(x));
    }
}
