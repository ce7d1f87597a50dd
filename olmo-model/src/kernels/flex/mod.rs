//! Kernels for burn's CPU backend, computed in f32.
//!
//! Composed of burn's operations, a norm or a softmax reads and writes its tensor five to ten
//! times; here it is one pass over rows that are in cache, shared among the threads. Forward passes
//! read and write f32, f16 and bf16, and so do backward passes, but those of norms, which widen the
//! narrow types first. Results do not depend on the number of threads.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined into the dispatched function is compiled without its instructions"
)]

mod attention;
mod attention_backward;
mod dot;
mod element;
mod heads;
mod kept;
mod lanes;
mod linear;
mod norm;
mod rotary;
mod row_blocks;
mod shared;
mod strided_product;
mod swiglu;
mod token_losses;
mod weighted_sum;
mod widen;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps as _;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, FloatDType, Shape, TensorData};
use half::{bf16, f16};

#[cfg(test)]
pub(crate) use self::dot::multiplies_tiles;
use self::element::Element;
use self::row_blocks::for_row_blocks;
use self::widen::{are_float, narrowed, widened};
use super::{AttentionSpan, Kernels, RowNorm};
use crate::packed::PackedMatrix;

impl Kernels for Flex {
    fn olmo_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let [y] = linear::linears(x, [weight]);
        y
    }

    fn olmo_linear_backward_input(
        grad: FloatTensor<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::backward_input(grad, weight)
    }

    fn olmo_linear_backward_weight(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::backward_weight(grad, x)
    }

    fn olmo_linear_wide_backward_weight(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::wide_backward_weight(grad, x)
    }

    fn olmo_linear_add_backward_weight(
        sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::add_backward_weight(sum, grad, x)
    }

    fn olmo_three_linears(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        linear::linears(x, [a, b, c]).into()
    }

    fn olmo_gated_linear(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::gated(x, gate, up)
    }

    fn olmo_packed_linear(
        x: FloatTensor<Self>,
        norm: RowNorm<Self>,
        weight: PackedMatrix,
    ) -> FloatTensor<Self> {
        let [y] = linear::packed_linears(x, norm, [weight]);
        y
    }

    fn olmo_three_packed_linears(
        x: FloatTensor<Self>,
        norm: RowNorm<Self>,
        weights: [PackedMatrix; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        linear::packed_linears(x, norm, weights).into()
    }

    fn olmo_packed_gated_linear(
        x: FloatTensor<Self>,
        norm: RowNorm<Self>,
        gate: PackedMatrix,
        up: PackedMatrix,
    ) -> FloatTensor<Self> {
        linear::packed_gated(x, norm, [gate, up])
    }

    fn olmo_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        span: AttentionSpan,
    ) -> FloatTensor<Self> {
        match (q.dtype(), k.dtype()) {
            (DType::F32, DType::F32) => attention::forward::<f32, f32>(q, k, v, &span),
            (DType::F32, DType::F16) => attention::forward::<f32, f16>(q, k, v, &span),
            (DType::BF16, DType::BF16) => attention::forward::<bf16, bf16>(q, k, v, &span),
            (DType::F16, DType::F16) => attention::forward::<f16, f16>(q, k, v, &span),
            _ => super::attention::forward::<Self>(q, k, v, span),
        }
    }

    fn olmo_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        span: AttentionSpan,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = q.dtype();
        if [&k, &v, &grad].iter().any(|tensor| tensor.dtype() != dtype) {
            return super::attention::backward::<Self>(q, k, v, grad, span).into();
        }
        let inputs = [q, k, v, grad];
        match dtype {
            DType::F32 => attention_backward::backward::<f32>(inputs, &span).into(),
            DType::BF16 => attention_backward::backward::<bf16>(inputs, &span).into(),
            DType::F16 => attention_backward::backward::<f16>(inputs, &span).into(),
            _ => {
                let [q, k, v, grad] = inputs;
                super::attention::backward::<Self>(q, k, v, grad, span).into()
            }
        }
    }

    fn olmo_rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        n_heads: usize,
    ) -> FloatTensor<Self> {
        match x.dtype() {
            _ if !all_f32(&[&cos, &sin]) => super::rotary::forward::<Self>(x, cos, sin, n_heads),
            DType::F32 => rotary::forward::<f32>(x, cos, sin, n_heads),
            DType::BF16 => rotary::forward::<bf16>(x, cos, sin, n_heads),
            DType::F16 => rotary::forward::<f16>(x, cos, sin, n_heads),
            _ => super::rotary::forward::<Self>(x, cos, sin, n_heads),
        }
    }

    fn olmo_rotary_backward(
        grad: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match grad.dtype() {
            _ if !all_f32(&[&cos, &sin]) => super::rotary::backward::<Self>(grad, cos, sin),
            DType::F32 => rotary::backward::<f32>(grad, cos, sin),
            DType::BF16 => rotary::backward::<bf16>(grad, cos, sin),
            DType::F16 => rotary::backward::<f16>(grad, cos, sin),
            _ => super::rotary::backward::<Self>(grad, cos, sin),
        }
    }

    fn olmo_layer_norm(x: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        norm::normed(x, RowNorm::Layer { eps })
    }

    fn olmo_layer_norm_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        if !are_float(&[&x, &grad]) {
            return super::norm::layer_norm_backward::<Self>(x, grad, eps);
        }
        let dtype = x.dtype();
        narrowed(norm::layer_norm_backward(widened(x), widened(grad), eps), dtype)
    }

    fn olmo_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
        cast_first: bool,
    ) -> FloatTensor<Self> {
        norm::normed(x, RowNorm::Rms { weight, eps, cast_first })
    }

    fn olmo_rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !are_float(&[&x, &weight, &grad]) {
            return super::norm::rms_norm_backward::<Self>(x, weight, grad, eps);
        }
        let (dtype, weight_dtype) = (x.dtype(), weight.dtype());
        let (dx, dweight) =
            norm::rms_norm_backward(widened(x), widened(weight), widened(grad), eps);
        (narrowed(dx, dtype), narrowed(dweight, weight_dtype))
    }

    fn olmo_add_normed(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        norm: RowNorm<Self>,
    ) -> FloatTensor<Self> {
        norm::add_normed(x, y, norm)
    }

    fn olmo_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        match gate.dtype() {
            DType::F32 => swiglu::forward::<f32>(gate, up),
            DType::BF16 => swiglu::forward::<bf16>(gate, up),
            DType::F16 => swiglu::forward::<f16>(gate, up),
            _ => super::swiglu::forward::<Self>(gate, up),
        }
    }

    fn olmo_swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = gate.dtype();
        if up.dtype() != dtype || grad.dtype() != dtype {
            return super::swiglu::backward::<Self>(gate, up, grad);
        }
        match dtype {
            DType::F32 => swiglu::backward::<f32>(gate, up, grad),
            DType::BF16 => swiglu::backward::<bf16>(gate, up, grad),
            DType::F16 => swiglu::backward::<f16>(gate, up, grad),
            _ => super::swiglu::backward::<Self>(gate, up, grad),
        }
    }

    fn olmo_cast(x: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        match (x.dtype(), dtype) {
            (DType::F16 | DType::BF16, FloatDType::F32) => widened(x),
            (DType::F32, FloatDType::F16 | FloatDType::BF16) => narrowed(x, dtype.into()),
            (from, to) if from == to.into() => x,
            _ => Self::float_cast(x, dtype),
        }
    }

    fn olmo_scaled(x: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
        match x.dtype() {
            dtype if dtype != scale.dtype() => Self::float_mul(x, scale),
            DType::F32 => scaled::<f32>(x, &scale),
            DType::BF16 => scaled::<bf16>(x, &scale),
            DType::F16 => scaled::<f16>(x, &scale),
            _ => Self::float_mul(x, scale),
        }
    }

    fn olmo_token_losses(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        z_loss: f64,
        with_gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !are_float(&[&logits]) || targets.dtype() != DType::I32 {
            return super::cross_entropy::token_losses::<Self>(
                logits,
                targets,
                z_loss,
                with_gradient,
            );
        }
        let dtype = logits.dtype();
        let (sums, dlogits) =
            token_losses::token_losses(widened(logits), targets, z_loss, with_gradient);
        (sums, narrowed(dlogits, dtype))
    }
}

/// Every element times the first of `scale`, in place where that may be.
fn scaled<E: Element>(x: FlexTensor, scale: &FlexTensor) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let scale = typed::<E>(scale)[0].widen();
    let mut values: Vec<E> = x.into_data().try_into_vec().expect("callers hold tensors of `E`");
    for_row_blocks(
        &mut values,
        1,
        #[inline(always)]
        |_, block| {
            for x in block {
                *x = E::narrow(x.widen() * scale);
            }
        },
    );
    from_vec(values, shape)
}

fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The elements in row-major order, without a copy where the tensor has the only handle to them.
fn into_vec(x: FlexTensor) -> Vec<f32> {
    x.into_data().try_into_vec().expect("callers hold f32 tensors")
}

/// The elements in row-major order, to read.
fn values(x: &FlexTensor) -> &[f32] {
    typed(x)
}

/// The elements in row-major order, to read.
fn typed<E: Element>(x: &FlexTensor) -> &[E] {
    x.as_slice().expect("callers hold contiguous tensors of this type")
}

fn from_vec<E: Element>(values: Vec<E>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

fn last_dim(x: &FlexTensor) -> usize {
    let shape = x.layout().shape();
    shape[shape.num_dims() - 1]
}
