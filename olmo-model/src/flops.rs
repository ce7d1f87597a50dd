//! What a model costs, from its [`ModelConfig`] alone: parameters, FLOPs, bytes.
//!
//! FLOPs of one token with `seq_len` tokens of context, as OLMo `olmo/model.py` `num_fwd_flops` and
//! `num_bck_flops` count them, where `L` is layers and `d` the width of the queries:
//!
//! - forward: `2 (parameters - embedding) + 4 L d seq_len`;
//! - backward: `4 parameters + 8 L d seq_len`.
//!
//! The embedding is a lookup on the way forward, and with tied weights OLMo leaves its use as the
//! output projection out too. Differences, where OLMo has no such model: of the experts only the
//! active ones count, and a layer with a window sees no more tokens than that.
//!
//! A configuration may come from a file and say anything, so products stop at the largest `u64`.

use crate::config::{AttentionConfig, FeedForwardConfig, ModelConfig, NormConfig};

/// Elements, FLOPs and bytes of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Costs {
    /// Elements of all parameters.
    pub n_parameters: u64,
    /// The same without the embedding matrix.
    pub n_non_embedding_parameters: u64,
    /// Elements that take part in one token: the same as all, but for experts not chosen.
    pub n_active_parameters: u64,
    /// Context that the FLOPs are counted for, in tokens.
    pub seq_len: usize,
    /// FLOPs of the forward pass for one token.
    pub forward_flops_per_token: u64,
    /// FLOPs of the backward pass for one token.
    pub backward_flops_per_token: u64,
    /// Elements of all layers' keys and values for one token.
    pub kv_elements_per_token: u64,
    /// The same of the layers that keep every token: what the cache grows by once windows are full.
    pub kv_elements_per_token_beyond_windows: u64,
    /// Elements of the cache of one sequence of `seq_len` tokens, windowed layers holding only
    /// their window and the room that keys move in.
    pub kv_elements: u64,
    /// Elements of the largest of embedding, block and head: what is copied to bf16 at a time.
    pub n_largest_segment: u64,
}

impl Costs {
    /// The costs of a model with its whole context.
    pub fn new(config: &ModelConfig) -> Self {
        Self::at(config, config.max_sequence_length)
    }

    /// The costs of a model with a context of `seq_len` tokens.
    pub fn at(config: &ModelConfig, seq_len: usize) -> Self {
        let embedding = product(&[config.vocab_size, config.d_model]);
        let head = if config.weight_tying { 0 } else { embedding };
        let head = head.saturating_add(norm(config, config.d_model));
        let [block, active_block] = block(config);
        let total = |block: u64| {
            times(block, config.n_layers).saturating_add(embedding).saturating_add(head)
        };
        let (all, active) = (total(block), total(active_block));
        let attended = attended_tokens(config, seq_len);
        let AttentionConfig { n_heads, n_kv_heads, head_dim, .. } = config.attention;
        let attention = attended.saturating_mul(product(&[4, n_heads, head_dim]));
        let forward = (active - embedding.min(active)).saturating_mul(2);
        Self {
            n_parameters: all,
            n_non_embedding_parameters: all - embedding.min(all),
            n_active_parameters: active,
            seq_len,
            forward_flops_per_token: forward.saturating_add(attention),
            backward_flops_per_token: active
                .saturating_mul(4)
                .saturating_add(attention.saturating_mul(2)),
            kv_elements_per_token: product(&[2, config.n_layers, n_kv_heads, head_dim]),
            kv_elements_per_token_beyond_windows: product(&[
                2,
                n_full_layers(config),
                n_kv_heads,
                head_dim,
            ]),
            kv_elements: held_tokens(config, seq_len)
                .saturating_mul(product(&[2, n_kv_heads, head_dim])),
            n_largest_segment: embedding.max(block).max(head),
        }
    }

    /// Bytes of the weights, at `bytes_per_element`.
    pub fn weight_bytes(&self, bytes_per_element: usize) -> u64 {
        times(self.n_parameters, bytes_per_element)
    }

    /// Bytes of keys and values for one token of one sequence, at `bytes_per_element`.
    pub fn kv_bytes_per_token(&self, bytes_per_element: usize) -> u64 {
        times(self.kv_elements_per_token, bytes_per_element)
    }

    /// Bytes for one token more, once the windows of windowed layers are full.
    pub fn kv_bytes_per_token_beyond_windows(&self, bytes_per_element: usize) -> u64 {
        times(self.kv_elements_per_token_beyond_windows, bytes_per_element)
    }

    /// Bytes of the cache of one sequence of [`seq_len`](Self::seq_len) tokens.
    pub fn kv_bytes(&self, bytes_per_element: usize) -> u64 {
        times(self.kv_elements, bytes_per_element)
    }

