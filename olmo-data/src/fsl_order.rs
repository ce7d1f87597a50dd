//! The order of OLMo-core's `NumpyFSLDataLoader`: instances of a fixed sequence length.
//!
//! Matches `olmo_core/data/data_loader.py` of ai2-olmo-core 2.4.0. For an epoch over `N` instances:
//!
//! 1. the indices `0..N` as `u32`, shuffled by `Generator(PCG64(seed + epoch))`, epochs from 1; with
//!    a chunk size `k` the `N / k` chunks of neighbouring instances are shuffled instead;
//! 2. cut to whole batches of `global_batch_size` **tokens**;
//! 3. batch `b` is the `b`-th piece of that, of which rank `r` takes every `W`-th from its `r`-th on.
//!
//! Step 1 is what the file `global_indices_dataset_size{N}_epoch{e}_seed{s}_v1.npy` holds. The place
//! in an epoch is saved as tokens, so both the batch size and the number of ranks may change on
//! restart. Chunks let the sequence length grow up to `max_target_sequence_length` while the order
//! of the data stays, see [`TokenDataset`](crate::TokenDataset).
//!
//! Difference: a chunk size that leaves less than whole batches is an error here, while there the
//! arrays do not fit each other.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::global_indices::GlobalIndices;
use crate::instance_table::check_n_instances;
use crate::rng::{Generator, ShuffledRange};
use crate::sampler::check_rank;
use crate::{Error, Result};

/// Settings of an [`FslOrder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FslOrderConfig {
    /// Seed of the data loader.
    pub seed: u64,
    /// Epoch, from 1; each has its own shuffle.
    pub epoch: u64,
    /// Whether to shuffle at all.
    pub shuffle: bool,
    /// Neighbouring instances that stay together.
    pub chunk_size: usize,
    /// Tokens of a batch over all ranks.
    pub global_batch_size: usize,
    /// Tokens of an instance.
    pub sequence_length: usize,
}

impl Default for FslOrderConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            epoch: 1,
            shuffle: true,
            chunk_size: 1,
            global_batch_size: 1,
            sequence_length: 1,
        }
    }
}

impl FslOrderConfig {
    /// Instances of a batch over all ranks.
    pub fn instances_per_batch(&self) -> usize {
        self.global_batch_size / self.sequence_length.max(1)
    }

    /// Batches of an epoch over `n_instances` instances.
    pub fn total_batches(&self, n_instances: usize) -> usize {
        n_instances.checked_div(self.instances_per_batch()).unwrap_or(0)
    }

    /// Batches that a run has processed of an epoch by its tokens, rounded down as OLMo-core does
    /// where the batch size has changed since.
    pub fn batches_processed(&self, tokens_processed: u64) -> usize {
        tokens_processed.checked_div(self.global_batch_size as u64).unwrap_or(0) as usize
    }

    /// The name OLMo-core gives to the file of this order.
    pub fn file_name(&self, n_instances: usize) -> String {
        let chunk = match self.chunk_size {
            0 | 1 => String::new(),
            k => format!("_chunk{k}"),
        };
        let shuffle = if self.shuffle {
            format!("_epoch{}_seed{}", self.epoch, self.seed)
        } else {
            String::new()
        };
        format!("global_indices{chunk}_dataset_size{n_instances}{shuffle}_v1.npy")
    }

    /// The instances of one batch over all ranks, found without holding the order in memory.
    ///
    /// # Errors
    ///
    /// As of [`FslOrder::new`]; [`Error::Setting`] where the epoch has no such batch.
    pub fn batch(&self, n_instances: usize, batch: usize) -> Result<Vec<u32>> {
        let epoch_seed = self.check(n_instances)?;
        let range = self.batch_range(n_instances, batch)?;
        if !self.shuffle {
            return Ok(range.map(|position| position as u32).collect());
        }
        let chunk_size = self.chunk_size;
        let (first, end) = (range.start / chunk_size, range.end.div_ceil(chunk_size));
        let chunks = ShuffledRange::new(epoch_seed, (n_instances / chunk_size) as u32)
            .values(&(first as u32..end as u32).collect::<Vec<_>>());
        let instance = |position: usize| {
            chunks[position / chunk_size - first] * chunk_size as u32
                + (position % chunk_size) as u32
        };
        Ok(range.map(instance).collect())
    }

    /// The place in the order of one batch over all ranks.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where the epoch has no such batch.
    pub fn batch_range(&self, n_instances: usize, batch: usize) -> Result<std::ops::Range<usize>> {
        let total = self.total_batches(n_instances);
        if batch >= total {
            return Err(Error::Setting {
                name: "batch",
                found: batch as u64,
                expected: format!("less than the {total} batches of an epoch"),
            });
        }
        let size = self.instances_per_batch();
        Ok(batch * size..(batch + 1) * size)
    }

    /// Checks the settings and gives the seed of the epoch.
    fn check(&self, n_instances: usize) -> Result<u64> {
        check_n_instances(n_instances)?;
        let wrong = |name, found: u64, expected: &str| {
            Err(Error::Setting { name, found, expected: expected.to_owned() })
        };
        if self.epoch == 0 {
            return wrong("epoch", 0, "at least 1: OLMo-core counts epochs from 1");
        }
        if self.sequence_length == 0 {
            return wrong("sequence_length", 0, "at least 1");
        }
        let batch = self.global_batch_size;
        if batch == 0 || !batch.is_multiple_of(self.sequence_length) {
            let expected = format!("a positive multiple of the {} tokens", self.sequence_length);
            return wrong("global_batch_size", batch as u64, &expected);
        }
        if self.chunk_size == 0 {
            return wrong("chunk_size", 0, "at least 1");
        }
        let used = self.total_batches(n_instances) * self.instances_per_batch();
        if used > n_instances - n_instances % self.chunk_size {
            let expected = format!("a divisor of the {n_instances} instances");
            return wrong("chunk_size", self.chunk_size as u64, &expected);
        }
        let Some(epoch_seed) = self.seed.checked_add(self.epoch) else {
            return wrong("epoch", self.epoch, "small enough that the seed plus it fits 64 bits");
        };
        Ok(epoch_seed)
    }
}

