//! The order of an epoch as the reference saves it: `global_indices.npy`, raw little-endian `u32`.
//!
//! The original trainer writes `train_data/global_indices.npy` into the folder of its run, and
//! OLMo-core a `global_indices_…npy` into its working folder. Both are headerless, four bytes an
//! instance in the order of the epoch over all ranks. A part is read without the rest, so that a
//! file of any size needs little memory.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::atomic_file::AtomicFile;
use crate::token_file::has_numpy_header;
use crate::{Error, Result};

const BYTES: u64 = 4;

/// A file of global indices, open for reading.
#[derive(Debug)]
pub struct GlobalIndices {
    path: PathBuf,
    file: File,
    len: usize,
}

impl GlobalIndices {
    /// Opens a file of indices.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be read, [`Error::NumpyHeader`] where it has a header,
    /// [`Error::PartialToken`] where its size is no multiple of four bytes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let mut file = File::open(&path).map_err(Error::io(&path))?;
        let bytes = file.metadata().map_err(Error::io(&path))?.len();
        let mut beginning = Vec::new();
        (&mut file).take(16).read_to_end(&mut beginning).map_err(Error::io(&path))?;
        if has_numpy_header(&beginning) {
            return Err(Error::NumpyHeader { path });
        }
        if !bytes.is_multiple_of(BYTES) {
            return Err(Error::PartialToken { path, bytes, dtype: "uint32", item_bytes: 4 });
        }
        Ok(Self { path, file, len: (bytes / BYTES) as usize })
    }

    /// Indices in the file.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The indices of a range of the order.
    ///
    /// # Errors
    ///
    /// [`Error::TokenRange`] where it reaches past the end, [`Error::Io`] where it cannot be read.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u32>> {
        if range.start > range.end || range.end > self.len {
            return Err(Error::TokenRange {
                path: self.path.clone(),
                start: range.start as u64,
                end: range.end as u64,
                n_tokens: self.len as u64,
            });
        }
        let mut bytes = vec![0; range.len() * 4];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(range.start as u64 * BYTES))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(Error::io(&self.path))?;
        Ok(decoded(&bytes))
    }

    /// Where in the order some instances are, in the order of the instances; none for an instance
    /// that the file does not have. Reads the file once.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be read.
    pub fn positions(&self, instances: &[u32]) -> Result<Vec<Vec<usize>>> {
        let mut found = vec![Vec::new(); instances.len()];
        let mut sorted: Vec<(u32, usize)> =
            instances.iter().enumerate().map(|(number, &instance)| (instance, number)).collect();
        sorted.sort_unstable();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(Error::io(&self.path))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut bytes = vec![0; 1 << 20];
        let mut position = 0;
        while position < self.len {
            let n = (self.len - position).min(bytes.len() / 4);
            reader.read_exact(&mut bytes[..n * 4]).map_err(Error::io(&self.path))?;
            for index in decoded(&bytes[..n * 4]) {
                let first = sorted.partition_point(|&(instance, _)| instance < index);
                for &(_, number) in
                    sorted[first..].iter().take_while(|&&(instance, _)| instance == index)
                {
                    found[number].push(position);
                }
                position += 1;
            }
        }
        Ok(found)
    }

    /// Writes an order as such a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the file cannot be written.
    pub fn write(path: impl AsRef<Path>, indices: &[u32]) -> Result<()> {
        let mut file = AtomicFile::create(path.as_ref())?;
        for chunk in indices.chunks(1 << 16) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|index| index.to_le_bytes()).collect();
            file.write_all(&bytes)?;
        }
        file.finish()?.persist()
    }
}

fn decoded(bytes: &[u8]) -> Vec<u32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_read_and_any_instance_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("global_indices.npy");
        GlobalIndices::write(&path, &[3, 1, 0, 2, 1]).unwrap();
        let indices = GlobalIndices::open(&path).unwrap();
        assert_eq!((indices.len(), indices.is_empty()), (5, false));
        assert_eq!(indices.read(1..4).unwrap(), [1, 0, 2]);
        assert!(matches!(indices.read(2..6), Err(Error::TokenRange { n_tokens: 5, .. })));
        assert_eq!(indices.positions(&[2, 1, 7]).unwrap(), [vec![3], vec![1, 4], vec![]]);
        assert!(indices.read(5..5).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_such_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("global_indices.npy");
        std::fs::write(&path, [1, 2, 3, 4, 5]).unwrap();
        assert!(matches!(GlobalIndices::open(&path), Err(Error::PartialToken { bytes: 5, .. })));
        std::fs::write(&path, b"\x93NUMPY\x01\x00\x46\x00{'descr': '<u4'}").unwrap();
        assert!(matches!(GlobalIndices::open(&path), Err(Error::NumpyHeader { .. })));
    }
}
