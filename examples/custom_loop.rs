//! A training loop by hand: micro-batches, gradients by path, clipping, AdamW, a schedule.
//!
//! Run: `cargo run --example custom_loop`

use burn::tensor::Device;
use olmo_model::{InitConfig, Labels, Role, Transformer, presets};
use olmo_optim::{
    AdamW, AdamWConfig, GroupRules, Optimizer, ParamGroups, ParamKind, Schedule, UpdateOptions,
    clip_coefficient, global_norm,
};
use olmo_train::step::{Gradients, StepOptions, micro_batch};

const STEPS: u64 = 40;
const SEQ: usize = 16;
const MICRO_BATCHES: usize = 2;

fn main() -> anyhow::Result<()> {
    let config = presets::small_olmo2(32, 2, 4, 64);
    let mut model = Transformer::init(&config, &InitConfig::default(), 0, &Device::flex())?;

    let settings = AdamWConfig::default();
    let mut optimizer = AdamW::new(&settings)?;
    let kinds = config.parameters().into_iter().map(|parameter| {
        let kind = match parameter.role {
            Role::Embedding => ParamKind::Embedding,
            Role::Norm => ParamKind::Norm,
            _ => ParamKind::Linear,
        };
        (parameter.path, kind)
    });
    let groups = ParamGroups::new(kinds, GroupRules::default(), settings.weight_decay)?;
    let schedule = Schedule::cosine_with_warmup(4);

    for step in 1..=STEPS {
        let batches: Vec<_> = (0..MICRO_BATCHES as u64).map(|i| counting(2 * step + i)).collect();
        let labels: Vec<_> = batches.iter().map(|batch| Labels::next_token(batch, SEQ)).collect();
        let n_labels: usize = labels.iter().map(Labels::count).sum();

        // Losses are sums; the divisor is of the whole batch, so micro-batches just add up.
        let options = StepOptions { loss_scale: 1.0 / n_labels as f64, ..StepOptions::default() };
        let mut gradients = Gradients::new();
        let mut loss = 0.0;
        for (tokens, labels) in batches.iter().zip(&labels) {
            let sums = micro_batch(&model, tokens, SEQ, labels, &options, &mut gradients);
            loss += sums.cross_entropy / n_labels as f64;
        }

        let norm = global_norm(gradients.iter().map(|(_, gradient)| gradient))?.value();
        let (lr, grad_scale) = (schedule.at(1e-2, step, STEPS), clip_coefficient(norm, 1.0));
        model = model.map_parameters(|path, weight| {
            let Some(gradient) = gradients.take(path) else { return Ok(weight) };
            let weight_decay = groups.weight_decay(path).unwrap_or(0.0);
            let options = UpdateOptions { lr, weight_decay, grad_scale };
            optimizer.update(path, weight, gradient, &options)
        })?;
        if step == 1 || step.is_multiple_of(10) {
            println!("step {step:>2}  loss {loss:.3}  norm {norm:.3}  lr {lr:.1e}");
        }
    }
    Ok(())
}

/// Two rows of tokens that count upward modulo 64, each from a place of its own.
fn counting(seed: u64) -> Vec<u32> {
    let row = |start: u64| (start..start + SEQ as u64).map(|i| (i % 64) as u32);
    row(seed * 13).chain(row(seed * 29 + 7)).collect()
}
