//! Batches in order, epoch after epoch, with a state to resume from.
//!
//! Matches how the original trainer drives its loader (`olmo/train.py`, `Trainer.fit` and
//! `load_trainer_state_dict`): the state is the epoch and the number of instances that all ranks
//! have seen of it; when an epoch is over, the count starts from zero and the next order is
//! shuffled with `seed + epoch + 1`. The order does not depend on the number of ranks (see
//! [`sampler`](crate::sampler)), so a run may be resumed on another number of them.
//!
//! Difference: with [`Tail::Drop`] the reference also drops the last batch where it is not whole,
//! and so do we; with [`Tail::Pad`] its trainer then asserts that every batch is whole, while we
//! give the smaller one.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::dataset::TokenDataset;
use crate::prefetch::Prefetch;
use crate::sampler::{DataOrder, DataOrderConfig, Tail, check_rank};
use crate::{Error, Result};

/// Settings of a [`DataLoader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataLoaderConfig {
    /// Instances of a batch over all ranks; a multiple of their number.
    pub global_batch_size: usize,
    /// Number of ranks.
    pub world_size: usize,
    /// This rank.
    pub rank: usize,
    /// Seed of the run.
    pub seed: u64,
    /// What is done with instances that fill no batch.
    pub tail: Tail,
    /// Whether to shuffle.
    pub shuffle: bool,
    /// Instances that an epoch ends after, over all ranks; a multiple of their number.
    pub max_examples: Option<usize>,
    /// Batches to read ahead in a thread; 0 reads each when it is asked for.
    pub prefetch: usize,
}

impl Default for DataLoaderConfig {
    fn default() -> Self {
        let order = DataOrderConfig::default();
        Self {
            global_batch_size: 1,
            world_size: order.world_size,
            rank: order.rank,
            seed: order.seed,
            tail: order.tail,
            shuffle: order.shuffle,
            max_examples: order.max_examples,
            prefetch: 4,
        }
    }
}

/// How far a run has come in its data; the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Instances that all ranks have seen of this epoch: the reference's
    /// `global_train_examples_seen_this_epoch`.
    pub n_instances_seen: usize,
}

/// The batches of one rank.
///
/// ```
/// use std::sync::Arc;
/// use olmo_data::{DataLoader, DataLoaderConfig, LoaderState, TokenDataset, TokenDtype};
///
/// # fn main() -> olmo_data::Result<()> {
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let path = folder.path().join("part-0-00000.npy");
/// # std::fs::write(&path, (0..100u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>()).expect("written");
/// let dataset = Arc::new(TokenDataset::open(&[path], TokenDtype::Uint16, 10)?);
/// let config = DataLoaderConfig { global_batch_size: 4, ..Default::default() };
/// let mut loader = DataLoader::new(dataset.clone(), config, LoaderState::default())?;
/// let first = loader.next_batch()?;
/// assert_eq!((first.n_instances(), first.seq_len), (4, 10));
///
/// // A new loader goes on where this one is.
/// let mut resumed = DataLoader::new(dataset, config, loader.state())?;
/// assert_eq!(resumed.next_batch()?, loader.next_batch()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DataLoader {
    source: Source,
    state: LoaderState,
    n_batches_per_epoch: usize,
    config: DataLoaderConfig,
}

/// Where the events come from.
#[derive(Debug)]
enum Source {
    Here(Box<BatchReader>),
    Thread(Prefetch<Event>),
}

/// What a loader meets, in order.
#[derive(Debug)]
pub(crate) enum Event {
    Batch { batch: Batch, n_instances_seen: usize },
    EndOfEpoch,
}

impl DataLoader {
    /// A loader that goes on from a state; [`LoaderState::default`] is the beginning.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where the batch size is no positive multiple of the number of ranks, or
    /// the state is no position that these ranks can share; [`Error::NoBatches`] where an epoch is
    /// smaller than a batch; those of [`DataOrder::new`].
    pub fn new(
        dataset: Arc<TokenDataset>,
        config: DataLoaderConfig,
        state: LoaderState,
    ) -> Result<Self> {
        let reader = BatchReader::new(dataset, config, state)?;
        let n_batches_per_epoch = reader.n_batches_per_epoch()?;
        let source = match NonZeroUsize::new(config.prefetch) {
            None => Source::Here(Box::new(reader)),
            Some(depth) => Source::Thread(Prefetch::new(depth, reader)?),
        };
        Ok(Self { source, state, n_batches_per_epoch, config })
    }

    /// The next batch; the next epoch begins by itself.
    ///
    /// # Errors
    ///
    /// Those of reading the dataset, after which every call is an error: make a new loader from the
    /// state.
    pub fn next_batch(&mut self) -> Result<Batch> {
        loop {
            if let Some(batch) = self.next_in_epoch()? {
                return Ok(batch);
            }
        }
    }

