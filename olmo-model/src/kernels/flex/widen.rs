//! Tensors of narrow types for the kernels that compute in f32.

use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
use half::{bf16, f16};
use rayon::prelude::*;

use super::dot::Rows;
use super::element::Element;
use super::lanes::vectorized;
use super::{from_vec, into_vec, typed};

/// Elements converted at a time.
const CHUNK: usize = 1 << 14;

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
    let mut wide = vec![0.0; values.len()];
    wide.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| {
        values.widen(i * CHUNK..i * CHUNK + out.len(), out);
    });
    from_vec(wide, shape)
}

/// Values of f32 in `dtype`, to the nearest; the tensor itself where that is f32.
pub(super) fn narrowed(x: FlexTensor, dtype: DType) -> FlexTensor {
    fn run<E: Element>(x: FlexTensor) -> FlexTensor {
        let shape = x.layout().shape().clone();
        let wide = into_vec(x);
        let mut narrow = vec![E::default(); wide.len()];
        narrow.par_chunks_mut(CHUNK).zip(wide.par_chunks(CHUNK)).for_each(|(out, wide)| {
            vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.iter_mut().zip(wide) {
                        *out = E::narrow(*x);
                    }
                },
            );
        });
        from_vec(narrow, shape)
    }
    match dtype {
        DType::F16 => run::<f16>(x),
        DType::BF16 => run::<bf16>(x),
        _ => x,
    }
}
