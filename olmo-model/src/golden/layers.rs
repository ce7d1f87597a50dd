//! Each layer against the class of `transformers` it stands for: output and every gradient.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::{Differences, Vectors, key, model_config};
use crate::block::BlockFeedForward;
use crate::config::{NormCast, NormConfig, NormPlacement};
use crate::kernels;
use crate::norm::Norm;
use crate::rope::{Positions, RopeTables};
use crate::{ModelConfig, Parameter, Transformer, walk};

/// Of attention, feed-forward layers and blocks, output and gradients. Measured: 6.0e-7.
const LAYER: f64 = 1e-6;

/// The same of 140 tokens, over which gradients of weights are summed. Measured: 1.2e-6.
const LONG: f64 = 1.5e-6;

/// Of one row of a norm; rows differ in size by six orders of magnitude. Measured: 2.3e-7.
const NORM: f64 = 5e-7;

/// Of cosines and sines, absolute: one last bit of a number just below 1. Measured: 6.0e-8. Those
/// that YaRN multiplies by a factor above 1 have larger last bits.
const COSINE: f64 = 6e-8;

/// Of rotated queries and keys, and their gradients. Measured: 1.4e-7.
const ROTARY: f64 = 3e-7;

#[test]
fn layer_norm() {
    norm("layer_norm", NormConfig::LayerNorm { eps: 1e-5 });
}

#[test]
fn rms_norm() {
    norm("rms_norm", NormConfig::RmsNorm { eps: 1e-6, cast: NormCast::AfterWeight });
}

#[test]
fn attention() {
    compare_attention(&["olmo", "olmo_mha", "olmo_clip", "olmo2", "olmo2_mha", "olmoe"], LAYER);
    compare_attention(&["olmo3_window", "olmo3_yarn"], LONG);
}

fn compare_attention(kinds: &[&str], tolerance: f64) {
    let mut differences = Differences::default();
    for kind in kinds {
        let file = Vectors::read(&format!("layers/attention_{kind}.safetensors"));
        let (config, device) = (model_config(&file.config), Device::flex().autodiff());
        let prefix = "blocks.0.attention.";
        let layer = model_with(&file, &config, prefix).blocks.remove(0).attention;
        let positions = Positions::new(&config, 0..file.data("x").shape()[1], &device);
        let forward = |layer: &crate::attention::Attention, x| layer.forward(x, &positions, None);
        check_layer(&mut differences, kind, &file, layer, prefix, forward);
    }
    differences.assert_within(tolerance);
}

#[test]
fn feed_forward() {
    let file = Vectors::read("layers/mlp.safetensors");
    let prefix = "blocks.0.feed_forward.";
    let layer =
        model_with(&file, &model_config(&file.config), prefix).blocks.remove(0).feed_forward;
    let forward = |layer: &BlockFeedForward, x| layer.forward(x);
    let mut differences = Differences::default();
    check_layer(&mut differences, "", &file, layer, prefix, forward);
    differences.assert_within(LAYER);
}

#[test]
fn block() {
    let mut differences = Differences::default();
    for family in ["olmo", "olmo2", "olmo3", "olmoe"] {
        let file = Vectors::read(&format!("layers/block_{family}.safetensors"));
        let (config, device) = (model_config(&file.config), Device::flex().autodiff());
        let prefix = "blocks.0.";
        let layer = model_with(&file, &config, prefix).blocks.remove(0);
        let positions = Positions::new(&config, 0..file.data("x").shape()[1], &device);
        let forward = |layer: &crate::block::Block, x| layer.forward(x, &positions, None);
        check_layer(&mut differences, family, &file, layer, prefix, forward);
    }
    differences.assert_within(LAYER);
}

#[test]
fn rope_angles() {
    let families = ["rope_olmo_10000", "rope_olmo_500000", "rope_olmo2_10000", "rope_olmo2_500000"];
    let wide = ["rope_angles_10000", "rope_angles_500000", "yarn_released", "yarn_odd"];
    for name in families.into_iter().chain(wide) {
        let file = Vectors::read(&format!("layers/{name}.safetensors"));
        let config = model_config(&file.config).attention;
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let found = config.rope.inverse_frequencies(config.head_dim);
        assert_eq!(bits(found), bits(file.values("inv_freq")), "{name}");

        // The reference repeats the angles for the second half of a head.
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in file.integer_rows::<usize>("positions").concat() {
            let range = position..position + 1;
            let tables = RopeTables::new(&config.rope, config.head_dim, range, &Device::flex());
            cos.extend(tables.cos.into_data().iter::<f32>().collect::<Vec<_>>().repeat(2));
            sin.extend(tables.sin.into_data().iter::<f32>().collect::<Vec<_>>().repeat(2));
        }
        for (table, found) in [("cos", cos), ("sin", sin)] {
            let expected = file.values(table);
            assert_eq!(found.len(), expected.len());
            let apart = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs()));
            let worst = apart.fold(0.0, f64::max);
            let tolerance = if config.rope.yarn.is_some() { 2.0 * COSINE } else { COSINE };
            assert!(worst <= tolerance, "{name}: {table} differs by {worst:.1e}");
        }
    }
}

