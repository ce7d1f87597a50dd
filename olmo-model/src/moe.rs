//! A mixture of experts: a router sends each token to some of many SwiGLU layers.
//!
//! `p = softmax(router x)` in f32 over all experts; the `top_k` largest are chosen, ties to the lower
//! expert; their weights are `p`, divided by their sum where the configuration says so, cast to the
//! dtype of `x`; the output is the sum of the chosen experts' outputs by these weights, added in the
//! order of the experts. This is `OlmoeSparseMoeBlock` of `transformers`, where a tie, which bf16 logits
//! do have, goes as `torch.topk` happens to sort on that machine. OLMo-core computes the
//! router's logits in f32 where weights are bf16; here, as in `transformers`, they have `x`'s dtype.
//!
//! Work is grouped: the tokens of an expert are rows next to one another and go through it in one
//! piece. The probabilities are read by the host once a layer, which sorts tokens by expert. An
//! expert that no token is sent to costs nothing.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};

use crate::feed_forward::FeedForward;
use crate::integers::integers;
use crate::kernels::{self, RowMap};
use crate::linear::{Linear, Matrix};

/// The feed-forward half of a block, where it is made of experts.
#[derive(Module, Debug)]
pub struct MixtureOfExperts {
    /// The experts.
    pub experts: Vec<FeedForward>,
    /// Scores of the experts, `[n_experts, d_model]`.
    pub router: Linear,
    #[module(skip)]
    pub(crate) top_k: usize,
    #[module(skip)]
    pub(crate) normalize_top_k: bool,
}

/// What is added to the loss to keep a router balanced and its logits small; each `[1]` in f32, and
/// summed over tokens. OLMo-core's `load_balancing_loss` (of the local batch) and `router_z_loss`,
/// with a divisor of 1.
#[derive(Debug, Clone)]
pub struct RouterLosses {
    /// `n_experts / top_k * sum over experts of (tokens sent there * mean probability)`.
    pub load_balancing: Tensor<1>,
    /// `logsumexp(logits)²`, summed over tokens.
    pub z: Tensor<1>,
    /// How many tokens each expert has, for each layer.
    pub expert_tokens: Vec<Vec<u64>>,
}

/// The factors of the routers' losses in the objective; zero for none.
///
/// Each is of the mean over tokens and layers, OLMo-core's `lb_loss_weight` and `z_loss_weight` with
/// `scale_loss_by_num_layers`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RouterWeights {
    /// Of the load-balancing loss; OLMoE was trained with 0.01.
    pub load_balancing: f64,
    /// Of the z-loss; OLMoE was trained with 0.001.
    pub z: f64,
}

/// Where the tokens of a call go.
struct Routing {
    /// `logsumexp` of the router's output, `[n_tokens, 1]` in f32.
    lse: Tensor<2>,
    /// Softmax of the router's output, `[n_tokens, n_experts]` in f32.
    probabilities: Tensor<2>,
    chosen: Chosen,
}

/// The experts of each token, and the tokens of each expert.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    /// `top_k` experts for each token, in their order.
    experts: Vec<i32>,
    /// How many tokens each expert has.
    counts: Vec<usize>,
    /// The token of each row, rows being sorted by expert.
    tokens: Vec<i32>,
    /// Where each row stands in `experts`.
    slots: Vec<i32>,
    /// The row of each entry of `experts`.
    rows: Vec<i32>,
}

