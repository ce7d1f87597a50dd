//! The backward pass of attention, a key head at a time: scores and probabilities of a block of queries are
//! computed again, and the gradients of the head's keys and values are summed in f32.
//!
//! With probabilities `p` and the upstream gradient `g`: `dv = pᵀ g`, `ds = scale p (g vᵀ - Σ p g vᵀ)`,
//! `dq = ds k` and `dk = dsᵀ q`. Values are rounded to the type of the queries where the composed form
//! rounds them.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::attention::{BLOCK_ROWS, PARALLEL_PRODUCTS, exponentials};
use super::element::Element;
use super::heads::{self, Heads, with_whole_rows};
use super::kept::{Keep, Kept};
use super::lanes::{self, vectorized};
use super::shared::{Columns, is_there};
use super::strided_product::{Matrix, add_product, product};
use crate::kernels::AttentionSpan;

/// Gradients by queries `[batch, n_heads, seq_q, head_dim]`, keys and values `[batch, n_kv_heads, seq_kv,
/// head_dim]`, from that by the result, in the layout that those of each token together want.
pub(super) fn backward<E: Element>(
    [q, k, v, grad]: [FlexTensor; 4],
    span: &AttentionSpan,
) -> [FlexTensor; 3] {
    let [q, k, v, grad] = [q, k, v, grad].map(with_whole_rows);
    let [q, k, v, grad] = [&q, &k, &v, &grad].map(Heads::<E>::new);
    let (q_shape, k_shape) = (q.shape, k.shape);
    let ([batch, n_heads, seq_q, head_dim], [_, n_kv_heads, seq_kv, _]) = (q_shape, k_shape);
    let shapes = [q_shape, k_shape, k_shape];
    let n_elements = shapes.map(|shape| shape.iter().product());
    let [mut dq, mut dk, mut dv] = n_elements.map(Vec::with_capacity);
    let call = Call {
        q,
        k,
        v,
        grad,
        group: n_heads / n_kv_heads,
        span,
        dq: Columns::room(&mut dq, n_heads * head_dim),
        dk: Columns::room(&mut dk, n_kv_heads * head_dim),
        dv: Columns::room(&mut dv, n_kv_heads * head_dim),
    };
    let key_heads = 0..batch * n_kv_heads;
    if batch * n_heads * seq_q * seq_kv * head_dim < PARALLEL_PRODUCTS {
        let mut buffers = Kept::take();
        key_heads.for_each(|head| call.key_head(head, &mut buffers));
    } else {
        let parallel = key_heads.into_par_iter().with_max_len(1);
        parallel.for_each_init(Kept::take, |buffers, head| call.key_head(head, buffers));
    }
    let mut gradients = [dq, dk, dv].into_iter().zip(n_elements);
    shapes.map(|shape| {
        let (gradient, n) = gradients.next().expect("three of them");
        // SAFETY: each token of each head was one key head's.
        heads::by_token(unsafe { is_there(gradient, n) }, shape)
    })
}

/// Memory of a key head's work, kept from one to the next.
#[derive(Default)]
struct Buffers {
    /// Of all tokens, `[seq_kv, head_dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    dkeys: Vec<f32>,
    dvalues: Vec<f32>,
    block: BlockBuffers,
}

/// Of a block of queries.
#[derive(Default)]
struct BlockBuffers {
    /// `[n_rows, head_dim]`.
    queries: Vec<f32>,
    grads: Vec<f32>,
    dqueries: Vec<f32>,
    /// Scores, then probabilities, `[n_rows, n_keys]`.
    p: Vec<f32>,
    /// Gradients by probabilities, then by scores.
    ds: Vec<f32>,
}

impl Keep for Buffers {
    fn slot() -> &'static LocalKey<Cell<Self>> {
        thread_local!(static SLOT: Cell<Buffers> = Cell::default());
        &SLOT
    }
}

struct Call<'a, E> {
    q: Heads<'a, E>,
    k: Heads<'a, E>,
    v: Heads<'a, E>,
    grad: Heads<'a, E>,
    group: usize,
    span: &'a AttentionSpan,
    dq: Columns<'a, E>,
    dk: Columns<'a, E>,
    dv: Columns<'a, E>,
}

