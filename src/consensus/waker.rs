//! Wakes a thread that sleeps until a timeout.

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
        // A full channel wakes the thread anyway.
        let _ = self.wake.try_send(());
    }
}