impl MixtureOfExperts {
    /// Applies the layer to each token.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, seq, d_model]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let routing = self.route(&x);
        self.mix(x, &routing)
    }

    /// As [`forward`](Self::forward), with the losses of the router.
    pub fn forward_with_losses(&self, x: Tensor<3>) -> (Tensor<3>, RouterLosses) {
        let routing = self.route(&x);
        let losses = routing.losses(self.top_k);
        (self.mix(x, &routing), losses)
    }

    fn route(&self, x: &Tensor<3>) -> Routing {
        let ([batch, seq, _], n_experts) = (x.dims(), self.experts.len());
        let logits = self.router.forward(x.clone()).cast(FloatDType::F32);
        let logits = logits.reshape([batch * seq, n_experts]);
        let (exponentials, sum, max) = exponentials(&logits);
        let lse = sum.clone().log() + max;
        let probabilities = exponentials / sum;
        let values: Vec<f32> = probabilities.to_data().iter::<f32>().collect();
        let chosen = Chosen::new(&values, n_experts, self.top_k);
        Routing { lse, probabilities, chosen }
    }

    fn mix(&self, x: Tensor<3>, routing: &Routing) -> Tensor<3> {
        let (shape, dtype, device) = (x.dims(), x.dtype(), x.device());
        let [batch, seq, d_model] = shape;
        let n_tokens = batch * seq;
        let chosen = &routing.chosen;
        let map = chosen.row_map(self.top_k, &device);

        let experts = indices(&chosen.experts, &device).reshape([n_tokens, self.top_k]);
        let mut weights = routing.probabilities.clone().gather(1, experts);
        if self.normalize_top_k {
            weights = weights.clone() / weights.sum_dim(1);
        }
        let weights = weights.cast(dtype).reshape([n_tokens * self.top_k, 1]);
        let weights = weights.select(0, indices(&chosen.slots, &device));

        let x = x.reshape([n_tokens, d_model]);
        let rows = if x.is_autodiff() {
            self.replace_rows(kernels::take_rows(x, &map), &chosen.counts)
        } else {
            self.join_rows(x, &map, &chosen.counts)
        };
        kernels::sum_rows(rows * weights, &map).reshape(shape)
    }

    /// The rows of every expert, `[n_rows, d_model]`, replaced by its outputs.
    ///
    /// One tensor passes through all experts, and so does its gradient: parts of it would each have
    /// a gradient as large as the whole.
    fn replace_rows(&self, rows: Tensor<2>, counts: &[usize]) -> Tensor<2> {
        self.busy(counts).fold(rows, |rows, (FeedForward { w1, w2, w3 }, range)| {
            let weights = [&w1.weight, &w2.weight, &w3.weight].map(Matrix::val);
            kernels::expert(rows, weights, range)
        })
    }

    /// The outputs of every expert for its rows, side by side; `x` is `[n_tokens, d_model]`.
    fn join_rows(&self, x: Tensor<2>, map: &RowMap, counts: &[usize]) -> Tensor<2> {
        let [_, d_model] = x.dims();
        let outputs = self.busy(counts).map(|(expert, range)| {
            let n_rows = range.len();
            let tokens = map.token_of_row.clone().slice([range]);
            let x = x.clone().select(0, tokens).reshape([1, n_rows, d_model]);
            expert.forward(x).reshape([n_rows, d_model])
        });
        Tensor::cat(outputs.collect(), 0)
    }

    /// The experts that have tokens, with the rows of each.
    fn busy(&self, counts: &[usize]) -> impl Iterator<Item = (&FeedForward, Range<usize>)> {
        let mut end = 0;
        let ranges = counts.iter().map(move |count| {
            end += count;
            end - count..end
        });
        self.experts.iter().zip(ranges).filter(|(_, range)| !range.is_empty())
    }
}

impl Routing {
    fn losses(&self, top_k: usize) -> RouterLosses {
        let [_, n_experts] = self.probabilities.dims();
        let counts: Vec<f32> = self.chosen.counts.iter().map(|&count| count as f32).collect();
        let device = self.probabilities.device();
        let counts = Tensor::<2>::from_data(TensorData::new(counts, [1, n_experts]), &device);
        let mean = self.probabilities.clone().mean_dim(0);
        let load_balancing = (counts * mean).sum() * (n_experts as f64 / top_k as f64);
        let z = (self.lse.clone() * self.lse.clone()).sum();
        let of_layer = self.chosen.counts.iter().map(|&count| count as u64).collect();
        RouterLosses { load_balancing, z, expert_tokens: vec![of_layer] }
    }
}

impl RouterLosses {
    /// The sums of two layers.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.expert_tokens.extend(other.expert_tokens);
        self.load_balancing = self.load_balancing + other.load_balancing;
        self.z = self.z + other.z;
        self
    }

    /// What is added to the summed loss of a model of `n_layers`, `[1]`.
    pub fn objective(&self, weights: RouterWeights, n_layers: usize) -> Tensor<1> {
        let RouterWeights { load_balancing, z } = weights.per_layer(n_layers);
        self.load_balancing.clone() * load_balancing + self.z.clone() * z
    }
}

