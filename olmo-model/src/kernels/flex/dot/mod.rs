//! Products `x wᵀ` of row-major matrices, as dot products of rows.
//!
//! Weights are stored `[d_out, d_in]`, so both operands of every dot product are contiguous: nothing
//! is packed or transposed, and a weight that is not f32 is widened a few rows at a time into a
//! buffer that stays in the cache. Each element of the result is the same sequence of additions
//! whatever the number of rows, columns and threads, so that a token decoded alone has the bits that
//! it has in a prompt.

/// Calls `$tile!(rows, columns)` with the sizes as constants.
#[cfg(target_arch = "x86_64")]
macro_rules! every_tile {
    ($rows:expr, $columns:expr, $tile:ident) => {
        match ($rows, $columns) {
            (4, 6) => $tile!(4, 6),
            (4, 5) => $tile!(4, 5),
            (4, 4) => $tile!(4, 4),
            (4, 3) => $tile!(4, 3),
            (4, 2) => $tile!(4, 2),
            (4, 1) => $tile!(4, 1),
            (2, 6) => $tile!(2, 6),
            (2, 5) => $tile!(2, 5),
            (2, 4) => $tile!(2, 4),
            (2, 3) => $tile!(2, 3),
            (2, 2) => $tile!(2, 2),
            (2, 1) => $tile!(2, 1),
            (1, 6) => $tile!(1, 6),
            (1, 5) => $tile!(1, 5),
            (1, 4) => $tile!(1, 4),
            (1, 3) => $tile!(1, 3),
            (1, 2) => $tile!(1, 2),
            (1, 1) => $tile!(1, 1),
            (rows, columns) => unreachable!("no tile is {rows} by {columns}"),
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod product;
mod rows;
#[cfg(test)]
mod tests;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use half::bf16;

pub(super) use product::{gated, linears};
pub(super) use rows::Rows;

/// Rows of `x` in a tile.
const TILE_ROWS: usize = 4;
/// Rows of `w` in a tile: with [`TILE_ROWS`], 24 vectors of sums.
const TILE_COLUMNS: usize = 6;
/// Elements of a row multiplied at a time: a tile's rows of `w` then stay in the first-level cache.
const BLOCK_LENGTH: usize = 1024;
/// Rows of `x` multiplied at a time: with [`BLOCK_LENGTH`], half of a second-level cache.
const BLOCK_ROWS: usize = 128;

/// Rows of equal length with a stride between their starts.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a, T> {
    pub(super) values: &'a [T],
    pub(super) stride: usize,
}

impl<'a, T> Strided<'a, T> {
    fn at(values: &'a [T], stride: usize, row: usize, column: usize) -> Self {
        Self { values: &values[row * stride + column..], stride }
    }

    /// The first `k` elements of a row.
    pub(super) fn row(&self, row: usize, k: usize) -> &'a [T] {
        &self.values[row * self.stride..][..k]
    }

    /// Panics unless `rows` rows hold `k` elements each.
    fn check(&self, rows: usize, k: usize) {
        assert!((rows - 1) * self.stride + k <= self.values.len());
    }
}

/// A tile's place in the sums of a task.
struct StridedMut<'a> {
    values: &'a mut [f32],
    stride: usize,
}

impl StridedMut<'_> {
    fn add(&mut self, row: usize, column: usize, value: f32) {
        self.values[row * self.stride + column] += value;
    }
}

/// The left operand of a product, `[n_rows, k]`.
pub(super) struct Input<'a> {
    rows: Rows<'a>,
    /// The same in f32, where the kernels do not take it as it is.
    widened: Vec<f32>,
    k: usize,
    isa: Isa,
}

/// The instructions to multiply with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    Portable,
}

impl Isa {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            let bf16 = is_x86_feature_detected!("avx512bf16");
            return if bf16 { Self::Avx512Bf16 } else { Self::Avx512 };
        }
        Self::Portable
    }
}

impl<'a> Input<'a> {
    /// An operand with rows of `k` elements, to be multiplied with weights of any type.
    pub(super) fn new(rows: Rows<'a>, k: usize) -> Self {
        Self::with_isa(rows, k, Isa::detect())
    }

    fn with_isa(rows: Rows<'a>, k: usize, isa: Isa) -> Self {
        let widened = match rows {
            Rows::F32(_) => Vec::new(),
            #[cfg(target_arch = "x86_64")]
            Rows::Bf16(_) if isa == Isa::Avx512Bf16 => Vec::new(),
            _ => {
                let mut values = vec![0.0; rows.len()];
                rows.widen(0..rows.len(), &mut values);
                values
            }
        };
        Self { rows, widened, k, isa }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.rows.len().checked_div(self.k).unwrap_or(0)
    }

    fn f32(&self) -> &[f32] {
        match self.rows {
            Rows::F32(values) => values,
            _ => &self.widened,
        }
    }

