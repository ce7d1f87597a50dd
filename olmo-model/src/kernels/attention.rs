//! Causal attention whose memory grows with one chunk of queries, not with their number.
//!
//! `softmax(q kᵀ / sqrt(head_dim)) v` is computed for [`CHUNK`] queries at a time against the keys
//! they can see, and computed again in the backward pass; only `q`, `k` and `v` are kept. Query
//! heads that share a key head are stacked as rows of one matrix, so keys and values are never
//! repeated, and their gradients come out already summed.
//!
//! Casts follow the eager path of `transformers`: scores in the dtype of `q` before and after they are
//! scaled, softmax in f32, probabilities back in the dtype of `v`.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::tensor::{BoolTensor, Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Slice, TensorData};

use super::{Kernels, bool_dtype, int_dtype};

/// Queries handled at once; a chunk's scores are `[batch, n_heads, CHUNK, keys]`.
const CHUNK: usize = 128;

/// Which keys the queries of a call see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AttentionSpan {
    /// Keys a query sees, itself included; `None` is all before it.
    pub(crate) window: Option<usize>,
    /// For each row of the batch, how many of the first keys belong to no token and are hidden;
    /// `None` where no row has any. The queries of such places see only themselves.
    pub(crate) padding: Option<Arc<[usize]>>,
}

impl AttentionSpan {
    /// The keys that the query at a position of a row of the batch sees.
    #[cfg(feature = "flex")]
    pub(crate) fn visible(&self, sequence: usize, position: usize) -> Range<usize> {
        let window = self.window.unwrap_or(usize::MAX);
        let padding = self.padding.as_ref().map_or(0, |padding| padding[sequence].min(position));
        (position + 1).saturating_sub(window).max(padding)..position + 1
    }
}

/// The rows and columns of one chunk's scores, in positions.
#[derive(Debug, Clone, PartialEq)]
struct AttentionRows {
    /// Position of the chunk's first query.
    first_query: usize,
    /// Queries of the chunk; the score rows are this many for each query head of a group.
    n_queries: usize,
    /// Position of the first key column.
    first_key: usize,
    /// Keys a query sees, itself included.
    window: usize,
    /// `1 / sqrt(head_dim)`.
    scale: f64,
    /// As in [`AttentionSpan`].
    padding: Option<Arc<[usize]>>,
}

/// Sizes of one call.
struct Dims {
    batch: usize,
    n_kv_heads: usize,
    group: usize,
    seq_q: usize,
    seq_kv: usize,
    head_dim: usize,
    window: usize,
    padding: Option<Arc<[usize]>>,
}

/// One chunk of queries and the keys it sees.
struct Chunk {
    queries: Range<usize>,
    keys: Range<usize>,
    rows: AttentionRows,
}

pub(super) fn forward<B: Kernels>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    span: AttentionSpan,
) -> FloatTensor<B> {
    let dims = Dims::new::<B>(&q, &k, span);
    let dtype = q.dtype();
    // Out of a cache they may come narrower. To where they are already, some backends would copy them.
    let as_queries =
        |x: FloatTensor<B>| if x.dtype() == dtype { x } else { B::float_cast(x, dtype.into()) };
    let (k, v) = (as_queries(k), as_queries(v));
    let q = dims.grouped::<B>(q);
    let mut outputs = Vec::new();
    for chunk in dims.chunks() {
        let q = dims.query_rows::<B>(q.clone(), &chunk);
        let k = dims.keys::<B>(k.clone(), &chunk);
        let v = dims.keys::<B>(v.clone(), &chunk);
        let scores = B::float_matmul(q, B::float_transpose(k));
        let p = masked_softmax::<B>(scores, chunk.rows.clone());
        let p = B::float_cast(p, dtype.into());
        outputs.push(dims.ungrouped::<B>(B::float_matmul(p, v), &chunk));
    }
    concatenated::<B>(outputs)
}