    /// What windows save of that.
    pub fn kv_bytes_saved(&self, bytes_per_element: usize) -> u64 {
        let without = times(self.kv_elements_per_token, self.seq_len);
        times(without - self.kv_elements.min(without), bytes_per_element)
    }

    /// Bytes on each of `n_devices` for weights, gradients and both moments of Adam in f32, where
    /// `mixed` with the bf16 copy of the largest segment. Activations come on top.
    pub fn train_bytes_per_device(&self, sharding: Sharding, n_devices: usize, mixed: bool) -> u64 {
        let n = self.n_parameters;
        let shard = n.div_ceil(n_devices.max(1) as u64);
        let [whole, sharded, gathered] = match sharding {
            Sharding::Single => [16, 0, 0],
            Sharding::Zero1 => [8, 8, 0],
            Sharding::Zero2 => [4, 12, 4],
            Sharding::Zero3 => [0, 16, if mixed { 4 } else { 8 }],
        };
        let copy = if mixed { times(self.n_largest_segment, 2) } else { 0 };
        [times(n, whole), times(shard, sharded), times(self.n_largest_segment, gathered), copy]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Bytes of weights, gradients and both moments of Adam in f32. Activations come on top.
    pub fn train_bytes(&self) -> u64 {
        times(self.n_parameters, 16)
    }

    /// As [`train_bytes`](Self::train_bytes), with the bf16 copy of the largest segment that the
    /// mixed-precision step holds at a time.
    pub fn train_bytes_mixed(&self) -> u64 {
        self.train_bytes().saturating_add(times(self.n_largest_segment, 2))
    }
}

/// What is cut over the devices of a data-parallel run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharding {
    /// Nothing: each device has all of it.
    Single,
    /// The optimizer's moments.
    Zero1,
    /// Moments and gradients; a segment's gradient is whole while it is made.
    Zero2,
    /// Moments, gradients and weights; a segment is whole while it runs.
    Zero3,
}

/// Elements of one block: of all its experts, and of those that a token is sent to.
fn block(config: &ModelConfig) -> [u64; 2] {
    let (d_model, attention) = (config.d_model, &config.attention);
    let d_query = attention.n_heads.saturating_mul(attention.head_dim);
    let d_kv = attention.n_kv_heads.saturating_mul(attention.head_dim);
    let qk_norms = if attention.qk_norm { [d_query, d_kv] } else { [0, 0] };
    let mut shared = [d_query, d_kv, d_kv, d_query]
        .into_iter()
        .fold(0_u64, |sum, columns| sum.saturating_add(product(&[columns, d_model])));
    for size in [qk_norms[0], qk_norms[1], d_model, d_model] {
        shared = shared.saturating_add(norm(config, size));
    }
    let expert = product(&[3, config.feed_forward.hidden_size(), d_model]);
    match config.feed_forward {
        FeedForwardConfig::Swiglu { .. } => [shared.saturating_add(expert); 2],
        FeedForwardConfig::Experts { n_experts, top_k, .. } => {
            let shared = shared.saturating_add(product(&[n_experts, d_model]));
            [n_experts, top_k].map(|n| shared.saturating_add(times(expert, n)))
        }
    }
}

fn norm(config: &ModelConfig, size: usize) -> u64 {
    match config.norm {
        NormConfig::LayerNorm { .. } => 0,
        NormConfig::RmsNorm { .. } => size as u64,
    }
}

/// Tokens that one token attends to, summed over the layers.
fn attended_tokens(config: &ModelConfig, seq_len: usize) -> u64 {
    over_layers(config, seq_len, |window| seq_len.min(window))
}

/// Tokens that the cache has room for, summed over the layers.
fn held_tokens(config: &ModelConfig, seq_len: usize) -> u64 {
    over_layers(config, seq_len, |window| crate::cache::room(Some(window.max(1)), seq_len))
}

/// `full` for each layer with full attention, and `windowed` of the window for each other.
fn over_layers(config: &ModelConfig, full: usize, windowed: impl Fn(usize) -> usize) -> u64 {
    let n_full = n_full_layers(config);
    let window = config.attention.window.map_or(0, |window| windowed(window.size));
    product(&[n_full, full]).saturating_add(product(&[config.n_layers - n_full, window]))
}

fn n_full_layers(config: &ModelConfig) -> usize {
    config
        .attention
        .window
        .map_or(config.n_layers, |window| config.n_layers / window.full_every.max(1))
}

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product, &factor| times(product, factor))
}

