//! Which file an instance lies in, from the sizes of the files alone.
//!
//! The same cutting as [`TokenDataset`](crate::TokenDataset), which maps every file into memory;
//! here a file may be absent or sparse as long as its size is known, so that the order of a run over
//! terabytes can be looked at where none of the tokens are.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::dataset::check_n_instances;
use crate::token_file::TokenDtype;
use crate::{Error, InstanceLocation, Result};

/// Files by size, cut into instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceTable {
    files: Vec<PathBuf>,
    /// Tokens of each file.
    n_tokens: Vec<u64>,
    /// Index one past the last instance of each file.
    ends: Vec<usize>,
    seq_len: usize,
    dtype: TokenDtype,
}

impl InstanceTable {
    /// A table of files on disk, of which only the sizes are looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where a file is not there; those of [`InstanceTable::from_sizes`].
    pub fn open(files: Vec<PathBuf>, dtype: TokenDtype, seq_len: usize) -> Result<Self> {
        let size = |path: &PathBuf| {
            std::fs::metadata(path).map(|found| found.len()).map_err(Error::io(path))
        };
        let sizes: Vec<u64> = files.par_iter().map(size).collect::<Result<_>>()?;
        Self::from_sizes(files.into_iter().zip(sizes), dtype, seq_len)
    }

    /// A table of files with their sizes in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::SeqLen`], [`Error::NoFiles`], [`Error::NoInstances`], [`Error::TooManyInstances`] as
    /// of [`TokenDataset::open`](crate::TokenDataset::open); [`Error::PartialToken`] where a size is
    /// no multiple of a token's.
    pub fn from_sizes(
        files: impl IntoIterator<Item = (PathBuf, u64)>,
        dtype: TokenDtype,
        seq_len: usize,
    ) -> Result<Self> {
        let item_bytes = dtype.item_bytes();
        if seq_len == 0 || seq_len > u32::MAX as usize {
            return Err(Error::SeqLen { seq_len, max: u32::MAX as usize });
        }
        let mut table =
            Self { files: Vec::new(), n_tokens: Vec::new(), ends: Vec::new(), seq_len, dtype };
        let mut n_instances = 0;
        for (path, bytes) in files {
            if !bytes.is_multiple_of(item_bytes as u64) {
                return Err(Error::PartialToken { path, bytes, dtype: dtype.name(), item_bytes });
            }
            let n_tokens = bytes / item_bytes as u64;
            n_instances += (n_tokens / seq_len as u64) as usize;
            table.files.push(path);
            table.n_tokens.push(n_tokens);
            table.ends.push(n_instances);
        }
        let n_files = table.files.len();
        if n_files == 0 {
            return Err(Error::NoFiles);
        }
        if n_instances == 0 {
            let n_tokens = table.n_tokens.iter().sum();
            return Err(Error::NoInstances { seq_len, n_files, n_tokens });
        }
        check_n_instances(n_instances)?;
        Ok(table)
    }

    /// Number of instances; never zero.
    #[expect(clippy::len_without_is_empty, reason = "an empty table cannot be made")]
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Tokens of an instance.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// The integer type of the files.
    pub fn dtype(&self) -> TokenDtype {
        self.dtype
    }

    /// The files with their tokens, in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&Path, u64)> {
        self.files.iter().map(PathBuf::as_path).zip(self.n_tokens.iter().copied())
    }

    /// The number of the file of an instance, and where it lies there.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceIndex`] where there is no such instance.
    pub fn locate(&self, index: usize) -> Result<(usize, InstanceLocation)> {
        let file = self.ends.partition_point(|&end| end <= index);
        let Some(path) = self.files.get(file) else {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        };
        let index_in_file = index - self.first_of(file);
        let token_offset = (index_in_file * self.seq_len) as u64;
        let byte_offset = token_offset * self.dtype.item_bytes() as u64;
        Ok((
            file,
            InstanceLocation { path: path.clone(), byte_offset, token_offset, index_in_file },
        ))
    }

    /// The instances of a file that have some of the tokens from `start` to `end`.
    pub fn instances_of(&self, file: usize, start: u64, end: u64) -> std::ops::Range<usize> {
        let first = self.first_of(file);
        let last = self.ends[file];
        let seq_len = self.seq_len as u64;
        let from = (first + (start / seq_len) as usize).min(last);
        let to = (first + end.div_ceil(seq_len) as usize).min(last);
        from..to.max(from)
    }

    fn first_of(&self, file: usize) -> usize {
        if file == 0 { 0 } else { self.ends[file - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(sizes: &[u64]) -> Result<InstanceTable> {
        let files = sizes.iter().enumerate().map(|(i, &size)| (format!("{i}.npy").into(), size));
        InstanceTable::from_sizes(files, TokenDtype::Uint16, 4)
    }

    #[test]
    fn instances_are_found_by_size_alone() {
        let table = table(&[18, 6, 32]).unwrap();
        assert_eq!(table.len(), 2 + 4);
        let (file, location) = table.locate(3).unwrap();
        assert_eq!((file, location.byte_offset, location.token_offset), (2, 8, 4));
        assert_eq!(location.path, Path::new("2.npy"));
        assert!(matches!(table.locate(6), Err(Error::InstanceIndex { .. })));
        assert_eq!(table.instances_of(2, 3, 9), 2..5);
        assert_eq!(table.instances_of(0, 8, 9), 2..2); // in the rest that fills no instance
        assert_eq!(table.instances_of(1, 0, 3), 2..2);
    }

    #[test]
    fn sizes_are_checked() {
        assert!(matches!(table(&[3]), Err(Error::PartialToken { bytes: 3, .. })));
        assert!(matches!(table(&[6]), Err(Error::NoInstances { .. })));
        assert!(matches!(table(&[]), Err(Error::NoFiles)));
        assert!(matches!(table(&[1 << 40]), Err(Error::TooManyInstances { .. })));
        assert!(InstanceTable::open(vec!["/nowhere".into()], TokenDtype::Uint16, 4).is_err());
    }
}
