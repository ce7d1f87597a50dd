//! Attention in blocks of queries: scores, softmax and the weighted sum of values of a block stay in
//! the cache, and keys and values are read where they lie, be it in a [`KvCache`](crate::KvCache).
//!
//! Values are rounded to the type of the queries where the composed form rounds them. Keys and values
//! may be narrower, out of a cache that holds them so.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::dot::{self, Strided};
use super::element::Element;
use super::heads::{Heads, with_whole_rows};
use super::kept::{Keep, Kept};
use super::lanes::vectorized;
use super::shared::{Columns, is_there};
use super::weighted_sum::WeightedSum;
use super::{heads, lanes};
use crate::kernels::AttentionSpan;

/// Score rows of a block at most: queries times the heads that share a key head.
pub(super) const BLOCK_ROWS: usize = 64;
/// Keys or values that are widened at a time.
const BLOCK_KEYS: usize = 192;
/// Multiplications below which a second thread costs more than it saves.
pub(super) const PARALLEL_PRODUCTS: usize = 1 << 15;

/// Queries `[batch, n_heads, seq_q, head_dim]`, keys and values `[batch, n_kv_heads, seq_kv,
/// head_dim]`; the result has the shape of the queries, and the layout that concatenating the heads
/// of each token wants.
pub(super) fn forward<E: Element, K: Element>(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    span: &AttentionSpan,
) -> FlexTensor {
    let (q, k, v) = (with_whole_rows(q), with_whole_rows(k), with_whole_rows(v));
    let (q, k, v) = (Heads::<E>::new(&q), Heads::<K>::new(&k), Heads::<K>::new(&v));
    let q_shape @ [batch, n_heads, seq_q, head_dim] = q.shape;
    let group = n_heads / k.shape[1];
    let queries_per_block = (BLOCK_ROWS / group).clamp(1, seq_q.max(1));
    let blocks: Vec<Block> = (0..batch * k.shape[1])
        .flat_map(|head| {
            (0..seq_q).step_by(queries_per_block).map(move |first| Block {
                sequence: head / k.shape[1],
                kv_head: head % k.shape[1],
                first,
                n_queries: queries_per_block.min(seq_q - first),
            })
        })
        .collect();
    let n_elements = q_shape.iter().product();
    let mut out = Vec::with_capacity(n_elements);
    let columns = Columns::room(&mut out, n_heads * head_dim);
    let n_products = batch * n_heads * seq_q * k.shape[2] * head_dim;
    let call = Call { q, k, v, group, span, out: &columns };
    if n_products < PARALLEL_PRODUCTS {
        let mut buffers = Kept::take();
        for block in &blocks {
            call.block(block, &mut buffers);
        }
    } else {
        blocks.par_iter().for_each_init(Kept::take, |buffers, block| {
            call.block(block, buffers);
        });
    }
    // SAFETY: each query of each head is in one block.
    heads::by_token(unsafe { is_there(out, n_elements) }, q_shape)
}

/// Queries of the heads that share a key head.
struct Block {
    sequence: usize,
    kv_head: usize,
    first: usize,
    n_queries: usize,
}

/// Memory of a block's work, kept from one block to the next.
#[derive(Default)]
struct Buffers {
    queries: Vec<f32>,
    scores: Vec<f32>,
    widened: Vec<f32>,
    sums: Vec<f32>,
    scratch: dot::Scratch,
}

impl Keep for Buffers {
    fn slot() -> &'static LocalKey<Cell<Self>> {
        thread_local!(static SLOT: Cell<Buffers> = Cell::default());
        &SLOT
    }
}

struct Call<'a, E, K> {
    q: Heads<'a, E>,
    k: Heads<'a, K>,
    v: Heads<'a, K>,
    group: usize,
    span: &'a AttentionSpan,
    out: &'a Columns<'a, E>,
}

