//! The chain of segments gives the gradients of burn's full graph, to the last bit.

use std::collections::BTreeMap;

use burn::tensor::{Device, FloatDType, Tensor};
use olmo_model::{InitConfig, Labels, RouterWeights, Transformer, token_tensor, walk};
use olmo_tests::small_models;
use olmo_train::step::{
    ActivationCosts, Activations, Gradients, Precision, StepOptions, micro_batch,
};

const SEQ: usize = 24;
const BATCH: usize = 3;

fn tokens(vocab: usize) -> Vec<u32> {
    (0..BATCH * SEQ).map(|i| (i * i * 31 + i * 7 + 3) as u32 % vocab as u32).collect()
}

fn bits(gradients: &Gradients) -> BTreeMap<String, Vec<u32>> {
    let bits = |sum: &Tensor<1>| sum.to_data().iter::<f32>().map(f32::to_bits).collect();
    gradients.iter().map(|(path, sum)| (path.to_owned(), bits(sum))).collect()
}

fn full_graph(
    model: &Transformer,
    tokens: &[u32],
    labels: &Labels,
    z: f64,
    scale: f64,
) -> Gradients {
    let leaves = walk::leaves(model, FloatDType::F32);
    let ids = token_tensor(tokens, [BATCH, SEQ], &model.device());
    let (sums, routers) = leaves.loss_with_routers(ids, labels, z);
    let mut root = sums.objective() * scale;
    if let Some(losses) = routers {
        let weights = options(Activations::Keep, Precision::F32).routers;
        root = root + losses.objective(weights, model.blocks.len()) * scale;
    }
    let mut graph = root.backward();
    let mut gradients = Gradients::new();
    walk::take_gradients(&leaves, &mut graph, |path, gradient| gradients.add(path, gradient));
    gradients
}

fn options(activations: Activations, precision: Precision) -> StepOptions {
    let routers = RouterWeights { load_balancing: 0.3, z: 0.02 };
    StepOptions { precision, activations, z_loss: 1e-3, routers, loss_scale: 1.0 / 64.0 }
}

#[test]
fn chain_equals_the_full_graph_bitwise() {
    for (name, config) in small_models() {
        let model = Transformer::init(&config, &InitConfig::default(), 3, &Device::flex())
            .expect("a sound config");
        let tokens = tokens(config.vocab_size);
        let labels = Labels::next_token(&tokens, SEQ);
        let expected = full_graph(&model, &tokens, &labels, 1e-3, 1.0 / 64.0);
        assert_eq!(bits(&expected).len(), config.parameters().len(), "{name}: one per parameter");
        let all =
            ActivationCosts::new(&config, BATCH * SEQ, Precision::F32).bytes(Activations::Keep);
        for activations in [
            Activations::Keep,
            Activations::Recompute,
            Activations::RecomputeEvery(2),
            Activations::KeepEvery(2),
            Activations::KeepLast(1),
            Activations::Budget(all * 2 / 3),
        ] {
            let mut found = Gradients::new();
            let options = options(activations, Precision::F32);
            micro_batch(&model, &tokens, SEQ, &labels, &options, &mut found);
            let (found, expected) = (bits(&found), bits(&expected));
            for (path, expected) in &expected {
                assert_eq!(&found[path], expected, "{name}, {activations:?}: {path}");
            }
        }
    }
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    for (name, config) in small_models() {
        let model = Transformer::init(&config, &InitConfig::default(), 3, &Device::flex())
            .expect("a sound config");
        let tokens = tokens(config.vocab_size);
        let mut options = options(Activations::Keep, Precision::F32);
        // How balanced a batch is depends on what is in it; every other loss is a sum over tokens.
        options.routers.load_balancing = 0.0;
        let run = |rows: usize| {
            let mut gradients = Gradients::new();
            let mut loss = 0.0;
            for part in tokens.chunks(rows * SEQ) {
                let labels = Labels::next_token(part, SEQ);
                let sums = micro_batch(&model, part, SEQ, &labels, &options, &mut gradients);
                loss += sums.cross_entropy;
            }
            (loss, gradients)
        };
        let (whole_loss, whole) = run(BATCH);
        let (parts_loss, parts) = run(1);
        assert!((whole_loss - parts_loss).abs() < 1e-6 * whole_loss, "{name}");
        for ((path, whole), (_, parts)) in whole.iter().zip(parts.iter()) {
            let values = |sum: &Tensor<1>| sum.to_data().iter::<f32>().collect::<Vec<_>>();
            let difference = olmo_tests::relative_difference(&values(parts), &values(whole));
            assert!(difference < 2e-6, "{name}: {path} differs by {difference:e}");
        }
    }
}

#[test]
fn bf16_follows_f32_and_recomputes_to_the_same_bits() {
    for (name, config) in small_models() {
        let model = Transformer::init(&config, &InitConfig::default(), 3, &Device::flex())
            .expect("a sound config");
        let tokens = tokens(config.vocab_size);
        let labels = Labels::next_token(&tokens, SEQ);
        let run = |activations, precision| {
            let mut gradients = Gradients::new();
            let options = options(activations, precision);
            let losses = micro_batch(&model, &tokens, SEQ, &labels, &options, &mut gradients);
            (losses.cross_entropy, gradients)
        };
        let (exact, reference) = run(Activations::Keep, Precision::F32);
        let (kept_loss, kept) = run(Activations::Keep, Precision::AmpBf16);
        for activations in [Activations::Recompute, Activations::RecomputeEvery(2)] {
            let (_, recomputed) = run(activations, Precision::AmpBf16);
            assert_eq!(bits(&kept), bits(&recomputed), "{name}, {activations:?}");
        }
        assert!((kept_loss / exact - 1.0).abs() < 1e-3, "{name}: {kept_loss} for {exact}");
        for ((path, found), (_, expected)) in kept.iter().zip(reference.iter()) {
            let values = |sum: &Tensor<1>| sum.to_data().iter::<f32>().collect::<Vec<_>>();
            let (found, expected) = (values(found), values(expected));
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let cosine =
                dot(&found, &expected) / (dot(&found, &found) * dot(&expected, &expected)).sqrt();
            assert!(cosine > 0.999, "{name}: {path} points elsewhere, cosine {cosine}");
        }
    }
}
