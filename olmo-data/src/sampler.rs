//! The order in which instances are seen.
//!
//! Matches `IterableDataset` of the original trainer (`olmo/data/iterable_dataset.py`, ai2-olmo
//! 0.6.0). For an epoch over `N` instances and `W` ranks:
//!
//! 1. the indices `0..N` as `u32`, shuffled by NumPy's `Generator(PCG64(seed + epoch))`;
//! 2. cut to a multiple of `W`, or padded to one by repeating from the front;
//! 3. cut to the first `max_examples`;
//! 4. without the first `start_index`, those seen before the run was stopped;
//! 5. rank `r` takes every `W`-th from its `r`-th on.
//!
//! So global batch `b` of size `B` is `order[b * B..(b + 1) * B]` for any number of ranks. There the
//! loader's worker processes take whole device batches in turn, so that their number changes
//! nothing; there are none here.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::global_indices::GlobalIndices;
use crate::instance_table::check_n_instances;
use crate::rng::{Generator, ShuffledRange};
use crate::{Error, Result};

/// What is done so that every rank has the same number of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tail {
    /// The last few instances of the shuffled order are left out (`drop_last: true`).
    Drop,
    /// The first few are repeated at the end (`drop_last: false`, the reference's default).
    Pad,
}

/// Settings of a [`DataOrder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataOrderConfig {
    /// Seed of the run; `data.seed`, or else `seed`, of an OLMo config.
    pub seed: u64,
    /// Epoch, from 0; each has its own shuffle.
    pub epoch: u64,
    /// Number of ranks.
    pub world_size: usize,
    /// This rank.
    pub rank: usize,
    /// How the order is made a multiple of the number of ranks.
    pub tail: Tail,
    /// Instances to skip, over all ranks: those that the epoch has seen.
    pub start_index: usize,
    /// Instances to end after, over all ranks; a multiple of the number of ranks.
    pub max_examples: Option<usize>,
    /// Whether to shuffle at all.
    pub shuffle: bool,
}

impl Default for DataOrderConfig {
    fn default() -> Self {
        Self {
            seed: 6198,
            epoch: 0,
            world_size: 1,
            rank: 0,
            tail: Tail::Drop,
            start_index: 0,
            max_examples: None,
            shuffle: true,
        }
    }
}

/// The order of one epoch, as indices into a dataset; four bytes an instance.
///
/// ```
/// use olmo_data::{DataOrder, DataOrderConfig};
///
/// # fn main() -> olmo_data::Result<()> {
/// let config = DataOrderConfig { seed: 6198, world_size: 2, rank: 1, ..Default::default() };
/// let order = DataOrder::new(17, &config)?;
/// assert_eq!(order.global_indices().len(), 16);
/// assert_eq!(order.rank_indices().next(), Some(order.global_indices()[1]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataOrder {
    config: DataOrderConfig,
    indices: Vec<u32>,
}

impl DataOrder {
    /// Shuffles the indices of `n_instances` instances.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyInstances`] where the indices do not fit 32 bits; [`Error::Setting`] where
    /// there are no ranks, the rank is not one of them, `max_examples` is no multiple of their
    /// number, or `seed + epoch` does not fit 64 bits.
    pub fn new(n_instances: usize, config: &DataOrderConfig) -> Result<Self> {
        check_n_instances(n_instances)?;
        let seed = check(config)?;
        let total = total_size(n_instances, config)?;
        let mut indices: Vec<u32> = Vec::with_capacity(total.max(n_instances));
        indices.extend(0..n_instances as u32);
        if config.shuffle {
            Generator::new(seed).shuffle_indices(&mut indices);
        }
        indices.truncate(total);
        for i in 0..total - indices.len() {
            // Once the whole order has been repeated, the copies follow it, so `i` is in range.
            indices.push(indices[i]);
        }
        Ok(Self { config: *config, indices })
    }

