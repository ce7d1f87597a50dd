//! The kernels against plain ways to compute the same, and `flex`'s own against the composed ones.

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Shape, Tensor, TensorData};

use super::{AttentionSpan, Kernels, RowNorm};
use super::{attention, call, cross_entropy, linear, norm, rotary, swiglu};
use crate::init::Initial;

/// Of f32 against a plain computation, relative to the largest of a tensor. Measured: 1.3e-6.
const F32: f64 = 3e-6;

/// Of the sums of a loss. Measured: 5.1e-8.
const SUMS: f64 = 1e-7;

/// Of attention in bf16 against f32, whose scores and probabilities are rounded. Measured: 1.3e-2.
const BF16: f64 = 2e-2;

/// Of the gradients of cross-entropy, summed over a vocabulary of 50 000. Measured: 1.0e-6.
const CROSS_ENTROPY: f64 = 2e-6;

/// Of `flex` against the composed kernels in f32. Measured: 7.8e-7.
const FLEX_F32: f64 = 2e-6;

/// The same in bf16: one last bit. Today `flex` composes what is not f32, and nothing differs.
const FLEX_BF16: f64 = 8e-3;

/// Normal numbers, the same for the same seed.
fn normal<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let values = Initial::Normal { std: 1.0 }.draw(shape.iter().product(), seed, "");
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn difference(found: &TensorData, expected: &TensorData) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    let largest = expected.iter::<f64>().fold(0.0, |max, x| x.abs().max(max));
    let apart = found.iter::<f64>().zip(expected.iter::<f64>()).map(|(a, b)| (a - b).abs());
    // A NaN must not look like no difference, as it does to `f64::max`.
    apart.fold(0.0, |max, x| if x <= max { max } else { x }) / largest
}

/// Lengths above and below a chunk of queries, with a window, with keys before the first query, and
/// with a row whose first keys are hidden.
#[test]
fn attention_in_chunks_is_attention() {
    let device = Device::flex().autodiff();
    let [batch, n_heads, n_kv_heads, head_dim] = [2, 6, 2, 8];
    let cases = [(300, 300), (140, 300), (256, 256), (5, 20), (1, 300)];
    let cases =
        cases.iter().flat_map(|case| [None, Some(37), Some(1)].map(|window| (*case, window)));
    let cases = cases.flat_map(|case| [[0, 0], [3, 133]].map(|padding| (case, padding)));
    for (((seq_q, seq_kv), window), padding) in cases {
        let padding = padding.map(|n| n.min(seq_kv - 2));
        for (dtype, tolerance) in [(DType::F32, F32), (DType::BF16, BF16)] {
            // Plain attention runs in f32, on the same numbers.
            let input = |n_heads, seq, seed| {
                let x = normal([batch, n_heads, seq, head_dim], seed, &device).cast(dtype);
                [x.clone().require_grad(), x.cast(DType::F32).require_grad()]
            };
            let ([q, plain_q], [k, plain_k]) =
                (input(n_heads, seq_q, 1), input(n_kv_heads, seq_kv, 2));
            let ([v, plain_v], [g, plain_g]) =
                (input(n_kv_heads, seq_kv, 3), input(n_heads, seq_q, 4));
            let gradients = |y: Tensor<4>, g: Tensor<4>, inputs: [&Tensor<4>; 3]| {
                let gradients = (y * g).sum().backward();
                inputs.map(|x| x.grad(&gradients).expect("a leaf").into_data())
            };
            let hidden = (padding != [0, 0]).then(|| padding.into());
            let span = AttentionSpan { window, padding: hidden };
            let y = super::attention(q.clone(), k.clone(), v.clone(), span);
            let plain = [plain_q.clone(), plain_k.clone(), plain_v.clone()];
            let plain_y = plain_attention(plain, window, padding);
            let apart = difference(&y.clone().into_data(), &plain_y.clone().into_data());
            assert!(
                apart <= tolerance,
                "y {seq_q} {seq_kv} {window:?} {padding:?} {dtype:?} {apart:.1e}"
            );
            let found = gradients(y, g, [&q, &k, &v]);
            let expected = gradients(plain_y, plain_g, [&plain_q, &plain_k, &plain_v]);
            for (name, (found, expected)) in ["q", "k", "v"].iter().zip(found.iter().zip(&expected))
            {
                // With one key the scores do not matter: their gradients are zero but for rounding.
                let apart = if window == Some(1) && *name != "v" {
                    found.iter::<f64>().fold(0.0, |max, x| x.abs().max(max))
                } else {
                    difference(found, expected)
                };
                assert!(
                    apart <= tolerance,
                    "d{name} {seq_q} {seq_kv} {window:?} {padding:?} {dtype:?} {apart:.1e}"
                );
            }
        }
    }
}

