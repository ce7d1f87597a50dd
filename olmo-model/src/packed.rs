//! Matrices laid out for the CPU's kernels, for running a model, not for training one.
//!
//! The rows of a matrix `[d_out, d_in]` are cut into panels of [`WIDTH`]. A panel is stored along its
//! rows: one [`Step`] holds the elements of all of them at one place, in bf16 those at two places. To
//! multiply one row of activations is then to read the weights once, from the first byte to the last,
//! and each sum still adds its products one after the other. Quantised matrices, of which four numbers
//! make up a unit, are held like that too.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Device, TensorData};
use half::{bf16, f16};

use crate::error::Error;
use crate::kernels;
use crate::quantized::{Quantization, QuantizedSteps};

/// Rows of the matrix in a panel.
pub(crate) const WIDTH: usize = 32;

/// Steps packed at a time: what is written of a panel stays in the first-level cache.
const TILE: usize = 16;

/// Elements of a part, as a matrix is read and packed.
const PART_ELEMENTS: usize = 1 << 18;

/// A unit of each row of a panel, at the same place: one element or several.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Step<T>(pub(crate) [T; WIDTH]);

/// A matrix `[d_out, d_in]` in panels. It is no parameter: neither trained nor visited.
#[derive(Module, Debug)]
pub struct PackedMatrix {
    #[module(skip)]
    panels: Arc<Panels>,
    /// The dtype of what the matrix is multiplied with.
    #[module(skip)]
    dtype: DType,
    #[module(skip)]
    device: Device,
}

/// The elements of a matrix, panel after panel; the last is filled up with rows of zeros.
pub(crate) struct Panels {
    pub(crate) d_out: usize,
    pub(crate) d_in: usize,
    pub(crate) values: Values,
}

/// Steps of all panels.
pub(crate) enum Values {
    F32(Vec<Step<f32>>),
    F16(Vec<Step<f16>>),
    /// Pairs of elements, the first in the upper half: the order in which the instruction that
    /// multiplies two at once adds them.
    Bf16(Vec<Step<u32>>),
    /// See [`crate::quantized`].
    Quantized(QuantizedSteps),
}