    /// The next batch of this epoch, or `None` once where it ends; after that, the next epoch's.
    ///
    /// # Errors
    ///
    /// As of [`DataLoader::next_batch`].
    pub fn next_in_epoch(&mut self) -> Result<Option<Batch>> {
        let event = match &mut self.source {
            Source::Here(reader) => reader.next_event(),
            Source::Thread(prefetch) => prefetch.next(),
        };
        match event? {
            Event::Batch { batch, n_instances_seen } => {
                self.state.n_instances_seen = n_instances_seen;
                Ok(Some(batch))
            }
            Event::EndOfEpoch => {
                self.state = LoaderState { epoch: self.state.epoch + 1, n_instances_seen: 0 };
                Ok(None)
            }
        }
    }

    /// The position after the batches given out so far; batches read ahead do not count.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// Batches of a whole epoch.
    pub fn n_batches_per_epoch(&self) -> usize {
        self.n_batches_per_epoch
    }

    /// The settings it was made with.
    pub fn config(&self) -> &DataLoaderConfig {
        &self.config
    }
}

/// Reads the batches of one rank, one at a time.
#[derive(Debug)]
pub(crate) struct BatchReader {
    dataset: Arc<TokenDataset>,
    config: DataLoaderConfig,
    /// Position after the last batch read.
    state: LoaderState,
    /// The order from the beginning of `state.epoch`; None where it is still to be shuffled.
    order: Option<DataOrder>,
}

impl BatchReader {
    fn new(
        dataset: Arc<TokenDataset>,
        config: DataLoaderConfig,
        state: LoaderState,
    ) -> Result<Self> {
        check_rank(config.rank, config.world_size)?;
        if config.global_batch_size == 0
            || !config.global_batch_size.is_multiple_of(config.world_size)
        {
            return Err(Error::Setting {
                name: "global_batch_size",
                found: config.global_batch_size as u64,
                expected: format!("a positive multiple of the {} ranks", config.world_size),
            });
        }
        // Otherwise the ranks would get last batches of different sizes, some of them empty.
        if config.tail == Tail::Pad && !state.n_instances_seen.is_multiple_of(config.world_size) {
            return Err(Error::Setting {
                name: "n_instances_seen",
                found: state.n_instances_seen as u64,
                expected: format!("a multiple of the {} ranks", config.world_size),
            });
        }
        let mut reader = Self { dataset, config, state, order: None };
        reader.order = Some(reader.shuffled()?);
        Ok(reader)
    }

    fn n_batches_per_epoch(&self) -> Result<usize> {
        let n_instances = self.order.as_ref().map_or(0, |order| order.remaining_indices().len());
        let global_batch_size = self.config.global_batch_size;
        let n_batches = match self.config.tail {
            Tail::Drop => n_instances / global_batch_size,
            Tail::Pad => n_instances.div_ceil(global_batch_size),
        };
        if n_batches == 0 {
            return Err(Error::NoBatches { n_instances, global_batch_size });
        }
        Ok(n_batches)
    }

    pub(crate) fn next_event(&mut self) -> Result<Event> {
        let order = match self.order.take() {
            Some(order) => order,
            None => self.shuffled()?,
        };
        let seen = self.state.n_instances_seen;
        let rest = order.remaining_indices().get(seen..).unwrap_or_default();
        let size = rest.len().min(self.config.global_batch_size);
        if size == 0 || (size < self.config.global_batch_size && self.config.tail == Tail::Drop) {
            // The old order is dropped before the next one is made, to hold one at a time.
            self.state = LoaderState { epoch: self.state.epoch + 1, n_instances_seen: 0 };
            return Ok(Event::EndOfEpoch);
        }
        let indices: Vec<u32> = rest[..size]
            .iter()
            .skip(self.config.rank)
            .step_by(self.config.world_size)
            .copied()
            .collect();
        self.order = Some(order);
        let batch = self.read(indices)?;
        self.state.n_instances_seen = seen + size;
        Ok(Event::Batch { batch, n_instances_seen: self.state.n_instances_seen })
    }

    fn read(&self, indices: Vec<u32>) -> Result<Batch> {
        let seq_len = self.dataset.seq_len();
        let mut tokens = vec![0; indices.len() * seq_len];
        for (&index, row) in indices.iter().zip(tokens.chunks_exact_mut(seq_len)) {
            self.dataset.read_into(index as usize, row)?;
        }
        Ok(Batch { indices, tokens, seq_len })
    }

    fn shuffled(&self) -> Result<DataOrder> {
        let DataLoaderConfig { world_size, rank, seed, tail, shuffle, max_examples, .. } =
            self.config;
        let order = DataOrderConfig {
            seed,
            epoch: self.state.epoch,
            world_size,
            rank,
            tail,
            start_index: 0,
            max_examples,
            shuffle,
        };
        DataOrder::new(self.dataset.len(), &order)
    }
}
