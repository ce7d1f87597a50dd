//! Pieces of files of a fixed length, with masks and filter; the first part of each for a mixture.

use super::source::{InstanceConfig, Sources, check_sequence_length};
use super::{InstanceItem, Instances};
use crate::{Error, Result};

/// OLMo-core's `NumpyFSLDataset` and `NumpyFSLDatasetMixture`.
#[derive(Debug)]
pub struct FslInstances {
    sources: Sources,
    config: InstanceConfig,
    sequence_length: usize,
    /// Index one past the last instance of each file.
    ends: Vec<usize>,
}

impl FslInstances {
    /// Instances of whole files, the rest of each left out.
    ///
    /// # Errors
    ///
    /// [`Error::SeqLen`].
    pub fn new(sources: Sources, config: InstanceConfig, sequence_length: usize) -> Result<Self> {
        let n_tokens: Vec<u64> = sources.files().iter().map(|file| file.len() as u64).collect();
        Self::mixture(sources, config, sequence_length, &n_tokens)
    }

    /// Instances of the first `n_tokens` of each file; see [`mixture`](super::mixture).
    ///
    /// # Errors
    ///
    /// [`Error::SeqLen`]; [`Error::Setting`] where there are not as many counts as files;
    /// [`Error::TokenRange`] where a file is shorter.
    pub fn mixture(
        sources: Sources,
        config: InstanceConfig,
        sequence_length: usize,
        n_tokens: &[u64],
    ) -> Result<Self> {
        check_sequence_length(sequence_length)?;
        let files = sources.files();
        if n_tokens.len() != files.len() {
            return Err(Error::Setting {
                name: "number of token counts",
                found: n_tokens.len() as u64,
                expected: format!("{}, one for each file", files.len()),
            });
        }
        let mut n_instances = 0;
        let mut ends = Vec::with_capacity(files.len());
        for (file, &end) in files.iter().zip(n_tokens) {
            if end > file.len() as u64 {
                let (path, n_tokens) = (file.path().to_owned(), file.len() as u64);
                return Err(Error::TokenRange { path, start: 0, end, n_tokens });
            }
            n_instances += end as usize / sequence_length;
            ends.push(n_instances);
        }
        Ok(Self { sources, config, sequence_length, ends })
    }
}

impl Instances for FslInstances {
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn get(&self, index: usize) -> Result<InstanceItem> {
        let file = self.ends.partition_point(|&end| end <= index);
        if file == self.ends.len() {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        }
        let first = if file == 0 { 0 } else { self.ends[file - 1] };
        let start = ((index - first) * self.sequence_length) as u64;
        let (tokens, mask) = self.sources.read(file, start..start + self.sequence_length as u64)?;
        Ok(self.config.item(tokens, mask))
    }
}
