//! A matrix that several threads write.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

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
    /// Of a matrix that is there, to be written or added to.
    pub(super) fn new(matrix: &'a mut [E], row_length: usize) -> Self {
        let (start, n_elements) = (matrix.as_mut_ptr(), matrix.len());
        Self { start, n_elements, row_length, matrix: PhantomData }
    }

    /// Of the room in a vector for a matrix that is only to be written, and then [`is_there`].
    pub(super) fn room(matrix: &'a mut Vec<E>, row_length: usize) -> Self {
        let room = matrix.spare_capacity_mut();
        let (start, n_elements) = (room.as_mut_ptr().cast(), room.len());
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
        let out = self.part(row, column, values.len()).cast::<MaybeUninit<E>>();
        // SAFETY: the range lies within the matrix, and is this thread's alone.
        let out = unsafe { std::slice::from_raw_parts_mut(out, values.len()) };
        for (out, value) in out.iter_mut().zip(values) {
            out.write(E::narrow(value));
        }
    }

    /// Adds to a part of a row.
    ///
    /// # Safety
    ///
    /// As [`write`](Self::write), and the matrix must be there.
    #[inline(always)]
    pub(super) unsafe fn add(&self, row: usize, column: usize, values: &[f32]) {
        let out = self.part(row, column, values.len());
        // SAFETY: the range lies within the matrix, and is this thread's alone.
        let out = unsafe { std::slice::from_raw_parts_mut(out, values.len()) };
        for (out, value) in out.iter_mut().zip(values) {
            *out = E::narrow(out.widen() + value);
        }
    }

    /// Where a part of a row begins that lies within the matrix.
    #[inline(always)]
    fn part(&self, row: usize, column: usize, n: usize) -> *mut E {
        let first = row * self.row_length + column;
        assert!(column + n <= self.row_length);
        assert!(first + n <= self.n_elements);
        // SAFETY: by the assertions.
        unsafe { self.start.add(first) }
    }
}

/// A vector with room for `n` elements, all of which have been written.
///
/// # Safety
///
/// They must have been.
pub(super) unsafe fn is_there<T: Copy>(mut room: Vec<T>, n: usize) -> Vec<T> {
    assert!(room.capacity() >= n);
    // SAFETY: as the caller holds.
    unsafe { room.set_len(n) };
    room
}
