//! Matrices of 8 or 4 bits an element, for running a model, not for training one.
//!
//! A row is cut into blocks of [`BLOCK`] elements; each holds whole numbers and one scale, so that
//! an element is `scale * number`. Eight bits keep numbers from -127 to 127, four bits from -8
//! to 7 with the scale's sign chosen so that the largest element is -8. Elements are multiplied in
//! f32; activations are not quantised.

use burn::backend::DispatchTensor;
use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use half::bf16;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::kernels;
use crate::parameters::{Parameter, Role};

/// Elements that share a scale.
pub const BLOCK: usize = 32;

/// The number that stands for zero in four bits.
pub(crate) const Q4_ZERO: i32 = 8;

/// How many bits an element is held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// Eight bits: 1.0625 bytes an element with its share of the scale.
    Q8,
    /// Four bits: 0.5625 bytes an element with its share of the scale.
    Q4,
}

/// A matrix `[d_out, d_in]` of quantised elements, on the CPU.
#[derive(Module, Debug)]
pub struct QuantizedMatrix {
    /// `[d_out, d_in]` of i8, or `[d_out, d_in / 2]` of u8 with two elements each: the first half
    /// of a block in the low bits.
    pub(crate) values: Tensor<2, Int>,
    /// `[d_out, d_in / BLOCK]` in bf16.
    pub(crate) scales: Tensor<2>,
    #[module(skip)]
    quantization: Quantization,
}

impl Quantization {
    /// Bits of an element's number, without its scale.
    pub fn bits(self) -> usize {
        match self {
            Self::Q8 => 8,
            Self::Q4 => 4,
        }
    }

    /// Whether a parameter is quantised: matrices are, but for routers, whose choices a rounding
    /// would change.
    pub fn applies_to(parameter: &Parameter) -> bool {
        parameter.shape.len() == 2 && parameter.role != Role::Router
    }

    /// Bytes of a matrix of so many elements, scales included.
    pub fn bytes(self, n_elements: u64) -> u64 {
        let n_blocks = n_elements / BLOCK as u64;
        n_blocks.saturating_mul((BLOCK * self.bits() / 8 + 2) as u64)
    }

    fn values_dtype(self) -> DType {
        match self {
            Self::Q8 => DType::I8,
            Self::Q4 => DType::U8,
        }
    }
}

impl QuantizedMatrix {
    /// Quantises row-major values.
    ///
    /// # Errors
    ///
    /// [`Error::Quantization`] where rows are not made of whole blocks, or the device is not
    /// burn's CPU backend.
    ///
    /// # Panics
    ///
    /// When there are not `d_out * d_in` values.
    pub fn new(
        values: &[f32],
        [d_out, d_in]: [usize; 2],
        quantization: Quantization,
        device: &Device,
    ) -> Result<Self, Error> {
        assert_eq!(values.len(), d_out * d_in, "values of a matrix [{d_out}, {d_in}]");
        if !d_in.is_multiple_of(BLOCK) {
            return Err(Error::Quantization { found: format!("rows of {d_in} elements") });
        }
        if !kernels::holds_quantized(device) {
            return Err(Error::Quantization { found: format!("the device {device:?}") });
        }
        let blocks = values.as_chunks::<BLOCK>().0;
        let (bytes, scales): (Vec<u8>, Vec<bf16>) = match quantization {
            Quantization::Q8 => join(blocks.iter().map(q8_block)),
            Quantization::Q4 => join(blocks.iter().map(q4_block)),
        };
        let columns = d_in * quantization.bits() / 8;
        let dtype = quantization.values_dtype();
        let bytes = burn::tensor::Bytes::from_bytes_vec(bytes);
        let values = TensorData::from_bytes(bytes, [d_out, columns], dtype);
        let scales = TensorData::new(scales, [d_out, d_in / BLOCK]);
        Ok(Self {
            values: Tensor::from_data(values, (device, dtype)),
            scales: Tensor::from_data(scales, (device, DType::BF16)),
            quantization,
        })
    }

    /// How many bits an element has.
    pub fn quantization(&self) -> Quantization {
        self.quantization
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        let [d_out, n_blocks] = self.scales.dims();
        [d_out, n_blocks * BLOCK]
    }

