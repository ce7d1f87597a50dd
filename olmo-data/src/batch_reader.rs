//! Reads the batches of one rank, one at a time, in one of the orders.

use crate::batch::Batch;
use crate::fsl_order::{FslOrder, FslOrderConfig};
use crate::instances::{InstanceMasks, Instances, VslOrder};
use crate::loader::{BatchOrder, DataLoaderConfig, LoaderState};
use crate::sampler::{DataOrder, DataOrderConfig, Tail, check_rank};
use crate::{Error, Result};

/// The batches of one rank, and how far they have come.
pub(crate) struct BatchReader {
    dataset: Box<dyn Instances>,
    config: DataLoaderConfig,
    /// Position after the last batch read.
    state: LoaderState,
    /// The order of `state.epoch` from its beginning; None where it is still to be shuffled.
    order: Option<EpochOrder>,
}

/// What a loader meets, in order, with the state after it.
#[derive(Debug)]
pub(crate) enum Event {
    Batch { batch: Batch, state: LoaderState },
    EndOfEpoch { state: LoaderState },
}

/// The order of one epoch.
enum EpochOrder {
    Olmo(DataOrder),
    Fsl(FslOrder),
    Vsl(VslOrder),
}

impl BatchReader {
    pub(crate) fn new(
        dataset: Box<dyn Instances>,
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
        if config.order == BatchOrder::Olmo
            && config.tail == Tail::Pad
            && !state.n_instances_seen.is_multiple_of(config.world_size)
        {
            return Err(Error::Setting {
                name: "n_instances_seen",
                found: state.n_instances_seen as u64,
                expected: format!("a multiple of the {} ranks", config.world_size),
            });
        }
        let first_epoch = u64::from(config.order != BatchOrder::Olmo);
        let state = LoaderState { epoch: state.epoch.max(first_epoch), ..state };
        let mut reader = Self { dataset, config, state, order: None };
        reader.order = Some(reader.shuffled()?);
        Ok(reader)
    }

    pub(crate) fn state(&self) -> LoaderState {
        self.state
    }

