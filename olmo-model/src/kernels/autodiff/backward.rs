//! What each operation makes of an upstream gradient.

use burn::backend::TensorMetadata as _;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{Shape, Slice};

use super::super::{AttentionSpan, Kernels, experts};

#[derive(Debug)]
pub(super) struct Linear;

impl<B: Kernels> Backward<B, 2> for Linear {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        if let (Some(node), Some(x)) = (weight_node, x) {
            grads.register::<B>(node.id, B::olmo_linear_backward_weight(grad.clone(), x));
        }
        if let (Some(node), Some(weight)) = (x_node, weight) {
            grads.register::<B>(node.id, B::olmo_linear_backward_input(grad, weight));
        }
    }
}

#[derive(Debug)]
pub(super) struct Attention;

impl<B: Kernels> Backward<B, 3> for Attention {
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, AttentionSpan);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (q, k, v, span) = ops.state;
        let (dq, dk, dv) = B::olmo_attention_backward(q, k, v, grad, span);
        for (node, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Rotary;

impl<B: Kernels> Backward<B, 1> for Rotary {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (cos, sin) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::olmo_rotary_backward(grad, cos, sin));
        }
    }
}

#[derive(Debug)]
pub(super) struct LayerNorm;

impl<B: Kernels> Backward<B, 1> for LayerNorm {
    type State = (FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, eps) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::olmo_layer_norm_backward(x, grad, eps));
        }
    }
}

#[derive(Debug)]
pub(super) struct RmsNorm;

impl<B: Kernels> Backward<B, 2> for RmsNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, eps) = ops.state;
        let (dx, dweight) = B::olmo_rms_norm_backward(x, weight, grad, eps);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dweight]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Swiglu;

impl<B: Kernels> Backward<B, 2> for Swiglu {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (gate, up) = ops.state;
        let (dgate, dup) = B::olmo_swiglu_backward(gate, up, grad);
        for (node, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Seed;

impl<B: Kernels> Backward<B, 1> for Seed {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, ops.state);
        }
    }
}

#[derive(Debug)]
pub(super) struct TakeRows;

impl<B: Kernels> Backward<B, 1> for TakeRows {
    type State = (IntTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (rows_of_token, rows_per_token) = ops.state;
        if let [Some(node)] = ops.parents {
            let dx = experts::sum_rows_exactly::<B>(grad, rows_of_token, rows_per_token);
            grads.register::<B>(node.id, dx);
        }
    }
}

#[derive(Debug)]
pub(super) struct SumRows;

impl<B: Kernels> Backward<B, 1> for SumRows {
    type State = IntTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, experts::take_rows::<B>(grad, ops.state));
        }
    }
}

#[derive(Debug)]
pub(super) struct Expert;

impl<B: Kernels> Backward<B, 4> for Expert {
    type State = experts::Saved<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let gradients = experts::backward::<B>(ops.state, grad);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct CrossEntropy;

impl<B: Kernels> Backward<B, 2> for CrossEntropy {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let objective = B::float_slice(grad, &[Slice::from(0..1)]);
        let (dx, dweight) = ops.state;
        for (node, gradient) in ops.parents.into_iter().zip([dx, dweight]) {
            if let Some(node) = node {
                let scale = B::float_cast(objective.clone(), gradient.dtype().into());
                let scale = B::float_reshape(scale, Shape::new([1, 1]));
                grads.register::<B>(node.id, B::olmo_scaled(gradient, scale));
            }
        }
    }
}
