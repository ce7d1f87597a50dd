//! Instances of a fixed length, cut from many token files.
//!
//! Matches OLMo's `MemMapDataset` (`olmo/data/memmap_dataset.py`) and OLMo-core's
//! `NumpyFSLDataset`: each file is cut from its beginning into pieces of `seq_len` tokens, the rest
//! of each file is dropped, and the pieces are numbered through the files in their given order. The
//! bounds of documents play no part, since their end tokens are in the files.

use std::path::{Path, PathBuf};

use crate::token_file::{TokenDtype, TokenFile};
use crate::{Error, Result};

/// Instances of `seq_len` tokens over many files.
///
/// ```
/// use olmo_data::{TokenDataset, TokenDtype};
///
/// # fn main() -> olmo_data::Result<()> {
/// let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("part-0-00000.npy");
/// let tokens: Vec<u8> = (0..7u16).flat_map(u16::to_le_bytes).collect();
/// std::fs::write(&path, tokens).expect("written");
///
/// let dataset = TokenDataset::open(&[path], TokenDtype::Uint16, 3)?;
/// assert_eq!(dataset.len(), 2); // the seventh token is dropped
/// assert_eq!(dataset.get(1)?.tokens, [3, 4, 5]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TokenDataset {
    files: Vec<TokenFile>,
    /// Index one past the last instance of each file.
    ends: Vec<usize>,
    seq_len: usize,
    dtype: TokenDtype,
    vocab_size: Option<u32>,
}

/// One instance: a row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its index in the dataset.
    pub index: usize,
    /// Its `seq_len` tokens.
    pub tokens: Vec<u32>,
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

impl TokenDataset {
    /// Opens token files as one dataset. A file may be named more than once.
    ///
    /// # Errors
    ///
    /// Those of [`TokenFile::open`]; [`Error::NoFiles`]; [`Error::SeqLen`]; [`Error::NoInstances`]
    /// where every file is shorter than `seq_len`; [`Error::TooManyInstances`] where their number
    /// does not fit 32 bits.
    pub fn open<P: AsRef<Path>>(paths: &[P], dtype: TokenDtype, seq_len: usize) -> Result<Self> {
        let max_seq_len = isize::MAX.unsigned_abs() / dtype.item_bytes();
        if seq_len == 0 || seq_len > max_seq_len {
            return Err(Error::SeqLen { seq_len, max: max_seq_len });
        }
        if paths.is_empty() {
            return Err(Error::NoFiles);
        }
        let files: Vec<TokenFile> =
            paths.iter().map(|path| TokenFile::open(path, dtype)).collect::<Result<_>>()?;
        let mut n_instances = 0;
        let ends: Vec<usize> = files
            .iter()
            .map(|file| {
                n_instances += file.len() / seq_len;
                n_instances
            })
            .collect();
        let dataset = Self { files, ends, seq_len, dtype, vocab_size: None };
        if n_instances == 0 {
            return Err(Error::NoInstances {
                seq_len,
                n_files: paths.len(),
                n_tokens: dataset.n_tokens(),
            });
        }
        check_n_instances(n_instances)?;
        Ok(dataset)
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
        let seq_len = self.seq_len;
        if max < seq_len || !max.is_multiple_of(seq_len) {
            return Err(Error::Setting {
                name: "max_target_sequence_length",
                found: max as u64,
                expected: format!("a multiple of the sequence length {seq_len}"),
            });
        }
        let mut n_instances = 0;
        for (file, end) in self.files.iter().zip(&mut self.ends) {
            n_instances += file.len() / max * (max / seq_len);
            *end = n_instances;
        }
        if n_instances == 0 {
            let (n_files, n_tokens) = (self.files.len(), self.n_tokens());
            return Err(Error::NoInstances { seq_len: max, n_files, n_tokens });
        }
        Ok(self)
    }

    /// Makes reading a token at or past `vocab_size` an error, which catches a wrong token type.
    pub fn with_vocab_size(mut self, vocab_size: u32) -> Self {
        self.vocab_size = Some(vocab_size);
        self
    }

    /// Number of instances; never zero.
    #[expect(clippy::len_without_is_empty, reason = "an empty dataset cannot be made")]
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