fn plain_attention(
    [q, k, v]: [Tensor<4>; 3],
    window: Option<usize>,
    padding: [usize; 2],
) -> Tensor<4> {
    let ([batch, n_heads, seq_q, head_dim], [_, n_kv_heads, seq_kv, _]) = (q.dims(), k.dims());
    let group = n_heads / n_kv_heads;
    let every_head = |x: Tensor<4>| {
        let x = x.unsqueeze_dim::<5>(2).repeat_dim(2, group);
        x.reshape([batch, n_heads, seq_kv, head_dim])
    };
    let hidden = padding.iter().flat_map(|&padding| {
        let rows = (0..seq_q).map(move |row| row + seq_kv - seq_q);
        rows.flat_map(move |query| {
            let padded = move |key| key < padding && key != query;
            let outside = move |key| window.is_some_and(|n| key + n <= query);
            (0..seq_kv).map(move |key| key > query || outside(key) || padded(key))
        })
    });
    let hidden = TensorData::new(hidden.collect(), [batch, 1, seq_q, seq_kv]);
    let hidden = Tensor::<4, Bool>::from_data(hidden, &q.device());
    let scores = q.matmul(every_head(k).transpose()) / (head_dim as f64).sqrt();
    softmax(scores.mask_fill(hidden.expand([batch, n_heads, seq_q, seq_kv]), -1e30), 3)
        .matmul(every_head(v))
}

/// A vocabulary so large that the logits are made in several chunks, against sums in f64.
#[test]
fn cross_entropy_in_chunks_is_cross_entropy() {
    let (n, d_model, vocab, z_loss) = (700, 4, 50_000, 1e-2);
    assert!(n * vocab > 2 * cross_entropy::CHUNK_ELEMENTS, "three chunks");
    let device = Device::flex().autodiff();
    let x = normal([n, d_model], 1, &device).require_grad();
    let weight = normal([vocab, d_model], 2, &device).require_grad();
    let labels = (0..n).map(|i| if i % 5 == 3 { -1 } else { (i * 7919 % vocab) as i32 });
    let labels: Vec<_> = labels.collect();
    let targets: Tensor<1, Int> = Tensor::from_data(labels.as_slice(), &device);
    let sums = super::cross_entropy(x.clone(), weight.clone(), targets, z_loss);
    // An upstream gradient that is not one.
    let gradients = (sums.clone().narrow(0, 0, 1) * 0.5).backward();
    let of = |x: &Tensor<2>| x.grad(&gradients).expect("a leaf").into_data();
    let (dx, dweight) = (of(&x), of(&weight));

    let rows = |x: &Tensor<2>| x.clone().into_data().iter::<f64>().collect::<Vec<_>>();
    let plain = plain_cross_entropy(&rows(&x), &rows(&weight), &labels, d_model, z_loss);
    let as_data = |x: &[f64], shape: [usize; 2]| TensorData::new(x.to_vec(), shape);
    for (found, expected) in sums.into_data().iter::<f64>().zip(plain.sums) {
        let apart = (found / expected - 1.0).abs();
        assert!(apart <= SUMS, "{found} {expected}: {apart:.1e}");
    }
    let dx = difference(&dx, &as_data(&plain.dx, [n, d_model]));
    let dweight = difference(&dweight, &as_data(&plain.dweight, [vocab, d_model]));
    assert!(dx <= CROSS_ENTROPY && dweight <= CROSS_ENTROPY, "dx {dx:.1e}, dweight {dweight:.1e}");
}

/// The three sums, and half the gradients of the first.
struct PlainCrossEntropy {
    sums: [f64; 3],
    dx: Vec<f64>,
    dweight: Vec<f64>,
}

fn plain_cross_entropy(
    x: &[f64],
    weight: &[f64],
    labels: &[i32],
    d_model: usize,
    z_loss: f64,
) -> PlainCrossEntropy {
    let mut plain = PlainCrossEntropy {
        sums: [0.0; 3],
        dx: vec![0.0; x.len()],
        dweight: vec![0.0; weight.len()],
    };
    let rows = x.chunks(d_model).zip(plain.dx.chunks_mut(d_model)).zip(labels);
    for ((x, dx), &label) in rows.filter(|(_, label)| **label >= 0) {
        let dot = |w: &[f64]| x.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
        let logits: Vec<f64> = weight.chunks(d_model).map(dot).collect();
        let lse = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
        let ce = lse - logits[label as usize];
        let parts = [ce + z_loss * lse * lse, ce, lse * lse];
        plain.sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
        let pairs = weight.chunks(d_model).zip(plain.dweight.chunks_mut(d_model));
        for (id, ((w, dw), l)) in pairs.zip(&logits).enumerate() {
            let hit = f64::from(id == label as usize);
            let dl = 0.5 * ((l - lse).exp() * (1.0 + 2.0 * z_loss * lse) - hit);
            for i in 0..d_model {
                dx[i] += dl * w[i];
                dw[i] += dl * x[i];
            }
        }
    }
    plain
}