/// Queries and keys one position at a time, since those of the second row are far apart; the first
/// row, whose positions follow one another, in one piece too.
#[test]
fn rotary() {
    let mut differences = Differences::default();
    for name in ["rope_olmo_10000", "rope_olmo_500000", "rope_olmo2_10000", "rope_olmo2_500000"] {
        let file = Vectors::read(&format!("layers/{name}.safetensors"));
        let (config, device) = (model_config(&file.config), Device::flex().autodiff());
        for (name, n_heads) in [("q", 4), ("k", 2)] {
            let x = file.tensor::<4>(name, &device).require_grad();
            let rotated = |row: usize, columns: std::ops::Range<usize>, first: usize| {
                let (seq, head_dim) = (columns.len(), config.attention.head_dim);
                let x = x.clone().slice([row..row + 1, 0..n_heads, columns]);
                let x = x.swap_dims(1, 2).reshape([1, seq, n_heads * head_dim]);
                let range = first..first + seq;
                let tables = RopeTables::new(&config.attention.rope, head_dim, range, &device);
                kernels::rotary(x, tables.cos, tables.sin, n_heads)
            };
            let positions = file.integer_rows::<usize>("positions");
            let row = |row: usize| {
                let columns = positions[row].iter().enumerate();
                Tensor::cat(columns.map(|(i, &at)| rotated(row, i..i + 1, at)).collect(), 2)
            };
            let y = Tensor::cat(vec![row(0), row(1)], 0);
            let whole = Tensor::cat(vec![rotated(0, 0..12, 0), row(1)], 0);
            let g = file.tensor::<4>(&format!("g.{name}_out"), &device);
            for (how, y) in [("apart", y), ("whole", whole)] {
                let expected = file.data(&format!("{name}_out"));
                differences.add(&format!("{name} {how}"), y.clone(), &expected);
                let gradient = x.grad(&(y * g.clone()).sum().backward()).expect("a leaf");
                let expected = file.data(&format!("grad.{name}"));
                differences.add(&format!("grad.{name} {how}"), gradient, &expected);
            }
        }
    }
    differences.assert_within(ROTARY);
}

/// Row by row: output, and the gradients by the input and by the weight.
fn norm(name: &str, config: NormConfig) {
    let file = Vectors::read(&format!("layers/{name}.safetensors"));
    let device = Device::flex().autodiff();
    let weight = file.tensors.contains_key("weight").then(|| file.tensor::<1>("weight", &device));
    let weight = weight.map(|weight| Param::initialized(ParamId::new(), weight));
    let layer = walk::leaves(&Norm::new(config, weight), FloatDType::F32);
    let x = file.tensor::<3>("x", &device).require_grad();
    let y = layer.forward(x.clone());
    let mut gradients = (y.clone() * file.tensor("g", &device)).sum().backward();

    let mut differences = Differences::default();
    let dx = x.grad(&gradients).expect("a leaf");
    for (name, found) in [("y", y), ("grad.x", dx)] {
        let expected = file.tensor::<3>(name, &Device::flex());
        let [batch, seq, _] = expected.dims();
        for (b, s) in (0..batch).flat_map(|b| (0..seq).map(move |s| (b, s))) {
            let row = |x: &Tensor<3>| x.clone().slice([b..b + 1, s..s + 1]);
            let (found, expected) = (row(&found), row(&expected).into_data());
            differences.add(&format!("{name}[{b}, {s}]"), found, &expected);
        }
    }
    walk::take_gradients(&layer, &mut gradients, |path, gradient| {
        let name = format!("grad.{path}");
        differences.add(&name, gradient, &file.data(&name));
    });
    assert_eq!(differences.0.len(), 2 * 24 + usize::from(layer.weight.is_some()));
    differences.assert_within(NORM);
}

/// A model of one layer whose parameters under `prefix` are those of the file; the rest are zero.
pub(super) fn model_with(file: &Vectors, config: &ModelConfig, prefix: &str) -> Transformer {
    let source = |parameter: &Parameter| {
        Ok::<_, crate::Error>(match parameter.path.strip_prefix(prefix) {
            Some(_) => file.data(&name(&parameter.path, prefix, config.norm_placement)),
            None => TensorData::zeros::<f32, _>(parameter.shape.clone()),
        })
    };
    Transformer::build(config, &Device::flex(), source).expect("a sound configuration")
}

/// The name in a layer's file of the parameter at `path`: its key without the layer's own names, one
/// more than ours since all keys begin with `model`.
pub(super) fn name(path: &str, prefix: &str, placement: NormPlacement) -> String {
    let n_names = 1 + prefix.matches('.').count();
    key(path, placement).splitn(n_names + 1, '.').last().expect("at least one part").to_owned()
}

/// Output of a layer and the gradients by its input and by each of its parameters.
fn check_layer<M: Module>(
    differences: &mut Differences,
    case: &str,
    file: &Vectors,
    layer: M,
    prefix: &str,
    forward: impl Fn(&M, Tensor<3>) -> Tensor<3>,
) {
    let device = Device::flex().autodiff();
    let placement = model_config(&file.config).norm_placement;
    let layer = walk::leaves(&layer, FloatDType::F32);
    let x = file.tensor::<3>("x", &device).require_grad();
    let y = forward(&layer, x.clone());
    let mut gradients = (y.clone() * file.tensor("g", &device)).sum().backward();

    let dx = x.grad(&gradients).expect("a leaf");
    let mut n_gradients = 1;
    differences.add(&format!("{case} y"), y, &file.data("y"));
    differences.add(&format!("{case} grad.x"), dx, &file.data("grad.x"));
    walk::take_gradients(&layer, &mut gradients, |path, gradient| {
        let name = format!("grad.{}", name(&format!("{prefix}{path}"), prefix, placement));
        differences.add(&format!("{case} {name}"), gradient, &file.data(&name));
        n_gradients += 1;
    });
    let expected = file.tensors.keys().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(n_gradients, expected, "a gradient is missing");
}
