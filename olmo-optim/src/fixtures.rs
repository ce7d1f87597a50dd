//! Small tensors for the tests of this crate, and what is in them.

use burn::tensor::{Device, Tensor};

/// A vector on the CPU.
pub(crate) fn tensor(values: &[f32]) -> Tensor<1> {
    Tensor::from_floats(values, &Device::flex())
}

/// Its elements.
pub(crate) fn values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("numbers in f32")
}
