//! The thread `compaction`: keeps the log short, reserves space for the next snapshot, and heals a
//! log whose disk failed.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::snapshot::{self, ROOM};
use super::write_ahead_log::WriteAheadLog;
use crate::error::Error;
use crate::locks::Latch;
use crate::store::KeyValueStore;

/// See the module.
#[derive(Debug)]
pub struct Compactor {
    /// The log that is kept short.
    pub log: Arc<WriteAheadLog>,
    /// The map whose changes the log holds.
    pub store: Arc<KeyValueStore>,
    /// Whether the disk had too little space to reserve for a snapshot.
    pub lacks_room: bool,
}

impl Compactor {
    /// Runs until it is stopped.
    pub fn run(mut self, stop: &Latch) {
        let mut failed: Option<Instant> = None;
        while !stop.wait_timeout(LOOK_INTERVAL) {
            let is_read_only = self.log.read_only_reason().is_some();
            // Nobody waits for a compaction, and each failed attempt leaves a small log behind.
            let pause = RETRY_PAUSE * if is_read_only { 1 } else { 60 };
            let is_pausing = failed.is_some_and(|when| when.elapsed() < pause);
            if is_pausing {
                continue;
            }
            if !is_read_only {
                self.hold_room();
            }
            if !(is_read_only || self.lacks_room || self.is_longer_than(2.0, LOG_BYTES_MIN)) {
                continue;
            }
            let counts = &self.log.counts;
            counts.is_compacting.store(true, Ordering::Relaxed);
            let result = if is_read_only {
                snapshot::heal(&self.log, &self.store)
            } else {
                snapshot::compact(&self.log, &self.store, &[])
            };
            counts.is_compacting.store(false, Ordering::Relaxed);
            let is_error = result.is_err();
            counts.last_compaction_failed.store(is_error, Ordering::Relaxed);
            self.lacks_room = false;
            if let Err(error) = result
                && failed.is_none()
            {
                let needed = self.needed(&error);
                warn!("cannot write a snapshot: {error}{needed}; trying again every {pause:?}");
            }
            failed = is_error.then(Instant::now);
        }
    }

    /// For the log: what to do about a failure, if we know.
    fn needed(&self, error: &Error) -> String {
        let is_full = matches!(error, Error::Io(error) if error.kind() == ErrorKind::StorageFull);
        let mib = self.snapshot_bytes().div_ceil(1 << 20);
        if is_full {
            format!("; it needs {mib} MiB of room in the data directory")
        } else {
            String::new()
        }
    }

    /// A little more than the bytes of a snapshot of the store as it is now.
    fn snapshot_bytes(&self) -> u64 {
        let bytes = self.store.size().bytes;
        bytes + bytes / 16 + (1 << 20)
    }

    /// Whether the log has more than `times` the bytes of the store, and more than `bytes_min`.
    fn is_longer_than(&self, times: f64, bytes_min: u64) -> bool {
        let bytes = self.log.counts.bytes.load(Ordering::Relaxed);
        bytes > bytes_min && bytes as f64 > times * self.store.size().bytes as f64
    }

    /// Reserves space for the next snapshot once a compaction can be foreseen. It reserves all of
    /// it at once, because the log grows meanwhile. If there is too little, the compaction is due
    /// now, because later there is still less.
    fn hold_room(&mut self) {
        if !self.is_longer_than(1.5, LOG_BYTES_MIN / 2) {
            return;
        }
        let files = self.log.files.as_ref();
        let held = files.read(ROOM, 0).map_or(0, |(_, len)| len);
        let missing = self.snapshot_bytes().saturating_sub(held);
        if missing == 0 {
            return;
        }
        if let Err(error) = files.reserve(ROOM, missing) {
            let mib = self.snapshot_bytes().div_ceil(1 << 20);
            info!("cannot hold {mib} MiB of room for the next snapshot: {error}; writing it now");
            // Gives back what was reserved: the log needs it while the snapshot is written.
            let _ = files.settle(ROOM, held, held);
            self.lacks_room = true;
        }
    }
}

/// Compaction starts when log and snapshot together exceed this and twice the live data: below it
/// a start takes less than a second, and a snapshot would be a waste.
const LOG_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Pause between two attempts to write a snapshot while the disk fails, since each may write all
/// there is; 60 times as long when only compaction fails.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often the compactor polls the log.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
