//! Elements of 8 or 4 bits, for running a model, not for training one.
//!
//! A row is cut into blocks of [`BLOCK`] elements; each holds whole numbers and one scale, so that
//! an element is `scale * number`. Eight bits keep numbers from -127 to 127, four bits from -8
//! to 7 with the scale's sign chosen so that the largest element is -8. Activations are rounded to
//! eight bits by blocks too where they are multiplied with such a matrix, so that the products are
//! those of whole numbers.
//!
//! Numbers are stored with an offset that makes them positive, four bytes to a unit of a
//! [`Step`]: in a byte a number of eight bits, or two of four bits, of which the low one is of the
//! block's first half and the high one of the second.

use burn::tensor::Device;
use half::bf16;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::Error;
use crate::kernels;
use crate::packed::{Step, WIDTH};
use crate::parameters::{Parameter, Role};

/// Elements that share a scale.
pub const BLOCK: usize = 32;

/// Bytes of a unit.
const UNIT: usize = size_of::<u32>();

/// How many bits an element is held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// Eight bits: 1.0625 bytes an element with its share of the scale.
    Q8,
    /// Four bits: 0.5625 bytes an element with its share of the scale.
    Q4,
}

/// The panels of a quantised matrix.
pub(crate) struct QuantizedSteps {
    pub(crate) quantization: Quantization,
    /// Numbers, [`Quantization::steps`] to a block.
    pub(crate) groups: Vec<Step<u32>>,
    /// The scales of a block.
    pub(crate) scales: Vec<Step<bf16>>,
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

    /// Whether the matrices of a model can be quantised on a device.
    ///
    /// # Errors
    ///
    /// [`Error::Quantization`] where rows are not made of whole blocks, or the device is not burn's CPU
    /// backend.
    pub fn check(self, config: &ModelConfig, device: &Device) -> Result<(), Error> {
        let parameters = config.parameters();
        let mut matrices = parameters.iter().filter(|parameter| Self::applies_to(parameter));
        matrices.try_for_each(|matrix| Self::check_rows(matrix.shape[1], device))
    }

    /// What stands for zero.
    pub(crate) fn offset(self) -> i32 {
        match self {
            Self::Q8 => 128,
            Self::Q4 => 8,
        }
    }

    /// Steps of the numbers of a block.
    pub(crate) fn steps(self) -> usize {
        BLOCK * self.bits() / 8 / UNIT
    }

    /// Whether rows of `d_in` elements can be quantised on a device.
    pub(crate) fn check_rows(d_in: usize, device: &Device) -> Result<(), Error> {
        if !d_in.is_multiple_of(BLOCK) {
            return Err(Error::Quantization { found: format!("rows of {d_in} elements") });
        }
        if !kernels::takes_packed(device) {
            return Err(Error::Quantization { found: format!("the device {device:?}") });
        }
        Ok(())
    }
}

impl QuantizedSteps {
    /// None yet, with room for so many panels with rows of `d_in` elements.
    pub(crate) fn with_room(n_panels: usize, d_in: usize, quantization: Quantization) -> Self {
        let n_blocks = n_panels * d_in / BLOCK;
        let groups = Vec::with_capacity(n_blocks * quantization.steps());
        Self { quantization, groups, scales: Vec::with_capacity(n_blocks) }
    }