/// Gradients by `q`, `k` and `v`.
pub(super) fn backward<B: Kernels>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    grad: FloatTensor<B>,
    span: AttentionSpan,
) -> [FloatTensor<B>; 3] {
    let dims = Dims::new::<B>(&q, &k, span);
    let (device, dtype) = (q.device(), q.dtype());
    // Summed in f32: in bf16 every chunk would round the sum of those before it.
    let zeros = || B::float_zeros(k.shape(), &device, FloatDType::F32);
    let (mut dk_sum, mut dv_sum) = (zeros(), zeros());
    let mut dq_chunks = Vec::new();
    let (q, grad) = (dims.grouped::<B>(q), dims.grouped::<B>(grad));
    for chunk in dims.chunks() {
        let q = dims.query_rows::<B>(q.clone(), &chunk);
        let grad = dims.query_rows::<B>(grad.clone(), &chunk);
        let k = dims.keys::<B>(k.clone(), &chunk);
        let v = dims.keys::<B>(v.clone(), &chunk);
        let scores = B::float_matmul(q.clone(), B::float_transpose(k.clone()));
        let p = masked_softmax::<B>(scores, chunk.rows.clone());
        let p_low = B::float_cast(p.clone(), dtype.into());
        let dv = B::float_matmul(B::float_transpose(p_low), grad.clone());
        let dp = B::float_matmul(grad, B::float_transpose(v));
        let ds = masked_softmax_backward::<B>(p, dp, chunk.rows.scale);
        let ds = B::float_cast(ds, dtype.into());
        let dk = B::float_matmul(B::float_transpose(ds.clone()), q);
        dq_chunks.push(dims.ungrouped::<B>(B::float_matmul(ds, k), &chunk));
        dk_sum = add_at::<B>(dk_sum, dk, &chunk.keys);
        dv_sum = add_at::<B>(dv_sum, dv, &chunk.keys);
    }
    let dk = B::float_cast(dk_sum, dtype.into());
    [concatenated::<B>(dq_chunks), dk, B::float_cast(dv_sum, dtype.into())]
}

/// `softmax(scale * scores)` in f32 over the keys that each row sees, zero elsewhere.
fn masked_softmax<B: Backend>(scores: FloatTensor<B>, rows: AttentionRows) -> FloatTensor<B> {
    let (shape, device) = (scores.shape(), scores.device());
    let dtype = scores.dtype();
    let scores = B::float_mul_scalar(B::float_cast(scores, FloatDType::F32), rows.scale.into());
    let mut scores = B::float_cast(B::float_cast(scores, dtype.into()), FloatDType::F32);
    let n_queries = rows.n_queries;
    if let Some(hidden) = hidden_keys::<B>(rows, shape[0], shape[3], &device) {
        // The heads of a group apart, so that one mask serves all of them.
        let n_heads = shape[1] * shape[2] / n_queries;
        let by_head = Shape::new([shape[0], n_heads, n_queries, shape[3]]);
        scores = B::float_reshape(scores, by_head.clone());
        scores = B::float_mask_fill(scores, B::bool_expand(hidden, by_head), f32::MIN.into());
        scores = B::float_reshape(scores, shape);
    }
    let max = B::float_max_dim(scores.clone(), 3);
    let exp = B::float_exp(B::float_sub(scores, max));
    let sum = B::float_sum_dim(exp.clone(), 3);
    B::float_div(exp, sum)
}

fn masked_softmax_backward<B: Backend>(
    probabilities: FloatTensor<B>,
    grad: FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    let grad = B::float_cast(grad, FloatDType::F32);
    let inner = B::float_sum_dim(B::float_mul(probabilities.clone(), grad.clone()), 3);
    let ds = B::float_mul(probabilities, B::float_sub(grad, inner));
    B::float_mul_scalar(ds, scale.into())
}

/// True where a query does not see a key, `[1 or batch, 1, n_queries, n_keys]`; `None` where all
/// see all.
fn hidden_keys<B: Backend>(
    rows: AttentionRows,
    batch: usize,
    n_keys: usize,
    device: &Device<B>,
) -> Option<BoolTensor<B>> {
    let batch = if rows.padding.is_some() { batch } else { 1 };
    let shape = Shape::new([batch, 1, rows.n_queries, n_keys]);
    let along = |x: IntTensor<B>, dim: usize| {
        let mut column = [1; 4];
        column[dim] = shape[dim];
        B::int_expand(B::int_reshape(x, Shape::new(column)), shape.clone())
    };
    let positions = |first: usize, dim: usize| {
        let range = first as i64..(first + shape[dim]) as i64;
        along(B::int_arange(range, device, int_dtype::<B>(device)), dim)
    };
    let query = || positions(rows.first_query, 2);
    let key = || positions(rows.first_key, 3);
    let truth = bool_dtype::<B>(device);
    let later = (rows.first_key + n_keys > rows.first_query + 1)
        .then(|| B::int_greater(key(), query(), truth));
    let last_query = rows.first_query + rows.n_queries - 1;
    let earlier = (last_query - rows.first_key >= rows.window).then(|| {
        let seen_until = B::int_add_scalar(key(), (rows.window as i64).into());
        B::int_lower_equal(seen_until, query(), truth)
    });
    let padding = rows.padding.as_ref().map(|padding| {
        let lengths: Vec<i32> = padding.iter().map(|&n| n as i32).collect();
        let lengths = B::int_from_data(TensorData::new(lengths, [batch]), device);
        let lengths = along(B::int_cast(lengths, int_dtype::<B>(device)), 0);
        let padded = B::int_lower(key(), lengths, truth);
        B::bool_and(padded, B::int_lower(key(), query(), truth))
    });
    [later, earlier, padding].into_iter().flatten().reduce(B::bool_or)
}

