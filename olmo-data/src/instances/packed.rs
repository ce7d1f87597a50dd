//! Whole documents packed into instances: optimized best-fit decreasing (arXiv 2404.10830).
//!
//! Documents in order of length, the longest first, each into the instance whose room left is the
//! smallest that holds it, or into a new one. Where several have the same room, the one that came to
//! it first is taken.
//!
//! Difference: documents of equal length keep the order of the files, where OLMo-core takes NumPy's
//! `argsort`, whose order of equals depends on the processor. What lengths lie in each instance is
//! the same.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::documents::document_ranges;
use super::source::{InstanceConfig, Sources, check_sequence_length};
use super::{InstanceItem, InstancePart, Instances};
use crate::fingerprint::LongDocStrategy;
use crate::{Error, Result};

/// OLMo-core's `NumpyPackedFSLDataset`.
#[derive(Debug)]
pub struct PackedInstances {
    sources: Sources,
    config: InstanceConfig,
    sequence_length: usize,
    /// File and tokens of the documents of each instance.
    instances: Vec<Vec<(usize, Range<u64>)>>,
}

impl PackedInstances {
    /// Packs the documents of each `source_group_size` neighbouring files together.
    ///
    /// # Errors
    ///
    /// [`Error::SeqLen`]; [`Error::Setting`] where the group size is 0; those of reading the files.
    pub fn new(
        sources: Sources,
        config: InstanceConfig,
        sequence_length: usize,
        long_doc_strategy: LongDocStrategy,
        source_group_size: usize,
    ) -> Result<Self> {
        check_sequence_length(sequence_length)?;
        if source_group_size == 0 {
            let expected = "at least 1".to_owned();
            return Err(Error::Setting { name: "source_group_size", found: 0, expected });
        }
        let mut instances = Vec::new();
        for (group, files) in sources.files().chunks(source_group_size).enumerate() {
            let mut documents = Vec::new();
            for (i, file) in files.iter().enumerate() {
                for range in document_ranges(file, config.ids.eos_token_id)? {
                    let pieces = cut(range, sequence_length as u64, long_doc_strategy);
                    documents.extend(pieces.map(|piece| (group * source_group_size + i, piece)));
                }
            }
            documents.sort_by_key(|(_, range)| std::cmp::Reverse(range.end - range.start));
            let lengths: Vec<usize> =
                documents.iter().map(|(_, range)| (range.end - range.start) as usize).collect();
            for packed in pack(&lengths, sequence_length) {
                instances.push(packed.into_iter().map(|i| documents[i].clone()).collect());
            }
        }
        Ok(Self { sources, config, sequence_length, instances })
    }
}

impl Instances for PackedInstances {
    fn len(&self) -> usize {
        self.instances.len()
    }

    fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    fn get(&self, index: usize) -> Result<InstanceItem> {
        let Some(documents) = self.instances.get(index) else {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        };
        let (mut input_ids, mut label_mask) = (Vec::new(), None);
        for (file, range) in documents {
            let (mut tokens, mask) = self.sources.read(*file, range.clone())?;
            input_ids.append(&mut tokens);
            if let Some(mut mask) = mask {
                label_mask.get_or_insert_with(Vec::new).append(&mut mask);
            }
        }
        self.config.pad(&mut input_ids, &mut label_mask, self.sequence_length);
        Ok(self.config.item(input_ids, label_mask))
    }

    fn parts(&self, index: usize) -> Result<Vec<InstancePart<'_>>> {
        let Some(documents) = self.instances.get(index) else {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        };
        let part = |(file, range): &(usize, Range<u64>)| self.sources.part(*file, range.clone());
        Ok(documents.iter().map(part).collect())
    }
}

/// A document as pieces of at most `max` tokens.
fn cut(range: Range<u64>, max: u64, strategy: LongDocStrategy) -> impl Iterator<Item = Range<u64>> {
    let end = match strategy {
        LongDocStrategy::Truncate => range.end.min(range.start + max),
        LongDocStrategy::Fragment => range.end,
    };
    (range.start..end).step_by(max as usize).map(move |start| start..end.min(start + max))
}

/// The documents of each instance, given lengths from the longest to the shortest.
fn pack(lengths: &[usize], sequence_length: usize) -> Vec<Vec<usize>> {
    let mut instances: Vec<Vec<usize>> = Vec::new();
    let mut by_room: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for (document, &length) in lengths.iter().enumerate() {
        let best = by_room.range_mut(length..).next();
        let (room, instance) = match best {
            Some((&room, waiting)) => {
                let instance = waiting.pop_front();
                if waiting.is_empty() {
                    by_room.remove(&room);
                }
                (room, instance)
            }
            None => (sequence_length, None),
        };
        let instance = instance.unwrap_or_else(|| {
            instances.push(Vec::new());
            instances.len() - 1
        });
        instances[instance].push(document);
        if room > length {
            by_room.entry(room - length).or_default().push_back(instance);
        }
    }
    instances
}
