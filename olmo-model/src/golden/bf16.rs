//! Whole models in bf16 against `transformers` in bf16: the same roundings in the same places.
//!
//! What is left is the order of sums inside a matrix product, which both take in f32 and round once: a
//! sum that lies near the middle between two bf16 numbers may go either way, and what follows from it.
//!
//! The unit is the distance of two neighbouring bf16 numbers, taken at two magnitudes: that of the
//! logit itself, which near zero is far finer than anything that was added up to give it, and that of
//! the largest logit of its token.

use burn::tensor::{DType, Device, TensorData};

use super::floats;
use super::models::{MODELS, forward, read, weights};
use crate::{Error, Parameter, Transformer};

/// Of all logits of all models: equal to the last bit. Measured: 99.94 %, at least 99.78 % of a model.
const EQUAL: f64 = 0.995;

/// Of each model's logits: within two units at their own magnitude. Measured: 99.966 %.
const WITHIN_TWO: f64 = 0.999;

/// Units at the magnitude of the largest logit of a token that the worst is away. Measured: 1.
const WORST: f64 = 1.0;

#[test]
fn logits() {
    for name in MODELS {
        let (model, golden) = read(name);
        let found = forward(&in_bf16(&model), &golden.integer_rows("tokens"), None);
        assert_eq!(found.dtype(), DType::BF16);
        let vocab_size = found.dims()[2];
        let found = floats(&found.into_data());
        let expected = floats(&golden.data("logits_bf16"));
        let distances = Distances::new(&found, &expected, vocab_size);
        println!("{name}: {distances:?}");
        let Distances { equal, within_two, worst } = distances;
        assert!(equal >= EQUAL, "{name}: {equal} of the logits are equal");
        assert!(within_two >= WITHIN_TWO, "{name}: {within_two} are within two units");
        assert!(worst <= WORST, "{name}: one is {worst} units of its token's largest away");

        // The measure tells bf16 from f32: the same model in f32 is not that near.
        let exact = Distances::new(&floats(&golden.data("logits")), &expected, vocab_size);
        assert!(exact.equal < 0.1 && exact.within_two < 0.6, "{name}: f32 is as near, {exact:?}");
    }
}

#[derive(Debug)]
struct Distances {
    /// Share of the logits that are equal.
    equal: f64,
    /// Share within two units at the magnitude of the expected logit.
    within_two: f64,
    /// The largest, in units at the magnitude of the largest logit of its token.
    worst: f64,
}

impl Distances {
    fn new(found: &[f64], expected: &[f64], vocab_size: usize) -> Self {
        assert_eq!(found.len(), expected.len());
        let (mut n_equal, mut n_within_two, mut worst) = (0_usize, 0_usize, 0.0_f64);
        for (found, expected) in found.chunks(vocab_size).zip(expected.chunks(vocab_size)) {
            let largest = expected.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
            for (a, b) in found.iter().zip(expected) {
                let apart = (a - b).abs();
                n_equal += usize::from(apart == 0.0);
                n_within_two += usize::from(apart <= 2.0 * unit(b.abs()));
                // A NaN must not pass for a small difference.
                let units = apart / unit(largest);
                worst = if units <= worst || worst.is_nan() { worst } else { units };
            }
        }
        let share = |n: usize| n as f64 / found.len() as f64;
        Self { equal: share(n_equal), within_two: share(n_within_two), worst }
    }
}

/// The distance of two neighbouring bf16 numbers near `x`.
fn unit(x: f64) -> f64 {
    (x.log2().floor() - 7.0).exp2()
}

fn in_bf16(model: &Transformer) -> Transformer {
    let f32_weights = weights(model);
    let source = |parameter: &Parameter| {
        let (_, values) =
            f32_weights.iter().find(|(path, _)| *path == parameter.path).expect("listed");
        let data = TensorData::new(values.clone(), parameter.shape.clone());
        Ok::<_, Error>(data.convert_dtype(DType::BF16))
    };
    Transformer::build(model.config(), &Device::flex(), source).expect("sound")
}
