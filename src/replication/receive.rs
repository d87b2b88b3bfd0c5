//! Taking in the records that a peer sends.

use std::time::Duration;

use log::warn;

use super::{Greeted, PEERS_MAX, ReplicationManager};
use crate::error::Result;
use crate::guard::shown;
use crate::metrics;
use crate::store::KeyValueStore;
use crate::store::version::{COUNTER_BITS, HybridClock, latest_plausible};

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

impl ReplicationManager {
    /// Counts what a peer's batch did. Nothing is handed on, but every link compares when things
    /// are quiet: the batch may come from somebody whom another peer cannot reach.
    pub fn merged(&self, from: &Greeted, done: Merged) {
        let links = self.shared.links();
        links.values().for_each(|link| link.queue.stir());
        metrics::add(&self.shared.counters.records_merged, done.merged);
        metrics::add(&self.shared.counters.records_refused, done.refused);
        if done.refused > 0 {
            self.refused_records(from, done.refused_time_max);
        }
    }

    /// A peer compares again and again, since it cannot reach some member. What that one sent this
    /// node may be what the peer lacks, so this node compares too.
    pub(super) fn nudge(&self) {
        self.shared.links().values().for_each(|link| link.queue.nudge());
    }

    /// Records of a peer were refused, up to one of this time.
    fn refused_records(&self, from: &Greeted, time_max: u64) {
        let (shared, (id, address)) = (&self.shared, from.name());
        let ahead_s = (time_max >> COUNTER_BITS).saturating_sub(shared.host.wall_ms()) / 1_000;
        shared.skewed.refused(id, shared.monotonic_ms(), PEERS_MAX, || {
            let Some(left_out) = shared.refused.lines.admit() else {
                return false;
            };
            warn!(
                "records of the peer '{}' are refused: they lie up to {ahead_s} s ahead of this \
                 machine's clock, and --max-clock-skew is {} s. If this clock is right, that \
                 node's is or was wrong: its /readyz says what to do{left_out}",
                shown(address),
                shared.options.clock_skew_max.as_secs()
            );
            true
        });
    }
}
