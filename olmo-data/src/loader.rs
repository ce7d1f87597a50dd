//! Batches in order, epoch after epoch, with a state to resume from.
//!
//! Matches how the original trainer drives its loader (`olmo/train.py`, `Trainer.fit` and
//! `load_trainer_state_dict`): the state is the epoch and the number of instances that all ranks
//! have seen of it; when an epoch is over, the count starts from zero and the next order is
//! shuffled with `seed + epoch + 1`. The order does not depend on the number of ranks (see
//! [`sampler`](crate::sampler)), so a run may be resumed on another number of them.
//!
//! In OLMo-core's order (`olmo_core/data/data_loader.py`) the state is the epoch, from 1, and the
//! tokens of its batches; the place is found from these, so that sequence length and batch size may
//! change too.
//!
//! Difference: with [`Tail::Drop`] the reference also drops the last batch where it is not whole,
//! and so do we; with [`Tail::Pad`] its trainer then asserts that every batch is whole, while we
//! give the smaller one.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::batch::Batch;
use crate::batch_reader::{BatchReader, Event};
use crate::instances::Instances;
use crate::prefetch::Prefetch;
use crate::sampler::{DataOrderConfig, Tail};
use crate::vsl_curriculum::VslCurriculum;

/// Settings of a [`DataLoader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataLoaderConfig {
    /// Instances of a batch over all ranks, a multiple of their number; where they are of several
    /// lengths, as many as there would be of the longest.
    pub global_batch_size: usize,
    /// Whose order it is.
    pub order: BatchOrder,
    /// Number of ranks.
    pub world_size: usize,
    /// This rank.
    pub rank: usize,
    /// Seed of the run.
    pub seed: u64,
    /// What is done with instances that fill no batch; OLMo-core's order drops them.
    pub tail: Tail,
    /// Whether to shuffle.
    pub shuffle: bool,
    /// Instances that an epoch ends after, over all ranks, a multiple of their number; not in
    /// OLMo-core's order.
    pub max_examples: Option<usize>,
    /// Batches to read ahead in a thread; 0 reads each when it is asked for.
    pub prefetch: usize,
}

impl Default for DataLoaderConfig {
    fn default() -> Self {
        let order = DataOrderConfig::default();
        Self {
            global_batch_size: 1,
            order: BatchOrder::Olmo,
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

/// Whose order batches are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum BatchOrder {
    /// The original trainer's; epochs from 0.
    #[default]
    Olmo,
    /// OLMo-core's of instances of one length; epochs from 1.
    OlmoCore {
        /// Neighbouring instances that stay together.
        chunk_size: usize,
    },
    /// OLMo-core's of instances of several lengths; epochs from 1.
    OlmoCoreVsl {
        /// How the lengths of batches follow each other.
        curriculum: VslCurriculum,
    },
}

/// How far a run has come in its data; the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// Epoch, from 0, or from 1 in OLMo-core's order, where 0 stands for the first too.
    pub epoch: u64,
    /// Instances that all ranks have seen of this epoch: the original trainer's
    /// `global_train_examples_seen_this_epoch`.
    pub n_instances_seen: usize,
    /// Tokens of the batches of this epoch: OLMo-core's `tokens_processed`.
    #[serde(default)]
    pub n_tokens_seen: u64,
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

impl DataLoader {
    /// A loader that goes on from a state; [`LoaderState::default`] is the beginning.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where the batch size is no positive multiple of the number of ranks, or
    /// the state is no position that these ranks can share; [`Error::NoBatches`] where an epoch is
    /// smaller than a batch; [`Error::Curriculum`] where a curriculum has no order; those of
    /// [`DataOrder::new`] and [`FslOrder::new`].
    ///
    /// [`Error::Setting`]: crate::Error::Setting
    /// [`Error::NoBatches`]: crate::Error::NoBatches
    /// [`Error::Curriculum`]: crate::Error::Curriculum
    /// [`DataOrder::new`]: crate::DataOrder::new
    /// [`FslOrder::new`]: crate::FslOrder::new
    pub fn new(
        dataset: impl Instances + 'static,
        config: DataLoaderConfig,
        state: LoaderState,
    ) -> Result<Self> {
        let reader = BatchReader::new(Box::new(dataset), config, state)?;
        let state = reader.state();
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
            Event::Batch { batch, state } => {
                self.state = state;
                Ok(Some(batch))
            }
            Event::EndOfEpoch { state } => {
                self.state = state;
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
