//! Waiting for what runs on the Hub's connections, with an eye on whether the caller wants to stop.
//!
//! `hf-hub` and `reqwest` are of futures, everything here is of threads. The runtime that the
//! connections live on is ours, and a thread asks its future itself, within that runtime's context:
//! so it may belong to any runtime of the caller's, or to none, and a future that is not waited for
//! any more is dropped, with its connection.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::error::HubError;

/// How long it is waited before it is looked whether the caller wants to stop.
pub(super) const MOMENT: Duration = Duration::from_millis(100);

/// The wish of callers that have no way to say it.
pub(super) static GO_ON: AtomicBool = AtomicBool::new(false);

/// What threads wait by.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    /// Always there but while it is dropped.
    runtime: Option<Runtime>,
    stop: &'a AtomicBool,
}

impl<'a> Waiter<'a> {
    /// `stop` is set where nothing is to be waited for any more.
    pub(super) fn new(stop: &'a AtomicBool) -> io::Result<Self> {
        // One thread reads what comes on all connections; the threads that wait do the rest.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("olmo-hub")
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime), stop })
    }

    /// What a future comes to, unless it is to stop before.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, HubError> {
        let mut future = pin!(future);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            self.look()?;
            let within = self.runtime.as_ref().map(Runtime::enter);
            let polled = future.as_mut().poll(&mut context);
            drop(within);
            match polled {
                Poll::Ready(value) => return Ok(value),
                Poll::Pending => thread::park_timeout(MOMENT),
            }
        }
    }

    /// Lets time pass, unless it is to stop.
    pub(super) fn pause(&self, time: Duration) -> Result<(), HubError> {
        let start = Instant::now();
        while let Some(left) = time.checked_sub(start.elapsed()) {
            self.look()?;
            thread::sleep(left.min(MOMENT));
        }
        self.look()
    }

    /// An error where it is to stop.
    pub(super) fn look(&self) -> Result<(), HubError> {
        if self.stop.load(Ordering::Relaxed) { Err(HubError::Stopped) } else { Ok(()) }
    }
}

impl Drop for Waiter<'_> {
    /// Without waiting for connections, which a thread of another runtime may not do.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_of_the_runtime_is_waited_for_and_a_stop_ends_any_wait() {
        let stop = AtomicBool::new(false);
        let waiter = Waiter::new(&stop).unwrap();
        let slept = waiter.wait(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            7
        });
        assert_eq!(slept.unwrap(), 7);
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                stop.store(true, Ordering::Relaxed);
            });
            let ended = waiter.wait(std::future::pending::<()>());
            assert!(matches!(ended, Err(HubError::Stopped)));
            let ended = waiter.pause(Duration::from_mins(1));
            assert!(matches!(ended, Err(HubError::Stopped)));
        });
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }

    #[test]
    fn a_caller_within_a_runtime_may_wait_too() {
        let stop = AtomicBool::new(false);
        for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
            let callers = builder.enable_all().build().unwrap();
            let value = callers.block_on(async {
                let waiter = Waiter::new(&stop).unwrap();
                waiter.wait(async { tokio::time::sleep(Duration::from_millis(1)).await })
            });
            value.unwrap();
        }
    }
}
