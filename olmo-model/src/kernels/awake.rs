//! Work on the threads that the CPU's kernels share their work among, none of which sleeps meanwhile.
//!
//! A token passes some hundred kernels with short stretches of one thread between them. A thread that finds
//! no work for some ten microseconds goes to sleep, and to wake it takes as long as a small product does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long to wait for threads that sleep. One that comes later goes to sleep again.
const WAKING: Duration = Duration::from_micros(50);

/// How many calls of [`on_awake_workers`] there are at the moment.
static N_CALLS: AtomicUsize = AtomicUsize::new(0);

/// Runs `f` on one of rayon's threads, the others staying awake for what it shares with them. They give way
/// to other programs. Of several calls at a time only the first keeps threads awake, and so does none from
/// one of rayon's own threads: there the others have work enough.
pub(super) fn on_awake_workers<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let call = Call::begin();
    if rayon::current_thread_index().is_some() || !call.is_only {
        return rayon::scope(|_| f());
    }
    let watch = Watch::default();
    rayon::scope(|scope| {
        let n_others = rayon::current_num_threads() - 1;
        for _ in 0..n_others {
            scope.spawn(|_| watch.keep());
        }
        let start = Instant::now();
        while watch.n_awake.load(Ordering::Acquire) < n_others && start.elapsed() < WAKING {
            std::hint::spin_loop();
        }
        // From here on a thread may wait for another within a kernel, where it takes up what work it finds.
        // Were that the watch, the kernel would never end.
        watch.is_closed.store(true, Ordering::Release);
        let _end = End(&watch);
        f()
    })
}

/// A call, for as long as it takes.
struct Call {
    is_only: bool,
}

impl Call {
    fn begin() -> Self {
        Self { is_only: N_CALLS.fetch_add(1, Ordering::AcqRel) == 0 }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        N_CALLS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What threads look at while they wait for work.
#[derive(Default)]
struct Watch {
    n_awake: AtomicUsize,
    is_closed: AtomicBool,
    is_over: AtomicBool,
}

impl Watch {
    /// Does work as it comes, until all is over. Not where another call begins: its whole work may be what
    /// comes, and what this one is for would wait for it.
    fn keep(&self) {
        if self.is_closed.load(Ordering::Acquire) {
            return;
        }
        self.n_awake.fetch_add(1, Ordering::AcqRel);
        let is_alone = || N_CALLS.load(Ordering::Acquire) == 1;
        while !self.is_over.load(Ordering::Acquire) && is_alone() {
            if rayon::yield_now() != Some(rayon::Yield::Executed) {
                std::thread::yield_now();
            }
        }
    }
}

/// Ends a watch, also where what it was for panics.
struct End<'a>(&'a Watch);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use rayon::prelude::*;

    use super::*;

    fn sum(n: usize) -> usize {
        (0..n).into_par_iter().sum()
    }

    #[test]
    fn many_calls_at_a_time_end() {
        let expected = (0..1000).sum::<usize>();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert_eq!(on_awake_workers(|| sum(1000)), expected);
                    }
                });
            }
        });
        let nested: Vec<usize> =
            (0..50).into_par_iter().map(|_| on_awake_workers(|| sum(1000))).collect();
        assert!(nested.iter().all(|found| *found == expected));
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let caught = panic::catch_unwind(|| on_awake_workers(|| assert_eq!(sum(3), 4)));
        assert!(caught.is_err());
        assert_eq!(on_awake_workers(|| sum(3)), 3);
    }
}
