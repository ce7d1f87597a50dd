//! Which floating-point types a device computes in.

use burn::tensor::{DType, Device};

use crate::Error;

/// Those that weights and activations may have.
const COMPUTED_IN: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Whether a device computes in a dtype. Vulkan devices often store and convert bf16 but have no
/// arithmetic in it, and burn's results there are zeros, not an error.
///
/// # Errors
///
/// [`Error::Dtype`] where it does not.
pub fn check_dtype(device: &Device, dtype: DType) -> Result<(), Error> {
    if device.supports_dtype(dtype) {
        return Ok(());
    }
    let supported = COMPUTED_IN.into_iter().filter(|dtype| device.supports_dtype(*dtype));
    Err(Error::Dtype {
        dtype: dtype.name(),
        device: format!("{device:?}"),
        supported: supported.map(|dtype| dtype.name()).collect(),
    })
}