impl PackedMatrix {
    /// Packs a matrix from parts that `read` gives for ranges of its rows, in the dtype of the first,
    /// or quantised. It is multiplied with rows of that dtype, or of f32 where it is quantised or
    /// `widened`.
    ///
    /// # Errors
    ///
    /// The first of `read`, and [`Error::Quantization`] where rows are not made of whole blocks, or
    /// the device is not burn's CPU backend.
    ///
    /// # Panics
    ///
    /// When a part is of another size or dtype, or of none of our dtypes.
    pub(crate) fn from_parts<E: From<Error>>(
        [d_out, d_in]: [usize; 2],
        quantization: Option<Quantization>,
        widened: bool,
        device: &Device,
        mut read: impl FnMut(Range<usize>) -> Result<TensorData, E>,
    ) -> Result<Self, E> {
        if quantization.is_some() {
            Quantization::check_rows(d_in, device)?;
        }
        let empty = |dtype| Panels::empty([d_out, d_in], dtype, quantization);
        let n_rows = (PART_ELEMENTS / d_in.max(1)).next_multiple_of(WIDTH).max(WIDTH);
        let mut panels = None;
        for first in (0..d_out).step_by(n_rows) {
            let part = read(first..d_out.min(first + n_rows))?;
            panels.get_or_insert_with(|| empty(part.dtype())).push(&part);
        }
        let panels = panels.unwrap_or_else(|| empty(DType::F32));
        let dtype = if widened { DType::F32 } else { panels.dtype() };
        Ok(Self { panels: Arc::new(panels), dtype, device: device.clone() })
    }

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
    pub fn quantized(
        values: &[f32],
        [d_out, d_in]: [usize; 2],
        to: Quantization,
        device: &Device,
    ) -> Result<Self, Error> {
        assert_eq!(values.len(), d_out * d_in, "values of a matrix [{d_out}, {d_in}]");
        Self::from_parts([d_out, d_in], Some(to), false, device, |rows| {
            let part = values[rows.start * d_in..rows.end * d_in].to_vec();
            Ok(TensorData::new(part, [rows.len(), d_in]))
        })
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.panels.d_out, self.panels.d_in]
    }

    /// How many bits an element has, where it is quantised.
    pub fn quantization(&self) -> Option<Quantization> {
        match &self.panels.values {
            Values::Quantized(steps) => Some(steps.quantization),
            _ => None,
        }
    }

    /// The dtype of what the matrix is multiplied with. Its elements are held in the same, in a
    /// narrower one that they came in, or quantised.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device that the matrix is multiplied on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The elements row by row, a copy in [`dtype`](Self::dtype).
    pub fn unpacked(&self) -> TensorData {
        self.rows(0..self.panels.d_out)
    }

    /// Some rows, one after the other: `[n, d_in]`, in [`dtype`](Self::dtype).
    pub(crate) fn rows(&self, rows: impl ExactSizeIterator<Item = usize> + Clone) -> TensorData {
        fn gathered<T: Copy, E: burn::tensor::Element>(
            panels: &Panels,
            steps: &[Step<T>],
            rows: impl ExactSizeIterator<Item = usize>,
            units: impl Fn(T) -> [E; 2],
            per_step: usize,
        ) -> TensorData {
            let (n, d_in) = (rows.len(), panels.d_in);
            let length = d_in.div_ceil(per_step);
            let mut out = Vec::with_capacity(n * d_in);
            for row in rows {
                let panel = &steps[row / WIDTH * length..][..length];
                let elements = panel
                    .iter()
                    .flat_map(|step| units(step.0[row % WIDTH]).into_iter().take(per_step));
                out.extend(elements.take(d_in));
            }
            TensorData::new(out, [n, d_in])
        }
        let panels = &*self.panels;
        let rows = match &panels.values {
            Values::F32(steps) => gathered(panels, steps, rows, |x| [x, 0.0], 1),
            Values::F16(steps) => gathered(panels, steps, rows, |x| [x, f16::ZERO], 1),
            Values::Bf16(steps) => gathered(panels, steps, rows, pair, 2),
            Values::Quantized(steps) => {
                let mut out = Vec::with_capacity(rows.len() * panels.d_in);
                let n = rows.len();
                rows.for_each(|row| steps.extend_with_row(row, panels.d_in, &mut out));
                TensorData::new(out, [n, panels.d_in])
            }
        };
        rows.convert_dtype(self.dtype)
    }

    /// The panels, as the kernels take them.
    #[cfg(feature = "flex")]
    pub(crate) fn panels(&self) -> &Panels {
        &self.panels
    }
}

impl Panels {
    fn empty([d_out, d_in]: [usize; 2], dtype: DType, quantization: Option<Quantization>) -> Self {
        let n_panels = d_out.div_ceil(WIDTH);
        let values = match (quantization, dtype) {
            (Some(to), _) => Values::Quantized(QuantizedSteps::with_room(n_panels, d_in, to)),
            (None, DType::F32) => Values::F32(Vec::with_capacity(n_panels * d_in)),
            (None, DType::F16) => Values::F16(Vec::with_capacity(n_panels * d_in)),
            (None, DType::BF16) => Values::Bf16(Vec::with_capacity(n_panels * d_in.div_ceil(2))),
            (None, other) => panic!("matrices are of f32, f16 or bf16, not {other:?}"),
        };
        Self { d_out, d_in, values }
    }

    /// The dtype of the elements, f32 where they are quantised.
    fn dtype(&self) -> DType {
        match self.values {
            Values::F32(_) | Values::Quantized(_) => DType::F32,
            Values::F16(_) => DType::F16,
            Values::Bf16(_) => DType::BF16,
        }
    }

    /// Packs rows behind those that are there, which fill their panels.
    fn push(&mut self, rows: &TensorData) {
        const SAME: &str = "every part has the dtype of the first";
        let d_in = self.d_in;
        match &mut self.values {
            Values::F32(steps) => {
                let rows: &[f32] = rows.as_slice().expect(SAME);
                push(steps, rows, d_in, 1, 0.0, |unit| unit[0]);
            }
            Values::F16(steps) => {
                let rows: &[f16] = rows.as_slice().expect(SAME);
                push(steps, rows, d_in, 1, f16::ZERO, |unit| unit[0]);
            }
            Values::Bf16(steps) => {
                let rows: &[bf16] = rows.as_slice().expect(SAME);
                push(steps, rows, d_in, 2, 0, unit_of);
            }
            Values::Quantized(steps) => {
                if let Ok(values) = rows.as_slice() {
                    return steps.push(values, d_in);
                }
                steps.push(&rows.iter::<f32>().collect::<Vec<_>>(), d_in);
            }
        }
    }
}

