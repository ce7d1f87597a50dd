//! Products against plain sums, of every size, type and instruction set.

use burn::tensor::{DType, Device, TensorData};
use half::{bf16, f16};

use super::super::element::Element;
use super::*;
use crate::packed::PackedMatrix;
use crate::packed::tests::packed;
use crate::quantized::{BLOCK, Quantization};

/// Small whole numbers: every order of summation gives the same bits.
fn whole(n: usize, modulus: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 31 % modulus) as f32 - (modulus / 2) as f32).collect()
}

pub(super) fn narrowed<E: Element>(values: &[f32]) -> Vec<E> {
    values.iter().map(|x| E::narrow(*x)).collect()
}

fn expected(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
}

/// Columns of rows of `k`, one after the other.
fn transposed(rows: &[f32], k: usize) -> Vec<f32> {
    (0..k).flat_map(|i| rows[i..].iter().step_by(k).copied()).collect()
}

fn as_packed(values: &[f32], shape: [usize; 2], dtype: DType) -> PackedMatrix {
    packed(&TensorData::new(values.to_vec(), shape).convert_dtype(dtype), false)
}

pub(super) fn every_isa() -> Vec<Isa> {
    let mut all = vec![Isa::Portable];
    #[cfg(target_arch = "x86_64")]
    if let Isa::Avx512 { bf16, amx, vnni } = Isa::detect() {
        all.push(Isa::Avx512 { bf16: false, amx: false, vnni: false });
        all.push(Isa::Avx512 { bf16, amx: false, vnni });
        if amx {
            all.push(Isa::Avx512 { bf16, amx, vnni });
        } else {
            println!("skipped: products with AMX, because this machine has none");
        }
    }
    all
}

#[test]
fn products_cover_every_size_and_type() {
    for (m, k, n) in [(1, 1, 1), (3, 17, 5), (4, 32, 6), (7, 100, 20), (130, 40, 13), (2, 2100, 8)]
    {
        let (x, w) = (whole(m * k, 7), whole(n * k, 5));
        let expected = expected(&x, &w, k);
        let (x16, w16) = (narrowed::<f16>(&x), narrowed::<f16>(&w));
        let x32 = x.clone();
        let (xb, wb) = (narrowed::<bf16>(&x), narrowed::<bf16>(&w));
        for isa in every_isa() {
            let product = |x: Rows<'_>, w: Rows<'_>| {
                linears::<f32>(&Input::with_isa(x, k, &[], isa), &[Weight::Rows(w)]).remove(0)
            };
            assert_eq!(product(Rows::F32(&x), Rows::F32(&w)), expected, "{isa:?} {m} {k} {n}");
            assert_eq!(product(Rows::F16(&x16), Rows::F16(&w16)), expected, "{isa:?} {m} {k} {n}");
            assert_eq!(product(Rows::Bf16(&xb), Rows::Bf16(&wb)), expected, "{isa:?} {m} {k} {n}");
            assert_eq!(product(Rows::F32(&x), Rows::Bf16(&wb)), expected, "{isa:?} {m} {k} {n}");

            // Either operand transposed, as the backward passes have them.
            let (xt, wt) = (transposed(&x, k), transposed(&w, k));
            let (xt16, wt16) = (narrowed::<f16>(&xt), narrowed::<f16>(&wt));
            let (xtb, wtb) = (narrowed::<bf16>(&xt), narrowed::<bf16>(&wt));
            for (xt, wt) in [
                (Rows::F32(&xt), Rows::F32(&wt)),
                (Rows::F16(&xt16), Rows::F16(&wt16)),
                (Rows::Bf16(&xtb), Rows::Bf16(&wtb)),
            ] {
                let input = Input::transposed_with_isa(xt, m, isa);
                let found = linears::<f32>(&input, &[Weight::Columns(wt)]).remove(0);
                assert_eq!(found, expected, "transposed {isa:?} {xt:?} {m} {k} {n}");
            }

            for (x, dtype) in [
                (Rows::F32(&x), DType::F32),
                (Rows::F16(&x16), DType::F16),
                (Rows::Bf16(&xb), DType::BF16),
            ] {
                let w = as_packed(&w, [n, k], dtype);
                let weights = [Weight::Packed(w.panels())];
                let input = Input::with_isa(x, k, &weights, isa);
                let found = linears::<f32>(&input, &weights).remove(0);
                assert_eq!(found, expected, "{isa:?} {dtype:?} {m} {k} {n}");

                // Held as they are, and multiplied with f32.
                let input = Input::with_isa(Rows::F32(&x32), k, &weights, isa);
                let found = linears::<f32>(&input, &weights).remove(0);
                assert_eq!(found, expected, "{isa:?} f32 {dtype:?} {m} {k} {n}");
            }
        }
    }
}

