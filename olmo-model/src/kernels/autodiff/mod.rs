//! The kernels under autodiff: what each keeps for its backward pass.

mod backward;

use std::ops::Range;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::{Backward as _, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend as _};

use self::backward::{
    Attention, CrossEntropy, Expert, LayerNorm, Linear, RmsNorm, Rotary, Seed, SumRows, Swiglu,
    TakeRows,
};
use super::{AttentionSpan, Kernels, cross_entropy, experts};

impl<B: Kernels, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn olmo_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
        let prepared = Linear.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match prepared {
            OpsKind::Tracked(prepared) => {
                // Each is only needed for the gradient of the other.
                let state = (weight_tracked.then(|| x.clone()), x_tracked.then(|| weight.clone()));
                prepared.finish(state, B::olmo_linear(x, weight))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::olmo_linear(x, weight)),
        }
    }

    fn olmo_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        span: AttentionSpan,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let prepared = Attention.prepare::<C>(nodes).compute_bound().stateful();
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        match prepared {
            OpsKind::Tracked(prepared) => {
                let state = (q.clone(), k.clone(), v.clone(), span.clone());
                prepared.finish(state, B::olmo_attention(q, k, v, span))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::olmo_attention(q, k, v, span)),
        }
    }

    fn olmo_rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        n_heads: usize,
    ) -> FloatTensor<Self> {
        let prepared = Rotary.prepare::<C>([x.node()]).compute_bound().stateful();
        let (x, cos, sin) = (x.into_primitive(), cos.into_primitive(), sin.into_primitive());
        match prepared {
            OpsKind::Tracked(prepared) => {
                let state = (cos.clone(), sin.clone());
                prepared.finish(state, B::olmo_rotary(x, cos, sin, n_heads))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::olmo_rotary(x, cos, sin, n_heads)),
        }
    }

    fn olmo_layer_norm(x: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let prepared = LayerNorm.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => {
                prepared.finish((x.clone(), eps), B::olmo_layer_norm(x, eps))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::olmo_layer_norm(x, eps)),
        }
    }

    fn olmo_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
        cast_first: bool,
    ) -> FloatTensor<Self> {
        let prepared = RmsNorm.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match prepared {
            OpsKind::Tracked(prepared) => {
                let state = (x.clone(), weight.clone(), eps);
                prepared.finish(state, B::olmo_rms_norm(x, weight, eps, cast_first))
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::olmo_rms_norm(x, weight, eps, cast_first))
            }
        }
    }

    fn olmo_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = Swiglu.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful();
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        match prepared {
            OpsKind::Tracked(prepared) => {
                prepared.finish((gate.clone(), up.clone()), B::olmo_swiglu(gate, up))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::olmo_swiglu(gate, up)),
        }
    }

    fn olmo_cross_entropy(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        z_loss: f64,
    ) -> FloatTensor<Self> {
        let prepared =
            CrossEntropy.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match prepared {
            OpsKind::Tracked(prepared) => {
                let (sums, dx, dweight) =
                    cross_entropy::forward_with_gradients::<B>(x, weight, targets, z_loss);
                prepared.finish((dx, dweight), sums)
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::olmo_cross_entropy(x, weight, targets, z_loss))
            }
        }
    }

    fn olmo_seed(output: FloatTensor<Self>, upstream: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = Seed.prepare::<C>([output.node()]).compute_bound().stateful();
        let (output, upstream) = (output.into_primitive(), upstream.into_primitive());
        match prepared {
            OpsKind::Tracked(prepared) => {
                prepared.finish(upstream.clone(), B::olmo_seed(output, upstream))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::olmo_seed(output, upstream)),
        }
    }

    fn olmo_take_rows(
        x: FloatTensor<Self>,
        token_of_row: IntTensor<Self>,
        rows_of_token: IntTensor<Self>,
        rows_per_token: usize,
    ) -> FloatTensor<Self> {
        let prepared = TakeRows.prepare::<C>([x.node()]).compute_bound().stateful();
        let (x, of_row, of_token) = (x.into_primitive(), token_of_row, rows_of_token);
        match prepared {
            OpsKind::Tracked(prepared) => {
                let state = (of_token.clone(), rows_per_token);
                prepared.finish(state, B::olmo_take_rows(x, of_row, of_token, rows_per_token))
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::olmo_take_rows(x, of_row, of_token, rows_per_token))
            }
        }
    }

    fn olmo_sum_rows(
        rows: FloatTensor<Self>,
        token_of_row: IntTensor<Self>,
        rows_of_token: IntTensor<Self>,
        rows_per_token: usize,
    ) -> FloatTensor<Self> {
        let prepared = SumRows.prepare::<C>([rows.node()]).compute_bound().stateful();
        let (rows, of_row, of_token) = (rows.into_primitive(), token_of_row, rows_of_token);
        match prepared {
            OpsKind::Tracked(prepared) => prepared
                .finish(of_row.clone(), B::olmo_sum_rows(rows, of_row, of_token, rows_per_token)),
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::olmo_sum_rows(rows, of_row, of_token, rows_per_token))
            }
        }
    }

    fn olmo_expert(
        rows: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        w3: FloatTensor<Self>,
        range: Range<usize>,
    ) -> FloatTensor<Self> {
        let nodes = [rows.node(), w1.node(), w2.node(), w3.node()];
        let prepared = Expert.prepare::<C>(nodes).compute_bound().stateful();
        let weights = [w1.into_primitive(), w2.into_primitive(), w3.into_primitive()];
        let (rows, saved) = experts::forward::<B>(rows.into_primitive(), weights, range);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(saved, rows),
            OpsKind::UnTracked(prepared) => prepared.finish(rows),
        }
    }

    /// Without a graph: cross-entropy is differentiated as a whole.
    fn olmo_token_losses(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        z_loss: f64,
        with_gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let logits = logits.into_primitive();
        let (sums, dlogits) = B::olmo_token_losses(logits, targets, z_loss, with_gradient);
        (Self::from_inner(sums), Self::from_inner(dlogits))
    }

    // Only called on the inner backend, by the operations above.
    fn olmo_attention_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: AttentionSpan,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("only first-order gradients exist")
    }
}
