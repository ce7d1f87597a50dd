//! Named tensors in one safetensors file, for whatever is not a model: optimizer state above all.
//!
//! Names, dtypes and shapes are known beforehand; the values come one tensor at a time, so that
//! a file may be larger than memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::atomic::write_atomic;
use crate::dtype::Dtype;
use crate::error::{Error, Problems, Result};
use crate::header::{Entry, Header, HeaderError, find_duplicate, header_bytes};
use crate::values::{ReadError, Source, Stored};

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name, unlike any other in the file.
    pub name: String,
    /// The format of its elements.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Bytes of all elements.
    ///
    /// # Panics
    ///
    /// Panics in debug builds where the product of the shape is past `usize`.
    pub fn n_bytes(&self) -> usize {
        self.dtype.size() * self.shape.iter().product::<usize>()
    }
}

/// Writes tensors in their order, whole or not at all; `bytes(i)` gives the elements of tensor
/// `i`, little-endian, and is asked once for each.
///
/// # Errors
///
/// What `bytes` returned; [`Error::TensorSize`] where it returned too few or too many;
/// [`Error::TensorFile`] where a name is there twice; [`Error::Io`]. Nothing is left behind.
pub fn write_tensors<'a, E: From<Error>>(
    path: &Path,
    tensors: &[TensorSpec],
    metadata: &[(&str, &str)],
    mut bytes: impl FnMut(usize) -> Result<Cow<'a, [u8]>, E>,
) -> Result<(), E> {
    write_tensors_in_parts(path, tensors, metadata, |index, put| Ok(put(&bytes(index)?)?))
}

/// As [`write_tensors`], of tensors that need not be in memory as a whole: `write(i, put)` gives the
/// elements of tensor `i` to `put`, one part after another.
///
/// # Errors
///
/// As of [`write_tensors`], with what `write` returned.
pub fn write_tensors_in_parts<E: From<Error>>(
    path: &Path,
    tensors: &[TensorSpec],
    metadata: &[(&str, &str)],
    mut write: impl FnMut(usize, &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), E>,
) -> Result<(), E> {
    if let Some(name) = find_duplicate(tensors) {
        let problems = Problems(vec![format!("{name} is there twice, or reserved")]);
        return Err(Error::TensorFile { path: path.to_owned(), problems }.into());
    }
    write_atomic(path, |file| {
        file.put(&header_bytes(tensors, metadata))?;
        for (index, tensor) in tensors.iter().enumerate() {
            let (mut found, expected) = (0, tensor.n_bytes());
            write(index, &mut |bytes| {
                found += bytes.len();
                file.put(bytes)
            })?;
            if found != expected {
                let (path, tensor) = (path.to_owned(), tensor.name.clone());
                return Err(Error::TensorSize { path, tensor, found, expected }.into());
            }
        }
        Ok(())
    })
}

