//! Bytes of a file to values in memory and back, in any of our dtypes.
//!
//! Narrowing rounds to nearest, ties to even, as torch does. A value that is not finite, or that
//! was finite and is not any more once narrowed, is reported with its index.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use burn::tensor::{Element as BurnElement, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::dtype::Dtype;
use crate::error::BadValue;

/// Elements that are read and converted at a time: small enough to stay in the cache.
const CHUNK: usize = 1 << 17;

/// Why values could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    Value(BadValue),
}

/// Where a tensor's values are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) n_elements: usize,
    pub(crate) dtype: Dtype,
}

/// What values are read from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// One after another in a file, the first at this byte.
    File(&'a File, u64),
    /// Pieces of a tensor in the order of its elements, without gaps, of which the values begin at
    /// element `first`. There may be more files than can be open at once, so that each is opened
    /// when it is read.
    Pieces { paths: &'a [PathBuf], pieces: &'a [Piece], first: usize },
}

/// Elements of a tensor that follow each other in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    /// The first of them, by its index in the tensor, row-major.
    pub(crate) first: usize,
    pub(crate) n_elements: usize,
    /// Which of the files.
    pub(crate) file: usize,
    /// Offset of the first byte.
    pub(crate) start: u64,
}

impl Stored<'_> {
    /// `n_elements` of these from element `first` on; the caller knows that they are there.
    pub(crate) fn part(self, first: usize, n_elements: usize) -> Self {
        let source = match self.source {
            Source::File(file, start) => {
                Source::File(file, start + (first * self.dtype.size()) as u64)
            }
            Source::Pieces { paths, pieces, first: before } => {
                Source::Pieces { paths, pieces, first: before + first }
            }
        };
        Self { source, n_elements, ..self }
    }

    /// The bytes of all of these values.
    fn read_bytes(self, bytes: &mut [u8]) -> io::Result<()> {
        let (paths, pieces, first) = match self.source {
            Source::File(file, start) => return read_exact_at(file, bytes, start),
            Source::Pieces { paths, pieces, first } => (paths, pieces, first),
        };
        let (size, end) = (self.dtype.size(), first + self.n_elements);
        let mut rest = bytes;
        let begin = pieces.partition_point(|piece| piece.first + piece.n_elements <= first);
        for piece in pieces[begin..].iter().take_while(|piece| piece.first < end) {
            let from = first.max(piece.first);
            let n_elements = end.min(piece.first + piece.n_elements) - from;
            let (part, after) = rest.split_at_mut(n_elements * size);
            rest = after;
            let start = piece.start + ((from - piece.first) * size) as u64;
            read_exact_at(&File::open(&paths[piece.file])?, part, start)?;
        }
        Ok(())
    }

    /// The tensor in the dtype asked for; every value must be finite.
    pub(crate) fn tensor(self, shape: &[usize], to: Dtype) -> Result<TensorData, ReadError> {
        fn read<D: Element + BurnElement>(
            stored: Stored<'_>,
            shape: &[usize],
        ) -> Result<TensorData, ReadError> {
            Ok(TensorData::new(stored.values::<D>(Check::Finite)?, shape.to_vec()))
        }
        match to {
            Dtype::F32 => read::<f32>(self, shape),
            Dtype::F16 => read::<f16>(self, shape),
            Dtype::Bf16 => read::<bf16>(self, shape),
        }
    }

    /// Passes the bytes of the values in the dtype asked for to `put`, chunk by chunk; as they are
    /// where that is their own, and otherwise every value must be finite.
    pub(crate) fn copy<E>(
        self,
        to: Dtype,
        bad: impl Fn(ReadError) -> E,
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut bytes = Vec::new();
        for first in (0..self.n_elements).step_by(CHUNK) {
            let part = self.part(first, CHUNK.min(self.n_elements - first));
            if self.dtype == to {
                bytes.resize(part.n_elements * to.size(), 0);
                part.read_bytes(&mut bytes).map_err(|error| bad(ReadError::Io(error)))?;
                put(&bytes)?;
            } else {
                let values = part.any_f32().map_err(&bad)?;
                let bad = |value: BadValue| {
                    bad(ReadError::Value(BadValue { index: first + value.index, ..value }))
                };
                write_from(&values, to, bad, &mut put)?;
            }
        }
        Ok(())
    }

    /// The values in single precision, whatever they are.
    pub(crate) fn any_f32(self) -> Result<Vec<f32>, ReadError> {
        self.values(Check::Nothing)
    }

    fn values<D: Element>(self, check: Check) -> Result<Vec<D>, ReadError> {
        match self.dtype {
            Dtype::F32 => self.convert::<f32, D>(check),
            Dtype::F16 => self.convert::<f16, D>(check),
            Dtype::Bf16 => self.convert::<bf16, D>(check),
        }
    }

    /// Reads and converts chunk by chunk on all cores, so that the bytes of the file are never
    /// in memory as a whole beside the values.
    fn convert<S: Element, D: Element>(self, check: Check) -> Result<Vec<D>, ReadError> {
        let mut values = vec![D::default(); self.n_elements];
        values.par_chunks_mut(CHUNK).enumerate().try_for_each_init(Vec::new, |bytes, chunk| {
            let (index, values) = chunk;
            bytes.resize(values.len() * S::SIZE, 0);
            let first = index * CHUNK;
            self.part(first, values.len()).read_bytes(bytes).map_err(ReadError::Io)?;
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(S::SIZE)) {
                *value = convert(S::read(bytes));
            }
            match check {
                Check::Nothing => Ok(()),
                Check::Finite => check_finite(values, first, |at| {
                    S::read(&bytes[at * S::SIZE..(at + 1) * S::SIZE]).to_f32()
                })
                .map_err(ReadError::Value),
            }
        })?;
        Ok(values)
    }
}

