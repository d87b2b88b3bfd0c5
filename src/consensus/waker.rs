//! Wakes a thread that has nothing to wait for but time.

use crossbeam_channel::{Receiver, Sender, bounded};

/// Wakes one thread.
#[derive(Debug)]
pub(super) struct Waker {
    pub(super) woken: Receiver<()>,
    wake: Sender<()>,
}

impl Default for Waker {
    fn default() -> Self {
        let (wake, woken) = bounded(1);
        Waker { woken, wake }
    }
}

impl Waker {
    pub(super) fn wake(&self) {
        // Full means that the thread will look anyway.
        let _ = self.wake.try_send(());
    }
}
