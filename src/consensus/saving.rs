//! What must be on the disk before others see it, and what happens when the disk fails.

use std::sync::atomic::Ordering;

use super::disk;
use super::shared::Shared;
use crate::error::Result;
use crate::locks::lock;

/// How long a write or an fsync may take. Then this node leads no more, and answers nothing.
const DISK_MS_MAX: u64 = 5_000;

impl Shared {
    /// Returns when everything in the log's buffer is as safe as the policy promises.
    pub(super) fn save(&self) -> Result<()> {
        let end = self.log.end();
        self.saved(self.log.commit(end))
    }

    /// Returns when the term and the vote are on the disk, whatever the policy. Rule 1.
    pub(super) fn save_term(&self) -> Result<()> {
        let position = self.term_position.load(Ordering::Acquire);
        if self.log.is_synced(position) { Ok(()) } else { self.saved(self.log.fsync()) }
    }

    /// Lets the replica know what came of a write or fsync. A failure makes this node step down:
    /// rule 10.
    fn saved(&self, result: Result<()>) -> Result<()> {
        let safe = self.log.safe();
        self.with(|replica, now_ms| match &result {
            Ok(()) => replica.saved(safe, now_ms),
            Err(error) => replica.set_disk_failure(Some(error.to_string()), now_ms),
        });
        result
    }

    /// Lets the replica know whether the disk takes writes, and in time. Rule 10.
    pub(super) fn check_disk(&self) {
        let (safe, now_ms) = (self.log.safe(), self.now_ms());
        let mut standstill = lock(&self.standstill);
        if self.log.end() <= safe || safe > standstill.0 {
            *standstill = (safe, now_ms);
        }
        let is_stuck = now_ms.saturating_sub(standstill.1) > DISK_MS_MAX;
        drop(standstill);
        let slow = || is_stuck.then(|| format!("the disk has not answered for {DISK_MS_MAX} ms"));
        let reason = self.log.read_only_reason().or_else(slow);
        self.with(|replica, now_ms| replica.set_disk_failure(reason, now_ms));
    }

    /// What stands before the map in the snapshot with this number. From now on the map may only
    /// get newer.
    pub(super) fn snapshot_head(&self, number: u64) -> Result<Vec<u8>> {
        let mut mark = Vec::new();
        disk::encode_mark(number, &mut mark);
        let ground = self.with(|replica, _| {
            self.log.append(&mark);
            replica.ground()
        });
        Ok(disk::encode_ground(&ground))
    }
}