fn times(count: u64, factor: usize) -> u64 {
    count.saturating_mul(factor as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    #[test]
    fn counts_are_those_of_the_listed_parameters() {
        for (name, config) in presets::all() {
            let costs = Costs::new(&config);
            assert_eq!(costs.n_parameters, config.n_parameters() as u64, "{name}");
            let non_embedding = config.n_non_embedding_parameters() as u64;
            assert_eq!(costs.n_non_embedding_parameters, non_embedding, "{name}");
        }
        // Published: 1.3 billion of 6.9 are active. On 16 layers 56 of 64 experts are not.
        let inactive = 16 * 56 * 3 * 1024 * 2048;
        let active = Costs::new(&presets::olmoe_1b_7b()).n_active_parameters;
        assert_eq!(active, 6_919_161_856 - inactive);
    }

    /// `num_fwd_flops` and `num_bck_flops` of ai2-olmo 0.6.0 for the official configurations.
    #[test]
    fn flops_are_those_of_olmo() {
        let expected = [
            ("olmo_1b", (2_415_919_104, 5_243_928_576)),
            ("olmo_7b", (14_437_842_944, 29_699_866_624)),
            ("olmo_7b_0424", (15_511_584_768, 31_847_350_272)),
            ("olmo_20m", (76_096_000, 203_703_296)),
            ("olmo_150m", (454_792_704, 1_064_119_296)),
        ];
        for (name, (forward, backward)) in expected {
            let costs = Costs::new(&presets::by_name(name).expect(name));
            assert_eq!(costs.forward_flops_per_token, forward, "{name}");
            assert_eq!(costs.backward_flops_per_token, backward, "{name}");
        }
    }

    #[test]
    fn a_window_limits_the_tokens_attended_to() {
        let (full, windowed) = (presets::olmo2_7b(), presets::olmo3_7b());
        let at = |config: &ModelConfig, seq_len| Costs::at(config, seq_len).forward_flops_per_token;
        assert_eq!(at(&full, 4096), at(&windowed, 4096));
        let saved = at(&full, 8192) - at(&windowed, 8192);
        assert_eq!(saved, 4 * 24 * 4096 * 4096);
    }

    #[test]
    fn bytes_follow_from_the_counts() {
        let costs = Costs::new(&presets::olmo2_32b());
        assert_eq!(costs.weight_bytes(2), 2 * 32_234_279_936);
        assert_eq!(costs.kv_bytes_per_token(2), 2 * 2 * 64 * 8 * 128);
        assert_eq!(costs.train_bytes(), 16 * 32_234_279_936);
        assert_eq!(costs.train_bytes_mixed() - costs.train_bytes(), 2 * 100_352 * 5120 + 2 * 5120);
    }

    #[test]
    fn windows_save_most_of_a_long_cache() {
        let costs = Costs::new(&presets::olmo3_7b_long());
        let per_layer = 2 * 32 * 128;
        assert_eq!(costs.kv_elements_per_token_beyond_windows, 8 * per_layer);
        // 24 layers with a window of 4096 and an eighth of it, 8 with all of 65536 tokens.
        assert_eq!(costs.kv_elements, per_layer * (8 * 65_536 + 24 * (4095 + 512)));
        let whole = 2 * per_layer * 32 * 65_536;
        assert_eq!(costs.kv_bytes(2) + costs.kv_bytes_saved(2), whole);
        assert!(costs.kv_bytes_saved(2) > 2 * whole / 3);
        assert_eq!(Costs::new(&presets::olmo2_7b()).kv_bytes_saved(2), 0);
    }

    #[test]
    fn shards_add_up_to_what_one_device_has() {
        let costs = Costs::new(&presets::olmo2_7b());
        let (n, largest) = (costs.n_parameters, costs.n_largest_segment);
        let bytes = |sharding, mixed| costs.train_bytes_per_device(sharding, 8, mixed);
        assert_eq!(bytes(Sharding::Single, false), costs.train_bytes());
        assert_eq!(bytes(Sharding::Single, true), costs.train_bytes_mixed());
        assert_eq!(bytes(Sharding::Zero1, false), 8 * n + n);
        assert_eq!(bytes(Sharding::Zero2, false), 4 * n + 12 * n / 8 + 4 * largest);
        assert_eq!(bytes(Sharding::Zero3, false), 2 * n + 8 * largest);
        assert_eq!(bytes(Sharding::Zero3, true), 2 * n + 6 * largest);
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let mut config = presets::olmoe_1b_7b();
        config.d_model = usize::MAX;
        config.n_layers = usize::MAX;
        config.attention.n_heads = usize::MAX;
        assert_eq!(Costs::new(&config).n_parameters, u64::MAX);
    }
}
