//! The ways OLMo-core makes instances of documents.
//!
//! | here | OLMo-core | an instance is |
//! |---|---|---|
//! | [`FslInstances`] | `NumpyFSLDataset` | a piece of a file of a fixed length |
//! | [`FslInstances::mixture`] | `NumpyFSLDatasetMixture` | the same, of the first part of each file |
//! | [`PaddedInstances`] | `NumpyPaddedFSLDataset` | one document, cut or padded |
//! | [`PackedInstances`] | `NumpyPackedFSLDataset` | whole documents, best fit, padded |
//! | [`InterleavedInstances`] | `NumpyInterleavedFSLDataset` | pieces of several documents in turn |
//! | [`VslInstances`] | `NumpyVSLDataset` | a piece of a document whose length is a power of two |
//!
//! All implement [`Instances`]. They match `olmo_core/data/numpy_dataset.py` of ai2-olmo-core 2.4.0.
//! Documents are found by their end-of-text token, so a rest of a file without one is no document.
//! Where documents lie is kept in memory, 16 bytes a document, where OLMo-core writes index files.

mod documents;
mod filter;
mod fsl;
mod interleaved;
mod mixture;
mod packed;
mod padded;
mod source;
mod vsl;

pub use documents::{document_lengths, document_ranges};
pub use filter::{Repetition, RepetitionFilter, find_periodic_sequences};
pub use fsl::FslInstances;
pub use interleaved::InterleavedInstances;
pub use mixture::{MixturePath, MixtureSource, mixture};
pub use packed::PackedInstances;
pub use padded::PaddedInstances;
pub use source::{InstanceConfig, LabelMaskFile, Sources};
pub use vsl::{VslInstances, VslOrder};

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::{Error, Result};

/// One instance with all that goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstanceItem {
    /// Tokens.
    pub input_ids: Vec<u32>,
    /// Whether each token counts as a label, where there is a mask.
    pub label_mask: Option<Vec<bool>>,
    /// Whether the instance counts at all, where there is a filter.
    pub instance_mask: Option<bool>,
    /// Lengths of the documents in it, where they were asked for.
    pub doc_lens: Option<Vec<u32>>,
}

/// What goes with the tokens of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstanceMasks {
    /// As of [`InstanceItem`].
    pub label_mask: Option<Vec<bool>>,
    /// As of [`InstanceItem`].
    pub instance_mask: Option<bool>,
    /// As of [`InstanceItem`].
    pub doc_lens: Option<Vec<u32>>,
}

/// Where some of the tokens of an instance are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePart<'a> {
    /// The file.
    pub path: &'a Path,
    /// The tokens of that file.
    pub tokens: Range<u64>,
}

/// Instances by number.
pub trait Instances: Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of the longest one.
    fn sequence_length(&self) -> usize;

    /// Tokens of one of them; all have the same unless this says otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceIndex`] where there is no such instance.
    fn length_of(&self, index: usize) -> Result<usize> {
        let n_instances = self.len();
        if index < n_instances {
            return Ok(self.sequence_length());
        }
        Err(Error::InstanceIndex { index, n_instances })
    }

    /// One of them.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceIndex`] where there is no such instance, and those of reading.
    fn get(&self, index: usize) -> Result<InstanceItem>;

    /// Reads the tokens of one into a slice of its length.
    ///
    /// # Errors
    ///
    /// As of [`Instances::get`]; [`Error::BufferLen`] where the slice is of another length.
    fn read_into(&self, index: usize, tokens: &mut [u32]) -> Result<InstanceMasks> {
        let InstanceItem { input_ids, label_mask, instance_mask, doc_lens } = self.get(index)?;
        if input_ids.len() != tokens.len() {
            return Err(Error::BufferLen { found: tokens.len(), expected: input_ids.len() });
        }
        tokens.copy_from_slice(&input_ids);
        Ok(InstanceMasks { label_mask, instance_mask, doc_lens })
    }

    /// Where the tokens of one are from, in the order of its parts; padding is from nowhere.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceIndex`] where there is no such instance.
    fn parts(&self, index: usize) -> Result<Vec<InstancePart<'_>>>;

    /// The same as instances of several lengths, which have an order of their own.
    fn as_vsl(&self) -> Option<&VslInstances> {
        None
    }
}

impl<I: Instances + ?Sized> Instances for Arc<I> {
    fn len(&self) -> usize {
        I::len(self)
    }

    fn sequence_length(&self) -> usize {
        I::sequence_length(self)
    }

    fn length_of(&self, index: usize) -> Result<usize> {
        I::length_of(self, index)
    }

    fn get(&self, index: usize) -> Result<InstanceItem> {
        I::get(self, index)
    }

    fn read_into(&self, index: usize, tokens: &mut [u32]) -> Result<InstanceMasks> {
        I::read_into(self, index, tokens)
    }

    fn parts(&self, index: usize) -> Result<Vec<InstancePart<'_>>> {
        I::parts(self, index)
    }

    fn as_vsl(&self) -> Option<&VslInstances> {
        I::as_vsl(self)
    }
}