/// Two elements as the instruction takes them; the last of an odd row is alone.
pub(crate) fn unit_of(elements: &[bf16]) -> u32 {
    pair_of(elements[0], elements.get(1).copied().unwrap_or(bf16::ZERO))
}

/// The same of two that are there.
#[inline]
pub(crate) fn pair_of(first: bf16, second: bf16) -> u32 {
    (u32::from(first.to_bits()) << 16) | u32::from(second.to_bits())
}

fn pair(unit: u32) -> [bf16; 2] {
    [(unit >> 16) as u16, (unit & 0xFFFF) as u16].map(bf16::from_bits)
}

fn push<E: Copy + Sync, T: Copy + Send>(
    steps: &mut Vec<Step<T>>,
    rows: &[E],
    d_in: usize,
    per_step: usize,
    zero: T,
    unit: impl Fn(&[E]) -> T + Sync,
) {
    if d_in == 0 {
        return;
    }
    let (first, length) = (steps.len(), d_in.div_ceil(per_step));
    let n_panels = (rows.len() / d_in).div_ceil(WIDTH);
    steps.resize(first + n_panels * length, Step([zero; WIDTH]));
    kernels::for_each_chunk(&mut steps[first..], length, |panel, steps| {
        let rows = &rows[panel * WIDTH * d_in..];
        for (tile, steps) in steps.chunks_mut(TILE).enumerate() {
            for (lane, row) in rows.chunks_exact(d_in).take(WIDTH).enumerate() {
                let units = row[tile * TILE * per_step..].chunks(per_step);
                for (step, elements) in steps.iter_mut().zip(units) {
                    step.0[lane] = unit(elements);
                }
            }
        }
    });
}

impl fmt::Debug for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match &self.values {
            Values::F32(_) => "f32",
            Values::F16(_) => "f16",
            Values::Bf16(_) => "bf16",
            Values::Quantized(steps) => match steps.quantization {
                Quantization::Q8 => "8 bits",
                Quantization::Q4 => "4 bits",
            },
        };
        write!(f, "[{}, {}] in {form}", self.d_out, self.d_in)
    }
}

#[cfg(all(test, feature = "flex"))]
pub(crate) mod tests {
    use burn::tensor::Tensor;

    use super::*;

    /// A matrix that is there, packed; to be multiplied with f32 where it is `widened`.
    pub(crate) fn packed(data: &TensorData, widened: bool) -> PackedMatrix {
        let [d_out, d_in] = data.shape().dims();
        let matrix: Tensor<2> = Tensor::from_data(data.clone(), (&Device::flex(), data.dtype()));
        let read = |rows| Ok::<_, Error>(matrix.clone().slice([rows]).into_data());
        PackedMatrix::from_parts([d_out, d_in], None, widened, &Device::flex(), read)
            .expect("sound")
    }

    #[test]
    fn rows_come_out_as_they_went_in() {
        for (d_out, d_in) in [(1, 1), (31, 7), (32, 16), (70, 33), (4, 300_000)] {
            let values: Vec<f32> = (0..d_out * d_in).map(|i| (i % 251) as f32).collect();
            let data = TensorData::new(values, [d_out, d_in]);
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let data = data.clone().convert_dtype(dtype);
                let packed = packed(&data, false);
                assert_eq!((packed.shape(), packed.dtype()), ([d_out, d_in], dtype));
                assert_eq!(packed.unpacked(), data);
                let some = [d_out - 1, 0];
                let rows = packed.rows(some.into_iter());
                let all: Vec<f32> = data.iter::<f32>().collect();
                let expected = some.map(|row| &all[row * d_in..(row + 1) * d_in]).concat();
                assert_eq!(rows.iter::<f32>().collect::<Vec<_>>(), expected);
            }
        }
    }
}