impl<E: Element> Call<'_, E> {
    /// The gradients by a key head of all sequences, and by its queries.
    fn key_head(&self, head: usize, buffers: &mut Buffers) {
        let [_, n_kv_heads, seq_kv, head_dim] = self.k.shape;
        let (sequence, head) = (head / n_kv_heads, head % n_kv_heads);
        let Buffers { keys, values, dkeys, dvalues, block } = buffers;
        for (x, out) in [(&self.k, &mut *keys), (&self.v, &mut *values)] {
            out.clear();
            x.widen(sequence, head, 0..seq_kv, out);
        }
        for sum in [&mut *dkeys, &mut *dvalues] {
            sum.clear();
            sum.resize(seq_kv * head_dim, 0.0);
        }
        let seq_q = self.q.shape[2];
        let n = (BLOCK_ROWS / self.group).max(1);
        for first in (0..seq_q).step_by(n) {
            let queries = first..seq_q.min(first + n);
            let (of, sums) = ([&**keys, &**values], [&mut **dkeys, &mut **dvalues]);
            self.block([sequence, head], queries, of, sums, block);
        }
        for (sum, out) in [(dkeys, &self.dk), (dvalues, &self.dv)] {
            for (token, sum) in sum.chunks_exact(head_dim).enumerate() {
                let row = sequence * seq_kv + token;
                // SAFETY: no other thread has this sequence and head.
                unsafe { out.write(row, head * head_dim, sum.iter().copied()) };
            }
        }
    }

    /// Writes the gradients of some queries of the heads that share a key head, and adds to those of its
    /// keys and values.
    fn block(
        &self,
        [sequence, kv_head]: [usize; 2],
        queries: Range<usize>,
        [keys, values]: [&[f32]; 2],
        [dkeys, dvalues]: [&mut [f32]; 2],
        buffers: &mut BlockBuffers,
    ) {
        let [_, _, seq_q, head_dim] = self.q.shape;
        let n_rows = queries.len() * self.group;
        let first = self.visible(sequence, queries.start).start;
        let last = self.visible(sequence, queries.end - 1).end;
        let n_keys = last - first;
        let seen = first * head_dim..last * head_dim;
        let heads = kv_head * self.group..(kv_head + 1) * self.group;
        for (x, out) in [(&self.q, &mut buffers.queries), (&self.grad, &mut buffers.grads)] {
            out.clear();
            heads.clone().for_each(|head| x.widen(sequence, head, queries.clone(), out));
        }
        buffers.p.resize(n_rows * n_keys, 0.0);
        buffers.ds.resize(n_rows * n_keys, 0.0);
        buffers.dqueries.resize(n_rows * head_dim, 0.0);

        let [queries_now, grads] =
            [&buffers.queries, &buffers.grads].map(|x| Matrix::new(x, [n_rows, head_dim]));
        let [keys, values] =
            [keys, values].map(|x| Matrix::new(&x[seen.clone()], [n_keys, head_dim]));
        product(&mut buffers.p, queries_now, keys.transposed());
        product(&mut buffers.ds, grads, values.transposed());
        self.scores(sequence, &queries, first..last, &mut buffers.p, &mut buffers.ds);
        let (p, ds) = (&buffers.p, &buffers.ds);
        let [p, ds] = [p, ds].map(|x| Matrix::new(x, [n_rows, n_keys]));
        add_product(&mut dvalues[seen.clone()], p.transposed(), grads);
        add_product(&mut dkeys[seen], ds.transposed(), queries_now);
        product(&mut buffers.dqueries, ds, keys);
        for (row, dq) in buffers.dqueries.chunks_exact(head_dim).enumerate() {
            let head = heads.start + row / queries.len();
            let token = sequence * seq_q + queries.start + row % queries.len();
            // SAFETY: no other thread has this sequence and head.
            unsafe { self.dq.write(token, head * head_dim, dq.iter().copied()) };
        }
    }

    /// Puts probabilities in the place of scores, and gradients by scores in that of those by probabilities.
    fn scores(
        &self,
        sequence: usize,
        queries: &Range<usize>,
        keys: Range<usize>,
        p: &mut [f32],
        ds: &mut [f32],
    ) {
        let scale = (1.0 / (self.q.shape[3] as f64).sqrt()) as f32;
        vectorized(
            #[inline(always)]
            || {
                let rows = p.chunks_exact_mut(keys.len()).zip(ds.chunks_exact_mut(keys.len()));
                for (row, (p, ds)) in rows.enumerate() {
                    let seen = self.visible(sequence, queries.start + row % queries.len());
                    let seen = seen.start - keys.start..seen.end - keys.start;
                    for x in [&mut *p, &mut *ds] {
                        x[..seen.start].fill(0.0);
                        x[seen.end..].fill(0.0);
                    }
                    gradients::<E>(&mut p[seen.clone()], &mut ds[seen], scale);
                }
            },
        );
    }

    fn visible(&self, sequence: usize, query: usize) -> Range<usize> {
        self.span.visible(sequence, self.k.shape[2] - self.q.shape[2] + query)
    }
}

/// Of the keys that a query sees.
#[inline(always)]
fn gradients<E: Element>(p: &mut [f32], ds: &mut [f32], scale: f32) {
    let inverse = exponentials::<E>(p, scale);
    for (p, ds) in p.iter_mut().zip(&mut *ds) {
        *p *= inverse;
        *ds = E::narrow(*ds).widen();
    }
    let inner = lanes::sum_pairs(p, ds, |p, g| p * g);
    for (p, ds) in p.iter_mut().zip(ds) {
        *ds = E::narrow(scale * (*p * (*ds - inner))).widen();
        *p = E::narrow(*p).widen();
    }
}
