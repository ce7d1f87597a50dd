//! Where a backward pass begins that is part of a longer one.

use burn::tensor::Tensor;

use crate::kernels;

/// A number to begin the backward pass of a segment of a model from: zero in f32, whose gradient by `output`
/// is `upstream`, what the segment behind it gave.
///
/// The number's own gradient is taken to be one, so that it may be added to other losses, and to nothing
/// else be done. No elements are computed for it.
///
/// # Shapes
///
/// - `output`, of an autodiff graph, and `upstream`, of none: the same, in dtypes of floats
#[must_use]
pub fn seed<const D: usize>(output: Tensor<D>, upstream: Tensor<D>) -> Tensor<1> {
    let upstream = kernels::cast(upstream, output.dtype().into());
    kernels::seed(output, upstream.autodiff())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, FloatDType};

    #[test]
    fn the_gradient_is_what_came_from_behind() {
        let device = Device::flex();
        for dtype in [FloatDType::F32, FloatDType::BF16] {
            let x = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device);
            let x = x.cast(dtype).autodiff().require_grad();
            let upstream = Tensor::<2>::from_data([[5.0, -6.0], [0.25, 8.0]], &device);
            let root = seed(x.clone() * 2.0, upstream) + x.clone().sum().cast(FloatDType::F32);
            assert_eq!(root.dtype(), DType::F32);
            let gradients = root.backward();
            let found = x.grad(&gradients).expect("a leaf").into_data();
            let found: Vec<f32> = found.iter().collect();
            assert_eq!(found, [11.0, -11.0, 1.5, 17.0]);
        }
    }
}
