//! Records what client threads see.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Event, History, Operation, Outcome, Value, Violation};

/// A history that several threads add to. Its moments are microseconds since it was made.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    history: Mutex<History>,
    values: AtomicU64,
    acknowledged: AtomicU64,
}

impl Recorder {
    pub fn new() -> Recorder {
        let (history, values, acknowledged) = Default::default();
        Recorder { began: Instant::now(), history, values, acknowledged }
    }

    /// Now: the start of an operation, or the end in [`Outcome::Ok`]. Rounding down to whole
    /// microseconds can make two operations overlap, but never changes an order.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// A value that this recorder has not given out before.
    pub fn unique_value(&self) -> Value {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn add(&self, key: &str, event: Event) {
        if matches!((event.operation, event.outcome), (Operation::Put(_), Outcome::Ok(_))) {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.history.lock().unwrap().add(key, event);
    }

    /// How many puts were acknowledged so far. A load that got nowhere proves nothing.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// What was recorded so far.
    pub fn history(&self) -> History {
        self.history.lock().unwrap().clone()
    }

    pub fn check(&self) -> Result<(), Violation> {
        self.history.lock().unwrap().check()
    }
}
