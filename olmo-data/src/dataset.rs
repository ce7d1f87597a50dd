//! Instances of a fixed length, cut from many token files that are mapped into memory.
//!
//! How they are cut is said in [`instance_table`](crate::instance_table). With masks and filter, or
//! of documents rather than files, they are in [`instances`](crate::instances).

use std::path::Path;

use crate::instance_table::{InstanceLocation, InstanceTable};
use crate::instances::{InstanceItem, InstanceMasks, InstancePart, Instances};
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
    table: InstanceTable,
    files: Vec<TokenFile>,
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

impl TokenDataset {
    /// Opens token files as one dataset. A file may be named more than once.
    ///
    /// # Errors
    ///
    /// Those of [`TokenFile::open`]; [`Error::NoFiles`]; [`Error::SeqLen`]; [`Error::NoInstances`]
    /// where every file is shorter than `seq_len`; [`Error::TooManyInstances`] where their number
    /// does not fit 32 bits.
    pub fn open<P: AsRef<Path>>(paths: &[P], dtype: TokenDtype, seq_len: usize) -> Result<Self> {
        let files: Vec<TokenFile> =
            paths.iter().map(|path| TokenFile::open(path, dtype)).collect::<Result<_>>()?;
        let counts = files.iter().map(|file| (file.path().to_owned(), file.len() as u64));
        let table = InstanceTable::from_token_counts(counts, dtype, seq_len)?;
        Ok(Self { table, files, vocab_size: None })
    }

    /// Lets the sequence length grow up to `max`, see
    /// [`InstanceTable::with_max_target_sequence_length`].
    ///
    /// # Errors
    ///
    /// As said there.
    pub fn with_max_target_sequence_length(mut self, max: usize) -> Result<Self> {
        self.table = self.table.with_max_target_sequence_length(max)?;
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
        self.table.len()
    }

    /// Tokens of an instance.
    pub fn seq_len(&self) -> usize {
        self.table.seq_len()
    }

    /// The integer type of the files.
    pub fn dtype(&self) -> TokenDtype {
        self.table.dtype()
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
        let mut tokens = vec![0; self.seq_len()];
        self.read_into(index, &mut tokens)?;
        Ok(Instance { index, tokens })
    }

    /// Reads one instance into a slice of `seq_len` tokens.
    ///
    /// # Errors
    ///
    /// As of [`TokenDataset::get`]; [`Error::BufferLen`] where the slice is of another length.
    pub fn read_into(&self, index: usize, tokens: &mut [u32]) -> Result<()> {
        let seq_len = self.seq_len();
        if tokens.len() != seq_len {
            return Err(Error::BufferLen { found: tokens.len(), expected: seq_len });
        }
        let (file, index_in_file) = self.table.find(index)?;
        self.files[file].read_checked(index_in_file * seq_len, tokens, self.vocab_size)
    }

    /// The file and position of an instance.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceIndex`] where there is no such instance.
    pub fn locate(&self, index: usize) -> Result<InstanceLocation> {
        Ok(self.table.locate(index)?.1)
    }
}

impl Instances for TokenDataset {
    fn len(&self) -> usize {
        self.table.len()
    }

    fn sequence_length(&self) -> usize {
        self.seq_len()
    }

    fn get(&self, index: usize) -> Result<InstanceItem> {
        let Instance { tokens, .. } = self.get(index)?;
        Ok(InstanceItem { input_ids: tokens, ..InstanceItem::default() })
    }

    fn read_into(&self, index: usize, tokens: &mut [u32]) -> Result<InstanceMasks> {
        self.read_into(index, tokens)?;
        Ok(InstanceMasks::default())
    }

    fn parts(&self, index: usize) -> Result<Vec<InstancePart<'_>>> {
        let (file, index_in_file) = self.table.find(index)?;
        let seq_len = self.seq_len() as u64;
        let start = index_in_file as u64 * seq_len;
        Ok(vec![InstancePart { path: self.files[file].path(), tokens: start..start + seq_len }])
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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
