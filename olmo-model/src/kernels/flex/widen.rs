//! Tensors of narrow types for the kernels that compute in f32.

use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
use half::{bf16, f16};

use super::dot::Rows;
use super::element::Element;
use super::row_blocks::row_blocks;
use super::{from_vec, typed, values};

/// Whether all are of types that the kernels read.
pub(super) fn are_float(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| is_float(tensor.dtype()))
}

/// Whether the kernels read this type.
pub(super) fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// The values in f32; the tensor itself where it is that.
pub(super) fn widened(x: FlexTensor) -> FlexTensor {
    if x.dtype() == DType::F32 {
        return x;
    }
    let shape = x.layout().shape().clone();
    let x = x.to_contiguous();
    let values = match x.dtype() {
        DType::F16 => Rows::F16(typed(&x)),
        _ => Rows::Bf16(typed(&x)),
    };
    let wide = row_blocks(values.len(), 1, |first, out: &mut [f32]| {
        values.widen(first..first + out.len(), out);
    });
    from_vec(wide, shape)
}

/// Values of f32 in `dtype`, to the nearest; the tensor itself where that is f32.
pub(super) fn narrowed(x: FlexTensor, dtype: DType) -> FlexTensor {
    fn run<E: Element>(x: &FlexTensor) -> FlexTensor {
        let shape = x.layout().shape().clone();
        let x = x.to_contiguous();
        let wide = values(&x);
        let narrow = row_blocks(
            wide.len(),
            1,
            #[inline(always)]
            |first, out: &mut [E]| {
                for (out, x) in out.iter_mut().zip(&wide[first..]) {
                    *out = E::narrow(*x);
                }
            },
        );
        from_vec(narrow, shape)
    }
    match dtype {
        DType::F16 => run::<f16>(&x),
        DType::BF16 => run::<bf16>(&x),
        _ => x,
    }
}
