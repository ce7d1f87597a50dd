//! Which file an instance lies in, from the sizes of the files alone.
//!
//! Matches OLMo's `MemMapDataset` (`olmo/data/memmap_dataset.py`) and OLMo-core's
//! `NumpyFSLDataset`: each file is cut from its beginning into pieces of `seq_len` tokens, the rest
//! of each file is dropped, and the pieces are numbered through the files in their given order. The
//! bounds of documents play no part, since their end tokens are in the files.
//!
//! A file may be absent or sparse as long as its size is known, so that the order of a run over
//! terabytes can be looked at where none of the tokens are. [`TokenDataset`](crate::TokenDataset)
//! is such a table with the files mapped into memory.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::token_file::TokenDtype;
use crate::{Error, Result};

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

/// Where an instance lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceLocation {
    /// The file.
    pub path: PathBuf,
    /// Position of its first byte in the file.
    pub byte_offset: u64,
    /// Position of its first token in the file, as counted by the `.csv.gz` beside it.
    pub token_offset: u64,
    /// Its number among the instances of the file.
    pub index_in_file: usize,
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
        let counted = files.into_iter().map(|(path, bytes)| {
            if bytes.is_multiple_of(item_bytes as u64) {
                return Ok((path, bytes / item_bytes as u64));
            }
            Err(Error::PartialToken { path, bytes, dtype: dtype.name(), item_bytes })
        });
        Self::from_token_counts(counted.collect::<Result<Vec<_>>>()?, dtype, seq_len)
    }

    /// A table of files with their tokens, or how many of them are used.
    ///
    /// # Errors
    ///
    /// As of [`InstanceTable::from_sizes`], except for [`Error::PartialToken`].
    pub fn from_token_counts(
        files: impl IntoIterator<Item = (PathBuf, u64)>,
        dtype: TokenDtype,
        seq_len: usize,
    ) -> Result<Self> {
        if seq_len == 0 || seq_len > u32::MAX as usize {
            return Err(Error::SeqLen { seq_len, max: u32::MAX as usize });
        }
        let (files, n_tokens): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        if files.is_empty() {
            return Err(Error::NoFiles);
        }
        let mut table = Self { files, n_tokens, ends: Vec::new(), seq_len, dtype };
        table.cut(seq_len)?;
        Ok(table)
    }

    /// Cuts the files first into pieces of a longer length, a multiple of the instances', and drops
    /// the rest of each file by that: so the order of the data stays while the sequence length grows
    /// up to it, as with OLMo-core's `max_target_sequence_length`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where the length is no multiple of that of an instance;
    /// [`Error::NoInstances`] where every file is shorter.
    pub fn with_max_target_sequence_length(mut self, max: usize) -> Result<Self> {
        if max < self.seq_len || !max.is_multiple_of(self.seq_len) {
            return Err(Error::Setting {
                name: "max_target_sequence_length",
                found: max as u64,
                expected: format!("a multiple of the sequence length {}", self.seq_len),
            });
        }
        self.cut(max)?;
        Ok(self)
    }

    /// Numbers the instances, the files being cut into pieces of `length` first.
    fn cut(&mut self, length: usize) -> Result<()> {
        let per_piece = (length / self.seq_len) as u64;
        let mut n_instances = 0;
        self.ends = self
            .n_tokens
            .iter()
            .map(|n_tokens| {
                n_instances += (n_tokens / length as u64 * per_piece) as usize;
                n_instances
            })
            .collect();
        if n_instances == 0 {
            let (n_files, n_tokens) = (self.files.len(), self.n_tokens.iter().sum());
            return Err(Error::NoInstances { seq_len: length, n_files, n_tokens });
        }
        check_n_instances(n_instances)
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
        let (file, index_in_file) = self.find(index)?;
        let token_offset = (index_in_file * self.seq_len) as u64;
        let byte_offset = token_offset * self.dtype.item_bytes() as u64;
        let path = self.files[file].clone();
        Ok((file, InstanceLocation { path, byte_offset, token_offset, index_in_file }))
    }

    /// The number of the file of an instance, and its number there.
    pub(crate) fn find(&self, index: usize) -> Result<(usize, usize)> {
        let file = self.ends.partition_point(|&end| end <= index);
        if file == self.ends.len() {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        }
        Ok((file, index - self.first_of(file)))
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

/// Checks that instances can be numbered by `u32`, as OLMo asserts it too.
pub(crate) fn check_n_instances(n_instances: usize) -> Result<()> {
    if n_instances >= u32::MAX as usize {
        let max = u64::from(u32::MAX);
        return Err(Error::TooManyInstances { n_instances: n_instances as u64, max });
    }
    Ok(())
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
        assert!(check_n_instances(u32::MAX as usize).is_err());
        assert!(check_n_instances(u32::MAX as usize - 1).is_ok());
    }
}
