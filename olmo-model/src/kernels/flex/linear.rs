//! Projections: weights of any type as they are held, multiplied by the products of [`dot`].

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape};
use half::{bf16, f16};

use super::super::RowNorm;
use super::dot::{self, Input, Rows, Weight};
use super::element::Element;
use super::norm;
use super::strided_product::{self, Matrix};
use super::widen::{is_float, narrowed};
use super::{from_vec, into_vec, last_dim, typed, values};
use crate::packed::PackedMatrix;

/// `x wᵀ` for each weight.
pub(super) fn linears<const N: usize>(x: FlexTensor, weights: [FlexTensor; N]) -> [FlexTensor; N] {
    let dtype = x.dtype();
    if !is_float(dtype) || weights.iter().any(|weight| weight.dtype() != dtype) {
        return weights.map(|weight| super::super::linear::forward::<Flex>(x.clone(), weight));
    }
    let weights = weights.map(|weight| weight.to_contiguous());
    products(x, RowNorm::None, weights.each_ref().map(|weight| Weight::Rows(rows(weight))))
}

/// `grad w`, the gradient by `x`. In f32 burn's products are faster, here and below.
pub(super) fn backward_input(grad: FlexTensor, weight: FlexTensor) -> FlexTensor {
    if !are_narrow([&grad, &weight]) {
        return super::super::linear::backward_input::<Flex>(grad, weight);
    }
    let weight = weight.to_contiguous();
    let [dx] = products(grad, RowNorm::None, [Weight::Columns(rows(&weight))]);
    dx
}

/// `gradᵀ x`, the gradient by the weight.
pub(super) fn backward_weight(grad: FlexTensor, x: FlexTensor) -> FlexTensor {
    if !are_narrow([&grad, &x]) {
        return super::super::linear::backward_weight::<Flex>(grad, x);
    }
    let dtype = grad.dtype();
    narrowed(wide_backward_weight(grad, x), dtype)
}

/// The same in f32.
pub(super) fn wide_backward_weight(grad: FlexTensor, x: FlexTensor) -> FlexTensor {
    if !are_narrow([&grad, &x]) {
        return super::super::linear::wide_backward_weight::<Flex>(grad, x);
    }
    let shape = [last_dim(&grad), last_dim(&x)];
    add_product(vec![0.0; shape[0] * shape[1]], shape, &grad, &x)
}

/// `sum + gradᵀ x`, with a sum in f32, which is added to in place: the product alone would be as large.
pub(super) fn add_backward_weight(sum: FlexTensor, grad: FlexTensor, x: FlexTensor) -> FlexTensor {
    let shape = [last_dim(&grad), last_dim(&x)];
    let is_in_f32 = sum.dtype() == DType::F32;
    if is_in_f32 && are_narrow([&grad, &x]) {
        return add_product(into_vec(sum), shape, &grad, &x);
    }
    if is_in_f32 && grad.dtype() == DType::F32 && x.dtype() == DType::F32 {
        let (grad, x) = (grad.to_contiguous(), x.to_contiguous());
        let mut sum = into_vec(sum);
        let k = values(&x).len() / shape[1].max(1);
        let grad = Matrix::new(values(&grad), [k, shape[0]]).transposed();
        strided_product::add_large_product(&mut sum, grad, Matrix::new(values(&x), [k, shape[1]]));
        return from_vec(sum, shape);
    }
    super::super::linear::add_backward_weight::<Flex>(sum, grad, x)
}

fn add_product(
    mut sum: Vec<f32>,
    [d_out, d_in]: [usize; 2],
    grad: &FlexTensor,
    x: &FlexTensor,
) -> FlexTensor {
    let (grad, x) = (grad.to_contiguous(), x.to_contiguous());
    if !rows(&grad).is_empty() {
        let grad = Input::transposed(rows(&grad), d_out);
        dot::add_linear(&grad, Weight::Columns(rows(&x)), &mut sum);
    }
    from_vec(sum, [d_out, d_in])
}

fn are_narrow(tensors: [&FlexTensor; 2]) -> bool {
    let dtype = tensors[0].dtype();
    matches!(dtype, DType::F16 | DType::BF16) && tensors[1].dtype() == dtype
}

/// `silu(x gateᵀ) * (x upᵀ)`.
pub(super) fn gated(x: FlexTensor, gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let dtype = x.dtype();
    if !is_float(dtype) || gate.dtype() != dtype || up.dtype() != dtype {
        let gate = super::super::linear::forward::<Flex>(x.clone(), gate);
        let up = super::super::linear::forward::<Flex>(x, up);
        return super::super::swiglu::forward::<Flex>(gate, up);
    }
    let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
    gated_product(x, RowNorm::None, Weight::Rows(rows(&gate)), Weight::Rows(rows(&up)))
}

