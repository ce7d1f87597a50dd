//! Keys and values of the tokens a model has seen: a value handed to the forward pass.
//!
//! A layer with a sliding window holds only what its window needs, and a little more. Its keys stay in
//! order and side by side, so that attention sees one slice: new ones are written behind the others,
//! and when there is no room left, the last `window - 1` move to the front of new storage.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};

use crate::config::ModelConfig;
use crate::error::Error;
use crate::integers::integers;

/// Keys and values of every layer for the sequences of one batch.
///
/// Storage is written in place, and grows as tokens come, up to `capacity` of them: a conversation that may
/// fill a long context takes no memory for it before it does. It may be in a narrower dtype than the model
/// computes in: keys and values are then rounded as they are stored, and those of new tokens with them.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Leading places of each row that hold no token.
    padding: Option<Arc<[usize]>>,
    length: usize,
    capacity: usize,
}

/// Keys and values of one layer.
#[derive(Debug, Clone)]
pub struct LayerCache {
    /// `[batch, n_kv_heads, room, head_dim]`, keys after their rotation.
    keys: Option<Tensor<4>>,
    values: Option<Tensor<4>>,
    /// Tokens whose keys are there: the last ones seen.
    held: usize,
    /// Tokens there is room for.
    room: usize,
    /// Tokens there will be room for at most.
    max_room: usize,
    /// Tokens a query sees, itself included.
    window: Option<usize>,
}

/// Tokens that there is room for at first.
const FIRST_ROOM: usize = 256;

/// Tokens that a layer's cache has room for at most, of `capacity` that may come: with a window, an eighth
/// of it is added, so that keys move seldom.
pub(crate) fn room(window: Option<usize>, capacity: usize) -> usize {
    const LEAST_SLACK: usize = 16;
    let with_slack = |window: usize| {
        let slack = (window / 8).max(LEAST_SLACK);
        (window - 1).saturating_add(slack)
    };
    window.map_or(capacity, with_slack).min(capacity)
}

impl KvCache {
    /// An empty cache for `batch` sequences of up to `capacity` tokens.
    pub fn new(
        config: &ModelConfig,
        batch: usize,
        capacity: usize,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let attention = &config.attention;
        let layer = |layer| {
            let window = config.window(layer);
            let max_room = room(window, capacity);
            let room = max_room.min(FIRST_ROOM);
            let shape = [batch, attention.n_kv_heads, room, attention.head_dim];
            let storage = || Some(Tensor::zeros(shape, (device, dtype)));
            LayerCache { keys: storage(), values: storage(), held: 0, room, max_room, window }
        };
        let layers = (0..config.n_layers).map(layer).collect();
        Self { layers, padding: None, length: 0, capacity }
    }

    /// The same, for rows of unequal length that end together: the first `padding[row]` places of
    /// a row hold no token. No other token sees them, and positions count from behind them.
    ///
    /// There is to be a number for each row.
    #[must_use]
    pub fn with_padding(mut self, padding: &[usize]) -> Self {
        self.padding = padding.iter().any(|&n| n > 0).then(|| padding.into());
        self
    }

    /// Leading places of each row that hold no token; `None` where no row has any.
    pub(crate) fn padding(&self) -> Option<Arc<[usize]>> {
        self.padding.clone()
    }

    /// Keeps the given rows, in the given order, of which some may be the same.
    ///
    /// # Panics
    ///
    /// Where there is no such row.
    pub fn select(&mut self, rows: &[usize]) {
        let Some(first) = self.layers.first().and_then(|layer| layer.keys.as_ref()) else { return };
        let indices = rows.iter().map(|&row| row as i64);
        let indices = integers(indices, [rows.len()], &first.device());
        for layer in &mut self.layers {
            for slot in [&mut layer.keys, &mut layer.values] {
                *slot = slot.take().map(|storage| storage.select(0, indices.clone()));
            }
        }
        let padding = self.padding.take();
        self.padding = padding.map(|padding| rows.iter().map(|&row| padding[row]).collect());
    }

    /// Places seen: tokens, and in rows that are shorter than the longest, padding before them.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Tokens that may come at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `length` tokens; more than were seen changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::CacheForgot`] where a windowed layer no longer holds the keys that the next token
    /// would need. Nothing is changed then. Going back to 0 always works.
    pub fn truncate(&mut self, length: usize) -> Result<(), Error> {
        let (seen, length) = (self.length, length.min(self.length));
        let earliest = self.layers.iter().map(|layer| layer.earliest(seen)).max().unwrap_or(0);
        if length > 0 && length < earliest {
            return Err(Error::CacheForgot { length, earliest });
        }
        for layer in &mut self.layers {
            layer.held = layer.held.saturating_sub(seen - length);
        }
        self.length = length;
        Ok(())
    }

    /// Forgets every token.
    pub fn clear(&mut self) {
        for layer in &mut self.layers {
            layer.held = 0;
        }
        self.length = 0;
    }

