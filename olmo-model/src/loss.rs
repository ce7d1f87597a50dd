//! The language-model loss: summed cross-entropy and z-loss over labelled tokens, in f32.
//!
//! Sums and counts are returned rather than a mean, so that micro-batches and ranks add up to the
//! loss of the whole batch, whatever their sizes. OLMo's original trainer divides by all positions,
//! OLMo-core by the labelled ones; which divisor is right is the objective's decision, not ours.

use burn::tensor::{DType, Device, Int, Tensor};

use crate::integers::integers;
use crate::kernels;
use crate::linear::{Linear, Matrix};
use crate::moe::{RouterLosses, RouterWeights};
use crate::rope::Positions;
use crate::transformer::{LmHead, Transformer};

/// The label of a token that has none, as in PyTorch.
pub const IGNORE_INDEX: i64 = -100;

/// For each token the id that should follow it, or none.
#[derive(Debug, Clone)]
pub struct Labels {
    ids: Vec<i64>,
    count: usize,
}

/// Sums over the labelled tokens of a batch, still on the device.
#[derive(Debug, Clone)]
pub struct LossSums(Tensor<1>);

/// Sums over the labelled tokens of a batch, in nats.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LossValues {
    /// `cross_entropy + z_loss * squared_lse`, and the routers' losses by their weights: what the
    /// gradient is of.
    pub objective: f64,
    /// Summed cross-entropy.
    pub cross_entropy: f64,
    /// Summed square of the log of the softmax's denominator.
    pub squared_lse: f64,
    /// Load-balancing losses of the routers, summed over tokens and layers.
    pub load_balancing: f64,
    /// Z-losses of the routers, likewise.
    pub router_z: f64,
    /// How many tokens each expert has, for each layer, in the order in which layers were added.
    pub expert_tokens: Vec<Vec<u64>>,
}

impl Labels {
    /// Each row's own tokens shifted by one; the last of a row has no label.
    ///
    /// `tokens` is row-major `[batch, seq]`.
    pub fn next_token(tokens: &[u32], seq: usize) -> Self {
        Self::new(tokens.chunks(seq.max(1)).flat_map(|row| {
            let next = row.iter().skip(1).map(|&id| i64::from(id));
            next.chain([IGNORE_INDEX]).take(row.len())
        }))
    }

    /// Labels as given, row-major; negative where a token has none.
    pub fn new(ids: impl IntoIterator<Item = i64>) -> Self {
        let ids: Vec<i64> = ids.into_iter().collect();
        let count = ids.iter().filter(|id| **id >= 0).count();
        Self { ids, count }
    }

    /// Tokens that have a label.
    pub fn count(&self) -> usize {
        self.count
    }

    fn tensor(&self, device: &Device) -> Tensor<1, Int> {
        integers(self.ids.iter().map(|&id| id.max(-1)), [self.ids.len()], device)
    }
}

impl LossSums {
    /// The scalar to differentiate, `[1]`.
    pub fn objective(&self) -> Tensor<1> {
        self.0.clone().narrow(0, 0, 1)
    }

    /// Reads the sums; waits for the device.
    pub fn into_values(self) -> LossValues {
        let sums: Vec<f32> = self.0.into_data().iter::<f32>().collect();
        let at = |i: usize| sums.get(i).copied().map_or(f64::NAN, f64::from);
        let (objective, cross_entropy, squared_lse) = (at(0), at(1), at(2));
        LossValues { objective, cross_entropy, squared_lse, ..LossValues::default() }
    }
}

impl LossValues {
    /// Adds what the routers of some layers of a model of `n_layers` lose; waits for the device.
    pub fn add_routers(&mut self, losses: RouterLosses, weights: RouterWeights, n_layers: usize) {
        let value = |x: Tensor<1>| x.into_data().iter::<f32>().next().map_or(f64::NAN, f64::from);
        let (load_balancing, z) = (value(losses.load_balancing), value(losses.z));
        let weights = weights.per_layer(n_layers);
        self.objective += weights.load_balancing * load_balancing + weights.z * z;
        self.load_balancing += load_balancing;
        self.router_z += z;
        self.expert_tokens.extend(losses.expert_tokens);
    }

    /// Tokens of the busiest expert over those of the mean one, in the layer where that is most;
    /// `None` without experts.
    pub fn load_imbalance(&self) -> Option<f64> {
        let of_layer = |tokens: &Vec<u64>| {
            let (most, all) = (tokens.iter().max()?, tokens.iter().sum::<u64>());
            Some(*most as f64 * tokens.len() as f64 / all as f64)
        };
        self.expert_tokens.iter().filter_map(of_layer).reduce(f64::max)
    }
}