    /// Dot products of rows `rows` with the rows `columns` of `w`, written to
    /// `out[rows.len(), columns.len()]`.
    fn dot(&self, w: Rows<'_>, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        out.fill(0.0);
        let mut scratch = Vec::new();
        for start in (0..self.k).step_by(BLOCK_LENGTH) {
            let length = BLOCK_LENGTH.min(self.k - start);
            for first in columns.clone().step_by(TILE_COLUMNS) {
                let tile = first..columns.end.min(first + TILE_COLUMNS);
                let sums =
                    StridedMut { values: &mut out[first - columns.start..], stride: columns.len() };
                self.column_tile(w, rows.clone(), tile, start..start + length, sums, &mut scratch);
            }
        }
    }

    /// Adds the products of a few rows of `w` with all of `rows`, over a part of their length.
    fn column_tile(
        &self,
        w: Rows<'_>,
        rows: Range<usize>,
        columns: Range<usize>,
        part: Range<usize>,
        mut sums: StridedMut<'_>,
        scratch: &mut Vec<f32>,
    ) {
        let (k, length, n_columns) = (self.k, part.len(), columns.len());
        #[cfg(target_arch = "x86_64")]
        if let (Rows::Bf16(x), Rows::Bf16(w), Isa::Avx512Bf16) = (self.rows, w, self.isa) {
            let w = Strided::at(w, k, columns.start, part.start);
            for (first, n_rows) in tiles(rows) {
                let x = Strided::at(x, k, first.absolute, part.start);
                sums_at(&mut sums, first.relative, |sums| {
                    bf16_tile(x, w, n_rows, n_columns, length, sums);
                });
            }
            return;
        }
        let w = match w {
            Rows::F32(w) => Strided::at(w, k, columns.start, part.start),
            other => {
                scratch.resize(n_columns * length, 0.0);
                for (column, widened) in columns.zip(scratch.chunks_exact_mut(length)) {
                    let start = column * k + part.start;
                    other.widen(start..start + length, widened);
                }
                Strided { values: scratch, stride: length }
            }
        };
        for (first, n_rows) in tiles(rows) {
            let x = Strided::at(self.f32(), k, first.absolute, part.start);
            sums_at(&mut sums, first.relative, |sums| {
                f32_tile(self.isa, x, w, n_rows, n_columns, length, sums);
            });
        }
    }
}

/// Products of `n_rows` rows with `n_columns` others, `k` long, added to rows of `out` that begin
/// `stride` apart, on this thread.
pub(super) fn small(
    x: Strided<'_, f32>,
    w: Strided<'_, f32>,
    [n_rows, n_columns, k]: [usize; 3],
    out: &mut [f32],
    stride: usize,
) {
    let isa = Isa::detect();
    for column in (0..n_columns).step_by(TILE_COLUMNS) {
        let w = Strided::at(w.values, w.stride, column, 0);
        let mut sums = StridedMut { values: &mut out[column..], stride };
        for (first, n) in tiles(0..n_rows) {
            let x = Strided::at(x.values, x.stride, first.absolute, 0);
            let n_columns = TILE_COLUMNS.min(n_columns - column);
            sums_at(&mut sums, first.relative, |sums| {
                f32_tile(isa, x, w, n, n_columns, k, sums);
            });
        }
    }
}

/// The first row of a tile in the operand, and in the rows of a task.
struct First {
    absolute: usize,
    relative: usize,
}

/// Groups of four, two and one rows.
fn tiles(rows: Range<usize>) -> impl Iterator<Item = (First, usize)> {
    let mut next = rows.start;
    std::iter::from_fn(move || {
        let left = rows.end - next;
        let n = [TILE_ROWS, 2, 1].into_iter().find(|n| *n <= left)?;
        let first = First { absolute: next, relative: next - rows.start };
        next += n;
        Some((first, n))
    })
}

fn sums_at(sums: &mut StridedMut<'_>, row: usize, f: impl FnOnce(&mut StridedMut<'_>)) {
    let stride = sums.stride;
    f(&mut StridedMut { values: &mut sums.values[row * stride..], stride });
}

fn f32_tile(
    isa: Isa,
    x: Strided<'_, f32>,
    w: Strided<'_, f32>,
    rows: usize,
    columns: usize,
    k: usize,
    out: &mut StridedMut<'_>,
) {
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::Portable {
        macro_rules! tile {
            ($r:literal, $c:literal) => {
                // SAFETY: `detect` found the instructions.
                unsafe { avx512::f32_tile::<$r, $c>(x, w, k, out) }
            };
        }
        return every_tile!(rows, columns, tile);
    }
    let _ = isa;
    pulp::Arch::new().dispatch(portable::Tile { x, w, rows, columns, k, out });
}

#[cfg(target_arch = "x86_64")]
fn bf16_tile(
    x: Strided<'_, bf16>,
    w: Strided<'_, bf16>,
    rows: usize,
    columns: usize,
    k: usize,
    out: &mut StridedMut<'_>,
) {
    macro_rules! tile {
        ($r:literal, $c:literal) => {
            // SAFETY: only an `Input` whose instructions were found to include these gets here.
            unsafe { avx512::bf16_tile::<$r, $c>(x, w, k, out) }
        };
    }
    every_tile!(rows, columns, tile);
}