    /// Tokens of all files, with those that fill no instance.
    pub fn n_tokens(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// The files, in their order.
    pub fn files(&self) -> &[TokenFile] {
        &self.files
    }

    /// One instance.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceIndex`] where there is no such instance, [`Error::TokenOutOfRange`] where a
    /// token is past the vocabulary or 32 bits.
    pub fn get(&self, index: usize) -> Result<Instance> {
        let mut tokens = vec![0; self.seq_len];
        self.read_into(index, &mut tokens)?;
        Ok(Instance { index, tokens })
    }

    /// Reads one instance into a slice of `seq_len` tokens.
    ///
    /// # Errors
    ///
    /// As of [`TokenDataset::get`]; [`Error::BufferLen`] where the slice is of another length.
    pub fn read_into(&self, index: usize, tokens: &mut [u32]) -> Result<()> {
        if tokens.len() != self.seq_len {
            return Err(Error::BufferLen { found: tokens.len(), expected: self.seq_len });
        }
        let (file, index_in_file) = self.find(index)?;
        let start = index_in_file * self.seq_len;
        file.read_into(start, tokens)?;
        let Some(limit) = self.vocab_size else { return Ok(()) };
        match tokens.iter().position(|&token| token >= limit) {
            None => Ok(()),
            Some(at) => Err(Error::TokenOutOfRange {
                path: file.path().to_owned(),
                position: (start + at) as u64,
                token: tokens[at].into(),
                limit: limit.into(),
            }),
        }
    }

    /// The file and position of an instance.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceIndex`] where there is no such instance.
    pub fn locate(&self, index: usize) -> Result<InstanceLocation> {
        let (file, index_in_file) = self.find(index)?;
        let token_offset = (index_in_file * self.seq_len) as u64;
        Ok(InstanceLocation {
            path: file.path().to_owned(),
            byte_offset: token_offset * self.dtype.item_bytes() as u64,
            token_offset,
            index_in_file,
        })
    }

    /// The file of an instance and its number there.
    fn find(&self, index: usize) -> Result<(&TokenFile, usize)> {
        let i = self.ends.partition_point(|&end| end <= index);
        let Some(file) = self.files.get(i) else {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        };
        let first = if i == 0 { 0 } else { self.ends[i - 1] };
        Ok((file, index - first))
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
    use proptest::prelude::*;

    /// Files of the given lengths whose tokens count through all files.
    fn write_files(folder: &Path, lengths: &[usize]) -> Vec<PathBuf> {
        let mut next = 0u32;
        let mut paths = Vec::new();
        for (i, &length) in lengths.iter().enumerate() {
            let bytes: Vec<u8> = (next..).take(length).flat_map(u32::to_le_bytes).collect();
            next += length as u32;
            paths.push(folder.join(format!("{i}.npy")));
            std::fs::write(&paths[i], bytes).unwrap();
        }
        paths
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn instances_are_the_whole_pieces_of_each_file(
            lengths in prop::collection::vec(0usize..40, 1..6),
            seq_len in 1usize..9,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let paths = write_files(folder.path(), &lengths);
            let mut expected = Vec::new();
            let mut next = 0;
            for (path, &length) in paths.iter().zip(&lengths) {
                let tokens: Vec<u32> = (next..).take(length).collect();
                next += length as u32;
                for (i, piece) in tokens.chunks_exact(seq_len).enumerate() {
                    expected.push((path.clone(), i, piece.to_vec()));
                }
            }
            match TokenDataset::open(&paths, TokenDtype::Uint32, seq_len) {
                Err(Error::NoInstances { n_tokens, .. }) => {
                    prop_assert!(expected.is_empty());
                    prop_assert_eq!(n_tokens, lengths.iter().sum::<usize>() as u64);
                }
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
                Ok(dataset) => {
                    prop_assert_eq!(dataset.len(), expected.len());
                    for (index, (path, index_in_file, tokens)) in expected.into_iter().enumerate() {
                        prop_assert_eq!(dataset.get(index).unwrap().tokens, tokens);
                        let token_offset = (index_in_file * seq_len) as u64;
                        let byte_offset = token_offset * 4;
                        let location =
                            InstanceLocation { path, byte_offset, token_offset, index_in_file };
                        prop_assert_eq!(dataset.locate(index).unwrap(), location);
                    }
                    prop_assert!(dataset.get(dataset.len()).is_err());
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_a_dataset_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let paths = write_files(folder.path(), &[4, 3]);
        let open = |seq_len| TokenDataset::open(&paths, TokenDtype::Uint32, seq_len);
        assert!(matches!(open(0), Err(Error::SeqLen { .. })));
        assert!(matches!(open(usize::MAX), Err(Error::SeqLen { .. })));
        let message = open(5).unwrap_err().to_string();
        assert!(message.contains("5 tokens") && message.contains("7 tokens in all"), "{message}");
        let none: [PathBuf; 0] = [];
        let error = TokenDataset::open(&none, TokenDtype::Uint16, 1).unwrap_err();
        assert!(matches!(error, Error::NoFiles));
        assert!(check_n_instances(u32::MAX as usize).is_err());
        assert!(check_n_instances(u32::MAX as usize - 1).is_ok());
    }

    #[test]
    fn tokens_past_the_vocabulary_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let paths = write_files(folder.path(), &[4, 3]);
        let dataset = TokenDataset::open(&paths, TokenDtype::Uint32, 2).unwrap().with_vocab_size(5);
        assert_eq!(dataset.get(1).unwrap().tokens, [2, 3]);
        let error = dataset.get(2).unwrap_err();
        assert!(matches!(error, Error::TokenOutOfRange { position: 1, token: 5, limit: 5, .. }));
        assert!(matches!(dataset.read_into(0, &mut [0; 3]), Err(Error::BufferLen { .. })));
    }
}
