//! Token ids and other whole numbers as tensors, in the type that a device indexes with.

use burn::tensor::{DType, Device, Int, IntDType, Tensor, TensorData};

/// Token ids `[batch, seq]`, row-major.
///
/// # Panics
///
/// When there are not `batch * seq` ids.
pub fn token_tensor(ids: &[u32], shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    integers(ids.iter().map(|&id| i64::from(id)), shape, device)
}

/// Whole numbers of any shape: i32, but i64 on devices that know no other, such as libtorch.
pub(crate) fn integers<const D: usize>(
    values: impl IntoIterator<Item = i64>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D, Int> {
    let values = values.into_iter();
    let data = if device.settings().int_dtype == IntDType::I64 {
        TensorData::new(values.collect::<Vec<i64>>(), shape)
    } else {
        TensorData::new(values.map(|x| x as i32).collect::<Vec<i32>>(), shape)
    };
    let dtype: DType = data.dtype();
    Tensor::from_data(data, (device, dtype))
}
