//! Products against plain sums, of every size, type and instruction set.

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};

use super::super::element::Element;
use super::*;
use crate::packed::PackedMatrix;
use crate::quantized::BLOCK;

/// Small whole numbers: every order of summation gives the same bits.
fn whole(n: usize, modulus: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 31 % modulus) as f32 - (modulus / 2) as f32).collect()
}

fn narrowed<E: Element>(values: &[f32]) -> Vec<E> {
    values.iter().map(|x| E::narrow(*x)).collect()
}

fn expected(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
}

fn packed(values: &[f32], shape: [usize; 2], dtype: DType) -> PackedMatrix {
    let data = TensorData::new(values.to_vec(), shape);
    PackedMatrix::new(Tensor::from_data(data, (&Device::flex(), dtype)))
}

fn every_isa() -> Vec<Isa> {
    let best = Isa::detect();
    let mut all = vec![Isa::Portable];
    #[cfg(target_arch = "x86_64")]
    if best == Isa::Avx512Bf16 {
        all.push(Isa::Avx512);
    }
    if best != Isa::Portable {
        all.push(best);
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
        let (xb, wb) = (narrowed::<bf16>(&x), narrowed::<bf16>(&w));
        for isa in every_isa() {
            let product = |x: Rows<'_>, w: Rows<'_>| {
                linears::<f32>(&Input::with_isa(x, k, isa), &[Weight::Rows(w)]).remove(0)
            };
            assert_eq!(product(Rows::F32(&x), Rows::F32(&w)), expected, "{isa:?} {m} {k} {n}");
            assert_eq!(product(Rows::F16(&x16), Rows::F16(&w16)), expected, "{isa:?} {m} {k} {n}");
            assert_eq!(product(Rows::Bf16(&xb), Rows::Bf16(&wb)), expected, "{isa:?} {m} {k} {n}");
            assert_eq!(product(Rows::F32(&x), Rows::Bf16(&wb)), expected, "{isa:?} {m} {k} {n}");

            for (x, dtype) in [
                (Rows::F32(&x), DType::F32),
                (Rows::F16(&x16), DType::F16),
                (Rows::Bf16(&xb), DType::BF16),
            ] {
                let w = packed(&w, [n, k], dtype);
                let input = Input::with_isa(x, k, isa);
                let found = linears::<f32>(&input, &[Weight::Packed(w.panels())]).remove(0);
                assert_eq!(found, expected, "{isa:?} {dtype:?} {m} {k} {n}");
            }
        }
    }
}

#[test]
fn quantised_rows_are_multiplied_as_their_values() {
    let (m, k, n) = (5, 2 * BLOCK, 9);
    let x = whole(m * k, 7);
    let scales: Vec<bf16> = (0..n * 2).map(|i| bf16::from_f32(0.25 * (i % 3) as f32)).collect();
    let q8: Vec<i8> = (0..n * k).map(|i| (i * 7 % 255) as i8).collect();
    let q4: Vec<u8> = (0..n * k / 2).map(|i| (i * 11 % 256) as u8).collect();
    for isa in every_isa() {
        for w in
            [Rows::Q8 { values: &q8, scales: &scales }, Rows::Q4 { values: &q4, scales: &scales }]
        {
            let mut values = vec![0.0; w.len()];
            w.widen(0..w.len(), &mut values);
            let found = linears::<f32>(&Input::with_isa(Rows::F32(&x), k, isa), &[Weight::Rows(w)])
                .remove(0);
            assert_eq!(found, expected(&x, &values, k), "{isa:?} {w:?}");
        }
    }
    let mut values = vec![0.0; n * k];
    Rows::Q8 { values: &q8, scales: &scales }.widen(0..n * k, &mut values);
    assert_eq!(values[BLOCK + 3].to_bits(), (f32::from(q8[BLOCK + 3]) * 0.25).to_bits());
    Rows::Q4 { values: &q4, scales: &scales }.widen(0..n * k, &mut values);
    let pair = i32::from(q4[BLOCK / 2 + 3]);
    assert_eq!(values[BLOCK + 3].to_bits(), (((pair & 15) - 8) as f32 * 0.25).to_bits());
    assert_eq!(
        values[BLOCK + BLOCK / 2 + 3].to_bits(),
        (((pair >> 4) - 8) as f32 * 0.25).to_bits()
    );
}

