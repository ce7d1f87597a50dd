//! A document an instance: cut to the sequence length, or padded to it.

use std::ops::Range;

use super::documents::document_ranges;
use super::source::{InstanceConfig, Sources, check_sequence_length};
use super::{InstanceItem, InstancePart, Instances};
use crate::{Error, Result};

/// OLMo-core's `NumpyPaddedFSLDataset`, for evaluation.
#[derive(Debug)]
pub struct PaddedInstances {
    sources: Sources,
    config: InstanceConfig,
    sequence_length: usize,
    /// File and tokens of each document, cut.
    documents: Vec<(usize, Range<u64>)>,
}

impl PaddedInstances {
    /// The documents of some files.
    ///
    /// # Errors
    ///
    /// [`Error::SeqLen`], and those of reading the files.
    pub fn new(sources: Sources, config: InstanceConfig, sequence_length: usize) -> Result<Self> {
        check_sequence_length(sequence_length)?;
        let mut documents = Vec::new();
        for (i, file) in sources.files().iter().enumerate() {
            for range in document_ranges(file, config.ids.eos_token_id)? {
                let end = range.end.min(range.start + sequence_length as u64);
                documents.push((i, range.start..end));
            }
        }
        Ok(Self { sources, config, sequence_length, documents })
    }

    /// The file of each document.
    pub(super) fn files_of_documents(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.documents.iter().map(|&(file, _)| file)
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    pub(super) fn config(&self) -> &InstanceConfig {
        &self.config
    }

    pub(super) fn sequence_length(&self) -> usize {
        self.sequence_length
    }
}

impl Instances for PaddedInstances {
    fn len(&self) -> usize {
        self.documents.len()
    }

    fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    fn get(&self, index: usize) -> Result<InstanceItem> {
        let Some((file, range)) = self.documents.get(index) else {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        };
        let (tokens, mask) = self.sources.read(*file, range.clone())?;
        let mut item = self.config.item(tokens, mask);
        // As in the reference: lengths of documents are those before padding.
        self.config.pad(&mut item.input_ids, &mut item.label_mask, self.sequence_length);
        Ok(item)
    }

    fn parts(&self, index: usize) -> Result<Vec<InstancePart<'_>>> {
        match self.documents.get(index) {
            Some((file, range)) => Ok(vec![self.sources.part(*file, range.clone())]),
            None => Err(Error::InstanceIndex { index, n_instances: self.len() }),
        }
    }
}
