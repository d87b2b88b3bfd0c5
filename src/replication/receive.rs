//! Taking in the records that a peer sends.

use std::time::Duration;

use crate::error::Result;
use crate::store::KeyValueStore;
use crate::store::version::{HybridClock, latest_plausible};

/// What a merged batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Records taken in, also those that were here already.
    pub merged: u64,
    /// Records too far in the future.
    pub refused: u64,
    /// The largest time of a refused record; 0 without one.
    pub refused_time_max: u64,
    /// The highest log position of the shards touched.
    pub position: u64,
}

/// Merges a batch of records from a peer. A record more than `skew_max` ahead of `wall_ms` is left
/// out and does not move the clock; the rest merges. Nothing here hands records on: a record that
/// was received is never forwarded, so it cannot go round in circles.
pub fn merge(
    store: &KeyValueStore,
    clock: &HybridClock,
    records: &[u8],
    (wall_ms, skew_max): (u64, Duration),
    mut journal: impl FnMut(&[u8]) -> u64,
) -> Result<Merged> {
    let mut done = Merged::default();
    for record in store.decode_for_merge(records) {
        let record = record?;
        if !is_plausible(record.version.time, wall_ms, skew_max) {
            done.refused += 1;
            done.refused_time_max = done.refused_time_max.max(record.version.time);
            continue;
        }
        clock.observe(record.version.time);
        let written = store.merge(&record, &mut journal);
        done.position = done.position.max(written.position);
        done.merged += 1;
    }
    Ok(done)
}

/// Whether a hybrid time is at most `skew_max` ahead of the wall clock.
pub fn is_plausible(time: u64, wall_ms: u64, skew_max: Duration) -> bool {
    time <= latest_plausible(wall_ms, skew_max)
}