/// An open safetensors file, its header read and checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], or [`Error::TensorFile`] with everything that is wrong: a damaged header,
    /// tensors that overlap, a file cut short.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let header = Header::read(&file).map_err(|error| match error {
            HeaderError::Io(source) => Error::io(path, "read")(source),
            HeaderError::Problems(problems) => {
                Error::TensorFile { path: path.to_owned(), problems: Problems(problems) }
            }
        })?;
        let Header { entries, metadata } = header;
        let by_name =
            entries.iter().enumerate().map(|(index, entry)| (entry.name.clone(), index)).collect();
        Ok(Self { path: path.to_owned(), file, entries, by_name, metadata })
    }

    /// The names, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The notes that were given when the file was written.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The shape of a tensor, `None` where there is none of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let index = *self.by_name.get(name)?;
        Some(&self.entries[index].shape)
    }

    /// The values of a tensor in single precision, row-major and not checked to be finite.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`], [`Error::TensorDtype`] where it is not of floating point, or
    /// [`Error::Io`].
    pub fn get_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.get_f32_range(name, 0, self.entry(name)?.n_elements())
    }

    /// As [`get_f32`](Self::get_f32), but only `n_elements` from element `first` on: what a rank
    /// needs of a flat tensor that others hold the rest of.
    ///
    /// # Errors
    ///
    /// As [`get_f32`](Self::get_f32), and [`Error::TensorSize`] where the range is past its end.
    pub fn get_f32_range(&self, name: &str, first: usize, n_elements: usize) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        let Some(dtype) = Dtype::from_safetensors_name(&entry.dtype) else {
            return Err(Error::TensorDtype {
                path: self.path.clone(),
                tensor: name.to_owned(),
                found: entry.dtype.clone(),
                supported: "F32, F16 and BF16",
            });
        };
        let end = first.saturating_add(n_elements);
        if end > entry.n_elements() {
            return Err(Error::TensorSize {
                path: self.path.clone(),
                tensor: name.to_owned(),
                found: entry.n_elements() * dtype.size(),
                expected: end.saturating_mul(dtype.size()),
            });
        }
        let source = Source::File(&self.file, entry.start);
        let whole = Stored { source, n_elements: entry.n_elements(), dtype };
        whole.part(first, n_elements).any_f32().map_err(|error| match error {
            ReadError::Io(source) => Error::io(&self.path, "read")(source),
            ReadError::Value(value) => {
                Error::Value { path: self.path.clone(), tensor: name.to_owned(), value }
            }
        })
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let index = self
            .by_name
            .get(name)
            .ok_or_else(|| Error::NoTensor { path: self.path.clone(), name: name.to_owned() })?;
        Ok(&self.entries[*index])
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
    }

    fn bytes(values: &[f32]) -> Cow<'static, [u8]> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into()
    }

    fn write_two(path: &Path) {
        let tensors = [spec("w.exp_avg", Dtype::F32, &[2, 3]), spec("half", Dtype::Bf16, &[2])];
        write_tensors::<Error>(path, &tensors, &[("step", "7")], |index| {
            Ok(match index {
                0 => bytes(&[0.0, 1.0, 2.0, f32::NAN, 4.0, 5.0]),
                _ => Cow::Borrowed(&[0x80, 0x3F, 0x00, 0xC0]),
            })
        })
        .unwrap();
    }

    #[test]
    fn tensors_come_back_by_name_whole_and_in_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optim.safetensors");
        write_two(&path);
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["w.exp_avg", "half"]);
        assert_eq!(file.shape("w.exp_avg"), Some([2, 3].as_slice()));
        assert_eq!(file.metadata()["step"], "7");
        assert_eq!(file.get_f32("half").unwrap(), [1.0, -2.0]);
        assert_eq!(file.get_f32_range("w.exp_avg", 4, 2).unwrap(), [4.0, 5.0]);
        assert_eq!(file.get_f32_range("half", 1, 1).unwrap(), [-2.0]);
        assert!(file.get_f32("w.exp_avg").unwrap()[3].is_nan());
        let error = file.get_f32_range("half", 1, 2).unwrap_err();
        assert!(matches!(error, Error::TensorSize { found: 4, expected: 6, .. }), "{error}");
        assert!(matches!(file.get_f32_range("half", usize::MAX, 2), Err(Error::TensorSize { .. })));
        assert!(
            file.get_f32("exp_avg").unwrap_err().to_string().ends_with("has no tensor exp_avg")
        );
    }

    #[test]
    fn the_reference_implementation_reads_what_we_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optim.safetensors");
        write_two(&path);
        let bytes = fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let half = tensors.tensor("half").unwrap();
        assert_eq!(half.dtype(), safetensors::Dtype::BF16);
        assert_eq!(half.data(), [0x80, 0x3F, 0x00, 0xC0]);
        assert_eq!(tensors.tensor("w.exp_avg").unwrap().shape(), [2, 3]);
    }

    #[test]
    fn we_read_what_the_reference_implementation_writes() {
        let data = bytes(&[1.5, -2.5]);
        let view = |dtype, shape: &[usize], data| {
            safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data).unwrap()
        };
        let tensors = [
            ("b", view(safetensors::Dtype::F32, &[2], &data)),
            ("a", view(safetensors::Dtype::I64, &[1], &data)),
            ("empty", view(safetensors::Dtype::F16, &[0, 4], &[])),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        safetensors::serialize_to_file(tensors, None, file.path()).unwrap();
        let file = TensorFile::open(file.path()).unwrap();
        assert_eq!(file.get_f32("b").unwrap(), [1.5, -2.5]);
        assert_eq!(file.get_f32("empty").unwrap(), [0.0; 0]);
        let error = file.get_f32("a").unwrap_err().to_string();
        assert!(error.ends_with("a is of dtype I64, supported are F32, F16 and BF16"), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optim.safetensors");
        write_two(&path);
        let before = fs::read(&path).unwrap();
        let tensors = [spec("a", Dtype::F32, &[2]), spec("b", Dtype::F32, &[2])];
        let short = |index| Ok(bytes(if index == 0 { &[1.0, 2.0] } else { &[1.0] }));
        let error = write_tensors::<Error>(&path, &tensors, &[], short).unwrap_err();
        assert!(error.to_string().ends_with("b has 4 bytes, expected 8"), "{error}");
        let twice = [tensors[0].clone(), tensors[0].clone()];
        let error = write_tensors::<Error>(&path, &twice, &[], |_| Ok(bytes(&[1.0, 2.0])));
        assert!(matches!(error, Err(Error::TensorFile { .. })));
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_cut_anywhere_or_with_a_flipped_header_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (path, damaged) = (folder.path().join("whole"), folder.path().join("damaged"));
        write_two(&path);
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            fs::write(&damaged, &bytes[..length]).unwrap();
            let error = TensorFile::open(&damaged).expect_err("a byte is missing");
            assert!(error.to_string().contains("damaged"), "{error}");
        }
        for at in 0..bytes.len() - 28 {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                fs::write(&damaged, &flipped).unwrap();
                // A flip in a name or a note is another sound file; no flip may panic.
                if let Ok(file) = TensorFile::open(&damaged) {
                    let names: Vec<_> = file.names().map(String::from).collect();
                    for name in names {
                        let _ = file.get_f32(&name);
                    }
                }
            }
        }
    }
}