impl RouterWeights {
    /// Whether neither loss counts.
    pub fn are_zero(self) -> bool {
        self.load_balancing == 0.0 && self.z == 0.0
    }

    /// The factors of one layer's losses.
    #[must_use]
    pub fn per_layer(self, n_layers: usize) -> Self {
        let n_layers = n_layers as f64;
        Self { load_balancing: self.load_balancing / n_layers, z: self.z / n_layers }
    }
}

impl Chosen {
    /// Chooses from `probabilities`, row-major `[n_tokens, n_experts]`.
    fn new(probabilities: &[f32], n_experts: usize, top_k: usize) -> Self {
        let mut experts = Vec::with_capacity(probabilities.len() / n_experts * top_k);
        let mut counts = vec![0; n_experts];
        let mut order: Vec<usize> = Vec::new();
        for token in probabilities.chunks_exact(n_experts) {
            order.clear();
            order.extend(0..n_experts);
            let larger_first =
                |a: &usize, b: &usize| token[*b].total_cmp(&token[*a]).then(a.cmp(b));
            if top_k < n_experts {
                order.select_nth_unstable_by(top_k, larger_first);
            }
            order.truncate(top_k);
            order.sort_unstable();
            for &expert in &order {
                counts[expert] += 1;
                experts.push(expert as i32);
            }
        }
        Self::sorted(experts, counts, top_k)
    }

    /// Rows by expert, and within an expert by token.
    fn sorted(experts: Vec<i32>, counts: Vec<usize>, top_k: usize) -> Self {
        let mut next = vec![0; counts.len()];
        for expert in 1..counts.len() {
            next[expert] = next[expert - 1] + counts[expert - 1];
        }
        let (mut tokens, mut slots) = (vec![0; experts.len()], vec![0; experts.len()]);
        let rows = experts.iter().enumerate().map(|(slot, &expert)| {
            let row = next[expert as usize];
            next[expert as usize] += 1;
            tokens[row] = (slot / top_k) as i32;
            slots[row] = slot as i32;
            row as i32
        });
        let rows = rows.collect();
        Self { experts, counts, tokens, slots, rows }
    }

    fn row_map(&self, top_k: usize, device: &Device) -> RowMap {
        RowMap {
            token_of_row: indices(&self.tokens, device),
            rows_of_token: indices(&self.rows, device),
            rows_per_token: top_k,
        }
    }
}

/// `e^(x - max)` for each row, their sum, and `max`. Composed, so that a graph changes no bit.
fn exponentials(logits: &Tensor<2>) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    let max = logits.clone().detach().max_dim(1);
    let exponentials = (logits.clone() - max.clone()).exp();
    let sum = exponentials.clone().sum_dim(1);
    (exponentials, sum, max)
}

fn indices(values: &[i32], device: &Device) -> Tensor<1, Int> {
    integers(values.iter().map(|&x| i64::from(x)), [values.len()], device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_sorted_by_expert() {
        let probabilities = [0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1, 0.4, 0.1, 0.1, 0.4];
        let chosen = Chosen::new(&probabilities, 4, 2);
        let expected = Chosen {
            experts: vec![2, 3, 0, 1, 0, 3],
            counts: vec![2, 1, 1, 2],
            tokens: vec![1, 2, 1, 0, 0, 2],
            slots: vec![2, 4, 3, 0, 1, 5],
            rows: vec![3, 4, 0, 2, 1, 5],
        };
        assert_eq!(chosen, expected);
    }

    #[test]
    fn ties_go_to_the_lower_expert_and_all_may_be_chosen() {
        let tied = Chosen::new(&[0.25; 4], 4, 2);
        assert_eq!(tied.experts, [0, 1]);
        let all = Chosen::new(&[0.1, 0.9], 2, 2);
        assert_eq!((all.experts, all.counts), (vec![0, 1], vec![1, 1]));
        // Damaged weights give damaged logits, which are found where they are used.
        assert_eq!(Chosen::new(&[f32::NAN; 3], 3, 1).counts.iter().sum::<usize>(), 1);
    }
}
