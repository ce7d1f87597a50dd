//! Keys and values of the tokens a model has seen: a value handed to the forward pass.

use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor};

use crate::config::ModelConfig;
use crate::error::Error;

/// Keys and values of every layer for the sequences of one batch.
///
/// Storage is allocated once for `capacity` tokens and written in place.
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
    /// `[batch, n_kv_heads, capacity, head_dim]`, keys after their rotation.
    keys: Option<Tensor<4>>,
    values: Option<Tensor<4>>,
    length: usize,
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
        let shape = [batch, attention.n_kv_heads, capacity, attention.head_dim];
        let storage = || Some(Tensor::zeros(shape, (device, dtype)));
        let layer = |_| LayerCache { keys: storage(), values: storage(), length: 0 };
        let layers = (0..config.n_layers).map(layer).collect();
        Self { layers, padding: None, length: 0, capacity }
    }

    /// The same, for rows of unequal length that end together: the first `padding[row]` places of
    /// a row hold no token. No other token sees them, and positions count from behind them.
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
    pub fn select(&mut self, rows: &[usize]) {
        let Some(first) = self.layers.first().and_then(|layer| layer.keys.as_ref()) else { return };
        let indices: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let indices: Tensor<1, Int> = Tensor::from_data(indices.as_slice(), &first.device());
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

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `length` tokens; more than were seen changes nothing.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        for layer in &mut self.layers {
            layer.length = layer.length.min(length);
        }
    }

    /// Counts `seq` tokens more.
    ///
    /// # Errors
    ///
    /// [`Error::SequenceTooLong`] where they do not fit.
    pub(crate) fn reserve(&mut self, seq: usize) -> Result<(), Error> {
        let length = self.length + seq;
        if length > self.capacity {
            return Err(Error::SequenceTooLong { length, limit: self.capacity });
        }
        self.length = length;
        Ok(())
    }

    pub(crate) fn layer(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }
}

impl LayerCache {
    /// Stores the keys and values of new tokens and returns those of all tokens.
    ///
    /// # Shapes
    ///
    /// - input: `[batch, n_kv_heads, seq, head_dim]`
    /// - output: `[batch, n_kv_heads, length, head_dim]`
    pub(crate) fn append(&mut self, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, n_kv_heads, seq, head_dim] = keys.dims();
        let (start, end) = (self.length, self.length + seq);
        self.length = end;
        // The storage is taken out while it is written: with a second handle alive, writing in
        // place would copy it.
        let store = |slot: &mut Option<Tensor<4>>, new: Tensor<4>| {
            let all = slot.take().map(|storage| {
                storage.slice_assign([0..batch, 0..n_kv_heads, start..end, 0..head_dim], new)
            });
            let seen = all.clone().map(|all| all.slice([0..batch, 0..n_kv_heads, 0..end]));
            *slot = all;
            seen
        };
        let keys_seen = store(&mut self.keys, keys.clone());
        let values_seen = store(&mut self.values, values.clone());
        (keys_seen.unwrap_or(keys), values_seen.unwrap_or(values))
    }
}
