//! Reading ahead in one thread.
//!
//! The thread fills a channel of bounded length and waits when it is full. An error is passed on in
//! its turn and ends the thread. Dropping the reader of the channel ends the thread too, at the
//! latest after the batch, or the shuffle, that it is at.

use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use crate::batch_reader::{BatchReader, Event};
use crate::{Error, Result};

/// The near end of a thread that reads ahead.
#[derive(Debug)]
pub(crate) struct Prefetch<T> {
    /// None only while being dropped.
    received: Option<Receiver<Result<T>>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch<Event> {
    pub(crate) fn new(depth: NonZeroUsize, mut reader: BatchReader) -> Result<Self> {
        let (sender, received) = mpsc::sync_channel(depth.get());
        let thread = thread::Builder::new()
            .name("olmo-data".to_owned())
            .spawn(move || {
                loop {
                    let event = reader.next_event();
                    let failed = event.is_err();
                    // Sending fails once nobody listens any more.
                    if sender.send(event).is_err() || failed {
                        return;
                    }
                }
            })
            .map_err(Error::io("a thread to read data ahead"))?;
        Ok(Self { received: Some(received), thread: Some(thread) })
    }
}

impl<T> Prefetch<T> {
    pub(crate) fn next(&mut self) -> Result<T> {
        let received = self.received.as_ref().and_then(|received| received.recv().ok());
        received.unwrap_or(Err(Error::LoaderStopped))
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        // First the channel, so that a thread that waits for room in it wakes up.
        drop(self.received.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been printed there; there is nothing to add here.
            drop(thread.join());
        }
    }
}