/// The order of additions that the products of dense weights have: one after the other.
#[test]
fn sums_are_in_the_order_of_the_row() {
    let (m, k, n) = (9, 301, 37);
    let wave = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * f).sin()).collect() };
    let (x, w) = (wave(m * k, 0.37), wave(n * k, 0.91));
    let (xb, wb) = (narrowed::<bf16>(&x), narrowed::<bf16>(&w));
    let sequential = |x: &[f32], w: &[f32]| -> Vec<u32> {
        let dot = |x: &[f32], w: &[f32]| {
            x.iter().zip(w).fold(0.0_f32, |sum, (x, w)| x.mul_add(*w, sum)).to_bits()
        };
        x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
    };
    let widened = |x: &[bf16]| x.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
    let expected = sequential(&x, &w);
    let expected_bf16 = sequential(&widened(&xb), &widened(&wb));
    for isa in every_isa() {
        let product = |x: Rows<'_>, w: Rows<'_>| -> Vec<u32> {
            let [y] = &linears::<f32>(&Input::with_isa(x, k, isa), &[Weight::Rows(w)])[..] else {
                panic!("one")
            };
            y.iter().map(|y| y.to_bits()).collect()
        };
        assert_eq!(product(Rows::F32(&x), Rows::F32(&w)), expected, "{isa:?}");
        assert_eq!(product(Rows::Bf16(&xb), Rows::Bf16(&wb)), expected_bf16, "{isa:?}");
        let packed_product = |x: Rows<'_>, dtype: DType| -> Vec<u32> {
            let w = packed(&w, [n, k], dtype);
            let y = linears::<f32>(&Input::with_isa(x, k, isa), &[Weight::Packed(w.panels())]);
            y[0].iter().map(|y| y.to_bits()).collect()
        };
        assert_eq!(packed_product(Rows::F32(&x), DType::F32), expected, "{isa:?}");
        assert_eq!(packed_product(Rows::Bf16(&xb), DType::BF16), expected_bf16, "{isa:?}");
    }
}

#[test]
fn a_row_alone_has_the_bits_that_it_has_among_others() {
    let (m, k, n) = (11, 1500, 40);
    let wave = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * f).sin()).collect() };
    let (x, w) = (wave(m * k, 0.37), wave(n * k, 0.91));
    let (xb, wb) = (narrowed::<bf16>(&x), narrowed::<bf16>(&w));
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let product = |x, w| bits(linears::<f32>(&Input::new(x, k), &[Weight::Rows(w)]).remove(0));
    let together = product(Rows::F32(&x), Rows::F32(&w));
    let together_bf16 = product(Rows::Bf16(&xb), Rows::Bf16(&wb));
    for row in 0..m {
        let (range, out) = (row * k..(row + 1) * k, row * n..(row + 1) * n);
        assert_eq!(product(Rows::F32(&x[range.clone()]), Rows::F32(&w)), together[out.clone()]);
        assert_eq!(product(Rows::Bf16(&xb[range]), Rows::Bf16(&wb)), together_bf16[out]);
    }
}

#[test]
fn a_gated_product_rounds_where_its_parts_would() {
    let (m, k, n) = (3, 64, 10);
    let x = narrowed::<bf16>(&whole(m * k, 7).iter().map(|x| x / 8.0).collect::<Vec<_>>());
    let [gate, up] = [5, 9].map(|modulus| narrowed::<bf16>(&whole(n * k, modulus)));
    let input = Input::new(Rows::Bf16(&x), k);
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