/// Numbers that rounding leaves as they are, so that the products of the values are exact.
#[test]
fn quantised_weights_are_multiplied_as_their_values() {
    for (m, k, n) in [(1, BLOCK, 1), (5, 2 * BLOCK, 9), (11, 40 * BLOCK, 70)] {
        let mut x = whole(m * k, 7);
        x.iter_mut().step_by(BLOCK).for_each(|x| *x = 127.0);
        for (to, largest) in [(Quantization::Q8, 127.0), (Quantization::Q4, -8.0)] {
            let mut w = whole(n * k, 13);
            w.iter_mut().step_by(BLOCK).for_each(|w| *w = largest);
            let packed = PackedMatrix::quantized(&w, [n, k], to, &Device::flex()).expect("blocks");
            assert_eq!(packed.unpacked().iter::<f32>().collect::<Vec<_>>(), w, "{to:?}");
            let weights = [Weight::Packed(packed.panels())];
            for isa in every_isa() {
                let input = Input::with_isa(Rows::F32(&x), k, &weights, isa);
                let found = linears::<f32>(&input, &weights).remove(0);
                assert_eq!(found, expected(&x, &w, k), "{isa:?} {to:?} {m} {k} {n}");
            }
        }
    }
}

/// Every instruction set gives the same bits, and they are near the products of the values.
#[test]
fn rounded_products_are_the_same_everywhere_and_near() {
    let (m, k, n) = (7, 35 * BLOCK, 45);
    let wave = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * f).sin()).collect() };
    let (x, w) = (wave(m * k, 0.37), wave(n * k, 0.91));
    for to in [Quantization::Q8, Quantization::Q4] {
        let packed = PackedMatrix::quantized(&w, [n, k], to, &Device::flex()).expect("blocks");
        let values: Vec<f32> = packed.unpacked().iter::<f32>().collect();
        let weights = [Weight::Packed(packed.panels())];
        let product = |isa| {
            let input = Input::with_isa(Rows::F32(&x), k, &weights, isa);
            linears::<f32>(&input, &weights).remove(0)
        };
        let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        let portable = product(Isa::Portable);
        for isa in every_isa() {
            assert_eq!(bits(&product(isa)), bits(&portable), "{isa:?} {to:?}");
        }
        // Each of `k` products is off by half a step of its block at most, mostly by far less.
        let exact = expected(&x, &values, k);
        let worst = portable.iter().zip(&exact).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(worst > 0.0 && worst < 0.05 * (k as f32).sqrt(), "{to:?} {worst}");
    }
}

/// A row that is no numbers gives none, and one of next to nothing gives zeros.
#[test]
fn rounded_products_of_strange_numbers() {
    let (k, n) = (2 * BLOCK, 3);
    let packed =
        PackedMatrix::quantized(&vec![1.0; n * k], [n, k], Quantization::Q8, &Device::flex());
    let packed = packed.expect("whole blocks");
    let weights = [Weight::Packed(packed.panels())];
    for strange in [1e-40, f32::NAN, f32::INFINITY] {
        let mut x = vec![1.0; 2 * k];
        x[k..].fill(strange);
        for isa in every_isa() {
            let y = linears::<f32>(&Input::with_isa(Rows::F32(&x), k, &weights, isa), &weights);
            let (sound, found) = y[0].split_at(n);
            let is_near = |y: &f32| (y - k as f32).abs() < 0.01 * k as f32;
            assert!(sound.iter().all(is_near), "{isa:?} {strange}: {sound:?}");
            let is_right = |y: &f32| if strange.is_finite() { y.abs() < 1e-30 } else { y.is_nan() };
            assert!(found.iter().all(is_right), "{isa:?} {strange}: {found:?}");
        }
    }
}

