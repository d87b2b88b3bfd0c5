//! Counters and a latency histogram, for `INFO`, Prometheus and the page.
//!
//! Each connection counts in its own [`crate::node::Batch`] and adds the sums to the shared
//! counters once per batch of replies. So counting costs a `GET` one addition, and threads seldom
//! contend for the counters.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::locks::lock;

/// Counts since the start of the process. All but [`Metrics::connections_open`] only grow.
#[derive(Debug, Default)]
#[allow(missing_docs)] // The names say it.
pub struct Metrics {
    pub connections_open: AtomicU64,
    pub connections_accepted: AtomicU64,
    pub connections_rejected: AtomicU64,
    /// Failed `accept` calls and thread starts.
    pub accept_errors: AtomicU64,
    pub protocol_errors: AtomicU64,
    pub commands: AtomicU64,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub input_bytes: AtomicU64,
    pub output_bytes: AtomicU64,
    /// Time from the arrival of a command's last byte to its settled reply, in nanoseconds.
    /// Commands that arrived together wait for each other, so each counts with the time of their
    /// batch. One batch in 16 is timed and counts also for the batches before it.
    pub latency: Histogram,
    history: Mutex<History>,
}

/// The samples of the last minutes, and the counters as they were at the newest one.
#[derive(Debug, Default)]
struct History {
    samples: VecDeque<Sample>,
    uptime: Duration,
    commands: u64,
    latency: Histogram,
}

/// The work between two readings of the counters.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Commands per second.
    pub rate: f64,
    /// The latency's p50 and p99 in nanoseconds, if there were commands.
    pub latency: Option<(u64, u64)>,
}

impl Metrics {
    /// Takes a sample of the work since the last one, and keeps the newest `samples_max`.
    pub fn take_sample(&self, uptime: Duration, samples_max: usize) {
        let mut history = lock(&self.history);
        let (commands, seconds) = (read(&self.commands), (uptime - history.uptime).as_secs_f64());
        let latency = history.latency.catch_up(&self.latency);
        let sample = Sample {
            rate: (commands - history.commands) as f64 / seconds,
            latency: (latency.count() > 0).then(|| (latency.quantile(0.5), latency.quantile(0.99))),
        };
        (history.uptime, history.commands) = (uptime, commands);
        history.samples.push_back(sample);
        if history.samples.len() > samples_max {
            history.samples.pop_front();
        }
    }

    /// The samples, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        let history = lock(&self.history);
        history.samples.iter().copied().collect()
    }
}

/// Counts values in buckets, for quantiles. There are 32 buckets for each doubling, so a bucket is
/// at most 3.2 % wide, as in HdrHistogram (<https://hdrhistogram.org>).
///
/// Invariants:
/// - `a_bucket_contains_its_values`: every value is above the bound of the bucket before its own,
///   and not above that of its own.
/// - Observing never fails and never allocates: values beyond the last bucket are counted in it.
#[derive(Debug)]
pub struct Histogram {
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

const STEP_BITS: u32 = 5;
const STEPS: usize = 1 << STEP_BITS;
/// 18 minutes in nanoseconds: nothing here takes longer.
const VALUE_MAX: u64 = (1 << 40) - 1;

impl Default for Histogram {
    fn default() -> Self {
        let counts = (0..=bucket(VALUE_MAX)).map(|_| AtomicU64::default());
        Histogram { counts: counts.collect(), sum: AtomicU64::default() }
    }
}

impl Histogram {
    /// Counts a value `times` times.
    pub fn observe(&self, value: u64, times: u64) {
        add(&self.counts[bucket(value)], times);
        add(&self.sum, value.min(VALUE_MAX) * times);
    }

    /// Counts what another histogram counted.
    pub fn absorb(&self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter().zip(&other.counts) {
            add(mine, read(theirs));
        }
        add(&self.sum, read(&other.sum));
    }

    /// Adds what `later` has counted since this histogram was last equal to it, and returns that.
    fn catch_up(&self, later: &Histogram) -> Histogram {
        let missed = Histogram::default();
        for (index, count) in later.counts.iter().enumerate() {
            add(&missed.counts[index], read(count) - read(&self.counts[index]));
        }
        self.absorb(&missed);
        missed
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(read).sum()
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        read(&self.sum)
    }

    /// Buckets that are not empty, in order: the largest value that falls into each, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.counts.iter().enumerate();
        counts.map(|(index, count)| (bound(index), read(count))).filter(|(_, count)| *count > 0)
    }

    /// The value that the share `quantile` of all values does not exceed, at most 3.2 % too high; 0
    /// without values.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let total = self.count();
        let rank = ((total as f64 * quantile).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        let found = self.buckets().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(0, |(bound, _)| bound)
    }
}

/// The bucket of a value: the position of its highest bit, and the five bits after it.
fn bucket(value: u64) -> usize {
    let value = value.min(VALUE_MAX);
    let shift = (u64::BITS - STEP_BITS - 1).saturating_sub(value.leading_zeros());
    shift as usize * STEPS + (value >> shift) as usize
}

/// The largest value of a bucket.
fn bound(bucket: usize) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    (((bucket - shift * STEPS + 1) as u64) << shift) - 1
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Reads a counter.
pub fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Resident memory of this process in bytes, from `/proc`; 0 where there is none.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|resident| resident.parse().ok());
    // statm counts pages; every platform this was run on has pages of 4 KiB.
    pages.unwrap_or(0) * 4096
}

/// Open files of this process, from `/proc`; `None` where there is none.
pub fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

/// How many files this process may open, from `/proc`; `None` where there is none.
pub fn open_files_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_contains_its_values(exponent in 0u32..41, low in any::<u64>()) {
            let value = ((1 << exponent) | (low & ((1 << exponent) - 1))).min(VALUE_MAX);
            let index = bucket(value);
            prop_assert!(value <= bound(index));
            prop_assert!(index == 0 || value > bound(index - 1));
            prop_assert!(bound(index) - value <= value / STEPS as u64);
        }
    }

    #[test]
    fn a_sample_is_about_the_time_since_the_last_one() {
        let metrics = Metrics::default();
        for (second, latency) in [(1, 1_000), (3, 1_000_000)] {
            add(&metrics.commands, 10);
            metrics.latency.observe(latency, 10);
            metrics.take_sample(Duration::from_secs(second), 2);
        }
        let samples = metrics.samples();
        for (sample, (rate, latency)) in samples.iter().zip([(10.0, 1_000), (5.0, 1_000_000)]) {
            let (p50, p99) = sample.latency.expect("commands");
            assert!(
                sample.rate == rate && p50 == p99 && (latency..latency * 33 / 32).contains(&p50),
                "{samples:?}"
            );
        }
        metrics.take_sample(Duration::from_secs(4), 2);
        let [busy, idle] = metrics.samples()[..] else { panic!("the oldest is dropped") };
        assert!(busy.latency == samples[1].latency && idle.latency.is_none() && idle.rate == 0.0);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        (1..=1000).for_each(|value| histogram.observe(value * 1000, 1));
        for (quantile, exact) in [(0.0, 1_000), (0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = histogram.quantile(quantile);
            assert!((exact..exact + exact / 30).contains(&found), "{quantile}: {found}");
        }
        histogram.observe(u64::MAX, 1_000_000);
        assert_eq!(histogram.quantile(0.5), VALUE_MAX);
    }
}
