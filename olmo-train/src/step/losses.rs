//! The forward pass alone, in the precision of a step: what rows of tokens cost.

use burn::module::Module as _;
use olmo_model::{Labels, LossSums, Positions, Transformer, token_tensor, walk};

use super::Precision;
use super::head::Head;

/// The summed cross-entropy in nats of each row of `tokens`, row-major `[batch, seq]`, of which all
/// tokens but the first count. `model` is on a device without autodiff and holds the f32 master weights.
///
/// # Panics
///
/// When `tokens` are not whole rows of `seq`.
pub(crate) fn row_losses(
    model: &Transformer,
    tokens: &[u32],
    seq: usize,
    precision: Precision,
) -> Vec<f64> {
    let (device, dtype) = (model.device(), precision.dtype());
    let positions = Positions::new(model.config(), 0..seq, &device);
    let ids = token_tensor(tokens, [tokens.len() / seq, seq], &device);
    let mut x = model.embeddings.forward(ids).cast(dtype);
    for block in &model.blocks {
        x = walk::leaves(block, dtype).valid().forward(x, &positions, None);
    }
    let head = Head::leaves(model, dtype).valid();
    let weight = head.weight();
    let rows = tokens.chunks(seq).enumerate().map(|(row, tokens)| {
        let labels = Labels::next_token(tokens, seq);
        head.head.loss(x.clone().narrow(0, row, 1), weight.clone(), &labels, 0.0)
    });
    // All are on their way before the first is waited for.
    let sums: Vec<LossSums> = rows.collect();
    sums.into_iter().map(|sums| sums.into_values().cross_entropy).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use olmo_model::{InitConfig, presets};

    use super::*;
    use crate::step::{Gradients, StepOptions, micro_batch};

    #[test]
    fn rows_cost_what_they_cost_in_a_step_of_the_same_precision() {
        let tokens: Vec<u32> = (0..3 * 8).map(|i| i * i * 7 % 61).collect();
        let device = Device::flex();
        for (tied, precision) in [
            (false, Precision::F32),
            (true, Precision::F32),
            (false, Precision::AmpBf16),
            (true, Precision::AmpBf16),
        ] {
            let mut config = presets::small_olmo2(32, 2, 4, 64);
            config.weight_tying = tied;
            let model =
                Transformer::init(&config, &InitConfig::default(), 1, &device).expect("sound");
            let rows = row_losses(&model, &tokens, 8, precision);
            for (row, tokens) in tokens.chunks(8).enumerate() {
                let labels = Labels::next_token(tokens, 8);
                let options = StepOptions { precision, loss_scale: 1.0, ..StepOptions::default() };
                let of_step =
                    micro_batch(&model, tokens, 8, &labels, &options, &mut Gradients::new());
                let off = (rows[row] - of_step.cross_entropy).abs();
                assert!(off <= 1e-6 * of_step.cross_entropy, "{tied} {precision:?} {row}: {off:e}");
            }
        }
        let [f32, bf16] = [Precision::F32, Precision::AmpBf16].map(|precision| {
            let config = presets::small_olmo2(32, 2, 4, 64);
            let model =
                Transformer::init(&config, &InitConfig::default(), 1, &device).expect("sound");
            row_losses(&model, &tokens, 8, precision)
        });
        let differs = f32.iter().zip(&bf16).any(|(a, b)| (a - b).abs() > 1e-4);
        assert!(differs, "the precision is that of the run");
    }
}