impl Dims {
    fn new<B: Backend>(q: &FloatTensor<B>, k: &FloatTensor<B>, span: AttentionSpan) -> Self {
        let (q, k) = (q.shape(), k.shape());
        assert!(q[1] % k[1] == 0 && q[2] <= k[2], "attention of {q:?} over {k:?}");
        let n_padded = span.padding.as_ref().map_or(q[0], |padding| padding.len());
        assert!(n_padded == q[0], "padding of {n_padded} rows in a batch of {}", q[0]);
        Self {
            batch: q[0],
            n_kv_heads: k[1],
            group: q[1] / k[1],
            seq_q: q[2],
            seq_kv: k[2],
            head_dim: q[3],
            window: span.window.unwrap_or(usize::MAX),
            padding: span.padding,
        }
    }

    fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        let offset = self.seq_kv - self.seq_q;
        (0..self.seq_q).step_by(CHUNK).map(move |start| {
            let queries = start..(start + CHUNK).min(self.seq_q);
            let first_query = offset + start;
            let first_key = (first_query + 1).saturating_sub(self.window);
            let rows = AttentionRows {
                first_query,
                n_queries: queries.len(),
                first_key,
                window: self.window,
                scale: 1.0 / (self.head_dim as f64).sqrt(),
                padding: self.padding.clone(),
            };
            Chunk { keys: first_key..offset + queries.end, queries, rows }
        })
    }

    /// `[batch, n_heads, seq, head_dim]` as `[batch, n_kv_heads, group, seq, head_dim]`.
    fn grouped<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let shape = [self.batch, self.n_kv_heads, self.group, self.seq_q, self.head_dim];
        B::float_reshape(x, Shape::new(shape))
    }

    /// The chunk's queries with the group's heads stacked: `[batch, n_kv_heads, group * n, head_dim]`.
    fn query_rows<B: Backend>(&self, x: FloatTensor<B>, chunk: &Chunk) -> FloatTensor<B> {
        let x = narrow::<B>(x, 3, &chunk.queries);
        let rows = self.group * chunk.queries.len();
        B::float_reshape(x, Shape::new([self.batch, self.n_kv_heads, rows, self.head_dim]))
    }

    /// The chunk's keys or values, `[batch, n_kv_heads, n, head_dim]`.
    fn keys<B: Backend>(&self, x: FloatTensor<B>, chunk: &Chunk) -> FloatTensor<B> {
        if chunk.keys.len() == self.seq_kv { x } else { narrow::<B>(x, 2, &chunk.keys) }
    }

    /// Undoes the stacking: `[batch, n_heads, n, head_dim]`.
    fn ungrouped<B: Backend>(&self, x: FloatTensor<B>, chunk: &Chunk) -> FloatTensor<B> {
        let shape = [self.batch, self.n_kv_heads * self.group, chunk.queries.len(), self.head_dim];
        B::float_reshape(x, Shape::new(shape))
    }
}

/// Adds `part` to the keys `range` of `sum`, which is f32.
fn add_at<B: Backend>(
    sum: FloatTensor<B>,
    part: FloatTensor<B>,
    range: &Range<usize>,
) -> FloatTensor<B> {
    let part = B::float_cast(part, FloatDType::F32);
    if sum.shape() == part.shape() {
        return B::float_add(sum, part);
    }
    let slices = slices(&sum.shape(), 2, range);
    let part = B::float_add(B::float_slice(sum.clone(), &slices), part);
    B::float_slice_assign(sum, &slices, part)
}

fn narrow<B: Backend>(x: FloatTensor<B>, dim: usize, range: &Range<usize>) -> FloatTensor<B> {
    let slices = slices(&x.shape(), dim, range);
    B::float_slice(x, &slices)
}

fn slices(shape: &Shape, dim: usize, range: &Range<usize>) -> Vec<Slice> {
    let part = |at: usize| if at == dim { range.clone() } else { 0..shape[at] };
    (0..shape.num_dims()).map(|at| Slice::from(part(at))).collect()
}

fn concatenated<B: Backend>(mut chunks: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    if chunks.len() == 1 { chunks.remove(0) } else { B::float_cat(chunks, 2) }
}
