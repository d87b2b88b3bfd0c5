//! The thread `compaction`: keeps the log short, reserves space for the next snapshot, and heals a
//! log whose disk failed.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::snapshot::{self, HeadFunction, ROOM, Source};
use super::write_ahead_log::WriteAheadLog;
use crate::error::Error;
use crate::locks::Latch;
use crate::store::KeyValueStore;

/// See the module.
#[allow(missing_debug_implementations)] // It holds a function.
pub struct Compactor {
    /// The log that is kept short.
    pub log: Arc<WriteAheadLog>,
    /// The map whose changes the log holds.
    pub store: Arc<KeyValueStore>,
    /// What stands before the map in a snapshot, if anything does.
    pub head: Option<Box<HeadFunction<'static>>>,
}

impl Compactor {
    /// Runs until it is stopped.
    pub fn run(self, stop: &Latch) {
        let mut failed: Option<Instant> = None;
        while !stop.wait_timeout(LOOK_INTERVAL) {
            let is_read_only = self.log.read_only_reason().is_some();
            // Nobody waits for a compaction, and each failed attempt leaves a small log behind.
            let pause = RETRY_PAUSE * if is_read_only { 1 } else { 60 };
            let is_pausing = failed.is_some_and(|when| when.elapsed() < pause);
            if is_pausing || !(is_read_only || self.is_due()) {
                continue;
            }
            let counts = &self.log.counts;
            counts.is_compacting.store(true, Ordering::Relaxed);
            let source = Source { store: &self.store, head: self.head.as_deref() };
            let result = if is_read_only {
                snapshot::heal(&self.log, source)
            } else {
                snapshot::compact(&self.log, source, &[])
            };
            counts.is_compacting.store(false, Ordering::Relaxed);
            let is_error = result.is_err();
            counts.last_compaction_failed.store(is_error, Ordering::Relaxed);
            if let Err(error) = result
                && failed.is_none()
            {
                let mib = snapshot_bytes(self.store.size().bytes).div_ceil(1 << 20);
                let needed = match &error {
                    Error::Io(error) if error.kind() == ErrorKind::StorageFull => {
                        format!("; it needs {mib} MiB of room in the data directory")
                    }
                    _ => String::new(),
                };
                warn!("cannot write a snapshot: {error}{needed}; trying again every {pause:?}");
            }
            failed = is_error.then(Instant::now);
        }
    }

    /// Whether a compaction is due. Once one can be foreseen, reserves space for its snapshot. If
    /// there is too little, the compaction is due now, because later there is still less.
    fn is_due(&self) -> bool {
        let log_bytes = self.log.counts.bytes.load(Ordering::Relaxed);
        if log_bytes <= LOG_BYTES_MIN / 2 {
            return false;
        }
        let bytes = self.store.size().bytes;
        let lacks_room = log_bytes > bytes + bytes / 2 && !self.hold_room(snapshot_bytes(bytes));
        lacks_room || (log_bytes > LOG_BYTES_MIN && log_bytes > 2 * bytes)
    }

    /// Makes the file `room` so long; false if there is too little space. It reserves all of it at
    /// once, because the log grows meanwhile.
    fn hold_room(&self, bytes: u64) -> bool {
        let files = self.log.files.as_ref();
        let held = files.read(ROOM, 0).map_or(0, |(_, len)| len);
        if held >= bytes {
            return true;
        }
        let reserved = files.reserve(ROOM, bytes - held);
        if let Err(error) = &reserved {
            let mib = bytes.div_ceil(1 << 20);
            info!("cannot hold {mib} MiB of room for the next snapshot: {error}; writing it now");
            // Gives back what was reserved: the log needs it while the snapshot is written.
            let _ = files.settle(ROOM, held, held);
        }
        reserved.is_ok()
    }
}

/// A little more than the bytes of a snapshot of a store with so many bytes.
fn snapshot_bytes(store_bytes: u64) -> u64 {
    store_bytes + store_bytes / 16 + (1 << 20)
}

/// Compaction starts when log and snapshot together exceed this and twice the live data: below it
/// a start takes less than a second, and a snapshot would be a waste.
const LOG_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Pause between two attempts to write a snapshot while the disk fails, since each may write all
/// there is; 60 times as long when only compaction fails.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often the compactor polls the log.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
