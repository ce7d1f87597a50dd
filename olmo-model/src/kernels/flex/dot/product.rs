//! Whole products, shared among threads by columns.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::super::element::Element;
use super::super::lanes;
use super::{BLOCK_ROWS, Input, Rows, TILE_COLUMNS};

/// Columns of one task at most: the sums of [`BLOCK_ROWS`] rows stay in the second-level cache.
const TASK_COLUMNS: usize = 32 * TILE_COLUMNS;

/// Multiplications below which a second thread costs more than it saves.
const PARALLEL_PRODUCTS: usize = 1 << 15;

/// `x wᵀ` for each of several weights with rows as long as those of `x`.
pub(in super::super) fn linears<E: Element>(x: &Input<'_>, weights: &[Rows<'_>]) -> Vec<Vec<E>> {
    let n_columns: Vec<usize> = weights.iter().map(|w| w.len() / x.k).collect();
    let mut outputs: Vec<Vec<E>> =
        n_columns.iter().map(|n| vec![E::default(); x.n_rows() * n]).collect();
    let columns: Vec<Columns<'_, E>> =
        outputs.iter_mut().zip(&n_columns).map(|(out, n)| Columns::new(out, *n)).collect();
    for_each_task(x, &n_columns, |which, task, sums| {
        for rows in blocks(x.n_rows()) {
            let sums = sized(sums, rows.len() * task.len());
            x.dot(weights[which], rows.clone(), task.clone(), sums);
            for (row, sums) in rows.zip(sums.chunks_exact(task.len())) {
                // SAFETY: the columns of a task are no other task's.
                unsafe { columns[which].write(row, task.start, sums.iter().copied()) };
            }
        }
    });
    drop(columns);
    outputs
}

/// `silu(x gateᵀ) * (x upᵀ)`, rounded to `E` where the operations apart would be.
pub(in super::super) fn gated<E: Element>(x: &Input<'_>, gate: Rows<'_>, up: Rows<'_>) -> Vec<E> {
    let n = gate.len() / x.k;
    let mut output = vec![E::default(); x.n_rows() * n];
    let columns = Columns::new(&mut output, n);
    for_each_task(x, &[n], |_, task, sums| {
        for rows in blocks(x.n_rows()) {
            let size = rows.len() * task.len();
            let (gates, ups) = sized(sums, 2 * size).split_at_mut(size);
            x.dot(gate, rows.clone(), task.clone(), gates);
            x.dot(up, rows.clone(), task.clone(), ups);
            let each = gates.chunks_exact_mut(task.len()).zip(ups.chunks_exact(task.len()));
            for (row, (gates, ups)) in rows.zip(each) {
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || gate_row::<E>(gates, ups),
                );
                // SAFETY: the columns of a task are no other task's.
                unsafe { columns.write(row, task.start, gates.iter().copied()) };
            }
        }
    });
    drop(columns);
    output
}

#[inline(always)]
fn gate_row<E: Element>(gates: &mut [f32], ups: &[f32]) {
    for (gate, up) in gates.iter_mut().zip(ups) {
        let x = E::narrow(*gate).widen();
        let silu = E::narrow(x * lanes::sigmoid(x)).widen();
        *gate = silu * E::narrow(*up).widen();
    }
}

/// Calls `f(matrix, columns, buffer)` for parts of the columns of each matrix.
fn for_each_task(
    x: &Input<'_>,
    n_columns: &[usize],
    f: impl Fn(usize, Range<usize>, &mut Vec<f32>) + Sync,
) {
    let n_products = x.n_rows() * x.k * n_columns.iter().sum::<usize>();
    let n_threads = if n_products < PARALLEL_PRODUCTS { 1 } else { rayon::current_num_threads() };
    let tasks: Vec<(usize, Range<usize>)> = n_columns
        .iter()
        .enumerate()
        .flat_map(|(which, &n)| {
            let fair = n.div_ceil(n_threads).next_multiple_of(TILE_COLUMNS);
            let width = fair.min(TASK_COLUMNS);
            (0..n).step_by(width).map(move |start| (which, start..n.min(start + width)))
        })
        .collect();
    if n_threads == 1 {
        let mut buffer = Vec::new();
        tasks.into_iter().for_each(|(which, task)| f(which, task, &mut buffer));
    } else {
        tasks
            .into_par_iter()
            .for_each_init(Vec::new, |buffer, (which, task)| f(which, task, buffer));
    }
}

fn blocks(n_rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n_rows).step_by(BLOCK_ROWS).map(move |start| start..n_rows.min(start + BLOCK_ROWS))
}

/// The first `n` elements of a buffer that grows as it must; what they hold is of no account.
fn sized(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}

/// A row-major matrix that several threads write, each its own columns.
struct Columns<'a, E> {
    start: *mut E,
    n_elements: usize,
    n_columns: usize,
    matrix: PhantomData<&'a mut [E]>,
}

// SAFETY: the pointer is used by `write` only, whose callers keep to columns of their own.
unsafe impl<E: Send> Sync for Columns<'_, E> {}

impl<'a, E: Element> Columns<'a, E> {
    fn new(matrix: &'a mut [E], n_columns: usize) -> Self {
        let (start, n_elements) = (matrix.as_mut_ptr(), matrix.len());
        Self { start, n_elements, n_columns, matrix: PhantomData }
    }

    /// Writes a part of a row.
    ///
    /// # Safety
    ///
    /// No other thread may write the same columns at the same time.
    unsafe fn write(&self, row: usize, column: usize, values: impl ExactSizeIterator<Item = f32>) {
        let first = row * self.n_columns + column;
        assert!(column + values.len() <= self.n_columns && first + values.len() <= self.n_elements);
        // SAFETY: the range lies within the matrix, and is this thread's alone.
        let out = unsafe { std::slice::from_raw_parts_mut(self.start.add(first), values.len()) };
        for (out, value) in out.iter_mut().zip(values) {
            *out = E::narrow(value);
        }
    }
}
