//! Forward and backward pass of one micro-batch, segment by segment.

use burn::module::Module;
use burn::tensor::{FloatDType, Int, Tensor};

use olmo_model::backward::seed;
use olmo_model::block::Block;
use olmo_model::{Labels, LossValues, Positions, RouterLosses, Transformer, token_tensor, walk};

use super::head::Head;
use super::{ActivationCosts, Gradients, StepOptions};

/// What a segment leaves behind for its backward pass.
#[allow(clippy::large_enum_variant, reason = "a step saves a few dozen")]
enum Saved {
    /// Everything.
    Graph(Graph),
    /// The input alone.
    Input(Tensor<3>),
}

/// A block's autodiff graph.
struct Graph {
    /// The leaf for the input.
    input: Tensor<3>,
    /// The block whose parameters are the other leaves.
    block: Block,
    output: Tensor<3>,
    /// Losses of the block's router, where they count.
    router: Option<RouterLosses>,
}

/// Adds the gradients of one micro-batch to `gradients`, and returns its summed losses.
///
/// `tokens` is row-major `[batch, seq]`; `model` is on a device without autodiff and holds the f32
/// master weights. Gradients are of `loss_scale * objective`, see [`LossValues`].
///
/// # Panics
///
/// When `tokens` are not whole rows of `seq`, or `labels` not as many as the tokens.
pub fn micro_batch(
    model: &Transformer,
    tokens: &[u32],
    seq: usize,
    labels: &Labels,
    options: &StepOptions,
    gradients: &mut Gradients,
) -> LossValues {
    let device = model.device();
    let chain =
        Chain { model, positions: Positions::new(model.config(), 0..seq, &device), options };
    let costs = ActivationCosts::new(model.config(), tokens.len(), options.precision);
    let activations = options.activations.resolved(&costs);
    let tokens = token_tensor(tokens, [tokens.len() / seq, seq], &device);
    let mut saved = Vec::with_capacity(model.blocks.len());
    let mut x = chain.embed(tokens.clone());
    for (layer, block) in model.blocks.iter().enumerate() {
        let keeps = activations.keeps(layer, model.blocks.len());
        let (output, kept) = chain.forward(block, x, keeps);
        saved.push(kept);
        x = output;
    }
    let (mut losses, mut upstream) = chain.head(x, labels, gradients);
    for (layer, block) in model.blocks.iter().enumerate().rev() {
        let kept = saved.pop().expect("one was saved for each block");
        upstream = chain.backward(layer, block, kept, upstream, gradients, &mut losses);
    }
    chain.embed_backward(tokens, upstream, gradients);
    losses
}

struct Chain<'a> {
    model: &'a Transformer,
    positions: Positions,
    options: &'a StepOptions,
}

impl Chain<'_> {
    fn dtype(&self) -> FloatDType {
        self.options.precision.dtype()
    }

    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.model.embeddings.forward(tokens).cast(self.dtype())
    }

    fn forward(&self, block: &Block, x: Tensor<3>, keeps: bool) -> (Tensor<3>, Saved) {
        if keeps {
            let graph = self.graph(block, x);
            return (graph.output.clone().inner(), Saved::Graph(graph));
        }
        // Leaves of a graph that is never asked for gradients cost nothing but the cast.
        let block = walk::leaves(block, self.dtype()).valid();
        (block.forward(x.clone(), &self.positions, None), Saved::Input(x))
    }

    fn graph(&self, block: &Block, x: Tensor<3>) -> Graph {
        let input = x.autodiff().require_grad();
        let block = walk::leaves(block, self.dtype());
        let x = input.clone();
        let (output, router) = if self.options.routers.are_zero() {
            (block.forward(x, &self.positions, None), None)
        } else {
            block.forward_with_losses(x, &self.positions)
        };
        Graph { input, block, output, router }
    }

    /// Loss, the head's gradients, and the gradient of the head's input.
    fn head(
        &self,
        x: Tensor<3>,
        labels: &Labels,
        gradients: &mut Gradients,
    ) -> (LossValues, Tensor<3>) {
        let input = x.autodiff().require_grad();
        let leaves = Head::leaves(self.model, self.dtype());
        let weight = leaves.weight();
        let Head { head, tied } = leaves;
        let sums = head.loss(input.clone(), weight, labels, self.options.z_loss);
        let root = sums.objective() * self.options.loss_scale;
        let losses = sums.into_values();
        let mut graph = root.backward();
        walk::take_gradients(&head, &mut graph, |path, g| {
            gradients.add(&format!("lm_head.{path}"), g);
        });
        if let Some(tied) = tied {
            walk::take_gradients(&tied, &mut graph, |path, g| {
                gradients.add(&format!("embeddings.{path}"), g);
            });
        }
        (losses, taken(&input, &mut graph))
    }

    fn backward(
        &self,
        layer: usize,
        block: &Block,
        saved: Saved,
        upstream: Tensor<3>,
        gradients: &mut Gradients,
        losses: &mut LossValues,
    ) -> Tensor<3> {
        let Graph { input, block, output, router } = match saved {
            Saved::Input(x) => self.graph(block, x),
            Saved::Graph(graph) => graph,
        };
        let mut root = seed(output, upstream);
        if let Some(of_router) = router {
            let (weights, n_layers) = (self.options.routers, self.model.blocks.len());
            root = root + of_router.objective(weights, n_layers) * self.options.loss_scale;
            losses.add_routers(of_router, weights, n_layers);
        }
        let mut graph = root.backward();
        walk::take_gradients(&block, &mut graph, |path, g| {
            gradients.add(&format!("blocks.{layer}.{path}"), g);
        });
        taken(&input, &mut graph)
    }

    fn embed_backward(
        &self,
        tokens: Tensor<2, Int>,
        upstream: Tensor<3>,
        gradients: &mut Gradients,
    ) {
        let embeddings = walk::leaves(&self.model.embeddings, FloatDType::F32);
        let output = embeddings.forward(tokens);
        let mut graph = seed(output, upstream).backward();
        walk::take_gradients(&embeddings, &mut graph, |path, g| {
            gradients.add(&format!("embeddings.{path}"), g);
        });
    }
}

fn taken(input: &Tensor<3>, graph: &mut burn::tensor::Gradients) -> Tensor<3> {
    input.grad_remove(graph).expect("a segment's output depends on its input")
}
