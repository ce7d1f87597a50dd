//! The gradients of a whole batch, micro-batch by micro-batch.

use olmo_data::Batch;
use olmo_model::{LossValues, Transformer};

use super::{Gradients, StepOptions, micro_batch};
use crate::config::TrainConfig;
use crate::data::micro_batches;

/// Summed losses of a batch, what they are divided by, and the gradients of the divided objective.
pub(crate) fn batch_gradients(
    config: &TrainConfig,
    model: &Transformer,
    batch: &Batch,
) -> (LossValues, f64, Gradients) {
    let seq = batch.seq_len;
    // As many tokens where instances are shorter than the longest.
    let micro_tokens = config.device_train_microbatch_size * config.data.sequence_length;
    let micro_batches = micro_batches(batch, micro_tokens);
    let n_labels = micro_batches.iter().map(|(_, labels)| labels.count()).sum();
    let divisor = config.loss_divisor(n_labels, batch);
    let options = StepOptions {
        precision: config.precision,
        activations: config.activations,
        z_loss: config.z_loss_factor(),
        routers: config.router_weights(),
        loss_scale: 1.0 / divisor,
    };
    let mut gradients = Gradients::new();
    let mut total = LossValues::default();
    for (tokens, labels) in &micro_batches {
        total += micro_batch(model, tokens, seq, labels, &options, &mut gradients);
    }
    (total, divisor, gradients)
}
