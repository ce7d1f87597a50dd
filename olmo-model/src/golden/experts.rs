//! Mixtures of experts against `transformers`, and the losses of their routers against OLMo-core.

use burn::tensor::{Device, FloatDType, Int, Tensor};

use super::layers::{model_with, name};
use super::{Differences, Vectors, key, model_config};
use crate::block::BlockFeedForward;
use crate::config::FeedForwardConfig;
use crate::moe::MixtureOfExperts;
use crate::{Labels, RouterWeights, Transformer, walk};

/// Of a layer's output, losses and gradients. Measured: 1.7e-6.
const LAYER: f64 = 2e-6;

/// Of a model's logits, losses and gradients. Measured: 5.1e-6.
const MODEL: f64 = 6e-6;

/// The coefficients of the vectors, of sums that are not divided.
const WEIGHTS: RouterWeights = RouterWeights { load_balancing: 0.7, z: 0.05 };

/// Output, router losses and every gradient, with the losses and without; one expert has no token.
#[test]
fn mixture_of_experts() {
    let mut differences = Differences::default();
    for case in ["moe_top1", "moe_top2_norm", "moe_top8"] {
        let file = Vectors::read(&format!("layers/{case}.safetensors"));
        let layer = mixture(&file);
        let unused = unused_experts(&file);
        assert_eq!(unused.len(), 1, "{case}");
        for (prefix, weights) in [("grad.", RouterWeights::default()), ("grad_losses.", WEIGHTS)] {
            let layer = walk::leaves(&layer, FloatDType::F32);
            let x = file.tensor::<3>("x", &Device::flex().autodiff()).require_grad();
            let (y, losses) = layer.forward_with_losses(x.clone());
            let objective = (y.clone() * file.tensor("g", &x.device())).sum();
            let root = objective + losses.objective(weights, 1);
            differences.add(&format!("{case} y"), y, &file.data("y"));
            let load_balancing = losses.load_balancing;
            differences.add(
                &format!("{case} load balancing"),
                load_balancing,
                &file.data("load_balancing"),
            );
            differences.add(&format!("{case} z"), losses.z, &file.data("router_z"));
            let mut gradients = root.backward();
            let dx = x.grad(&gradients).expect("a leaf");
            differences.add(&format!("{case} {prefix}x"), dx, &file.data(&format!("{prefix}x")));
            let mut n = 1;
            walk::take_gradients(&layer, &mut gradients, |path, gradient| {
                let name = format!("{prefix}{}", parameter_name(path));
                differences.add(&format!("{case} {name}"), gradient, &file.data(&name));
                n += 1;
            });
            let expected = file.tensors.keys().filter(|name| name.starts_with(prefix)).count();
            assert_eq!(n, expected, "a gradient is missing");
        }
    }
    differences.assert_within(LAYER);
}

/// With a graph, experts replace their rows of one tensor; without, their outputs are joined.
#[test]
fn a_graph_changes_nothing() {
    for case in ["moe_top1", "moe_top2_norm", "moe_top8"] {
        let file = Vectors::read(&format!("layers/{case}.safetensors"));
        let layer = mixture(&file);
        let y = layer.forward(file.tensor("x", &Device::flex())).into_data();
        let layer = walk::leaves(&layer, FloatDType::F32);
        let with_graph = layer.forward(file.tensor("x", &Device::flex().autodiff()));
        assert_eq!(y, with_graph.into_data(), "{case}");
    }
}

#[test]
fn whole_models() {
    let mut differences = Differences::default();
    for name in ["olmo3", "olmoe", "olmoe-norm"] {
        let file = Vectors::read(&format!("steps/{name}.safetensors"));
        let model = file.model(&model_config(&file.config), &Device::flex());
        let tokens: Tensor<2, Int> = Tensor::from_data(file.data("tokens"), &Device::flex());
        let logits = model.forward(tokens, None).expect("no cache");
        differences.add(name, logits, &file.data("logits"));
        compare(&mut differences, name, &file, &model, "", RouterWeights::default());
        if name != "olmo3" {
            compare(&mut differences, name, &file, &model, "_losses", WEIGHTS);
        }
    }
    differences.assert_within(MODEL);
}

/// Loss and gradients of the mean over labels, with the losses of the routers by `weights`.
fn compare(
    differences: &mut Differences,
    name: &str,
    file: &Vectors,
    model: &Transformer,
    suffix: &str,
    weights: RouterWeights,
) {
    let labels = Labels::next_token(&file.integer_rows::<u32>("tokens").concat(), 16);
    let tokens = Tensor::from_data(file.data("tokens"), &Device::flex().autodiff());
    let leaves = walk::leaves(model, FloatDType::F32);
    let (sums, routers) = leaves.loss_with_routers(tokens, &labels, 0.0);
    let mut root = sums.objective();
    let n_layers = model.config().n_layers;
    if let Some(losses) = &routers {
        root = root + losses.objective(weights, n_layers);
        let sums = [("load_balancing", &losses.load_balancing), ("router_z", &losses.z)];
        for (of, sum) in sums {
            differences.add(&format!("{name} {of}"), sum.clone(), &file.data(of));
        }
    }
    let root = root / labels.count() as f64;
    let loss = file.data(&format!("loss{suffix}"));
    differences.add(&format!("{name} loss{suffix}"), root.clone(), &loss);
    let mut values = sums.into_values();
    if let Some(losses) = routers {
        values.add_routers(losses, weights, n_layers);
    }
    let found = Tensor::<1>::from_data([values.objective / labels.count() as f64], &Device::flex());
    differences.add(&format!("{name} loss{suffix} as reported"), found, &loss);
    let mut gradients = root.backward();
    let placement = model.config().norm_placement;
    let mut n = 0;
    walk::take_gradients(&leaves, &mut gradients, |path, gradient| {
        let key = format!("grad{suffix}.{}", key(path, placement));
        differences.add(&format!("{name} {key}"), gradient, &file.data(&key));
        n += 1;
    });
    assert_eq!(n, model.config().parameters().len(), "{name}: a gradient is missing");
    if let FeedForwardConfig::Experts { top_k, n_experts, .. } = model.config().feed_forward {
        // Each of 32 tokens is somewhere top_k times in every layer.
        let sums: Vec<u64> = values.expert_tokens.iter().map(|layer| layer.iter().sum()).collect();
        assert_eq!(sums, vec![32 * top_k as u64; n_layers]);
        let imbalance = values.load_imbalance().expect("there are experts");
        assert!(imbalance > 1.0 && imbalance <= n_experts as f64, "{imbalance}");
    }
}

const PREFIX: &str = "blocks.0.feed_forward.";

fn mixture(file: &Vectors) -> MixtureOfExperts {
    match model_with(file, &model_config(&file.config), PREFIX).blocks.remove(0).feed_forward {
        BlockFeedForward::Experts(layer) => layer,
        BlockFeedForward::Swiglu(_) => panic!("the vectors are of a mixture"),
    }
}

fn parameter_name(path: &str) -> String {
    name(&format!("{PREFIX}{path}"), PREFIX, crate::config::NormPlacement::Before)
}

/// Experts whose gradients the reference says are zero.
fn unused_experts(file: &Vectors) -> Vec<&str> {
    let of = |name: &&String| name.starts_with("grad.experts.") && name.ends_with("up_proj.weight");
    let names = file.tensors.keys().filter(of);
    names.filter(|name| file.values(name).iter().all(|x| *x == 0.0)).map(String::as_str).collect()
}
