//! Counters of what a node did, for `INFO`.
//!
//! Connections count for themselves while they work and add up here once per batch of replies
//! ([`crate::node::Batch`]), so counting costs a `GET` one addition and threads do not fight over a counter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Counts from the start of the process; they only grow, but for [`Metrics::connections_open`].
#[derive(Debug)]
#[allow(missing_docs)] // The names say it.
pub struct Metrics {
    pub started: Instant,
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
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            started: Instant::now(),
            connections_open: AtomicU64::default(),
            connections_accepted: AtomicU64::default(),
            connections_rejected: AtomicU64::default(),
            accept_errors: AtomicU64::default(),
            protocol_errors: AtomicU64::default(),
            commands: AtomicU64::default(),
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
            input_bytes: AtomicU64::default(),
            output_bytes: AtomicU64::default(),
        }
    }
}

/// Adds to a counter and returns the sum.
pub fn add(counter: &AtomicU64, amount: u64) -> u64 {
    counter.fetch_add(amount, Ordering::Relaxed) + amount
}

/// Reads a counter.
pub fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Resident memory of this process in bytes, from `/proc`; 0 where there is none.
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| {
        let resident = text.split(' ').nth(1)?;
        resident.parse::<u64>().ok()
    });
    // statm counts pages; every platform this was run on has pages of 4 KiB.
    pages.unwrap_or(0) * 4096
}
