//! What a mixture of experts costs as experts are added and each token still goes to as many:
//! `cargo run --release -p olmo-model --example experts_cost`.

use std::io::Write;
use std::time::Instant;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use olmo_model::config::FeedForwardConfig;
use olmo_model::{InitConfig, Transformer, presets, walk};

const N_TOKENS: usize = 1024;
const D_MODEL: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let values: Vec<f32> =
        (0..N_TOKENS * D_MODEL).map(|i| ((i * 7919 % 1013) as f32 / 1013.0) - 0.5).collect();
    let x = || TensorData::new(values.clone(), [1, N_TOKENS, D_MODEL]);
    for n_experts in [2, 8, 32, 64] {
        let mut config = presets::small_olmoe(D_MODEL, 1, 8, 64, n_experts, 2);
        config.feed_forward = FeedForwardConfig::Experts {
            hidden_size: 1024,
            n_experts,
            top_k: 2,
            normalize_top_k: false,
        };
        let model = Transformer::init(&config, &InitConfig::default(), 0, &device)?;
        let layer = &model.blocks[0].feed_forward;
        let (mut forward, mut both) = (f64::MAX, f64::MAX);
        for _ in 0..5 {
            let input: Tensor<3> = Tensor::from_data(x(), &device);
            let start = Instant::now();
            let y = layer.forward(input);
            std::hint::black_box(y.into_data());
            forward = forward.min(start.elapsed().as_secs_f64());

            let leaves = walk::leaves(layer, FloatDType::F32);
            let input: Tensor<3> = Tensor::from_data(x(), &device.clone().autodiff());
            let input = input.require_grad();
            let start = Instant::now();
            let gradients = leaves.forward(input.clone()).sum().backward();
            std::hint::black_box(input.grad(&gradients));
            both = both.min(start.elapsed().as_secs_f64());
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{n_experts} experts: forward {forward:.4} s, and backward {both:.4} s")?;
    }
    Ok(())
}
