//! How long requests take.

use std::time::Instant;

use crate::metrics::Histogram;

/// Measures latency: every 16th read of a connection, the first one included. Asking the clock
/// twice for each would make a single `GET` 11 % longer.
///
/// Invariant: `a_timed_read_stands_for_those_before_it`: so counts in the histogram are those of
/// commands, but for the last few of a connection.
#[derive(Default)]
pub(super) struct Stopwatch {
    reads: u32,
    started: Option<Instant>,
    /// Commands since the last one that was timed.
    untimed: u64,
}

impl Stopwatch {
    pub(super) fn start(&mut self) {
        if self.reads.is_multiple_of(16) {
            self.started = Some(Instant::now());
        }
        self.reads = self.reads.wrapping_add(1);
    }

    pub(super) fn stop(&mut self, commands: u64, latency: &Histogram) {
        self.untimed += commands;
        if self.started.is_some() && commands > 0 {
            self.observe(latency);
        }
    }

    /// Apart, so that the fifteen reads that are not timed stay short.
    #[cold]
    fn observe(&mut self, latency: &Histogram) {
        if let Some(started) = self.started.take() {
            latency.observe(started.elapsed().as_nanos() as u64, std::mem::take(&mut self.untimed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timed_read_stands_for_those_before_it() {
        let (mut stopwatch, latency) = (Stopwatch::default(), Histogram::default());
        let mut counts = Vec::new();
        for _ in 0..33 {
            stopwatch.start();
            stopwatch.stop(2, &latency);
            counts.push(latency.buckets().map(|(_, count)| count).sum::<u64>());
        }
        assert_eq!((counts[0], counts[15], counts[16], counts[32]), (2, 2, 34, 66));
    }
}
