//! Quantised matrices made of burn's operations; see [`crate::quantized`] for their form.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape};

use crate::quantized::{BLOCK, Q4_ZERO};

/// The elements in f32, `[d_out, d_in]`.
pub(super) fn dequantize<B: Backend>(
    values: IntTensor<B>,
    scales: FloatTensor<B>,
) -> FloatTensor<B> {
    let [d_out, n_blocks] = scales.shape().dims();
    let d_in = n_blocks * BLOCK;
    let by_block = Shape::new([d_out, n_blocks, BLOCK]);
    let numbers = if values.shape()[1] == d_in {
        B::float_reshape(B::int_into_float(values, FloatDType::F32), by_block)
    } else {
        let half = Shape::new([d_out, n_blocks, BLOCK / 2]);
        let float = |x| B::float_reshape(B::int_into_float(x, FloatDType::F32), half.clone());
        let low = float(B::bitwise_and_scalar(values.clone(), 15.into()));
        let high = float(B::bitwise_right_shift_scalar(values, 4.into()));
        B::float_sub_scalar(B::float_cat(vec![low, high], 2), Q4_ZERO.into())
    };
    let scales = B::float_cast(scales, FloatDType::F32);
    let scales = B::float_reshape(scales, Shape::new([d_out, n_blocks, 1]));
    B::float_reshape(B::float_mul(numbers, scales), Shape::new([d_out, d_in]))
}