/// Passes the values of a tensor to `put` as the bytes of `to`, chunk by chunk.
///
/// The outer `None` means that the tensor is of none of our dtypes.
pub(crate) fn write_tensor<E>(
    data: &TensorData,
    to: Dtype,
    bad: impl Fn(BadValue) -> E,
    put: impl FnMut(&[u8]) -> Result<(), E>,
) -> Option<Result<(), E>> {
    match Dtype::from_burn(data.dtype())? {
        Dtype::F32 => Some(write_from(data.as_slice::<f32>().ok()?, to, bad, put)),
        Dtype::F16 => Some(write_from(data.as_slice::<f16>().ok()?, to, bad, put)),
        Dtype::Bf16 => Some(write_from(data.as_slice::<bf16>().ok()?, to, bad, put)),
    }
}

fn write_from<S: Element, E>(
    values: &[S],
    to: Dtype,
    bad: impl Fn(BadValue) -> E,
    put: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    match to {
        Dtype::F32 => write_as::<S, f32, E>(values, bad, put),
        Dtype::F16 => write_as::<S, f16, E>(values, bad, put),
        Dtype::Bf16 => write_as::<S, bf16, E>(values, bad, put),
    }
}

fn write_as<S: Element, D: Element, E>(
    values: &[S],
    bad: impl Fn(BadValue) -> E,
    mut put: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut bytes = Vec::new();
    for (index, chunk) in values.chunks(CHUNK).enumerate() {
        let narrowed: Vec<D> = chunk.iter().map(|&value| convert(value)).collect();
        check_finite(&narrowed, index * CHUNK, |at| chunk[at].to_f32()).map_err(&bad)?;
        bytes.resize(chunk.len() * D::SIZE, 0);
        for (value, bytes) in narrowed.iter().zip(bytes.chunks_exact_mut(D::SIZE)) {
            value.write(bytes);
        }
        put(&bytes)?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Check {
    Nothing,
    Finite,
}

/// One of the formats in memory.
trait Element: Copy + Default + Send + Sync {
    const SIZE: usize;
    const DTYPE: Dtype;
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
    fn is_finite(self) -> bool;
}

/// Through `f32`, which holds every value of the narrower formats: one rounding at most.
fn convert<S: Element, D: Element>(value: S) -> D {
    D::from_f32(value.to_f32())
}

fn check_finite<D: Element>(
    values: &[D],
    first: usize,
    original: impl Fn(usize) -> f32,
) -> Result<(), BadValue> {
    // Without an early exit the loop is vectorised; the search for the index is rarely needed.
    if values.iter().fold(true, |all, value| all & value.is_finite()) {
        return Ok(());
    }
    let at = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
    Err(BadValue { index: first + at, value: original(at), dtype: D::DTYPE })
}

impl Element for f32 {
    const SIZE: usize = 4;
    const DTYPE: Dtype = Dtype::F32;

    fn read(bytes: &[u8]) -> Self {
        Self::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn write(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.to_le_bytes());
    }

    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

macro_rules! half_element {
    ($type:ty, $dtype:expr) => {
        impl Element for $type {
            const SIZE: usize = 2;
            const DTYPE: Dtype = $dtype;

            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes([bytes[0], bytes[1]])
            }

            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            fn from_f32(value: f32) -> Self {
                Self::from_f32(value)
            }

            fn to_f32(self) -> f32 {
                self.to_f32()
            }

            fn is_finite(self) -> bool {
                self.is_finite()
            }
        }
    };
}

half_element!(f16, Dtype::F16);
half_element!(bf16, Dtype::Bf16);

#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.reopen().unwrap()
    }

    fn stored(file: &File, start: u64, n_elements: usize, dtype: Dtype) -> Stored<'_> {
        Stored { source: Source::File(file, start), n_elements, dtype }
    }

    #[test]
    fn pieces_are_one_tensor() {
        let scratch = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..2 * CHUNK + 9).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let cuts = [0, 3, CHUNK - 1, CHUNK + 5, values.len()];
        let paths: Vec<PathBuf> = (0..2).map(|i| scratch.path().join(i.to_string())).collect();
        let mut files = vec![vec![0; 5], Vec::new()];
        let mut pieces = Vec::new();
        for (i, cut) in cuts.windows(2).enumerate() {
            let (file, n_elements) = (i % 2, cut[1] - cut[0]);
            let start = files[file].len() as u64;
            pieces.push(Piece { first: cut[0], n_elements, file, start });
            files[file].extend_from_slice(&bytes[4 * cut[0]..4 * cut[1]]);
        }
        for (path, bytes) in paths.iter().zip(&files) {
            std::fs::write(path, bytes).unwrap();
        }
        let source = Source::Pieces { paths: &paths, pieces: &pieces, first: 0 };
        let whole = Stored { source, n_elements: values.len(), dtype: Dtype::F32 };
        assert_eq!(whole.any_f32().unwrap(), values);
        for (first, n) in [(0, 1), (2, 2), (3, 0), (CHUNK - 2, 8), (values.len() - 1, 1)] {
            assert_eq!(whole.part(first, n).any_f32().unwrap(), values[first..first + n]);
            let inner = whole.part(1, CHUNK).part(first / 2, 2).any_f32().unwrap();
            assert_eq!(inner, values[1 + first / 2..3 + first / 2]);
        }
        let mut copied = Vec::new();
        let put = |part: &[u8]| -> Result<(), ReadError> {
            copied.extend_from_slice(part);
            Ok(())
        };
        whole.copy(Dtype::F32, |error| error, put).unwrap();
        assert_eq!(copied, bytes);
        std::fs::remove_file(&paths[1]).unwrap();
        assert!(matches!(whole.any_f32(), Err(ReadError::Io(_))));
    }

    fn written(values: Vec<f32>, to: Dtype) -> Result<Vec<u8>, BadValue> {
        let n = values.len();
        let mut bytes = Vec::new();
        let put = |chunk: &[u8]| {
            bytes.extend_from_slice(chunk);
            Ok(())
        };
        write_tensor(&TensorData::new(values, [n]), to, |bad| bad, put).expect("f32 is known")?;
        Ok(bytes)
    }

    #[test]
    fn narrowing_rounds_to_nearest_even() {
        // Halfway between two neighbours; `torch.tensor(x).bfloat16()` and `.half()` agree.
        let half_steps = [1.0, 3.0, 0.125, 0.375];
        let cases = half_steps.map(|half: f32| 1.0 + half / 256.0);
        let bf16_bits = [0x3F80_u16, 0x3F82, 0x3F80, 0x3F80];
        let f16_bits = [0x3C04_u16, 0x3C0C, 0x3C00, 0x3C02];
        for (to, bits) in [(Dtype::Bf16, bf16_bits), (Dtype::F16, f16_bits)] {
            let expected: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            assert_eq!(written(cases.to_vec(), to), Ok(expected.clone()));
            let bytes: Vec<u8> = cases.iter().flat_map(|value| value.to_le_bytes()).collect();
            let file = file(&bytes);
            let read = stored(&file, 0, 4, Dtype::F32).tensor(&[2, 2], to).unwrap();
            assert_eq!(read.as_bytes(), expected);
            assert_eq!(read.dtype(), to.into());
        }
    }

    #[test]
    fn every_half_survives_widening_and_narrowing() {
        let finite: Vec<u16> =
            (0..=u16::MAX).filter(|&bits| f16::from_bits(bits).is_finite()).collect();
        let bytes: Vec<u8> = finite.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let f16_file = file(&bytes);
        let values = stored(&f16_file, 0, finite.len(), Dtype::F16).any_f32().unwrap();
        assert_eq!(written(values, Dtype::F16), Ok(bytes));
        let finite: Vec<u16> =
            (0..=u16::MAX).filter(|&bits| bf16::from_bits(bits).is_finite()).collect();
        let bytes: Vec<u8> = finite.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let bf16_file = file(&bytes);
        let values = stored(&bf16_file, 0, finite.len(), Dtype::Bf16).any_f32().unwrap();
        assert_eq!(written(values, Dtype::Bf16), Ok(bytes));
    }

    #[test]
    fn chunks_join_and_the_first_bad_value_is_named() {
        let n = 2 * CHUNK + 5;
        let mut values: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let to_file = |values: &[f32]| {
            let mut bytes = vec![0xFF; 3];
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            file(&bytes)
        };
        let sound = to_file(&values);
        assert_eq!(stored(&sound, 3, n, Dtype::F32).any_f32().unwrap(), values);
        values[CHUNK + 7] = f32::NEG_INFINITY;
        let infinite = to_file(&values);
        let place = stored(&infinite, 3, n, Dtype::F32);
        let Err(ReadError::Value(bad)) = place.tensor(&[n], Dtype::F32) else { panic!("-inf") };
        assert_eq!((bad.index, bad.value), (CHUNK + 7, f32::NEG_INFINITY));
        assert_eq!(place.any_f32().unwrap(), values);
        let Err(ReadError::Io(_)) = stored(&infinite, 4, n, Dtype::F32).any_f32() else {
            panic!("a byte is missing")
        };
    }

    #[test]
    fn a_value_too_large_for_half_precision_is_named() {
        let bad = written(vec![1.0, 65_519.0, 65_520.0], Dtype::F16).unwrap_err();
        assert_eq!(bad, BadValue { index: 2, value: 65_520.0, dtype: Dtype::F16 });
        assert_eq!(bad.to_string(), "element 2 is 6.552e4, which does not fit f16");
        let bad = written(vec![f32::NAN], Dtype::F32).unwrap_err();
        assert_eq!(bad.to_string(), "element 0 is NaN, expected a finite number");
    }
}
