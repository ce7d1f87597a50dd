//! Pieces of files of a fixed length, with masks and filter; the first part of each for a mixture.

use super::source::{InstanceConfig, Sources};
use super::{InstanceItem, InstancePart, Instances};
use crate::instance_table::InstanceTable;
use crate::{Error, Result};

/// OLMo-core's `NumpyFSLDataset` and `NumpyFSLDatasetMixture`.
#[derive(Debug)]
pub struct FslInstances {
    sources: Sources,
    config: InstanceConfig,
    table: InstanceTable,
}

impl FslInstances {
    /// Instances of whole files, the rest of each left out.
    ///
    /// # Errors
    ///
    /// [`Error::SeqLen`]; [`Error::NoInstances`] where every file is shorter.
    pub fn new(sources: Sources, config: InstanceConfig, sequence_length: usize) -> Result<Self> {
        let n_tokens: Vec<u64> = sources.files().iter().map(|file| file.len() as u64).collect();
        Self::mixture(sources, config, sequence_length, &n_tokens)
    }

    /// Instances of the first `n_tokens` of each file; see [`mixture`](super::mixture).
    ///
    /// # Errors
    ///
    /// As of [`FslInstances::new`]; [`Error::Setting`] where there are not as many counts as files;
    /// [`Error::TokenRange`] where a file is shorter.
    pub fn mixture(
        sources: Sources,
        config: InstanceConfig,
        sequence_length: usize,
        n_tokens: &[u64],
    ) -> Result<Self> {
        let files = sources.files();
        if n_tokens.len() != files.len() {
            return Err(Error::Setting {
                name: "number of token counts",
                found: n_tokens.len() as u64,
                expected: format!("{}, one for each file", files.len()),
            });
        }
        for (file, &end) in files.iter().zip(n_tokens) {
            if end > file.len() as u64 {
                let (path, n_tokens) = (file.path().to_owned(), file.len() as u64);
                return Err(Error::TokenRange { path, start: 0, end, n_tokens });
            }
        }
        let counts = files.iter().map(|file| file.path().to_owned()).zip(n_tokens.iter().copied());
        let table = InstanceTable::from_token_counts(counts, sources.dtype(), sequence_length)?;
        Ok(Self { sources, config, table })
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
}

impl Instances for FslInstances {
    fn len(&self) -> usize {
        self.table.len()
    }

    fn sequence_length(&self) -> usize {
        self.table.seq_len()
    }

    fn get(&self, index: usize) -> Result<InstanceItem> {
        let (file, index_in_file) = self.table.find(index)?;
        let seq_len = self.table.seq_len() as u64;
        let start = index_in_file as u64 * seq_len;
        let (tokens, mask) = self.sources.read(file, start..start + seq_len)?;
        Ok(self.config.item(tokens, mask))
    }

    fn parts(&self, index: usize) -> Result<Vec<InstancePart<'_>>> {
        let (file, index_in_file) = self.table.find(index)?;
        let seq_len = self.table.seq_len() as u64;
        let start = index_in_file as u64 * seq_len;
        Ok(vec![self.sources.part(file, start..start + seq_len)])
    }
}