/// Asserts that what `flex` does its own way is what every other backend does.
fn assert_agree<const N: usize>(name: &str, own: [Primitive; N], composed: [Primitive; N]) {
    for (part, (own, composed)) in own.into_iter().zip(composed).enumerate() {
        assert_eq!(own.shape(), composed.shape(), "{name}, part {part}");
        let (own, composed) = (flat(own), flat(composed));
        assert_eq!(own.dtype(), composed.dtype(), "{name}, part {part}");
        let tolerance = if own.dtype() == DType::F32 { FLEX_F32 } else { FLEX_BF16 };
        let apart = difference(&own, &composed);
        assert!(apart <= tolerance, "{name}, part {part}, {:?}: {apart:.1e}", own.dtype());
    }
}

type Primitive = FloatTensor<Flex>;

fn flat(x: Primitive) -> TensorData {
    let n = Shape::new([x.shape().num_elements()]);
    Tensor::<1>::from_primitive::<Flex>(Flex::float_reshape(x, n)).into_data()
}

/// Normal numbers as a primitive of `flex`, the same for the same seed.
fn primitive<const D: usize>(shape: [usize; D], seed: u64, dtype: DType) -> Primitive {
    let x = normal(shape, seed, &Device::flex()).cast(dtype);
    x.try_into_primitive::<Flex>().expect("a tensor of flex")
}

#[test]
fn flex_linear_agrees() {
    for dtype in [DType::F32, DType::BF16] {
        for shape in [[3, 41, 96], [1, 1, 96], [4, 1, 96]] {
            let (x, weight) = (|| primitive(shape, 1, dtype), || primitive([80, 96], 2, dtype));
            let composed = linear::forward::<Flex>(x(), weight());
            assert_agree("linear", [Flex::olmo_linear(x(), weight())], [composed]);
        }
    }
}

#[test]
fn flex_attention_agrees() {
    for dtype in [DType::F32, DType::BF16] {
        let spans = [(300, None), (300, Some(37)), (30, Some(17)), (1, None)];
        let paddings = || [None, Some(Arc::from([141, 0]))];
        let spans = spans.iter().flat_map(|span| paddings().map(|padding| (*span, padding)));
        for ((seq_q, window), padding) in spans {
            let span = || AttentionSpan { window, padding: padding.clone() };
            let q = || primitive([2, 6, seq_q, 16], 1, dtype);
            let (k, v) =
                (|| primitive([2, 2, 300, 16], 2, dtype), || primitive([2, 2, 300, 16], 3, dtype));
            let own = Flex::olmo_attention(q(), k(), v(), span());
            assert_agree("attention", [own], [attention::forward::<Flex>(q(), k(), v(), span())]);
            let g = || primitive([2, 6, seq_q, 16], 4, dtype);
            let own = Flex::olmo_attention_backward(q(), k(), v(), g(), span());
            let composed = attention::backward::<Flex>(q(), k(), v(), g(), span());
            assert_agree("attention backward", own.into(), composed);
        }
    }
}

/// Keys and values of a narrower cache give the bits of the same numbers in f32.
#[test]
fn attention_over_a_narrower_cache_changes_no_bit() {
    for (seq_q, n_keys) in [(1, 300), (70, 300)] {
        let narrow = |seed| primitive([2, 2, n_keys, 16], seed, DType::F16);
        let wide = |seed| Flex::float_cast(narrow(seed), FloatDType::F32);
        let attend = |k, v| {
            let q = primitive([2, 6, seq_q, 16], 1, DType::F32);
            Flex::olmo_attention(q, k, v, AttentionSpan::default())
        };
        let composed = {
            let q = primitive([2, 6, seq_q, 16], 1, DType::F32);
            attention::forward::<Flex>(q, narrow(2), narrow(3), AttentionSpan::default())
        };
        let found = attend(narrow(2), narrow(3));
        assert_agree("attention", [found.clone()], [composed]);
        assert_eq!(flat(found), flat(attend(wide(2), wide(3))));
    }
}

#[test]
fn flex_rotary_agrees() {
    for dtype in [DType::F32, DType::BF16] {
        let (x, g) =
            (|| primitive([3, 411, 96], 3, dtype), || primitive([3, 6, 411, 16], 4, dtype));
        // One table for all sequences, and one for each.
        for n_turns in [411, 3 * 411] {
            let table = |seed| primitive([n_turns, 8], seed, DType::F32);
            let own = Flex::olmo_rotary(x(), table(1), table(2), 6);
            let composed = rotary::forward::<Flex>(x(), table(1), table(2), 6);
            assert_agree("rotary", [own], [composed]);
            let own = Flex::olmo_rotary_backward(g(), table(1), table(2));
            let composed = rotary::backward::<Flex>(g(), table(1), table(2));
            assert_agree("rotary backward", [own], [composed]);
        }
    }
}

