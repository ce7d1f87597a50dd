//! Whole products, shared among threads by columns.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use rayon::prelude::*;

use super::super::element::Element;
use super::super::kept::{Keep, Kept};
use super::super::lanes::vectorized;
use super::super::shared::Columns;
use super::super::swiglu;
use super::{BLOCK_ROWS, Input, Scratch, Weight};
use crate::packed::WIDTH;

/// Columns of one task at most: the sums of [`BLOCK_ROWS`] rows stay in the second-level cache.
const TASK_COLUMNS: usize = 6 * WIDTH;

/// Multiplications below which a second thread costs more than it saves.
const PARALLEL_PRODUCTS: usize = 1 << 15;

/// `x wᵀ` for each of several weights with rows as long as those of `x`.
pub(in super::super) fn linears<E: Element>(x: &Input<'_>, weights: &[Weight<'_>]) -> Vec<Vec<E>> {
    let n_columns: Vec<usize> = weights.iter().map(|w| w.n_columns(x.k)).collect();
    let mut outputs: Vec<Vec<E>> =
        n_columns.iter().map(|n| vec![E::default(); x.n_rows() * n]).collect();
    let columns: Vec<Columns<'_, E>> =
        outputs.iter_mut().zip(&n_columns).map(|(out, n)| Columns::new(out, *n)).collect();
    for_each_part(
        x,
        weights,
        #[inline(always)]
        |which, row, column, sums| {
            // SAFETY: a part of a product is no other thread's.
            unsafe { columns[which].write(row, column, sums.iter().copied()) };
        },
    );
    outputs
}

/// Adds `x wᵀ` to a matrix of f32.
pub(in super::super) fn add_linear(x: &Input<'_>, w: Weight<'_>, total: &mut [f32]) {
    let columns = Columns::new(total, w.n_columns(x.k));
    for_each_part(
        x,
        &[w],
        #[inline(always)]
        |_, row, column, sums| {
            // SAFETY: a part of a product is no other thread's.
            unsafe { columns.add(row, column, sums) };
        },
    );
}

/// Calls `f(matrix, row, first column, sums)` for parts of the rows of each product, with the widest
/// vector instructions of the machine enabled.
fn for_each_part(
    x: &Input<'_>,
    weights: &[Weight<'_>],
    f: impl Fn(usize, usize, usize, &[f32]) + Sync,
) {
    let n_columns: Vec<usize> = weights.iter().map(|w| w.n_columns(x.k)).collect();
    for_each_task(x, &n_columns, |which, task, Work { products, scratch }| {
        for rows in blocks(x.n_rows()) {
            let sums = sized(products, rows.len() * task.len());
            x.multiply(weights[which], rows.clone(), task.clone(), sums, scratch);
            vectorized(
                #[inline(always)]
                || {
                    for (row, sums) in rows.clone().zip(sums.chunks_exact(task.len())) {
                        f(which, row, task.start, sums);
                    }
                },
            );
        }
    });
}

/// `silu(x gateᵀ) * (x upᵀ)`, rounded to `E` where the operations apart would be.
pub(in super::super) fn gated<E: Element>(
    x: &Input<'_>,
    gate: Weight<'_>,
    up: Weight<'_>,
) -> Vec<E> {
    let n = gate.n_columns(x.k);
    let mut output = vec![E::default(); x.n_rows() * n];
    let columns = Columns::new(&mut output, n);
    for_each_task(x, &[n], |_, task, Work { products, scratch }| {
        for rows in blocks(x.n_rows()) {
            let size = rows.len() * task.len();
            let (gates, ups) = sized(products, 2 * size).split_at_mut(size);
            x.multiply(gate, rows.clone(), task.clone(), gates, scratch);
            x.multiply(up, rows.clone(), task.clone(), ups, scratch);
            let each = gates.chunks_exact_mut(task.len()).zip(ups.chunks_exact(task.len()));
            for (row, (gates, ups)) in rows.zip(each) {
                vectorized(
                    #[inline(always)]
                    || {
                        gate_row::<E>(gates, ups);
                        // SAFETY: the columns of a task are no other task's.
                        unsafe { columns.write(row, task.start, gates.iter().copied()) };
                    },
                );
            }
        }
    });
    output
}

/// Puts the gated values in the place of the gates.
#[inline(always)]
fn gate_row<E: Element>(gates: &mut [f32], ups: &[f32]) {
    for (gate, up) in gates.iter_mut().zip(ups) {
        *gate = swiglu::gated(E::narrow(*gate).widen(), E::narrow(*up)).widen();
    }
}

/// Memory of a task.
#[derive(Default)]
struct Work {
    products: Vec<f32>,
    scratch: Scratch,
}

impl Keep for Work {
    fn slot() -> &'static LocalKey<Cell<Self>> {
        thread_local!(static SLOT: Cell<Work> = Cell::default());
        &SLOT
    }
}

/// Calls `f(matrix, columns, memory)` for parts of the columns of each matrix.
fn for_each_task(
    x: &Input<'_>,
    n_columns: &[usize],
    f: impl Fn(usize, Range<usize>, &mut Work) + Sync,
) {
    let n_products = x.n_rows() * x.k * n_columns.iter().sum::<usize>();
    let n_threads = if n_products < PARALLEL_PRODUCTS { 1 } else { rayon::current_num_threads() };
    let tasks: Vec<(usize, Range<usize>)> = n_columns
        .iter()
        .enumerate()
        .flat_map(|(which, &n)| {
            let fair = n.div_ceil(n_threads).next_multiple_of(WIDTH);
            let width = fair.min(TASK_COLUMNS);
            (0..n).step_by(width).map(move |start| (which, start..n.min(start + width)))
        })
        .collect();
    if n_threads == 1 {
        let mut work = Kept::take();
        for (which, task) in tasks {
            f(which, task, &mut work);
        }
    } else {
        tasks.into_par_iter().for_each_init(Kept::take, |work, (which, task)| f(which, task, work));
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