    /// The instances at some places of the order over all ranks, whatever was seen before, found
    /// without holding the order in memory.
    ///
    /// # Errors
    ///
    /// As of [`DataOrder::new`]; [`Error::Setting`] where the epoch has no such place.
    pub fn at(
        n_instances: usize,
        config: &DataOrderConfig,
        places: std::ops::Range<usize>,
    ) -> Result<Vec<u32>> {
        check_n_instances(n_instances)?;
        let seed = check(config)?;
        let total = total_size(n_instances, config)?;
        if places.end > total {
            return Err(Error::Setting {
                name: "place in the order",
                found: places.end as u64,
                expected: format!("at most {total}, the instances of an epoch"),
            });
        }
        // What is padded repeats the order from its front.
        let places: Vec<u32> = places.map(|place| (place % n_instances) as u32).collect();
        if !config.shuffle {
            return Ok(places);
        }
        Ok(ShuffledRange::new(seed, n_instances as u32).values(&places))
    }

    /// Instances of an epoch over all ranks, `max_examples` and `start_index` left aside.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where the number of ranks is absurdly large.
    pub fn total_size(n_instances: usize, config: &DataOrderConfig) -> Result<usize> {
        check(config)?;
        total_size(n_instances, config)
    }

    /// The settings it was made with.
    pub fn config(&self) -> &DataOrderConfig {
        &self.config
    }

    /// The order of the whole epoch over all ranks, whatever was seen before: what the reference
    /// saves as `train_data/global_indices.npy`.
    pub fn global_indices(&self) -> &[u32] {
        &self.indices
    }

    /// The part of the epoch still to come over all ranks: up to `max_examples`, from `start_index`.
    pub fn remaining_indices(&self) -> &[u32] {
        let end = self.config.max_examples.unwrap_or(usize::MAX).min(self.indices.len());
        self.indices[..end].get(self.config.start_index..).unwrap_or_default()
    }

    /// The instances of this rank still to come, in order.
    pub fn rank_indices(&self) -> impl ExactSizeIterator<Item = u32> + Clone + '_ {
        self.of_rank(self.config.rank)
    }

    /// The instances of another rank, from the same shuffle.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where there is no such rank.
    pub fn rank_indices_of(
        &self,
        rank: usize,
    ) -> Result<impl ExactSizeIterator<Item = u32> + Clone + '_> {
        check_rank(rank, self.config.world_size)?;
        Ok(self.of_rank(rank))
    }

    /// Writes the global indices as raw little-endian `u32`, the reference's `global_indices.npy`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the file cannot be written.
    pub fn write_global_indices(&self, path: impl AsRef<Path>) -> Result<()> {
        GlobalIndices::write(path, &self.indices)
    }

    fn of_rank(&self, rank: usize) -> impl ExactSizeIterator<Item = u32> + Clone + '_ {
        self.remaining_indices().iter().skip(rank).step_by(self.config.world_size).copied()
    }
}

/// Checks the settings and gives the seed of the epoch.
fn check(config: &DataOrderConfig) -> Result<u64> {
    let &DataOrderConfig { seed, epoch, world_size, rank, max_examples, .. } = config;
    check_rank(rank, world_size)?;
    if let Some(max_examples) = max_examples
        && !max_examples.is_multiple_of(world_size)
    {
        return Err(Error::Setting {
            name: "max_examples",
            found: max_examples as u64,
            expected: format!("a multiple of the {world_size} ranks"),
        });
    }
    seed.checked_add(epoch).ok_or_else(|| Error::Setting {
        name: "epoch",
        found: epoch,
        expected: format!(
            "at most {}, so that the seed of {seed} plus it fits 64 bits",
            u64::MAX - seed
        ),
    })
}

pub(crate) fn check_rank(rank: usize, world_size: usize) -> Result<()> {
    if world_size == 0 {
        return Err(Error::Setting {
            name: "world_size",
            found: 0,
            expected: "at least 1".to_owned(),
        });
    }
    if rank >= world_size {
        return Err(Error::Setting {
            name: "rank",
            found: rank as u64,
            expected: format!("less than the {world_size} ranks"),
        });
    }
    Ok(())
}

