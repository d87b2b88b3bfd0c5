//! Records that a peer refuses because they are too far ahead of its clock.
//!
//! They must arrive once the clocks have come together, and until then should cost next to nothing.
//! A peer refuses by time alone, so of a batch it refused the newest. What is as new or newer stays
//! here, a *probe* of one record is sent again and again, more and more seldom, and when the peer
//! takes it everything is compared.

use crate::store::record::decode_all;

/// First and longest pause between two probes; it doubles between the two.
const PROBE_PAUSE_MS: (u64, u64) = (1_000, 5_000);
/// A probe that is longer than this is sent at most once in [`LARGE_PROBE_PAUSE_MS`].
const LARGE_PROBE_BYTES: usize = 64 * 1024;
/// Pause before a long probe.
const LARGE_PROBE_PAUSE_MS: u64 = 60_000;

/// What the peer of a link refuses.
#[derive(Debug, Default)]
pub struct Refusals {
    first: Option<First>,
    pause_ms: u64,
}

/// The oldest record that was refused.
#[derive(Debug)]
struct First {
    key: Box<[u8]>,
    wall_ms: u64,
    /// When it is tried again.
    probe_ms: u64,
}

impl Refusals {
    /// From which wall-clock time on records stay here.
    pub fn from_ms(&self) -> Option<u64> {
        self.first.as_ref().map(|first| first.wall_ms)
    }

    /// The peer refused so many records of a batch.
    pub fn note(&mut self, batch: &[u8], refused: u64, now_ms: u64) {
        let mut times: Vec<u64> =
            decode_all(batch).flatten().map(|record| record.version.wall_ms()).collect();
        times.sort_unstable_by(|one, other| other.cmp(one));
        let Some(wall_ms) = times.get((refused as usize).min(times.len()).wrapping_sub(1)).copied()
        else {
            return;
        };
        let Some(record) =
            decode_all(batch).flatten().find(|record| record.version.wall_ms() == wall_ms)
        else {
            return;
        };
        let is_again = self.first.as_ref().is_some_and(|first| *first.key == *record.key);
        if self.from_ms().is_some_and(|from_ms| from_ms <= wall_ms) && !is_again {
            return;
        }
        self.pause_ms = match self.pause_ms {
            0 => PROBE_PAUSE_MS.0,
            before => (before * 2).min(PROBE_PAUSE_MS.1),
        };
        let pause_ms = if record.encoded_len() > LARGE_PROBE_BYTES {
            LARGE_PROBE_PAUSE_MS
        } else {
            self.pause_ms
        };
        let probe_ms = now_ms + pause_ms;
        self.first = Some(First { key: record.key.into(), wall_ms, probe_ms });
    }

    /// When a probe is due.
    pub fn probe_ms(&self) -> Option<u64> {
        self.first.as_ref().map(|first| first.probe_ms)
    }

    /// The key whose record is to be sent as a probe now.
    pub fn probe(&self, now_ms: u64) -> Option<&[u8]> {
        self.first.as_ref().filter(|first| now_ms >= first.probe_ms).map(|first| &*first.key)
    }

    /// The peer took the probe: perhaps it takes everything.
    pub fn lift(&mut self) {
        self.first = None;
    }

    /// The peer has taken everything.
    pub fn end(&mut self) {
        *self = Refusals::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::Record;
    use crate::store::version::{COUNTER_BITS, Version};

    fn batch(times_ms: &[u64]) -> Vec<u8> {
        let mut batch = Vec::new();
        for time_ms in times_ms {
            let version = Version { time: time_ms << COUNTER_BITS, origin: 1 };
            Record { version, key: &time_ms.to_le_bytes(), value: Some(b"v") }.encode(&mut batch);
        }
        batch
    }

    #[test]
    fn what_is_as_new_as_what_was_refused_stays() {
        let mut refusals = Refusals::default();
        assert_eq!((refusals.from_ms(), refusals.probe(0)), (None, None));
        refusals.note(&batch(&[10, 400, 300, 200]), 2, 1_000);
        assert_eq!(refusals.from_ms(), Some(300), "the two newest");
        refusals.note(&batch(&[500]), 1, 1_050);
        assert_eq!(refusals.from_ms(), Some(300), "that was known");
        refusals.note(&batch(&[200]), 1, 1_050);
        assert_eq!(refusals.from_ms(), Some(200));
    }

    #[test]
    fn probes_are_sent_more_and_more_seldom() {
        let mut refusals = Refusals::default();
        let (probe, mut now_ms, mut pauses_ms) = (batch(&[300]), 0, Vec::new());
        refusals.note(&probe, 1, now_ms);
        for _ in 0..6 {
            let at_ms = refusals.probe_ms().expect("one is due at last");
            pauses_ms.push(at_ms - now_ms);
            assert_eq!(refusals.probe(at_ms - 1), None);
            assert_eq!(refusals.probe(at_ms), Some(&300u64.to_le_bytes()[..]));
            now_ms = at_ms;
            refusals.note(&probe, 1, now_ms);
        }
        assert_eq!(pauses_ms, [1_000, 2_000, 4_000, 5_000, 5_000, 5_000]);
        refusals.lift();
        assert_eq!(refusals.from_ms(), None);
        refusals.end();
        refusals.note(&probe, 1, now_ms);
        assert_eq!(refusals.probe_ms(), Some(now_ms + 1_000));
    }
}