    pub(crate) fn n_batches_per_epoch(&self) -> Result<usize> {
        let global_batch_size = self.config.global_batch_size;
        let (n_instances, n_batches) = match &self.order {
            None => (0, 0),
            Some(EpochOrder::Olmo(order)) => {
                let n_instances = order.remaining_indices().len();
                let n_batches = match self.config.tail {
                    Tail::Drop => n_instances / global_batch_size,
                    Tail::Pad => n_instances.div_ceil(global_batch_size),
                };
                (n_instances, n_batches)
            }
            Some(EpochOrder::Fsl(order)) => (self.dataset.len(), order.total_batches()),
            Some(EpochOrder::Vsl(order)) => (self.dataset.len(), order.batches.len()),
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
        let Some((indices, size)) = self.share(&order)? else {
            // The old order is dropped before the next one is made, to hold one at a time.
            drop(order);
            self.state = LoaderState { epoch: self.state.epoch + 1, ..LoaderState::default() };
            return Ok(Event::EndOfEpoch { state: self.state });
        };
        self.order = Some(order);
        let batch = self.read(indices)?;
        self.state.n_instances_seen += size;
        self.state.n_tokens_seen += match self.config.order {
            BatchOrder::Olmo => (size * batch.seq_len) as u64,
            // What instances of several lengths leave of a batch counts too, as there.
            BatchOrder::OlmoCore { .. } | BatchOrder::OlmoCoreVsl { .. } => self.batch_tokens(),
        };
        Ok(Event::Batch { batch, state: self.state })
    }

    /// This rank's instances of the next batch and the number of all ranks'; none after the last.
    fn share(&self, order: &EpochOrder) -> Result<Option<(Vec<u32>, usize)>> {
        let DataLoaderConfig { rank, world_size, global_batch_size, .. } = self.config;
        let in_turn = |batch: &[u32]| {
            let indices = batch.iter().skip(rank).step_by(world_size).copied().collect();
            Some((indices, batch.len()))
        };
        Ok(match order {
            EpochOrder::Olmo(order) => {
                let seen = self.state.n_instances_seen;
                let rest = order.remaining_indices().get(seen..).unwrap_or_default();
                let size = rest.len().min(global_batch_size);
                let is_whole = size == global_batch_size;
                if size > 0 && (is_whole || self.config.tail == Tail::Pad) {
                    in_turn(&rest[..size])
                } else {
                    None
                }
            }
            EpochOrder::Fsl(order) => {
                let number = self.batches_seen();
                if number < order.total_batches() { in_turn(order.batch(number)?) } else { None }
            }
            EpochOrder::Vsl(order) => match order.batches.get(self.batches_seen()) {
                None => None,
                Some(all) => {
                    let share = order.rank_batch(self.batches_seen(), rank, world_size)?;
                    Some((share.to_vec(), all.len()))
                }
            },
        })
    }

    /// Tokens of a batch over all ranks.
    fn batch_tokens(&self) -> u64 {
        (self.config.global_batch_size * self.dataset.sequence_length()) as u64
    }

    /// Batches of this epoch that have been given, by their tokens, so that batches may have another
    /// size after a restart; rounded down as in OLMo-core.
    fn batches_seen(&self) -> usize {
        (self.state.n_tokens_seen / self.batch_tokens().max(1)) as usize
    }

    fn read(&self, indices: Vec<u32>) -> Result<Batch> {
        let first = indices.first().map_or(0, |&index| index as usize);
        let seq_len = self.dataset.length_of(first)?;
        let mut tokens = vec![0; indices.len() * seq_len];
        let mut label_mask: Option<Vec<bool>> = None;
        let mut doc_lens: Option<Vec<Vec<u32>>> = None;
        let mut n_filtered = 0;
        for (row, &index) in indices.iter().enumerate() {
            let places = row * seq_len..(row + 1) * seq_len;
            let masks = self.dataset.read_into(index as usize, &mut tokens[places.clone()])?;
            let InstanceMasks { label_mask: labels, instance_mask, doc_lens: lengths } = masks;
            n_filtered += usize::from(instance_mask == Some(false));
            if labels.is_some() || instance_mask == Some(false) {
                let all = label_mask.get_or_insert_with(|| vec![true; indices.len() * seq_len]);
                match (labels, instance_mask) {
                    (Some(labels), None | Some(true)) => all[places].copy_from_slice(&labels),
                    _ => all[places].fill(false),
                }
            }
            if let Some(lengths) = lengths {
                doc_lens.get_or_insert_default().push(lengths);
            }
        }
        Ok(Batch { indices, tokens, seq_len, label_mask, n_filtered, doc_lens })
    }

    fn shuffled(&self) -> Result<EpochOrder> {
        let DataLoaderConfig { world_size, rank, seed, shuffle, tail, max_examples, .. } =
            self.config;
        let epoch = self.state.epoch;
        let sequence_length = self.dataset.sequence_length();
        let global_batch_tokens = self.batch_tokens() as usize;
        match self.config.order {
            BatchOrder::Olmo => {
                let config = DataOrderConfig {
                    seed,
                    epoch,
                    world_size,
                    rank,
                    tail,
                    start_index: 0,
                    max_examples,
                    shuffle,
                };
                Ok(EpochOrder::Olmo(DataOrder::new(self.dataset.len(), &config)?))
            }
            BatchOrder::OlmoCore { chunk_size } => {
                let config = FslOrderConfig {
                    seed,
                    epoch,
                    shuffle,
                    chunk_size,
                    global_batch_size: global_batch_tokens,
                    sequence_length,
                };
                Ok(EpochOrder::Fsl(FslOrder::new(self.dataset.len(), &config)?))
            }
            BatchOrder::OlmoCoreVsl { curriculum } => {
                let Some(instances) = self.dataset.as_vsl() else {
                    let reason = "all instances have the same length".to_owned();
                    return Err(Error::Curriculum { reason });
                };
                if !shuffle {
                    let reason = "it is an order at random, and shuffling is off".to_owned();
                    return Err(Error::Curriculum { reason });
                }
                let order = instances.order(curriculum, global_batch_tokens, seed, epoch)?;
                Ok(EpochOrder::Vsl(order))
            }
        }
    }
}

impl std::fmt::Debug for BatchReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchReader")
            .field("config", &self.config)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
