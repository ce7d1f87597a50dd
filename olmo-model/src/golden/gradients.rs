//! Loss and every gradient of a whole model against ai2-olmo's own model and `cross_entropy_loss`.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use super::{Differences, Vectors, key, model_config};
use crate::loss::IGNORE_INDEX;
use crate::{Labels, LossValues, Transformer, walk};

/// Of logits. Measured: 8.9e-7.
const LOGITS: f64 = 2e-6;

/// Of a loss. Measured: 1.9e-7.
const LOSS: f64 = 4e-7;

/// Of each gradient, relative to the largest of its tensor. Measured: 2.5e-6.
const GRADIENT: f64 = 5e-6;

/// Of each gradient with weights and activations in bf16, whose numbers have 8 bits, against f32.
/// Measured: 6.4e-2; PyTorch itself is 6.2e-2 away.
const BF16: f64 = 1e-1;

/// The trainer's z-loss: `1e-4 * mean(logsumexp²)`.
const Z_LOSS: f64 = 1e-4;

const MODELS: [&str; 4] = ["olmo", "olmo-tied-gqa-clip", "olmo2", "olmo2-gqa"];

#[test]
fn logits() {
    let mut differences = Differences::default();
    for name in MODELS {
        let (model, file) = read(name);
        let logits = model.forward(tokens(&file), None).expect("no cache");
        differences.add(name, logits, &file.data("logits"));
    }
    differences.assert_within(LOGITS);
}

#[test]
fn loss() {
    let mut differences = Differences::default();
    for name in MODELS {
        let (model, file) = read(name);
        let (labels, masked) = (next_tokens(&file), masked_labels(&file));
        assert_eq!(labels.count(), 2 * 15);
        let (n, n_masked) = (labels.count() as f64, masked.count() as f64);
        let mut near = |field: &str, found: f64| {
            let found = Tensor::<1>::from_data([found], (&Device::flex(), DType::F64));
            differences.add(&format!("{name} {field}"), found, &file.data(field));
        };
        let sums = values(&model, &file, &labels, 0.0);
        near("loss_sum", sums.cross_entropy);
        near("loss", sums.objective / n);
        let sums = values(&model, &file, &masked, 0.0);
        near("loss_masked_sum", sums.cross_entropy);
        near("loss_masked", sums.objective / n_masked);
        if name == "olmo2" {
            let sums = values(&model, &file, &labels, Z_LOSS);
            near("loss_sum", sums.cross_entropy);
            near("z_loss", Z_LOSS * sums.squared_lse / n);
            near("loss_z", sums.objective / n);
        }
    }
    differences.assert_within(LOSS);
}

#[test]
fn gradients() {
    let mut differences = Differences::default();
    for name in MODELS {
        compare(&mut differences, name, "grad.", 0.0, FloatDType::F32);
    }
    compare(&mut differences, "olmo2", "grad_z.", Z_LOSS, FloatDType::F32);
    differences.assert_within(GRADIENT);
}

/// Tokens without a label leave no trace: a masked row gives the gradients of the other row alone.
#[test]
fn masked_labels_take_no_part_in_the_gradient() {
    let (model, file) = read("olmo2");
    let rows = file.integer_rows::<i64>("tokens");
    let next = |row: &[i64]| row[1..].iter().copied().chain([IGNORE_INDEX]).collect::<Vec<_>>();
    let ids = |rows: &[Vec<i64>]| {
        Tensor::from_data(
            TensorData::new(rows.concat(), [rows.len(), 16]),
            &Device::flex().autodiff(),
        )
    };
    let both = next(&rows[0]).into_iter().chain([IGNORE_INDEX; 16]);
    let both = gradients_of(&model, ids(&rows), &Labels::new(both), 0.0, FloatDType::F32);
    let one = Labels::new(next(&rows[0]));
    let one = gradients_of(&model, ids(&rows[..1]), &one, 0.0, FloatDType::F32);
    let mut differences = Differences::default();
    for ((path, found), (_, expected)) in both.into_iter().zip(one) {
        differences.add(&path, found, &expected.into_data());
    }
    differences.assert_within(GRADIENT);
}

#[test]
fn bf16_gradients_stay_near_f32() {
    let mut differences = Differences::default();
    // Not the clipped model: a projection that bf16 rounds across the limit loses its gradient.
    for name in ["olmo", "olmo2", "olmo2-gqa"] {
        compare(&mut differences, name, "grad.", 0.0, FloatDType::BF16);
    }
    differences.assert_within(BF16);
}

fn read(name: &str) -> (Transformer, Vectors) {
    let file = Vectors::read(&format!("olmo/{name}.safetensors"));
    (file.model(&model_config(&file.config), &Device::flex()), file)
}

fn tokens(file: &Vectors) -> Tensor<2, Int> {
    Tensor::from_data(file.data("tokens"), &Device::flex())
}

fn next_tokens(file: &Vectors) -> Labels {
    Labels::next_token(&file.integer_rows::<u32>("tokens").concat(), 16)
}

/// The file's labels have no column for the last token.
fn masked_labels(file: &Vectors) -> Labels {
    let rows = file.integer_rows::<i64>("labels").into_iter();
    Labels::new(rows.flat_map(|row| row.into_iter().chain([IGNORE_INDEX])))
}

fn values(model: &Transformer, file: &Vectors, labels: &Labels, z_loss: f64) -> LossValues {
    model.loss(tokens(file), labels, z_loss).into_values()
}

/// Gradients of the mean loss over `labels`, by path.
fn gradients_of(
    model: &Transformer,
    tokens: Tensor<2, Int>,
    labels: &Labels,
    z_loss: f64,
    dtype: FloatDType,
) -> Vec<(String, Tensor<1>)> {
    let model = walk::leaves(model, dtype);
    let objective = model.loss(tokens, labels, z_loss).objective();
    let mut gradients = (objective / labels.count() as f64).backward();
    let mut list = Vec::new();
    walk::take_gradients(&model, &mut gradients, |path, gradient| {
        assert_eq!(gradient.dtype(), DType::F32, "{path}");
        list.push((path.to_owned(), gradient));
    });
    list
}

/// Compares the gradients of one model with those of its file whose names begin with `prefix`.
fn compare(
    differences: &mut Differences,
    name: &str,
    prefix: &str,
    z_loss: f64,
    dtype: FloatDType,
) {
    let (model, file) = read(name);
    let tokens = Tensor::from_data(file.data("tokens"), &Device::flex().autodiff());
    let gradients = gradients_of(&model, tokens, &next_tokens(&file), z_loss, dtype);
    let placement = model.config().norm_placement;
    let n = file.tensors.keys().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(gradients.len(), n, "a gradient is missing");
    for (path, gradient) in gradients {
        let expected = file.data(&format!("{prefix}{}", key(&path, placement)));
        differences.add(&format!("{name} {path}"), gradient, &expected);
    }
}
