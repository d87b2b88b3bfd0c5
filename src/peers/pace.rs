//! What may go into a batch: how much, how large, how new.

use crate::store::record::Entry;

/// An exchange that took longer makes the next batch smaller, so that small changes seldom wait
/// longer than this for one that is under way.
const SLOW_MS: u64 = 1_000;
/// An exchange that was quicker makes the next batch larger.
const QUICK_MS: u64 = 500;
/// A slow exchange makes batches no smaller than this; it may be the peer's disk that takes the
/// time. Failures do.
const SLOW_BYTES_MIN: usize = 16 * 1024;
/// Records above this size are large: they wait for small ones.
const LARGE_BYTES: usize = 64 * 1024;
/// Longest wait of a large record on a slow connection.
const LARGE_WAIT_MS: u64 = 10_000;

/// How large batches are: smaller after one that failed or was slow, larger after quick ones.
#[derive(Debug)]
pub struct Pace {
    bytes: usize,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    began_ms: u64,
    bytes: usize,
}

/// What may go into the next batch.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// The time, on the monotonic clock of the link.
    pub now_ms: u64,
    /// A batch is full with this many bytes; it has at least one record.
    pub bytes: usize,
    /// Large records go at the latest after this time.
    pub large_wait_ms: u64,
    /// The peer would refuse records of this wall-clock time or later.
    pub refused_from_ms: Option<u64>,
}

/// What becomes of a record when a batch is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes with the small ones.
    Small,
    /// It waits for them.
    Large,
    /// It stays here, since the peer would refuse it.
    Refused,
}

impl Allowed {
    /// What becomes of a record.
    pub fn fate(&self, entry: &Entry) -> Fate {
        match self.refused_from_ms {
            Some(from_ms) if entry.version().wall_ms() >= from_ms => Fate::Refused,
            _ if entry.bytes().len() > LARGE_BYTES => Fate::Large,
            _ => Fate::Small,
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Pace { bytes: usize::MAX, under_way: None }
    }
}

impl Pace {
    /// What may go into a batch now; `bytes_max` on a quick connection.
    pub fn allowed(&self, now_ms: u64, bytes_max: usize, refused_from_ms: Option<u64>) -> Allowed {
        let is_slow = self.bytes < bytes_max;
        let large_wait_ms = if is_slow { LARGE_WAIT_MS } else { 0 };
        Allowed { now_ms, bytes: self.bytes.min(bytes_max), large_wait_ms, refused_from_ms }
    }

    /// A batch of this size is sent.
    pub fn sent(&mut self, now_ms: u64, bytes: usize) {
        self.under_way = Some(UnderWay { began_ms: now_ms, bytes });
    }

    /// Nothing is under way any more: a batch that was has been acknowledged.
    pub fn acknowledged(&mut self, now_ms: u64, bytes_max: usize) {
        let Some(UnderWay { began_ms, bytes }) = self.under_way.take() else {
            return;
        };
        let took_ms = now_ms.saturating_sub(began_ms);
        let before = self.bytes.min(bytes_max);
        if took_ms > SLOW_MS {
            let in_time = (bytes as u64).saturating_mul(SLOW_MS) / took_ms;
            self.bytes = before.min(SLOW_BYTES_MIN.max(in_time as usize));
        } else if took_ms < QUICK_MS && bytes >= before / 2 {
            self.bytes = if before >= bytes_max { usize::MAX } else { before * 2 };
        }
    }

    /// The connection broke. A batch that was under way is tried again at half the size.
    pub fn broken(&mut self) {
        if let Some(UnderWay { bytes, .. }) = self.under_way.take() {
            self.bytes = (self.bytes.min(bytes) / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1024 * 1024;

    fn bytes(pace: &Pace) -> usize {
        pace.allowed(0, MAX, None).bytes
    }

    #[test]
    fn a_batch_that_failed_is_halved_down_to_one_record_and_quick_ones_bring_it_back() {
        let mut pace = Pace::default();
        for expected in [MAX / 2, MAX / 4, MAX / 8] {
            pace.sent(0, bytes(&pace));
            pace.broken();
            assert_eq!(bytes(&pace), expected);
        }
        pace.broken();
        assert_eq!(bytes(&pace), MAX / 8, "nothing was under way");
        for _ in 0..30 {
            pace.sent(0, bytes(&pace));
            pace.broken();
        }
        assert_eq!(bytes(&pace), 1);
        for _ in 0..21 {
            pace.sent(0, bytes(&pace));
            pace.acknowledged(10, MAX);
        }
        assert_eq!((bytes(&pace), pace.allowed(0, MAX, None).large_wait_ms), (MAX, 0));
    }

    #[test]
    fn a_slow_batch_makes_the_next_one_as_large_as_a_second_allows() {
        let mut pace = Pace::default();
        pace.sent(0, MAX);
        pace.acknowledged(10_000, MAX);
        assert_eq!(bytes(&pace), MAX / 10);
        assert_eq!(pace.allowed(0, MAX, None).large_wait_ms, LARGE_WAIT_MS);
        pace.sent(0, 100);
        pace.acknowledged(2_000, MAX);
        assert_eq!(bytes(&pace), SLOW_BYTES_MIN, "it was not the size");
        pace.sent(0, 100);
        pace.acknowledged(10, MAX);
        assert_eq!(bytes(&pace), SLOW_BYTES_MIN, "a small batch says nothing of larger ones");
    }
}