impl<E: Element, K: Element> Call<'_, E, K> {
    fn block(&self, block: &Block, buffers: &mut Buffers) {
        let [_, _, seq_q, head_dim] = self.q.shape;
        let n_rows = block.n_queries * self.group;
        let visible = |query| self.visible(block.sequence, query);
        let first = visible(block.first).start;
        let last = visible(block.first + block.n_queries - 1).end;
        let n_keys = last.saturating_sub(first);
        self.queries(block, &mut buffers.queries);
        buffers.scores.clear();
        buffers.scores.resize(n_rows * n_keys, 0.0);
        for start in (first..last).step_by(BLOCK_KEYS) {
            let keys = start..last.min(start + BLOCK_KEYS);
            buffers.widened.clear();
            self.k.widen(block.sequence, block.kv_head, keys.clone(), &mut buffers.widened);
            dot::small(
                Strided { values: &buffers.queries, stride: head_dim },
                Strided { values: &buffers.widened, stride: head_dim },
                [n_rows, keys.len(), head_dim],
                &mut buffers.scores[start - first..],
                n_keys,
                &mut buffers.scratch,
            );
        }
        let scale = 1.0 / (head_dim as f64).sqrt();
        vectorized(
            #[inline(always)]
            || {
                for (row, scores) in buffers.scores.chunks_exact_mut(n_keys.max(1)).enumerate() {
                    let seen = visible(block.first + row % block.n_queries);
                    let seen = seen.start.saturating_sub(first)..seen.end.saturating_sub(first);
                    softmax::<E>(scores, seen, scale as f32);
                }
            },
        );
        buffers.sums.clear();
        buffers.sums.resize(n_rows * head_dim, 0.0);
        for start in (first..last).step_by(BLOCK_KEYS) {
            let keys = start..last.min(start + BLOCK_KEYS);
            buffers.widened.clear();
            self.v.widen(block.sequence, block.kv_head, keys.clone(), &mut buffers.widened);
            pulp::Arch::new().dispatch(WeightedSum {
                weights: Strided { values: &buffers.scores[start - first..], stride: n_keys },
                values: &buffers.widened,
                n_values: keys.len(),
                sums: &mut buffers.sums,
                length: head_dim,
            });
        }
        vectorized(
            #[inline(always)]
            || {
                for (row, sums) in buffers.sums.chunks_exact(head_dim).enumerate() {
                    let head = block.kv_head * self.group + row / block.n_queries;
                    let token = block.sequence * seq_q + block.first + row % block.n_queries;
                    // SAFETY: no other block has this head and token.
                    unsafe { self.out.write(token, head * head_dim, sums.iter().copied()) };
                }
            },
        );
    }

    /// The queries of a block in f32, those of each head together.
    fn queries(&self, block: &Block, out: &mut Vec<f32>) {
        out.clear();
        let queries = block.first..block.first + block.n_queries;
        for head in block.kv_head * self.group..(block.kv_head + 1) * self.group {
            self.q.widen(block.sequence, head, queries.clone(), out);
        }
    }

    /// The keys that a query sees; the last query sees the last key.
    fn visible(&self, sequence: usize, query: usize) -> Range<usize> {
        self.span.visible(sequence, self.k.shape[2] - self.q.shape[2] + query)
    }
}

/// Probabilities in the place of scores, rounded to `E`; zero outside `seen`.
#[inline(always)]
fn softmax<E: Element>(scores: &mut [f32], seen: Range<usize>, scale: f32) {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let scores = &mut scores[seen];
    let inverse = exponentials::<E>(scores, scale);
    for x in scores.iter_mut() {
        *x = E::narrow(*x * inverse).widen();
    }
}

/// Puts exponentials in the place of scores, and returns what makes probabilities of them.
#[inline(always)]
pub(super) fn exponentials<E: Element>(scores: &mut [f32], scale: f32) -> f32 {
    for x in scores.iter_mut() {
        *x = E::narrow(E::narrow(*x).widen() * scale).widen();
    }
    let max = lanes::max(scores);
    for x in scores.iter_mut() {
        *x = lanes::exp(*x - max);
    }
    1.0 / lanes::sum(scores, |x| x)
}