#[test]
fn flex_norms_agree() {
    for dtype in [DType::F32, DType::BF16] {
        // A width that no vector length divides.
        let (x, g) = (|| primitive([3, 411, 99], 1, dtype), || primitive([3, 411, 99], 2, dtype));
        let own = Flex::olmo_layer_norm(x(), 1e-5);
        assert_agree("layer norm", [own], [norm::layer_norm::<Flex>(x(), 1e-5)]);
        let own = Flex::olmo_layer_norm_backward(x(), g(), 1e-5);
        let composed = norm::layer_norm_backward::<Flex>(x(), g(), 1e-5);
        assert_agree("layer norm backward", [own], [composed]);

        let weight = || primitive([99], 3, dtype);
        for cast_first in [false, true] {
            let own = Flex::olmo_rms_norm(x(), weight(), 1e-5, cast_first);
            let composed = norm::rms_norm::<Flex>(x(), weight(), 1e-5, cast_first);
            assert_agree("rms norm", [own], [composed]);

            // What is added to stays as it is where something else has it too.
            let norm = || RowNorm::Rms { weight: weight(), eps: 1e-5, cast_first };
            let kept = g();
            let own = Flex::olmo_add_normed(kept.clone(), x(), norm());
            let apart = Flex::float_add(g(), norm::normed::<Flex>(x(), norm()));
            assert_eq!(flat(own), flat(apart));
            assert_eq!(flat(kept), flat(g()));
        }
        let own = Flex::olmo_rms_norm_backward(x(), weight(), g(), 1e-5);
        let composed = norm::rms_norm_backward::<Flex>(x(), weight(), g(), 1e-5);
        assert_agree("rms norm backward", own.into(), composed.into());
    }
}

#[test]
fn flex_swiglu_agrees() {
    for dtype in [DType::F32, DType::BF16] {
        let gate = || primitive([3, 411, 99], 1, dtype);
        let (up, g) = (|| primitive([3, 411, 99], 2, dtype), || primitive([3, 411, 99], 3, dtype));
        let own = Flex::olmo_swiglu(gate(), up());
        assert_agree("swiglu", [own], [swiglu::forward::<Flex>(gate(), up())]);
        let own = Flex::olmo_swiglu_backward(gate(), up(), g());
        let composed = swiglu::backward::<Flex>(gate(), up(), g());
        assert_agree("swiglu backward", own.into(), composed.into());
    }
}

#[test]
fn flex_token_losses_agree() {
    for dtype in [DType::F32, DType::BF16] {
        let logits = || primitive([500, 133], 1, dtype);
        let labels: Vec<i32> =
            (0..500).map(|i| if i % 4 == 1 { -1 } else { i * 13 % 133 }).collect();
        let labels = Tensor::<1, Int>::from_data(labels.as_slice(), &Device::flex());
        let labels = || labels.clone().try_into_primitive::<Flex>().expect("a tensor of flex");
        let own = Flex::olmo_token_losses(logits(), labels(), 0.1, true);
        let composed = cross_entropy::token_losses::<Flex>(logits(), labels(), 0.1, true);
        assert_agree("token losses", own.into(), composed.into());
        // Without a gradient only the sums mean something.
        let (own, _) = Flex::olmo_token_losses(logits(), labels(), 0.1, false);
        let (composed, _) = cross_entropy::token_losses::<Flex>(logits(), labels(), 0.1, false);
        assert_agree("token losses alone", [own], [composed]);
    }
}

/// The CPU's kernels go by the length of a row of one operand, and would compute something.
#[test]
fn rows_of_another_length_than_the_weights_are_refused() {
    let device = Device::flex();
    let x = || Tensor::<3>::zeros([1, 1, 8], &device);
    let matrix = || Tensor::<2>::zeros([4, 16], &device);
    let refused = |f: &dyn Fn()| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        let message = caught.expect_err("refused").downcast::<String>().expect("a text");
        assert!(message.contains("rows of 8 elements and a weight for rows of 16"), "{message}");
    };
    refused(&|| drop(call::linear(x(), matrix())));
    refused(&|| drop(call::three_linears(x(), [matrix(), matrix(), matrix()])));
    refused(&|| drop(call::gated_linear(x(), matrix(), matrix())));
    let norm = || {
        let weight = Tensor::<1>::zeros([16], &device).into_dispatch();
        RowNorm::Rms { weight, eps: 1e-6, cast_first: false }
    };
    refused(&|| drop(call::norm(x(), norm())));
    refused(&|| drop(call::add_normed(x(), x(), norm())));
}
