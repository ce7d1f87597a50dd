//! Layer norm without weights and RMS norm, over the last dimension, computed in f32.
//!
//! OLMo: `F.layer_norm` without weight or bias. OLMo 2: `Olmo2RMSNorm` (`transformers`) and `RMSNorm`
//! (OLMo-core), which multiply by the weight in f32 and cast last; OLMoE's `OlmoeRMSNorm` casts first.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType, TensorMetadata};
use burn::tensor::{FloatDType, Shape};

use super::Kernels;

/// A norm that is a part of another operation.
#[derive(ExtensionType, Debug, Clone)]
pub(crate) enum RowNorm<B: Backend> {
    /// None: rows are taken as they are.
    None,
    /// Layer norm without weights.
    Layer { eps: f64 },
    /// RMS norm; `cast_first` returns to the dtype of the rows before the product with the weight.
    Rms { weight: FloatTensor<B>, eps: f64, cast_first: bool },
}

/// The norm as an operation of its own.
pub(super) fn normed<B: Kernels>(x: FloatTensor<B>, norm: RowNorm<B>) -> FloatTensor<B> {
    match norm {
        RowNorm::None => x,
        RowNorm::Layer { eps } => B::olmo_layer_norm(x, eps),
        RowNorm::Rms { weight, eps, cast_first } => B::olmo_rms_norm(x, weight, eps, cast_first),
    }
}

pub(super) fn layer_norm<B: Backend>(x: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let dtype = x.dtype();
    let (normalized, _) = standardized::<B>(x, eps);
    B::float_cast(normalized, dtype.into())
}

/// `(g - mean(g) - n mean(g n)) / sigma`, `n` the normalised input.
pub(super) fn layer_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    eps: f64,
) -> FloatTensor<B> {
    let (dtype, last) = (x.dtype(), x.shape().num_dims() - 1);
    let (n, inverse_sigma) = standardized::<B>(x, eps);
    let g = B::float_cast(grad, FloatDType::F32);
    let mean = B::float_mean_dim(g.clone(), last);
    let along = B::float_mean_dim(B::float_mul(g.clone(), n.clone()), last);
    let dx = B::float_sub(B::float_sub(g, mean), B::float_mul(n, along));
    B::float_cast(B::float_mul(dx, inverse_sigma), dtype.into())
}

/// The normalised input and `1 / sqrt(var + eps)`, both f32.
fn standardized<B: Backend>(x: FloatTensor<B>, eps: f64) -> (FloatTensor<B>, FloatTensor<B>) {
    let last = x.shape().num_dims() - 1;
    let x = B::float_cast(x, FloatDType::F32);
    let centred = B::float_sub(x.clone(), B::float_mean_dim(x, last));
    let inverse = inverse_root_mean_square::<B>(&centred, eps);
    (B::float_mul(centred, inverse.clone()), inverse)
}

pub(super) fn rms_norm<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f64,
    cast_first: bool,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = B::float_cast(x, FloatDType::F32);
    let inverse = inverse_root_mean_square::<B>(&x, eps);
    let n = B::float_mul(x, inverse);
    if cast_first {
        let n = B::float_cast(n, dtype.into());
        let weight = like_last_dim::<B>(weight, &n.shape());
        return B::float_mul(n, B::float_cast(weight, dtype.into()));
    }
    let weight = B::float_cast(like_last_dim::<B>(weight, &n.shape()), FloatDType::F32);
    B::float_cast(B::float_mul(n, weight), dtype.into())
}

/// Gradients by the input, `(h - n mean(h n)) / rms` with `h = g weight`, and by the weight.
pub(super) fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (dtype, weight_dtype, shape) = (x.dtype(), weight.dtype(), x.shape());
    let last = shape.num_dims() - 1;
    let x = B::float_cast(x, FloatDType::F32);
    let g = B::float_cast(grad, FloatDType::F32);
    let inverse = inverse_root_mean_square::<B>(&x, eps);
    let n = B::float_mul(x, inverse.clone());
    let rows = Shape::new([shape.num_elements() / shape[last], shape[last]]);
    let dweight = B::float_reshape(B::float_mul(g.clone(), n.clone()), rows);
    let dweight = B::float_reshape(B::float_sum_dim(dweight, 0), weight.shape());
    let weight = B::float_cast(like_last_dim::<B>(weight, &shape), FloatDType::F32);
    let h = B::float_mul(g, weight);
    let along = B::float_mean_dim(B::float_mul(h.clone(), n.clone()), last);
    let dx = B::float_mul(B::float_sub(h, B::float_mul(n, along)), inverse);
    (B::float_cast(dx, dtype.into()), B::float_cast(dweight, weight_dtype.into()))
}

fn inverse_root_mean_square<B: Backend>(x: &FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let last = x.shape().num_dims() - 1;
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), last);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean, eps.into())))
}

/// A vector shaped to broadcast over all but the last dimension.
fn like_last_dim<B: Backend>(weight: FloatTensor<B>, shape: &Shape) -> FloatTensor<B> {
    let mut dims = vec![1; shape.num_dims()];
    dims[shape.num_dims() - 1] = shape[shape.num_dims() - 1];
    B::float_reshape(weight, Shape::from(dims))
}
