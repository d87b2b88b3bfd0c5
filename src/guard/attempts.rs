//! Wrong passwords: after the third, an address has one try a second.
//!
//! A further try waits for its turn before the password is compared, so many connections do not
//! allow more tries. A right password resets the count of its address: behind a proxy all clients
//! share one address, and one with an old password must not lock the others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use log::warn;

use super::LogLimiter;
use crate::locks::lock;
use crate::metrics;

/// Wrong passwords of an address before its tries are delayed.
const FREE_TRIES: u32 = 3;
/// Time between two tries of an address after that.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for a turn, less than the 5 s that a link waits for a reply. A try that would wait
/// longer is refused at once.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// An address is forgotten after so long without a wrong password.
const MEMORY: Duration = Duration::from_secs(60);
/// Time between two lines of log about one address.
const LINE_PAUSE: Duration = Duration::from_secs(60);
/// Addresses remembered. Beyond it the one with the oldest wrong password is forgotten.
const ADDRESSES_MAX: usize = 4_096;

/// The addresses that gave wrong passwords lately.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Addresses in the table. While there are none, no thread takes its lock.
    addresses: AtomicUsize,
    table: Mutex<HashMap<IpAddr, Record>>,
    lines: LogLimiter,
    /// Wrong passwords since the start.
    pub failed: AtomicU64,
    /// Tries that had to wait, or were refused unseen.
    pub delayed: AtomicU64,
}

#[derive(Debug)]
struct Record {
    failures: u32,
    last_failure: Instant,
    /// When the next try may be looked at.
    next_turn: Instant,
    logged: Option<Instant>,
    /// Failures since then.
    unlogged: u64,
}

impl Attempts {
    /// How long a try from `address` waits for its turn. `None` refuses it, because too many are
    /// before it. Asking takes the turn.
    pub fn turn(&self, address: IpAddr) -> Option<Duration> {
        if self.addresses.load(Ordering::Relaxed) == 0 {
            return Some(Duration::ZERO);
        }
        let turn = self.turn_at(address, Instant::now());
        metrics::add(&self.delayed, u64::from(turn != Some(Duration::ZERO)));
        turn
    }

    fn turn_at(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut table = lock(&self.table);
        let Some(record) =
            table.get_mut(&network(address)).filter(|record| record.failures >= FREE_TRIES)
        else {
            return Some(Duration::ZERO);
        };
        let wait = record.next_turn.saturating_duration_since(now);
        if wait > WAIT_MAX {
            return None;
        }
        record.next_turn = record.next_turn.max(now) + PAUSE;
        Some(wait)
    }

    /// A try from `address` had the right password.
    pub fn succeeded(&self, address: IpAddr) {
        if self.addresses.load(Ordering::Relaxed) > 0 {
            let mut table = lock(&self.table);
            table.remove(&network(address));
            self.addresses.store(table.len(), Ordering::Relaxed);
        }
    }

    /// A try from `address` had a wrong password.
    pub fn failed(&self, address: IpAddr) {
        metrics::add(&self.failed, 1);
        self.failed_at(address, Instant::now());
    }

    fn failed_at(&self, address: IpAddr, now: Instant) {
        let network = network(address);
        let mut table = lock(&self.table);
        make_room(&mut table, &network, now);
        let record = table.entry(network).or_insert(Record {
            failures: 0,
            last_failure: now,
            next_turn: now,
            logged: None,
            unlogged: 0,
        });
        record.failures = record.failures.saturating_add(1);
        record.last_failure = now;
        record.unlogged += 1;
        if record.failures == FREE_TRIES {
            record.next_turn = now + PAUSE;
        }
        let is_quiet =
            record.logged.is_none_or(|logged| now.saturating_duration_since(logged) >= LINE_PAUSE);
        let count = record.unlogged;
        // The lines about many addresses are limited together, too.
        let left_out = if is_quiet { self.lines.admit() } else { None };
        if left_out.is_some() {
            (record.logged, record.unlogged) = (Some(now), 0);
        }
        self.addresses.store(table.len(), Ordering::Relaxed);
        drop(table);
        if let Some(left_out) = left_out {
            warn!(
                "{count} wrong passwords from {address}{left_out}; after the third, tries from \
                 there wait for one second each"
            );
        }
    }
}

/// Forgets quiet addresses when the table is full.
fn make_room(table: &mut HashMap<IpAddr, Record>, newcomer: &IpAddr, now: Instant) {
    if let Some(record) = table.get(newcomer) {
        if now.saturating_duration_since(record.last_failure) >= MEMORY {
            table.remove(newcomer);
        }
        return;
    }
    if table.len() < ADDRESSES_MAX {
        return;
    }
    table.retain(|_, record| now.saturating_duration_since(record.last_failure) < MEMORY);
    if table.len() >= ADDRESSES_MAX {
        let quietest =
            table.iter().min_by_key(|(_, record)| record.last_failure).map(|(address, _)| *address);
        quietest.map(|address| table.remove(&address));
    }
}

/// The network of an address: an owner of one IPv6 address usually has all that share its first 64
/// bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn after_the_third_failure_there_is_one_try_a_second() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        let after = |seconds| Some(Duration::from_secs(seconds));
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..3 {
            assert_eq!(attempts.turn_at(address(1), start), after(0));
            attempts.failed_at(address(1), start);
        }
        let turns: Vec<_> = (0..5).map(|_| attempts.turn_at(address(1), start)).collect();
        assert_eq!(turns, [after(1), after(2), after(3), None, None]);
        assert_eq!(attempts.turn_at(address(2), start), after(0), "others are free");
        assert_eq!(attempts.turn_at(address(1), at(4_500)), after(0));
        assert_eq!(attempts.turn_at(address(1), at(4_500)), after(1));
        attempts.succeeded(address(1));
        assert_eq!(attempts.turn_at(address(1), at(4_500)), after(0), "a right password forgives");
    }

    #[test]
    fn an_address_is_forgotten_after_a_minute_and_the_table_is_bounded() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        (0..4).for_each(|_| attempts.failed_at(address(1), start));
        attempts.failed_at(address(1), start + MEMORY);
        assert_eq!(lock(&attempts.table)[&address(1)].failures, 1);
        (0..2 * ADDRESSES_MAX as u32).for_each(|number| {
            attempts
                .failed_at(address(number), start + MEMORY + Duration::from_millis(number.into()));
        });
        assert_eq!(lock(&attempts.table).len(), ADDRESSES_MAX);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network(parse("2001:db8::1")), network(parse("2001:db8:0:0:ffff::9")));
        assert_ne!(network(parse("2001:db8::1")), network(parse("2001:db8:0:1::1")));
        assert_eq!(network(parse("::ffff:1.2.3.4")), parse("1.2.3.4"));
    }
}