/// The order of one epoch; four bytes an instance.
///
/// ```
/// use olmo_data::{FslOrder, FslOrderConfig};
///
/// # fn main() -> olmo_data::Result<()> {
/// let config = FslOrderConfig {
///     seed: 34521,
///     global_batch_size: 32, // tokens
///     sequence_length: 8,
///     ..Default::default()
/// };
/// let order = FslOrder::new(17, &config)?;
/// assert_eq!(order.total_batches(), 4); // one instance is left over
/// assert_eq!(order.batch(0)?, config.batch(17, 0)?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FslOrder {
    config: FslOrderConfig,
    n_instances: usize,
    indices: Vec<u32>,
}

impl FslOrder {
    /// The order of an epoch over `n_instances` instances.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyInstances`] where the indices do not fit 32 bits; [`Error::Setting`] where
    /// the epoch is 0, the batch is no positive multiple of the sequence length, the chunks do not
    /// fill the batches, or `seed + epoch` does not fit 64 bits.
    pub fn new(n_instances: usize, config: &FslOrderConfig) -> Result<Self> {
        let epoch_seed = config.check(n_instances)?;
        let chunk_size = config.chunk_size;
        let mut chunks: Vec<u32> = (0..(n_instances / chunk_size) as u32).collect();
        if config.shuffle {
            Generator::new(epoch_seed).shuffle_indices(&mut chunks);
        }
        let indices = if chunk_size == 1 {
            chunks
        } else {
            let size = chunk_size as u32;
            chunks.into_iter().flat_map(|chunk| chunk * size..(chunk + 1) * size).collect()
        };
        Ok(Self { config: *config, n_instances, indices })
    }

    /// The settings it was made with.
    pub fn config(&self) -> &FslOrderConfig {
        &self.config
    }

    /// The whole order, with the instances that fill no batch: what OLMo-core saves.
    pub fn global_indices(&self) -> &[u32] {
        &self.indices
    }

    /// Batches of the epoch.
    pub fn total_batches(&self) -> usize {
        self.config.total_batches(self.n_instances)
    }

    /// The instances of one batch over all ranks.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where the epoch has no such batch.
    pub fn batch(&self, batch: usize) -> Result<&[u32]> {
        Ok(&self.indices[self.config.batch_range(self.n_instances, batch)?])
    }

    /// The instances that one rank of `world_size` still has to see after `batches_processed`
    /// batches, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where there is no such rank, or the ranks do not share a batch evenly.
    pub fn rank_indices(
        &self,
        batches_processed: usize,
        rank: usize,
        world_size: usize,
    ) -> Result<impl Iterator<Item = u32> + Clone + '_> {
        check_rank(rank, world_size)?;
        let size = self.config.instances_per_batch();
        if !size.is_multiple_of(world_size) {
            return Err(Error::Setting {
                name: "world_size",
                found: world_size as u64,
                expected: format!("a divisor of the {size} instances of a batch"),
            });
        }
        Ok(self
            .indices
            .chunks_exact(size)
            .skip(batches_processed)
            .flat_map(move |batch| batch.iter().skip(rank).step_by(world_size).copied()))
    }

    /// Writes the order into a folder under OLMo-core's name for it, and returns the path.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the file cannot be written.
    pub fn write_global_indices(&self, folder: impl AsRef<Path>) -> Result<PathBuf> {
        let path = folder.as_ref().join(self.config.file_name(self.n_instances));
        GlobalIndices::write(&path, &self.indices)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_batch_is_the_same_with_and_without_the_order(
            n_chunks in 1usize..60,
            chunk_size in 1usize..5,
            instances_per_batch in 1usize..12,
            seed: u32,
            shuffle: bool,
        ) {
            let n_instances = n_chunks * chunk_size;
            let config = FslOrderConfig {
                seed: seed.into(),
                shuffle,
                chunk_size,
                global_batch_size: instances_per_batch * 3,
                sequence_length: 3,
                ..Default::default()
            };
            let order = FslOrder::new(n_instances, &config).unwrap();
            for batch in 0..order.total_batches() {
                prop_assert_eq!(order.batch(batch).unwrap(), config.batch(n_instances, batch).unwrap());
            }
            prop_assert!(config.batch(n_instances, order.total_batches()).is_err());
            let mut all = order.global_indices().to_vec();
            all.sort_unstable();
            prop_assert_eq!(all, (0..n_instances as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_errors() {
        let config =
            FslOrderConfig { global_batch_size: 8, sequence_length: 4, ..Default::default() };
        let new = |config: FslOrderConfig| FslOrder::new(9, &config);
        assert!(new(config).is_ok());
        for wrong in [
            FslOrderConfig { epoch: 0, ..config },
            FslOrderConfig { sequence_length: 0, ..config },
            FslOrderConfig { global_batch_size: 6, ..config },
            FslOrderConfig { chunk_size: 0, ..config },
            FslOrderConfig { chunk_size: 5, ..config },
            FslOrderConfig { seed: u64::MAX, ..config },
        ] {
            assert!(matches!(new(wrong), Err(Error::Setting { .. })), "{wrong:?}");
        }
        let order = new(config).unwrap();
        assert!(order.rank_indices(0, 0, 3).is_err());
        assert!(order.rank_indices(0, 2, 2).is_err());
        assert!(order.batch(4).is_err());
    }
}