/// `x wᵀ` for each packed weight, with rows of `x` normalised.
pub(super) fn packed_linears<const N: usize>(
    x: FlexTensor,
    norm: RowNorm<Flex>,
    weights: [PackedMatrix; N],
) -> [FlexTensor; N] {
    if !are_multiplied_as_they_are(&x, &norm, &weights) {
        let x = norm::normed(x, norm);
        let unpacked = weights.map(|weight| super::super::linear::unpacked::<Flex>(&weight, &x));
        return linears(x, unpacked);
    }
    products(x, norm, weights.each_ref().map(|weight| Weight::Packed(weight.panels())))
}

/// `silu(x gateᵀ) * (x upᵀ)` with packed weights, with rows of `x` normalised.
pub(super) fn packed_gated(
    x: FlexTensor,
    norm: RowNorm<Flex>,
    weights: [PackedMatrix; 2],
) -> FlexTensor {
    if !are_multiplied_as_they_are(&x, &norm, &weights) {
        let x = norm::normed(x, norm);
        let [gate, up] = weights.map(|weight| super::super::linear::unpacked::<Flex>(&weight, &x));
        return gated(x, gate, up);
    }
    let [gate, up] = weights.each_ref().map(|weight| Weight::Packed(weight.panels()));
    gated_product(x, norm, gate, up)
}

fn are_multiplied_as_they_are(
    x: &FlexTensor,
    norm: &RowNorm<Flex>,
    weights: &[PackedMatrix],
) -> bool {
    let dtype = x.dtype();
    norm.takes(dtype) && weights.iter().all(|weight| weight.dtype() == dtype)
}

fn products<const N: usize>(
    x: FlexTensor,
    norm: RowNorm<Flex>,
    weights: [Weight<'_>; N],
) -> [FlexTensor; N] {
    fn run<E: Element, const N: usize>(
        x: FlexTensor,
        norm: RowNorm<Flex>,
        weights: [Weight<'_>; N],
    ) -> [FlexTensor; N] {
        let (shape, d_in) = (x.layout().shape().clone(), last_dim(&x));
        let outputs = with_input::<E, _>(x, norm, &weights, |x| dot::linears::<E>(x, &weights));
        let mut outputs = outputs.into_iter();
        weights.map(|weight| {
            let values = outputs.next().expect("a product for each weight");
            shaped(values, shape.clone(), weight.n_columns(d_in))
        })
    }
    match x.dtype() {
        DType::F16 => run::<f16, N>(x, norm, weights),
        DType::BF16 => run::<bf16, N>(x, norm, weights),
        _ => run::<f32, N>(x, norm, weights),
    }
}

fn gated_product(
    x: FlexTensor,
    norm: RowNorm<Flex>,
    gate: Weight<'_>,
    up: Weight<'_>,
) -> FlexTensor {
    fn run<E: Element>(
        x: FlexTensor,
        norm: RowNorm<Flex>,
        gate: Weight<'_>,
        up: Weight<'_>,
    ) -> FlexTensor {
        let (shape, d_in) = (x.layout().shape().clone(), last_dim(&x));
        let values = with_input::<E, _>(x, norm, &[gate, up], |x| dot::gated::<E>(x, gate, up));
        shaped(values, shape, gate.n_columns(d_in))
    }
    match x.dtype() {
        DType::F16 => run::<f16>(x, norm, gate, up),
        DType::BF16 => run::<bf16>(x, norm, gate, up),
        _ => run::<f32>(x, norm, gate, up),
    }
}

/// Calls `f` with the left operand of products with `weights`. Where that is not `x` itself, the memory
/// of `x` is free for the result.
fn with_input<E: Element, R>(
    x: FlexTensor,
    norm: RowNorm<Flex>,
    weights: &[Weight<'_>],
    f: impl FnOnce(&Input<'_>) -> R,
) -> R {
    let d_in = last_dim(&x);
    let contiguous = x.to_contiguous();
    drop(x);
    let norm = norm.to_contiguous();
    if let Some(norm) = norm.of::<E>() {
        let input = Input::normed(typed(&contiguous), d_in, norm, weights);
        drop(contiguous);
        return f(&input);
    }
    let input = Input::new(rows(&contiguous), d_in, weights);
    if input.borrows() {
        return f(&input);
    }
    let input = input.into_owned();
    drop(contiguous);
    f(&input)
}

/// A tensor of a shape with another last dimension.
fn shaped<E: Element>(values: Vec<E>, mut shape: Shape, d_out: usize) -> FlexTensor {
    let last = shape.num_dims() - 1;
    shape[last] = d_out;
    from_vec(values, shape)
}

/// The elements of a contiguous tensor.
fn rows(x: &FlexTensor) -> Rows<'_> {
    const CONTIGUOUS: &str = "callers hold contiguous tensors of floats";
    match x.dtype() {
        DType::F16 => Rows::F16(x.as_slice().expect(CONTIGUOUS)),
        DType::BF16 => Rows::Bf16(x.as_slice().expect(CONTIGUOUS)),
        _ => Rows::F32(x.as_slice().expect(CONTIGUOUS)),
    }
}
