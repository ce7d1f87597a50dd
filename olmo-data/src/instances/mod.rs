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

use crate::Result;

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

/// Instances by number.
pub trait Instances: Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceIndex`](crate::Error::InstanceIndex) where there is no such instance, and
    /// those of reading.
    fn get(&self, index: usize) -> Result<InstanceItem>;
}
