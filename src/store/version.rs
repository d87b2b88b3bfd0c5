//! Versions, which say when a write happened, and the hybrid logical clock, which draws them.
//!
//! **The problem.** Several nodes write the same key, and no two wall clocks agree. Still every
//! node must choose the same winner. A write that *saw* another write must win over it, even if the
//! writer's wall clock is behind.
//!
//! **The idea.** A hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014, figure
//! 5): the larger of the wall clock and "one more than the largest time seen so far". It stays near
//! real time, so a person can read it. It never runs backwards, so an effect is later than its
//! cause.
//!
//! **The rules.** `time` is 48 bits of milliseconds since 1970 and 16 bits of counter. Two writes
//! with equal times differ in `origin`, the *run id*: 64 random bits, drawn at every start and
//! stored nowhere. So no two writes have the same version, not even after a data directory was
//! copied.
//!
//! **What is left out.** The paper's message rules with separate `l` and `c`: packed into one
//! integer they are one `max` and one addition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bits of a time that hold the counter; the 48 above them are milliseconds since 1970.
pub const COUNTER_BITS: u32 = 16;

/// The version of one write: larger wins, compared by time and then by origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// Hybrid logical time: milliseconds since 1970 shifted left by [`COUNTER_BITS`], plus a
    /// counter.
    pub time: u64,
    /// Run id of the node that took the write.
    pub origin: u64,
}

impl Version {
    /// The wall-clock part, in milliseconds since 1970.
    pub fn wall_ms(self) -> u64 {
        self.time >> COUNTER_BITS
    }
}

/// Stamps writes with times that only go up.
///
/// Invariants:
/// - `a_stamp_exceeds_every_earlier_stamp` of this clock, on whatever thread.
/// - `a_stamp_exceeds_the_time_it_replaces`, so the writer's own change always wins locally.
/// - `a_stamp_is_never_behind_the_wall_clock`.
#[derive(Debug, Default)]
pub struct HybridClock {
    last: AtomicU64,
}

impl HybridClock {
    /// A new time, larger than all before it, than `floor`, and not behind `wall_ms`.
    pub fn stamp(&self, wall_ms: u64, floor: u64) -> u64 {
        let at_least = (wall_ms << COUNTER_BITS).max(floor.saturating_add(1));
        let next = |last: u64| at_least.max(last.saturating_add(1));
        // Relaxed is enough: the shard's lock orders the writes of one key, and times of different
        // keys are never compared.
        let stamped = |last| Some(next(last));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, stamped);
        next(last.unwrap_or_else(|last| last))
    }

    /// Learns of a time seen elsewhere: no later stamp is below it.
    pub fn observe(&self, time: u64) {
        self.last.fetch_max(time, Ordering::Relaxed);
    }

    /// How far this clock is ahead of the wall clock.
    pub fn ahead_of(&self, wall_ms: u64) -> Duration {
        Duration::from_millis((self.latest() >> COUNTER_BITS).saturating_sub(wall_ms))
    }

    /// The largest time stamped or seen.
    pub fn latest(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}

/// The largest hybrid time that is at most `skew_max` ahead of the wall clock.
pub fn latest_plausible(wall_ms: u64, skew_max: Duration) -> u64 {
    let ms = wall_ms.saturating_add(skew_max.as_millis() as u64);
    ms.min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS | ((1 << COUNTER_BITS) - 1)
}

/// The wall clock in milliseconds since 1970; 0 on a machine whose clock is set before that.
pub fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stamp_exceeds_every_earlier_stamp(
            calls in prop::collection::vec((0u64..1 << 40, 0u64..1 << 56), 1..50),
        ) {
            let clock = HybridClock::default();
            let mut last = 0;
            for (wall_ms, floor) in calls {
                let time = clock.stamp(wall_ms, floor);
                prop_assert!(time > last);
                last = time;
            }
        }

        #[test]
        fn a_stamp_exceeds_the_time_it_replaces(wall_ms in 0u64..1 << 40, floor in 0u64..u64::MAX) {
            prop_assert!(HybridClock::default().stamp(wall_ms, floor) > floor);
        }

        #[test]
        fn a_stamp_is_never_behind_the_wall_clock(
            wall_ms in 0u64..1 << 47,
            floor in 0u64..1 << 56,
        ) {
            let version = Version { time: HybridClock::default().stamp(wall_ms, floor), origin: 0 };
            prop_assert!(version.wall_ms() >= wall_ms);
        }
    }

    #[test]
    fn threads_never_draw_the_same_stamp() {
        let clock = HybridClock::default();
        let mut times: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..5_000).map(|_| clock.stamp(1, 0)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("thread ran")).collect()
        });
        times.sort_unstable();
        times.dedup();
        assert_eq!(times.len(), 20_000);
    }

    #[test]
    fn a_lagging_wall_clock_does_not_pull_stamps_back() {
        let clock = HybridClock::default();
        let ahead = clock.stamp(2_000, 0);
        assert!(clock.stamp(1_000, 0) > ahead);
        clock.observe(9_000 << COUNTER_BITS);
        assert!(clock.stamp(1_000, 0) > 9_000 << COUNTER_BITS);
    }
}
