//! Pieces of documents whose lengths are powers of two, and batches of one length each.
//!
//! A document becomes as many pieces of the longest length as fit, then one for each binary digit of
//! what is left, the longest first; pieces below the shortest length are left out. Instances of a
//! length are shuffled by `seed + epoch + length`, and the curriculum puts batches of all lengths in
//! order, see [`VslCurriculum`]. Of a batch, a rank takes its share in one piece.

use std::ops::Range;

use super::documents::document_ranges;
use super::source::{InstanceConfig, Sources};
use super::{InstanceItem, InstancePart, Instances};
use crate::rng::Generator;
use crate::sampler::check_rank;
use crate::vsl_curriculum::{Bucket, VslCurriculum};
use crate::{Error, Result};

/// OLMo-core's `NumpyVSLDataset` with the order of its `NumpyVSLDataLoader`.
#[derive(Debug)]
pub struct VslInstances {
    sources: Sources,
    config: InstanceConfig,
    lengths: Vec<usize>,
    pieces: Vec<(usize, Range<u64>)>,
}

/// The batches of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VslOrder {
    /// Batches in order, each with all its instances over all ranks.
    pub batches: Vec<Vec<u32>>,
}

impl VslInstances {
    /// Cuts the documents of some files.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where a length is no power of two or the shortest is not below the longest;
    /// those of reading the files.
    pub fn new(
        sources: Sources,
        config: InstanceConfig,
        min_sequence_length: usize,
        max_sequence_length: usize,
    ) -> Result<Self> {
        let (min, max) = (min_sequence_length, max_sequence_length);
        for (name, found) in [("min_sequence_length", min), ("max_sequence_length", max)] {
            if !found.is_power_of_two() || min >= max {
                let expected = "a power of two, the shortest below the longest".to_owned();
                return Err(Error::Setting { name, found: found as u64, expected });
            }
        }
        let config = InstanceConfig { generate_doc_lengths: false, ..config };
        let mut pieces = Vec::new();
        for (i, file) in sources.files().iter().enumerate() {
            for document in document_ranges(file, config.ids.eos_token_id)? {
                let mut start = document.start;
                while start < document.end {
                    let left = document.end - start;
                    let length = (1 << left.ilog2()).min(max as u64);
                    if length < min as u64 {
                        break;
                    }
                    pieces.push((i, start..start + length));
                    start += length;
                }
            }
        }
        let lengths = (min.ilog2()..=max.ilog2()).map(|exponent| 1 << exponent).collect();
        Ok(Self { sources, config, lengths, pieces })
    }

    /// Instances of each length, shortest first.
    pub fn instances_per_bucket(&self) -> Vec<Bucket> {
        self.lengths.iter().map(|&length| (length, self.bucket(length).count())).collect()
    }

    /// The order of an epoch, from 1, in batches of `global_batch_size` tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Curriculum`]; [`Error::Setting`] where the epoch is 0.
    pub fn order(
        &self,
        curriculum: VslCurriculum,
        global_batch_size: usize,
        seed: u64,
        epoch: u64,
    ) -> Result<VslOrder> {
        if epoch == 0 {
            let expected = "at least 1: OLMo-core counts epochs from 1".to_owned();
            return Err(Error::Setting { name: "epoch", found: 0, expected });
        }
        let epoch_seed = seed.wrapping_add(epoch);
        let buckets =
            curriculum.batches_per_bucket(&self.instances_per_bucket(), global_batch_size);
        let mut numbered: Vec<Vec<u32>> = Vec::new();
        for &(length, n_batches) in &buckets {
            let mut instances: Vec<u32> = self.bucket(length).collect();
            Generator::new(epoch_seed.wrapping_add(length as u64)).shuffle(&mut instances);
            let size = (global_batch_size / length).max(1);
            numbered.extend(instances.chunks_exact(size).take(n_batches).map(<[u32]>::to_vec));
        }
        let order = curriculum.batch_indices(&buckets, epoch_seed)?;
        let batches = order.into_iter().map(|batch| std::mem::take(&mut numbered[batch as usize]));
        Ok(VslOrder { batches: batches.collect() })
    }

    /// The instances of a length.
    fn bucket(&self, length: usize) -> impl Iterator<Item = u32> + '_ {
        let of_length = move |(_, (_, range)): &(usize, &(usize, Range<u64>))| {
            range.end - range.start == length as u64
        };
        self.pieces.iter().enumerate().filter(of_length).map(|(i, _)| i as u32)
    }
}

impl VslOrder {
    /// The instances of a rank in one batch.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where there is no such batch or rank.
    pub fn rank_batch(&self, batch: usize, rank: usize, world_size: usize) -> Result<&[u32]> {
        check_rank(rank, world_size)?;
        let Some(instances) = self.batches.get(batch) else {
            return Err(Error::Setting {
                name: "batch",
                found: batch as u64,
                expected: format!("less than the {} batches of an epoch", self.batches.len()),
            });
        };
        let share = instances.len() / world_size;
        Ok(&instances[rank * share..(rank + 1) * share])
    }
}

impl Instances for VslInstances {
    fn len(&self) -> usize {
        self.pieces.len()
    }

    fn sequence_length(&self) -> usize {
        self.lengths.last().copied().unwrap_or(0)
    }

    fn length_of(&self, index: usize) -> Result<usize> {
        match self.pieces.get(index) {
            Some((_, range)) => Ok((range.end - range.start) as usize),
            None => Err(Error::InstanceIndex { index, n_instances: self.len() }),
        }
    }

    fn as_vsl(&self) -> Option<&VslInstances> {
        Some(self)
    }

    fn get(&self, index: usize) -> Result<InstanceItem> {
        let Some((file, range)) = self.pieces.get(index) else {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        };
        let (tokens, _) = self.sources.read(*file, range.clone())?;
        Ok(self.config.item(tokens, None))
    }

    fn parts(&self, index: usize) -> Result<Vec<InstancePart<'_>>> {
        match self.pieces.get(index) {
            Some((file, range)) => Ok(vec![self.sources.part(*file, range.clone())]),
            None => Err(Error::InstanceIndex { index, n_instances: self.len() }),
        }
    }
}
