//! Models with packed matrices are the models that the other tests compare, to the last bit.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::models::{MODELS, forward, in_pieces, read, tokens, weights};
use crate::packed::PackedMatrix;
use crate::{Error, Labels, MatrixForm, ModelConfig, Parameter, Quantization, Transformer};

/// Root of the mean square that rounded activations change logits by, relative to that of the logits.
/// Measured: 3.4e-2, in models of 32 wide layers with large random weights; rounding the weights alone
/// to 8 bits costs 3.7e-2.
const ROUNDED: f32 = 4e-2;

/// The models whose rows are made of whole blocks.
const WHOLE_BLOCKS: [&str; 6] =
    ["olmo-tied", "olmo-gqa-clip", "olmo2", "olmo2-gqa", "olmo3", "olmo3-gqa-yarn"];

#[test]
fn packed_matrices_change_no_bit() {
    for name in MODELS {
        let (model, golden) = read(name);
        let rows = golden.integer_rows::<i64>("tokens");
        let weights = weights(&model);
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let [dense, packed] = [MatrixForm::Dense, MatrixForm::Packed]
                .map(|form| built(model.config(), &weights, form, dtype));
            assert_eq!(packed.form(), MatrixForm::Packed);
            assert_same_logits(&packed, &dense, &rows, &format!("{name} {dtype:?}"));
            assert_eq!(packed.output_weight().into_data(), dense.output_weight().into_data());
            // Dense weights are multiplied by burn where gradients may be wanted.
            let loss = |model: &Transformer| {
                let ids: Vec<u32> = rows.concat().into_iter().map(|id| id as u32).collect();
                let labels = Labels::next_token(&ids, rows[0].len());
                model.loss(tokens(&rows), &labels, 1e-4).into_values()
            };
            let (found, expected) = (loss(&packed), loss(&dense));
            let tolerance = if dtype == DType::F32 { 1e-6 } else { 1e-3 };
            for (found, expected) in [
                (found.objective, expected.objective),
                (found.cross_entropy, expected.cross_entropy),
                (found.squared_lse, expected.squared_lse),
            ] {
                assert!((found / expected - 1.0).abs() < tolerance, "{name} {found} {expected}");
            }
        }
    }
}

/// A packed model has no gradients, and on a device that records them it has a loss none the less.
#[test]
fn a_packed_model_has_a_loss_where_gradients_are_recorded() {
    let (model, golden) = read("olmo2");
    let rows = golden.integer_rows::<i64>("tokens");
    let ids: Vec<u32> = rows.concat().into_iter().map(|id| id as u32).collect();
    let labels = Labels::next_token(&ids, rows[0].len());
    let packed = built(model.config(), &weights(&model), MatrixForm::Packed, DType::F32);
    let expected = packed.loss(tokens(&rows), &labels, 0.0).into_values();
    let leaves = crate::walk::leaves(&packed, burn::tensor::FloatDType::F32);
    let found = leaves.loss(tokens(&rows).autodiff(), &labels, 0.0).into_values();
    assert_eq!(found.cross_entropy.to_bits(), expected.cross_entropy.to_bits());
}

/// Computing in f32 with matrices that are held narrower gives what wide ones give.
#[test]
fn widened_matrices_change_no_bit() {
    for name in MODELS {
        let (model, golden) = read(name);
        let rows = golden.integer_rows::<i64>("tokens");
        for dtype in [DType::BF16, DType::F16] {
            let weights = weights(&model).into_iter().map(|(path, values)| {
                let n = values.len();
                let narrow = TensorData::new(values, [n]).convert_dtype(dtype);
                (path, narrow.iter::<f32>().collect())
            });
            let weights: Vec<_> = weights.collect();
            let wide = built(model.config(), &weights, MatrixForm::Dense, DType::F32);
            let widened = built(model.config(), &weights, MatrixForm::Widened, dtype);
            assert_eq!(widened.form(), MatrixForm::Packed);
            assert_same_logits(&widened, &wide, &rows, &format!("{name} {dtype:?}"));
        }
    }
}

/// Quantised matrices are multiplied with rounded activations: logits beside those of the same values
/// in f32.
#[test]
fn rounded_activations_stay_near() {
    for name in WHOLE_BLOCKS {
        let (model, golden) = read(name);
        let (config, weights) = (model.config(), weights(&model));
        let rows = golden.integer_rows::<i64>("tokens");
        for to in [Quantization::Q8, Quantization::Q4] {
            let quantised = built(config, &weights, MatrixForm::Quantized(to), DType::F32);
            let rounded = weights.iter().cloned().map(|(path, values)| {
                let parameter = config.parameters().into_iter().find(|p| p.path == path);
                let parameter = parameter.expect("listed");
                if !Quantization::applies_to(&parameter) {
                    return (path, values);
                }
                let shape = [parameter.shape[0], parameter.shape[1]];
                let packed = PackedMatrix::quantized(&values, shape, to, &Device::flex());
                (path, packed.expect("whole blocks").unpacked().iter::<f32>().collect())
            });
            let rounded: Vec<_> = rounded.collect();
            let expected =
                forward(&built(config, &rounded, MatrixForm::Dense, DType::F32), &rows, None);
            for (found, how) in [
                (forward(&quantised, &rows, None), "at once"),
                (in_pieces(&quantised, &rows), "in pieces"),
            ] {
                let apart = (found - expected.clone()).powi_scalar(2).mean().sqrt();
                let size = expected.clone().powi_scalar(2).mean().sqrt();
                let apart: f32 = (apart / size).into_scalar();
                assert!(apart > 0.0 && apart < ROUNDED, "{name} {to:?} {how}: {apart}");
            }
        }
    }
}

fn assert_same_logits(found: &Transformer, expected: &Transformer, rows: &[Vec<i64>], what: &str) {
    let same = |found: Tensor<3>, expected: Tensor<3>, how: &str| {
        assert_eq!(found.into_data(), expected.into_data(), "{what} {how}");
    };
    same(forward(found, rows, None), forward(expected, rows, None), "at once");
    same(in_pieces(found, rows), in_pieces(expected, rows), "in pieces");
}

fn built(
    config: &ModelConfig,
    weights: &[(String, Vec<f32>)],
    form: MatrixForm,
    dtype: DType,
) -> Transformer {
    let source = |parameter: &Parameter, rows: std::ops::Range<usize>| {
        let (_, values) = weights.iter().find(|(path, _)| *path == parameter.path).expect("listed");
        let mut shape = parameter.shape.clone();
        let row = values.len() / shape[0];
        let values = values[rows.start * row..rows.end * row].to_vec();
        shape[0] = rows.len();
        Ok::<_, Error>(TensorData::new(values, shape).convert_dtype(dtype))
    };
    Transformer::build_as(config, &Device::flex(), form, source).expect("sound")
}