/// The order of additions that the products of dense weights have: one after the other, and with AMX
/// the sums of every second element of a tile.
#[test]
fn sums_are_in_the_order_of_the_row() {
    let (m, k, n) = (39, 301, 37);
    let wave = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * f).sin()).collect() };
    let (x, w) = (wave(m * k, 0.37), wave(n * k, 0.91));
    let (xb, wb) = (narrowed::<bf16>(&x), narrowed::<bf16>(&w));
    let sequential = |x: &[f32], w: &[f32]| -> Vec<u32> {
        let dot = |x: &[f32], w: &[f32]| {
            x.iter().zip(w).fold(0.0_f32, |sum, (x, w)| x.mul_add(*w, sum)).to_bits()
        };
        x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
    };
    let in_tiles = |x: &[f32], w: &[f32]| -> Vec<u32> {
        let every_second = |first: usize, x: &[f32], w: &[f32]| {
            let pairs = x.iter().zip(w).skip(first).step_by(2);
            pairs.fold(0.0_f32, |sum, (x, w)| x.mul_add(*w, sum))
        };
        let dot = |x: &[f32], w: &[f32]| {
            let tiles = x.chunks(32).zip(w.chunks(32));
            let sums = tiles.map(|(x, w)| every_second(0, x, w) + every_second(1, x, w));
            sums.fold(0.0, |total, sum| total + sum).to_bits()
        };
        x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
    };
    let widened = |x: &[bf16]| x.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
    let expected = sequential(&x, &w);
    let (xb_wide, wb_wide) = (widened(&xb), widened(&wb));
    let (one_by_one, tile_by_tile) = (sequential(&xb_wide, &wb_wide), in_tiles(&xb_wide, &wb_wide));
    assert_ne!(one_by_one, tile_by_tile);
    for isa in every_isa() {
        let expected_bf16 = if isa.tiles() { &tile_by_tile } else { &one_by_one };
        let product = |x: Rows<'_>, w: Rows<'_>| -> Vec<u32> {
            let [y] = &linears::<f32>(&Input::with_isa(x, k, &[], isa), &[Weight::Rows(w)])[..]
            else {
                panic!("one")
            };
            y.iter().map(|y| y.to_bits()).collect()
        };
        assert_eq!(product(Rows::F32(&x), Rows::F32(&w)), expected, "{isa:?}");
        assert_eq!(product(Rows::Bf16(&xb), Rows::Bf16(&wb)), *expected_bf16, "{isa:?}");
        let packed_product = |x: Rows<'_>, dtype: DType| -> Vec<u32> {
            let w = as_packed(&w, [n, k], dtype);
            let y = linears::<f32>(&Input::with_isa(x, k, &[], isa), &[Weight::Packed(w.panels())]);
            y[0].iter().map(|y| y.to_bits()).collect()
        };
        assert_eq!(packed_product(Rows::F32(&x), DType::F32), expected, "{isa:?}");
        assert_eq!(packed_product(Rows::Bf16(&xb), DType::BF16), *expected_bf16, "{isa:?}");
    }
}

#[test]
fn a_row_alone_has_the_bits_that_it_has_among_others() {
    let (m, k, n) = (43, 1500, 40);
    let wave = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * f).sin()).collect() };
    let (x, w) = (wave(m * k, 0.37), wave(n * k, 0.91));
    let (xb, wb) = (narrowed::<bf16>(&x), narrowed::<bf16>(&w));
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let product = |x, w| bits(linears::<f32>(&Input::new(x, k, &[]), &[Weight::Rows(w)]).remove(0));
    let together = product(Rows::F32(&x), Rows::F32(&w));
    let together_bf16 = product(Rows::Bf16(&xb), Rows::Bf16(&wb));
    for row in 0..m {
        let (range, out) = (row * k..(row + 1) * k, row * n..(row + 1) * n);
        assert_eq!(product(Rows::F32(&x[range.clone()]), Rows::F32(&w)), together[out.clone()]);
        assert_eq!(product(Rows::Bf16(&xb[range]), Rows::Bf16(&wb)), together_bf16[out]);
    }
}

/// Rows so long that not all of them are laid out at once.
#[test]
fn rows_in_several_parts_are_the_rows() {
    let (m, k, n) = (519, 8_203, 3);
    let (x, w) = (whole(m * k, 7), whole(n * k, 5));
    let expected = expected(&x, &w, k);
    let (xb, wb) = (narrowed::<bf16>(&x), narrowed::<bf16>(&w));
    for isa in every_isa() {
        for (x, w) in [(Rows::F32(&x), Rows::F32(&w)), (Rows::Bf16(&xb), Rows::Bf16(&wb))] {
            let input = Input::with_isa(x, k, &[], isa);
            assert!(input.parts().count() > 2);
            let found = linears::<f32>(&input, &[Weight::Rows(w)]).remove(0);
            assert_eq!(found, expected, "{isa:?}");
        }
    }
}

#[test]
fn a_gated_product_rounds_where_its_parts_would() {
    let (m, k, n) = (3, 64, 10);
    let x = narrowed::<bf16>(&whole(m * k, 7).iter().map(|x| x / 8.0).collect::<Vec<_>>());
    let [gate, up] = [5, 9].map(|modulus| narrowed::<bf16>(&whole(n * k, modulus)));
    let input = Input::new(Rows::Bf16(&x), k, &[]);
    let found =
        gated::<bf16>(&input, Weight::Rows(Rows::Bf16(&gate)), Weight::Rows(Rows::Bf16(&up)));
    let parts = linears::<bf16>(&input, &[Rows::Bf16(&gate), Rows::Bf16(&up)].map(Weight::Rows));
    for ((found, gate), up) in found.iter().zip(&parts[0]).zip(&parts[1]) {
        let x = gate.to_f32();
        let silu = bf16::from_f32(x / (1.0 + (-x).exp()));
        let expected = bf16::from_f32(silu.to_f32() * up.to_f32());
        let off = (i32::from(found.to_bits()) - i32::from(expected.to_bits())).abs();
        assert!(off <= 1, "{found} for {expected}");
    }
}
