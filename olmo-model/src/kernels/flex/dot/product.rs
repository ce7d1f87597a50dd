//! Whole products, shared among threads by columns.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use rayon::prelude::*;

use super::super::element::Element;
use super::super::kept::{Keep, Kept};
use super::super::lanes::vectorized;
use super::super::shared::{Columns, is_there};
use super::super::swiglu;
use super::part::Part;
use super::{Input, Scratch, Weight};
use crate::packed::{Step, WIDTH};

/// Columns of one task at most, so that the threads end together.
const TASK_COLUMNS: usize = 6 * WIDTH;

/// Multiplications below which a second thread costs more than it saves.
const PARALLEL_PRODUCTS: usize = 1 << 15;

/// `x wᵀ` for each of several weights with rows as long as those of `x`.
pub(in super::super) fn linears<E: Element>(x: &Input<'_>, weights: &[Weight<'_>]) -> Vec<Vec<E>> {
    let n_columns: Vec<usize> = weights.iter().map(|w| w.n_columns(x.k)).collect();
    let mut outputs: Vec<Vec<E>> =
        n_columns.iter().map(|n| Vec::with_capacity(x.n_rows() * n)).collect();
    let columns: Vec<Columns<'_, E>> =
        outputs.iter_mut().zip(&n_columns).map(|(out, n)| Columns::room(out, *n)).collect();
    for_each_part(
        x,
        weights,
        #[inline(always)]
        |which, row, column, sums| {
            // SAFETY: a part of a product is no other thread's.
            unsafe { columns[which].write(row, column, sums.iter().copied()) };
        },
    );
    let outputs = outputs.into_iter().zip(n_columns);
    // SAFETY: the panels make up the products.
    outputs.map(|(out, n)| unsafe { is_there(out, x.n_rows() * n) }).collect()
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
    for_each_panel(x, &n_columns, |part, which, columns, Work { sides: [side, _], scratch }| {
        let w = weights[which];
        part.prepare(w, &columns, &mut side.panel);
        for rows in part.blocks() {
            let Side { panel, sums } = side;
            part.multiply(w, &rows, columns.clone(), panel, sums, scratch);
            vectorized(
                #[inline(always)]
                || {
                    for (row, sums) in rows.clone().zip(sums.as_chunks::<WIDTH>().0) {
                        f(which, row, columns.start, &sums[..columns.len()]);
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
    let mut output = Vec::with_capacity(x.n_rows() * n);
    let out = Columns::room(&mut output, n);
    for_each_panel(x, &[n], |part, _, columns, Work { sides: [gates, ups], scratch }| {
        for (w, side) in [(gate, &mut *gates), (up, &mut *ups)] {
            part.prepare(w, &columns, &mut side.panel);
        }
        for rows in part.blocks() {
            for (w, side) in [(gate, &mut *gates), (up, &mut *ups)] {
                part.multiply(w, &rows, columns.clone(), &side.panel, &mut side.sums, scratch);
            }
            let (gates, ups) =
                (gates.sums.as_chunks_mut::<WIDTH>().0, ups.sums.as_chunks::<WIDTH>().0);
            vectorized(
                #[inline(always)]
                || {
                    for (row, (gates, ups)) in rows.clone().zip(gates.iter_mut().zip(ups)) {
                        gate_row::<E>(gates, ups);
                        let gated = gates[..columns.len()].iter().copied();
                        // SAFETY: a panel is no other thread's.
                        unsafe { out.write(row, columns.start, gated) };
                    }
                },
            );
        }
    });
    // SAFETY: the panels make up the product.
    unsafe { is_there(output, x.n_rows() * n) }
}

/// Puts the gated values in the place of the gates.
#[inline(always)]
fn gate_row<E: Element>(gates: &mut [f32; WIDTH], ups: &[f32; WIDTH]) {
    for (gate, up) in gates.iter_mut().zip(ups) {
        *gate = swiglu::gated(E::narrow(*gate).widen(), E::narrow(*up)).widen();
    }
}

/// Memory of a thread's products.
#[derive(Default)]
struct Work {
    sides: [Side; 2],
    scratch: Scratch,
}

/// Of a weight's products.
#[derive(Default)]
struct Side {
    panel: Vec<Step<u32>>,
    sums: Vec<f32>,
}

impl Keep for Work {
    fn slot() -> &'static LocalKey<Cell<Self>> {
        thread_local!(static SLOT: Cell<Work> = Cell::default());
        &SLOT
    }
}

/// Calls `f(rows, matrix, columns, memory)` for each panel of the columns of each matrix, with some rows of `x`
/// after the other.
fn for_each_panel(
    x: &Input<'_>,
    n_columns: &[usize],
    f: impl Fn(&Part<'_>, usize, Range<usize>, &mut Work) + Sync,
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
    for part in x.parts() {
        let run = |work: &mut Work, (which, task): &(usize, Range<usize>)| {
            for first in task.clone().step_by(WIDTH) {
                f(&part, *which, first..task.end.min(first + WIDTH), work);
            }
        };
        if n_threads == 1 {
            let mut work = Kept::take();
            for task in &tasks {
                run(&mut work, task);
            }
        } else {
            tasks.par_iter().for_each_init(Kept::take, |work, task| run(work, task));
        }
    }
}
