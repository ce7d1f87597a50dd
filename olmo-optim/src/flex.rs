//! The values of a flex (CPU) tensor as a slice, without a copy where that is possible.

use std::ops::Range;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Device, Tensor};

/// Whether the tensor is on the flex CPU device.
pub(crate) fn is_flex(tensor: &Tensor<1>) -> bool {
    tensor.device() == Device::flex()
}

/// A flex tensor of f32 whose values lie one after the other in memory.
pub(crate) struct HostTensor {
    tensor: FlexTensor,
    /// The tensor's part of its buffer.
    range: Range<usize>,
}

impl HostTensor {
    /// Takes the tensor out of burn. Copies it only if its values are not contiguous.
    ///
    /// # Panics
    ///
    /// Panics unless [`is_flex`] holds; [`HostTensor::as_slice`] panics unless the dtype is f32.
    pub(crate) fn new(tensor: Tensor<1>) -> Self {
        let tensor = tensor
            .inner()
            .try_into_primitive::<Flex>()
            .expect("the caller checked the device, and an inner tensor has no autodiff");
        match tensor.layout().contiguous_offsets() {
            Some((start, end)) => Self { tensor, range: start..end },
            None => Self::packed(&tensor),
        }
    }

    /// A copy of just the tensor's values.
    fn packed(tensor: &FlexTensor) -> Self {
        let tensor = tensor.to_contiguous();
        let range = 0..tensor.layout().num_elements();
        Self { tensor, range }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.tensor.storage::<f32>()[self.range.clone()]
    }

    /// The values, to be changed in place; copied first if the buffer is shared.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        let is_part = self.range.len() < self.tensor.storage::<f32>().len();
        if is_part && !self.tensor.is_unique() {
            // Not the whole shared buffer, of which this may be a small piece.
            *self = Self::packed(&self.tensor);
        }
        &mut self.tensor.storage_mut::<f32>()[self.range.clone()]
    }

    pub(crate) fn into_tensor(self) -> Tensor<1> {
        Tensor::from_primitive::<Flex>(self.tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{tensor, values};

    #[test]
    fn a_unique_tensor_keeps_its_buffer() {
        let mut host = HostTensor::new(tensor(&[1.0, 2.0, 3.0]));
        let before = host.as_slice().as_ptr();
        host.as_mut_slice()[1] = 5.0;
        assert_eq!(host.as_slice().as_ptr(), before);

        let mut again = HostTensor::new(host.into_tensor());
        assert_eq!(again.as_mut_slice().as_ptr(), before);
        assert_eq!(values(again.into_tensor()), [1.0, 5.0, 3.0]);
    }

    #[test]
    fn a_shared_tensor_is_copied_before_it_is_changed() {
        let original = tensor(&[1.0, 2.0, 3.0]);
        let mut host = HostTensor::new(original.clone());
        host.as_mut_slice()[0] = 9.0;
        assert_eq!(values(host.into_tensor()), [9.0, 2.0, 3.0]);
        assert_eq!(values(original), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_piece_of_a_shared_buffer_is_changed_alone() {
        let original = tensor(&[1.0, 2.0, 3.0, 4.0]);
        let mut host = HostTensor::new(original.clone().slice(1..3));
        assert_eq!(host.as_slice(), [2.0, 3.0]);
        host.as_mut_slice()[0] = 9.0;
        assert_eq!(host.as_slice().len(), 2);
        assert_eq!(values(host.into_tensor()), [9.0, 3.0]);
        assert_eq!(values(original), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn a_strided_tensor_is_packed() {
        let flipped = tensor(&[1.0, 2.0, 3.0]).flip([0]);
        let mut host = HostTensor::new(flipped);
        assert_eq!(host.as_slice(), [3.0, 2.0, 1.0]);
        host.as_mut_slice()[2] = 7.0;
        assert_eq!(values(host.into_tensor()), [3.0, 2.0, 7.0]);
    }

    #[test]
    fn an_autodiff_tensor_is_stripped() {
        let tracked = Tensor::<1>::from_floats([1.0, 2.0], &Device::flex().autodiff());
        assert!(is_flex(&tracked));
        assert_eq!(HostTensor::new(tracked).as_slice(), [1.0, 2.0]);
    }
}
