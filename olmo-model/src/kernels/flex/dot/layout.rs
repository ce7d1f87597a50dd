//! Rows of a left operand laid out as kernels read them.
//!
//! A kernel multiplies several rows at once, unit by unit. Where they lie as they come, each is read from
//! another page, and, since lengths are multiples of large powers of two, all from the same few lines of the cache.
//!
//! Rows laid out take no more room than before: those of a strip or a tile are where they would be.

use std::array;

use super::super::row_blocks::row_blocks;

/// Rows of a strip at most.
const STRIP_ROWS: usize = 8;
/// Rows of a tile, and units of a row of it.
pub(super) const TILE: usize = 16;

/// Rows of the next strip, where `n` are left.
pub(super) fn strip_rows(n: usize) -> usize {
    match n {
        STRIP_ROWS.. => STRIP_ROWS,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Rows of `length` units as strips: a unit of each row of a strip side by side, then the next of each.
pub(super) fn strips<U: Copy + Default + Send + Sync>(rows: &[U], length: usize) -> Vec<U> {
    row_blocks(
        rows.len(),
        STRIP_ROWS * length,
        #[inline(always)]
        |first, out: &mut [U]| {
            let mut rows = &rows[first * STRIP_ROWS * length..][..out.len()];
            let mut out = out;
            while !rows.is_empty() {
                let n = strip_rows(rows.len() / length);
                let (strip, below) = rows.split_at(n * length);
                let (strip_out, out_below) = out.split_at_mut(n * length);
                match n {
                    STRIP_ROWS => interleave::<U, STRIP_ROWS>(strip, length, strip_out),
                    4 => interleave::<U, 4>(strip, length, strip_out),
                    2 => interleave::<U, 2>(strip, length, strip_out),
                    _ => strip_out.copy_from_slice(strip),
                }
                (rows, out) = (below, out_below);
            }
        },
    )
}

#[inline(always)]
fn interleave<U: Copy, const R: usize>(rows: &[U], length: usize, out: &mut [U]) {
    let rows: [&[U]; R] = array::from_fn(|r| &rows[r * length..][..length]);
    for (i, units) in out.as_chunks_mut::<R>().0.iter_mut().enumerate() {
        *units = rows.map(|row| row[i]);
    }
}

/// Rows of `length` units as tiles: [`TILE`] units of each of as many rows, row after row, then the next
/// units of these rows. The last rows and the last units may be fewer.
pub(super) fn tiles(rows: &[u32], length: usize) -> Vec<u32> {
    row_blocks(
        rows.len(),
        TILE * length,
        #[inline(always)]
        |first, out: &mut [u32]| {
            let rows = &rows[first * TILE * length..][..out.len()];
            let bands = rows.chunks(TILE * length).zip(out.chunks_mut(TILE * length));
            for (rows, out) in bands {
                let n_rows = rows.len() / length;
                for (r, row) in rows.chunks_exact(length).enumerate() {
                    for (units, tile) in row.chunks(TILE).zip(out.chunks_mut(TILE * n_rows)) {
                        tile[r * units.len()..][..units.len()].copy_from_slice(units);
                    }
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units that say their row and their place in it.
    fn rows(n_rows: usize, length: usize) -> Vec<u32> {
        (0..n_rows * length).map(|i| (i / length * 10_000 + i % length) as u32).collect()
    }

    #[test]
    fn strips_have_the_units_of_their_rows_side_by_side() {
        for (n_rows, length) in [(1, 3), (7, 5), (8, 1), (23, 40), (300, 130)] {
            let found = strips(&rows(n_rows, length), length);
            let (mut first, mut expected) = (0, Vec::new());
            while first < n_rows {
                let n = strip_rows(n_rows - first);
                for i in 0..length {
                    expected.extend((first..first + n).map(|row| (row * 10_000 + i) as u32));
                }
                first += n;
            }
            assert_eq!(found, expected, "{n_rows} rows of {length}");
        }
    }

    #[test]
    fn tiles_have_some_units_of_each_row() {
        for (n_rows, length) in [(1, 3), (7, 16), (16, 17), (37, 40), (300, 130)] {
            let found = tiles(&rows(n_rows, length), length);
            let mut expected = Vec::new();
            for rows in (0..n_rows).collect::<Vec<_>>().chunks(TILE) {
                for units in (0..length).collect::<Vec<_>>().chunks(TILE) {
                    for row in rows {
                        expected.extend(units.iter().map(|i| (row * 10_000 + i) as u32));
                    }
                }
            }
            assert_eq!(found, expected, "{n_rows} rows of {length}");
        }
    }
}