    /// Quantises rows of whole blocks, behind those that are there, which fill their panels.
    pub(crate) fn push(&mut self, rows: &[f32], d_in: usize) {
        if d_in == 0 {
            return;
        }
        let (quantization, n_steps) = (self.quantization, self.quantization.steps());
        let n_blocks = d_in / BLOCK;
        let n_panels = (rows.len() / d_in).div_ceil(WIDTH);
        let first = self.scales.len();
        self.scales.resize(first + n_panels * n_blocks, Step([bf16::ZERO; WIDTH]));
        self.groups.resize(self.scales.len() * n_steps, Step([0; WIDTH]));
        let (groups, scales) = (&mut self.groups[first * n_steps..], &mut self.scales[first..]);
        let groups = groups.chunks_mut(n_blocks * n_steps);
        let mut panels: Vec<_> = groups.zip(scales.chunks_mut(n_blocks)).collect();
        kernels::for_each_chunk(&mut panels, 1, |panel, chunk| {
            let [(groups, scales)] = chunk else { return };
            let rows = rows[panel * WIDTH * d_in..].chunks_exact(d_in).take(WIDTH);
            for (lane, row) in rows.enumerate() {
                let steps = groups.chunks_exact_mut(n_steps).zip(scales.iter_mut());
                for (block, (groups, scales)) in row.as_chunks::<BLOCK>().0.iter().zip(steps) {
                    scales.0[lane] = match quantization {
                        Quantization::Q8 => put(q8_block(block), groups, lane),
                        Quantization::Q4 => put(q4_block(block), groups, lane),
                    };
                }
            }
        });
    }

    /// Appends the elements of a row of `d_in`.
    pub(crate) fn extend_with_row(&self, row: usize, d_in: usize, out: &mut Vec<f32>) {
        let (n_blocks, lane) = (d_in / BLOCK, row % WIDTH);
        let offset = self.quantization.offset();
        for block in row / WIDTH * n_blocks..(row / WIDTH + 1) * n_blocks {
            let scale = self.scales[block].0[lane].to_f32();
            let n_steps = self.quantization.steps();
            let steps = &self.groups[block * n_steps..][..n_steps];
            let bytes = steps.iter().flat_map(|step| step.0[lane].to_le_bytes()).map(i32::from);
            match self.quantization {
                Quantization::Q8 => out.extend(bytes.map(|x| (x - offset) as f32 * scale)),
                Quantization::Q4 => {
                    out.extend(bytes.clone().map(|x| ((x & 15) - offset) as f32 * scale));
                    out.extend(bytes.map(|x| ((x >> 4) - offset) as f32 * scale));
                }
            }
        }
    }
}

/// Puts a block's bytes in a lane; returns its scale.
fn put<const N: usize>(
    (bytes, scale): ([u8; N], bf16),
    groups: &mut [Step<u32>],
    lane: usize,
) -> bf16 {
    for (step, unit) in groups.iter_mut().zip(bytes.as_chunks::<UNIT>().0) {
        step.0[lane] = u32::from_le_bytes(*unit);
    }
    scale
}

fn q8_block(block: &[f32; BLOCK]) -> ([u8; BLOCK], bf16) {
    let largest = block.iter().copied().fold(0.0, larger).abs();
    let scale = away_from_zero(largest / 127.0);
    let inverse = inverse(scale);
    let mut bytes = [0; BLOCK];
    for (byte, x) in bytes.iter_mut().zip(block) {
        *byte = (nearest((x * inverse).clamp(-127.0, 127.0)) + Quantization::Q8.offset()) as u8;
    }
    (bytes, scale)
}

fn q4_block(block: &[f32; BLOCK]) -> ([u8; BLOCK / 2], bf16) {
    let largest = block.iter().copied().fold(0.0, larger);
    let scale = away_from_zero(largest / -8.0);
    let inverse = inverse(scale);
    let number =
        |x: f32| (nearest((x * inverse).clamp(-8.0, 7.0)) + Quantization::Q4.offset()) as u8;
    let mut bytes = [0; BLOCK / 2];
    let (low, high) = block.split_at(BLOCK / 2);
    for (byte, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
        *byte = number(*low) | (number(*high) << 4);
    }
    (bytes, scale)
}

/// The one of larger magnitude, of equal ones the first. Magnitudes are ordered as their bits are, with what
/// is no number above all.
fn larger(a: f32, b: f32) -> f32 {
    if b.abs().to_bits() > a.abs().to_bits() { b } else { a }
}

