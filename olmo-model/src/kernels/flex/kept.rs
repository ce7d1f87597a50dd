//! Memory that a thread works in, kept from one operation to the next.
//!
//! A token passes some hundred operations, each shared among all threads. Where their memory comes from one
//! place, threads that ask for it together wait for each other, which costs more than the operation.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// Buffers that a thread has one set of.
pub(super) trait Keep: Default + 'static {
    /// Where they are while nobody works in them.
    fn slot() -> &'static LocalKey<Cell<Self>>;
}

/// A thread's buffers, which go back to it in the end. Who asks for them meanwhile gets empty ones.
pub(super) struct Kept<T: Keep>(T);

impl<T: Keep> Kept<T> {
    pub(super) fn take() -> Self {
        Self(T::slot().take())
    }
}

impl<T: Keep> Drop for Kept<T> {
    fn drop(&mut self) {
        let buffers = std::mem::take(&mut self.0);
        // A thread that ends has no slot any more.
        let _ = T::slot().try_with(|slot| slot.set(buffers));
    }
}

impl<T: Keep> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Keep> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keep for Vec<u8> {
        fn slot() -> &'static LocalKey<Cell<Self>> {
            thread_local!(static SLOT: Cell<Vec<u8>> = Cell::default());
            &SLOT
        }
    }

    #[test]
    fn buffers_come_back_and_are_handed_out_once() {
        let mut first = Kept::<Vec<u8>>::take();
        first.push(1);
        assert!(Kept::<Vec<u8>>::take().is_empty());
        drop(first);
        assert_eq!(*Kept::<Vec<u8>>::take(), [1]);
        let elsewhere = std::thread::spawn(|| Kept::<Vec<u8>>::take().is_empty());
        assert!(elsewhere.join().expect("it does not panic"));
    }
}