    /// Values and scales, as the kernels take them.
    pub(crate) fn parts(&self) -> (DispatchTensor, DispatchTensor) {
        (self.values.clone().into_dispatch(), self.scales.clone().into_dispatch())
    }

    /// The elements in f32, `[d_out, d_in]`.
    pub fn dequantize(&self) -> Tensor<2> {
        kernels::dequantize(self.values.clone(), self.scales.clone())
    }
}

/// The blocks' bytes one after another, and their scales.
fn join<const N: usize>(
    blocks: impl ExactSizeIterator<Item = ([u8; N], bf16)>,
) -> (Vec<u8>, Vec<bf16>) {
    let mut bytes = Vec::with_capacity(blocks.len() * N);
    let mut scales = Vec::with_capacity(blocks.len());
    for (block, scale) in blocks {
        bytes.extend_from_slice(&block);
        scales.push(scale);
    }
    (bytes, scales)
}

fn q8_block(block: &[f32; BLOCK]) -> ([u8; BLOCK], bf16) {
    let largest = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let scale = away_from_zero(largest / 127.0);
    let inverse = inverse(scale);
    let number = |x: f32| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    (block.map(|x| number(x).cast_unsigned()), scale)
}

fn q4_block(block: &[f32; BLOCK]) -> ([u8; BLOCK / 2], bf16) {
    let largest = block.iter().fold(0.0_f32, |max, x| if x.abs() > max.abs() { *x } else { max });
    let scale = away_from_zero(largest / -8.0);
    let inverse = inverse(scale);
    let number = |x: f32| ((x * inverse).round_ties_even().clamp(-8.0, 7.0) as i32 + Q4_ZERO) as u8;
    let (low, high) = block.split_at(BLOCK / 2);
    (std::array::from_fn(|i| number(low[i]) | (number(high[i]) << 4)), scale)
}

/// The next bf16 that is no nearer to zero, so that the largest element is not cut off.
fn away_from_zero(x: f32) -> bf16 {
    let bits = x.to_bits();
    let cut = (bits >> 16) as u16;
    bf16::from_bits(if bits.trailing_zeros() >= 16 { cut } else { cut + 1 })
}

fn inverse(scale: bf16) -> f32 {
    let scale = scale.to_f32();
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    /// Blocks of very different sizes, one of them zero.
    fn values() -> Vec<f32> {
        let wave = |i: usize| (i as f32 * 0.7).sin() * 10.0_f32.powi((i / BLOCK) as i32 - 3);
        (0..6 * BLOCK).map(|i| if i / BLOCK == 4 { 0.0 } else { wave(i) }).collect()
    }

    #[test]
    fn an_element_is_within_half_a_step() {
        for (quantization, steps) in [(Quantization::Q8, 127.0), (Quantization::Q4, 8.0)] {
            let original = values();
            let matrix =
                QuantizedMatrix::new(&original, [3, 2 * BLOCK], quantization, &Device::flex())
                    .expect("whole blocks");
            assert_eq!(matrix.shape(), [3, 2 * BLOCK]);
            let found: Vec<f32> = matrix.dequantize().into_data().iter::<f32>().collect();
            for (block, found) in original.chunks(BLOCK).zip(found.chunks(BLOCK)) {
                let largest = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                // The scale is up to 1/128 larger than it need be. Four bits end at 7, one short
                // of the largest magnitude on the other side.
                let step = largest / steps * (1.0 + 1.0 / 128.0);
                let allowed = if quantization == Quantization::Q8 { 0.501 } else { 1.001 } * step;
                for (x, y) in block.iter().zip(found) {
                    assert!((x - y).abs() <= allowed, "{quantization:?}: {x} became {y}");
                }
            }
        }
    }

    #[test]
    fn rows_of_part_of_a_block_are_refused() {
        let error = QuantizedMatrix::new(&[0.0; 40], [1, 40], Quantization::Q8, &Device::flex())
            .expect_err("40 is not a multiple of 32");
        assert!(error.to_string().contains("rows of 40 elements"), "{error}");
    }
}