/// The nearest whole number of one below 2^22 in magnitude, of two the even one; 0 for NaN. Adding
/// 1.5 * 2^23 leaves no bits for a fraction. `round_ties_even` is a call for each element where the
/// instruction for it may be missing.
#[inline]
fn nearest(x: f32) -> i32 {
    const ROUND: f32 = 12_582_912.0;
    ((x + ROUND) - ROUND) as i32
}

/// The next bf16 that is no nearer to zero, so that the largest element is not cut off.
fn away_from_zero(x: f32) -> bf16 {
    if x.is_nan() {
        return bf16::NAN;
    }
    let bits = x.to_bits();
    let cut = (bits >> 16) as u16;
    bf16::from_bits(if bits.trailing_zeros() >= 16 { cut } else { cut + 1 })
}

/// What elements are multiplied by; 0 where the scale is so small that it would be infinite: of such a
/// block, as of zeros, nothing is left.
fn inverse(scale: bf16) -> f32 {
    let inverse = 1.0 / scale.to_f32();
    if inverse.is_finite() { inverse } else { 0.0 }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::packed::PackedMatrix;

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
                PackedMatrix::quantized(&original, [3, 2 * BLOCK], quantization, &Device::flex())
                    .expect("whole blocks");
            assert_eq!(matrix.shape(), [3, 2 * BLOCK]);
            assert_eq!(matrix.quantization(), Some(quantization));
            let found: Vec<f32> = matrix.unpacked().iter::<f32>().collect();
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

    /// Weights that are no numbers are not to become some.
    #[test]
    fn what_is_no_number_stays_none() {
        for quantization in [Quantization::Q8, Quantization::Q4] {
            for payload in [f32::NAN, -f32::NAN, f32::from_bits(0x7FFF_FFFF)] {
                let mut block = [0.5; BLOCK];
                block[7] = payload;
                let matrix =
                    PackedMatrix::quantized(&block, [1, BLOCK], quantization, &Device::flex());
                let found = matrix.expect("a whole block").unpacked();
                assert!(found.iter::<f32>().all(f32::is_nan), "{quantization:?} {payload}");
            }
        }
    }

    /// Scales whose inverse is infinite, and the first whose is not.
    #[test]
    fn blocks_too_small_for_a_scale_are_zeros() {
        for quantization in [Quantization::Q8, Quantization::Q4] {
            for exponent in 110..=135 {
                let unit = 2.0_f32.powi(-exponent / 2) * 2.0_f32.powi(-(exponent - exponent / 2));
                let mut block = [0.0; BLOCK];
                block[..3].copy_from_slice(&[-8.0 * unit, 3.0 * unit, unit]);
                let matrix =
                    PackedMatrix::quantized(&block, [1, BLOCK], quantization, &Device::flex());
                let found = matrix.expect("a whole block").unpacked();
                let found: Vec<f32> = found.iter::<f32>().collect();
                let is_zero = found.iter().all(|x| *x == 0.0);
                let is_near = block.iter().zip(&found).all(|(x, y)| (x - y).abs() <= unit);
                assert!(is_zero || is_near, "{quantization:?} 2^-{exponent}: {found:?}");
                assert!(exponent > 126 - 3 || is_near, "{quantization:?} 2^-{exponent}: {found:?}");
            }
        }
    }

    #[test]
    fn whole_numbers_are_rounded_to_even() {
        for i in -1024..=1024 {
            let x = i as f32 / 8.0;
            for x in [x.next_down(), x, x.next_up()] {
                assert_eq!(nearest(x), x.round_ties_even() as i32, "{x}");
            }
        }
        assert_eq!(nearest(f32::NAN), 0);
    }

    #[test]
    fn rows_of_part_of_a_block_are_refused() {
        let error = PackedMatrix::quantized(&[0.0; 40], [1, 40], Quantization::Q8, &Device::flex())
            .expect_err("40 is not a multiple of 32");
        assert!(error.to_string().contains("rows of 40 elements"), "{error}");
    }
}