    /// Elements of all keys and values that there is storage for.
    pub fn n_elements(&self) -> usize {
        let slots = self.layers.iter().flat_map(|layer| [&layer.keys, &layer.values]);
        slots.flatten().map(|storage| storage.shape().num_elements()).sum()
    }

    /// Whether `seq` tokens more fit.
    ///
    /// # Errors
    ///
    /// [`Error::SequenceTooLong`] where they do not.
    pub(crate) fn check_room(&self, seq: usize) -> Result<(), Error> {
        let length = self.length + seq;
        if length > self.capacity {
            return Err(Error::SequenceTooLong { length, limit: self.capacity });
        }
        Ok(())
    }

    /// Counts `seq` tokens more.
    ///
    /// # Errors
    ///
    /// [`Error::SequenceTooLong`] where they do not fit.
    pub(crate) fn reserve(&mut self, seq: usize) -> Result<(), Error> {
        self.check_room(seq)?;
        self.length += seq;
        Ok(())
    }

    /// Keys and values of one layer, for [`Block::forward`](crate::block::Block::forward).
    ///
    /// # Panics
    ///
    /// Where there are not so many layers.
    pub fn layer(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }
}

impl LayerCache {
    /// Stores the keys and values of new tokens and returns those of all tokens that the new ones
    /// see, in order, the new ones last; in the dtype of the cache.
    ///
    /// # Shapes
    ///
    /// - input: `[batch, n_kv_heads, seq, head_dim]`
    /// - output: `[batch, n_kv_heads, n, head_dim]`
    ///
    /// # Panics
    ///
    /// Where the cache is for another number of rows.
    pub(crate) fn append(&mut self, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, _, seq, _] = keys.dims();
        let storage = self.keys.as_ref().expect("it is there between calls");
        let (rows, dtype) = (storage.dims()[0], storage.dtype());
        assert_eq!(batch, rows, "the cache is for {rows} rows, and {batch} come");
        let (keys, values) = (keys.cast(dtype), values.cast(dtype));
        self.make_room(seq);
        // Of those before, the first new query sees as many.
        let before = self.window.map_or(self.held, |window| self.held.min(window - 1));
        let (start, held) = (self.held - before, self.held);
        if held + seq <= self.room {
            self.held = held + seq;
            let [keys, values] = [(&mut self.keys, keys), (&mut self.values, values)]
                .map(|(slot, new)| part(&written(slot, held, new), start..held + seq));
            return (keys, values);
        }
        let kept = self.window.map_or(0, |window| window - 1).min(before + seq);
        self.held = kept;
        let room = self.room;
        let [keys, values] =
            [(&mut self.keys, keys), (&mut self.values, values)].map(|(slot, new)| {
                let old = slot.take().map(|storage| part(&storage, start..held));
                let all = Tensor::cat(old.into_iter().chain([new]).collect(), 2);
                let last = part(&all, before + seq - kept..before + seq);
                *slot = Some(with_room(last, room));
                all
            });
        (keys, values)
    }

    /// Grows the storage for `seq` tokens more, by half at least, so that what moves is a small part of what comes.
    fn make_room(&mut self, seq: usize) {
        let (held, needed) = (self.held, self.held + seq);
        if needed <= self.room || self.room == self.max_room {
            return;
        }
        self.room = needed.max(self.room + self.room / 2).min(self.max_room);
        for slot in [&mut self.keys, &mut self.values] {
            let kept = slot.take().map(|storage| part(&storage, 0..held));
            *slot = kept.map(|kept| with_room(kept, self.room));
        }
    }

    /// The least number of tokens, other than none, that the layer can go back to of `seen`.
    fn earliest(&self, seen: usize) -> usize {
        let forgotten = seen - self.held;
        match self.window {
            Some(window) if forgotten > 0 => forgotten + window - 1,
            _ => 0,
        }
    }
}

/// Writes `new` behind the first `at` tokens of the storage in `slot`.
fn written(slot: &mut Option<Tensor<4>>, at: usize, new: Tensor<4>) -> Tensor<4> {
    let [batch, n_kv_heads, seq, head_dim] = new.dims();
    // The storage is taken out while it is written: with a second handle alive, writing in place
    // would copy it.
    let storage = slot.take().expect("it is put back below");
    let all = storage.slice_assign([0..batch, 0..n_kv_heads, at..at + seq, 0..head_dim], new);
    *slot = Some(all.clone());
    all
}

fn part(all: &Tensor<4>, tokens: Range<usize>) -> Tensor<4> {
    let [batch, n_kv_heads, _, _] = all.dims();
    all.clone().slice([0..batch, 0..n_kv_heads, tokens])
}

/// `kept` at the front of storage for `room` tokens.
fn with_room(kept: Tensor<4>, room: usize) -> Tensor<4> {
    let [batch, n_kv_heads, n, head_dim] = kept.dims();
    if n == room {
        return kept;
    }
    let place = (&kept.device(), kept.dtype());
    let storage = Tensor::zeros([batch, n_kv_heads, room, head_dim], place);
    if n == 0 {
        return storage;
    }
    storage.slice_assign([0..batch, 0..n_kv_heads, 0..n, 0..head_dim], kept)
}