impl std::ops::AddAssign for LossValues {
    fn add_assign(&mut self, other: Self) {
        self.objective += other.objective;
        self.cross_entropy += other.cross_entropy;
        self.squared_lse += other.squared_lse;
        self.load_balancing += other.load_balancing;
        self.router_z += other.router_z;
        if self.expert_tokens.is_empty() {
            self.expert_tokens = other.expert_tokens;
            return;
        }
        for (sums, layer) in self.expert_tokens.iter_mut().zip(other.expert_tokens) {
            for (sum, tokens) in sums.iter_mut().zip(layer) {
                *sum += tokens;
            }
        }
    }
}

impl LmHead {
    /// Loss of the last block's output against `labels`.
    ///
    /// `output_weight` is `w_out`, or the embedding matrix where weights are tied.
    ///
    /// # Shapes
    ///
    /// - `hidden`: `[batch, seq, d_model]`, with `batch * seq` labels
    ///
    /// # Panics
    ///
    /// When there are more or fewer labels.
    pub fn loss(
        &self,
        hidden: Tensor<3>,
        output_weight: Tensor<2>,
        labels: &Labels,
        z_loss: f64,
    ) -> LossSums {
        let [batch, seq, d_model] = hidden.dims();
        assert_eq!(labels.ids.len(), batch * seq, "labels for {batch} rows of {seq} tokens");
        let x = self.norm.forward(hidden).reshape([batch * seq, d_model]);
        let labels = labels.tensor(&x.device());
        LossSums(kernels::cross_entropy(x, output_weight, labels, z_loss))
    }

    /// As [`loss`](Self::loss) for an output projection that is no parameter: without gradients.
    fn loss_to_read(
        &self,
        hidden: Tensor<3>,
        output: &Matrix,
        labels: &Labels,
        z_loss: f64,
    ) -> LossSums {
        let [batch, seq, d_model] = hidden.dims();
        let n = batch * seq;
        assert_eq!(labels.ids.len(), n, "labels for {batch} rows of {seq} tokens");
        let x = hidden.reshape([1, n, d_model]);
        let labels = labels.tensor(&x.device());
        let mut sums = Tensor::zeros([3], (&x.device(), DType::F32));
        for range in kernels::loss_chunks(n, output.shape()[0]) {
            let x = x.clone().slice([0..1, range.clone(), 0..d_model]);
            let logits = output.apply(x, Some(&self.norm));
            let [_, n, vocab_size] = logits.dims();
            let logits = logits.reshape([n, vocab_size]);
            sums = sums + kernels::token_losses(logits, labels.clone().slice([range]), z_loss);
        }
        LossSums(sums)
    }

    /// The weight of the output projection, unless it is the embedding matrix.
    pub fn own_output_weight(&self) -> Option<Tensor<2>> {
        self.w_out.as_ref().map(|Linear { weight }| weight.val())
    }
}

impl Transformer {
    /// Loss of `tokens` against `labels` through one graph, without a cache.
    ///
    /// # Shapes
    ///
    /// - `tokens`: `[batch, seq]`, with `batch * seq` labels
    ///
    /// # Panics
    ///
    /// When there are more or fewer labels, or a token or label is not below `vocab_size`.
    pub fn loss(&self, tokens: Tensor<2, Int>, labels: &Labels, z_loss: f64) -> LossSums {
        let hidden = self.hidden(tokens, None).expect("only a cache can be too short");
        self.loss_of_hidden(hidden, labels, z_loss)
    }

    fn loss_of_hidden(&self, hidden: Tensor<3>, labels: &Labels, z_loss: f64) -> LossSums {
        match self.output() {
            Matrix::Dense(weight) => self.lm_head.loss(hidden, weight.val(), labels, z_loss),
            output @ Matrix::Packed(_) => self.lm_head.loss_to_read(hidden, output, labels, z_loss),
        }
    }

    /// As [`loss`](Self::loss), with the losses of the routers summed over the layers, where there
    /// are routers.
    ///
    /// # Panics
    ///
    /// As [`loss`](Self::loss).
    pub fn loss_with_routers(
        &self,
        tokens: Tensor<2, Int>,
        labels: &Labels,
        z_loss: f64,
    ) -> (LossSums, Option<RouterLosses>) {
        let [_, seq] = tokens.dims();
        let positions = Positions::new(self.config(), 0..seq, &tokens.device());
        let mut x = self.embeddings.forward(tokens);
        let mut routers: Option<RouterLosses> = None;
        for block in &self.blocks {
            let (y, losses) = block.forward_with_losses(x, &positions);
            x = y;
            routers = match (routers, losses) {
                (Some(sum), Some(more)) => Some(sum.plus(more)),
                (sum, more) => sum.or(more),
            };
        }
        (self.loss_of_hidden(x, labels, z_loss), routers)
    }
}
