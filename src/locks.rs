//! Threads: locks without poison, a latch, and how a thread starts.
//!
//! `std` marks a lock as poisoned when a thread panics while it holds it, because what the lock
//! guards may be half changed. Nobody can see such a lock here: a panic in any thread ends the
//! process. In tests, where a panic ends only its thread, the value is used as it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, LockResult, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

/// Takes a mutex.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// The guard that another way to take a lock returned: `RwLock::read`, `Condvar::wait`, ….
pub fn unpoisoned<T>(taken: LockResult<T>) -> T {
    taken.unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread that nobody waits for.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(run)?;
    Ok(())
}

/// Opens once and stays open. Threads wait for that, or poll it.
#[derive(Clone, Debug, Default)]
pub struct Latch(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_open: AtomicBool,
    /// Held while it opens, so that nobody begins to wait between the change and the wake-up.
    opening: Mutex<()>,
    opened: Condvar,
}

impl Latch {
    /// Opens it and wakes all who wait. Opening it again changes nothing.
    pub fn open(&self) {
        let _opening = lock(&self.0.opening);
        self.0.is_open.store(true, Ordering::SeqCst);
        self.0.opened.notify_all();
    }

    /// Whether it is open. Costs one load.
    pub fn is_open(&self) -> bool {
        self.0.is_open.load(Ordering::SeqCst)
    }

    /// Returns when it is open.
    pub fn wait(&self) {
        let opening = lock(&self.0.opening);
        drop(unpoisoned(self.0.opened.wait_while(opening, |()| !self.is_open())));
    }

    /// Waits until it is open, for at most `timeout`; whether it is open.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let opening = lock(&self.0.opening);
        let waited = self.0.opened.wait_timeout_while(opening, timeout, |()| !self.is_open());
        drop(unpoisoned(waited));
        self.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latch_opens_for_all_who_wait_and_who_come_later() {
        let latch = Latch::default();
        assert!(!latch.is_open() && !latch.wait_timeout(Duration::from_millis(1)));
        thread::scope(|scope| {
            scope.spawn(|| latch.wait());
            scope.spawn(|| assert!(latch.wait_timeout(Duration::from_secs(60))));
            latch.open();
        });
        latch.open();
        latch.wait();
        assert!(latch.is_open());
    }
}
