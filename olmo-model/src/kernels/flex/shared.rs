//! A matrix that several threads write.

use std::marker::PhantomData;

use super::element::Element;

/// A row-major matrix that several threads write, each its own columns of a row.
pub(super) struct Columns<'a, E> {
    start: *mut E,
    n_elements: usize,
    row_length: usize,
    matrix: PhantomData<&'a mut [E]>,
}

// SAFETY: the pointer is used by `write` only, whose callers keep to elements of their own.
unsafe impl<E: Send> Sync for Columns<'_, E> {}

impl<'a, E: Element> Columns<'a, E> {
    pub(super) fn new(matrix: &'a mut [E], row_length: usize) -> Self {
        let (start, n_elements) = (matrix.as_mut_ptr(), matrix.len());
        Self { start, n_elements, row_length, matrix: PhantomData }
    }

    /// Writes a part of a row, rounded.
    ///
    /// # Safety
    ///
    /// No other thread may write the same elements at the same time.
    #[inline(always)]
    pub(super) unsafe fn write(
        &self,
        row: usize,
        column: usize,
        values: impl ExactSizeIterator<Item = f32>,
    ) {
        // SAFETY: as the caller holds.
        let out = unsafe { self.part(row, column, values.len()) };
        for (out, value) in out.iter_mut().zip(values) {
            *out = E::narrow(value);
        }
    }

    /// Adds to a part of a row.
    ///
    /// # Safety
    ///
    /// As [`write`](Self::write).
    #[inline(always)]
    pub(super) unsafe fn add(&self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: as the caller holds.
        let out = unsafe { self.part(row, column, values.len()) };
        for (out, value) in out.iter_mut().zip(values) {
            *out = E::narrow(out.widen() + value);
        }
    }

    /// # Safety
    ///
    /// No other thread may have the same elements at the same time.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "callers keep to elements of their own")]
    unsafe fn part(&self, row: usize, column: usize, n: usize) -> &mut [E] {
        let first = row * self.row_length + column;
        assert!(column + n <= self.row_length);
        assert!(first + n <= self.n_elements);
        // SAFETY: the range lies within the matrix, and is this thread's alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), n) }
    }
}