/// Instances of an epoch once they are a multiple of the number of ranks.
fn total_size(n_instances: usize, config: &DataOrderConfig) -> Result<usize> {
    let world_size = config.world_size;
    match config.tail {
        Tail::Drop => Ok(n_instances - n_instances % world_size),
        Tail::Pad => n_instances
            .checked_next_multiple_of(world_size)
            // A dataset of a few instances must not allocate for an absurd number of ranks.
            .filter(|&total| u32::try_from(total).is_ok())
            .ok_or_else(|| Error::Setting {
                name: "world_size",
                found: world_size as u64,
                expected: format!("small enough to pad {n_instances} instances to 32 bits"),
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(n_instances: usize, config: DataOrderConfig) -> DataOrder {
        DataOrder::new(n_instances, &config).unwrap()
    }

    fn settings() -> impl Strategy<Value = (usize, DataOrderConfig)> {
        (0usize..200, 1usize..9, any::<bool>(), 0u64..5, 0u64..3, 0usize..20).prop_map(
            |(n_instances, world_size, drop, seed, epoch, steps)| {
                let tail = if drop { Tail::Drop } else { Tail::Pad };
                let start_index = steps * world_size;
                let config = DataOrderConfig {
                    seed,
                    epoch,
                    world_size,
                    tail,
                    start_index,
                    ..Default::default()
                };
                (n_instances, config)
            },
        )
    }

    proptest! {
        #[test]
        fn the_ranks_share_the_remaining_indices_in_turn((n_instances, config) in settings()) {
            let order = order(n_instances, config);
            let ranks: Vec<Vec<u32>> = (0..config.world_size)
                .map(|rank| order.rank_indices_of(rank).unwrap().collect())
                .collect();
            prop_assert!(ranks.iter().all(|rank| rank.len() == ranks[0].len()));
            let woven: Vec<u32> =
                (0..ranks[0].len()).flat_map(|i| ranks.iter().map(move |rank| rank[i])).collect();
            prop_assert_eq!(woven, order.remaining_indices());
        }

        #[test]
        fn an_epoch_is_a_permutation_cut_or_repeated((n_instances, config) in settings()) {
            let order = order(n_instances, config);
            let total = order.global_indices().len();
            prop_assert_eq!(total % config.world_size, 0);
            prop_assert!(total.abs_diff(n_instances) < config.world_size);
            let mut seen: Vec<u32> = order.global_indices().iter().take(n_instances).copied().collect();
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), n_instances.min(total));
            for i in n_instances..total {
                prop_assert_eq!(order.global_indices()[i], order.global_indices()[i - n_instances]);
            }
        }

        #[test]
        fn any_part_is_found_without_the_order((n_instances, config) in settings(), a: u16, b: u16) {
            let whole = order(n_instances, config);
            let total = whole.global_indices().len();
            let (a, b) = (usize::from(a) % (total + 1), usize::from(b) % (total + 1));
            let places = a.min(b)..a.max(b);
            let part = DataOrder::at(n_instances, &config, places.clone()).unwrap();
            prop_assert_eq!(part, &whole.global_indices()[places]);
            prop_assert!(DataOrder::at(n_instances, &config, 0..total + 1).is_err());
        }

        #[test]
        fn resuming_is_skipping_for_any_number_of_ranks((n_instances, config) in settings()) {
            let whole = order(n_instances, DataOrderConfig { start_index: 0, ..config });
            let rest = order(n_instances, config);
            let skipped: Vec<u32> =
                whole.rank_indices().skip(config.start_index / config.world_size).collect();
            prop_assert_eq!(rest.rank_indices().collect::<Vec<_>>(), skipped);
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_errors() {
        let new = |config: DataOrderConfig| DataOrder::new(10, &config);
        let default = DataOrderConfig::default();
        assert!(new(DataOrderConfig { world_size: 0, ..default }).is_err());
        assert!(new(DataOrderConfig { world_size: 2, rank: 2, ..default }).is_err());
        assert!(new(DataOrderConfig { world_size: 2, max_examples: Some(3), ..default }).is_err());
        assert!(new(DataOrderConfig { seed: u64::MAX, epoch: 1, ..default }).is_err());
        assert!(
            new(DataOrderConfig { world_size: usize::MAX, tail: Tail::Pad, ..default }).is_err()
        );
        assert!(DataOrder::new(u32::MAX as usize, &default).is_err());
        assert!(order(10, default).rank_indices_of(1).is_err());
    }

    #[test]
    fn starting_past_the_end_leaves_nothing() {
        let order = order(10, DataOrderConfig { start_index: 11, ..Default::default() });
        assert_eq!(order.rank_indices().len(), 0);
    }

    #[test]
    fn global_indices_are_saved_as_raw_u32() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("global_indices.npy");
        let order = order(5, DataOrderConfig::default());
        order.write_global_indices(&path).unwrap();
        let bytes = std::fs::read(path).unwrap();
        let saved: Vec<u32> =
            bytes.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(saved, order.global_indices());
    }
}
