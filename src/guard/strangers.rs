//! Connections whose client has not given the password may take at most half of all places.
//!
//! A newcomer beyond that closes the *oldest* stranger. An honest client gives its password at
//! once, and the oldest stranger has had the most time for it. So an attacker with many silent
//! connections cannot keep new clients out. A server without a password has no strangers.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use log::warn;

use super::LogLimiter;
use crate::locks::lock;
use crate::metrics;

/// All connections whose client has not given the password.
///
/// Invariant: `the_oldest_stranger_makes_room`: there are never more than `places` of them.
#[derive(Debug)]
pub struct Strangers {
    places: usize,
    table: Mutex<Table>,
    lines: LogLimiter,
    /// How many were closed to make room since the start.
    pub closed: AtomicU64,
}

/// Sockets by the numbers of their strangers, the oldest first.
#[derive(Debug, Default)]
struct Table {
    next_number: u64,
    sockets: BTreeMap<u64, Arc<TcpStream>>,
}

/// A stranger's place, free again when this is dropped: at the password, or at the connection's
/// end.
#[derive(Debug)]
pub struct Stranger {
    number: u64,
    strangers: Arc<Strangers>,
    /// When it became one.
    pub since: Instant,
}

impl Strangers {
    /// Half of all places, at least one.
    pub fn new(connections_max: usize) -> Self {
        Strangers {
            places: (connections_max / 2).max(1),
            table: Mutex::default(),
            lines: LogLimiter::default(),
            closed: AtomicU64::default(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.table).sockets.len()
    }

    /// Gives a place to a connection. Closes the oldest stranger when there is none left.
    pub fn enter(self: &Arc<Self>, socket: &Arc<TcpStream>) -> Stranger {
        let mut table = lock(&self.table);
        let number = table.next_number;
        table.next_number += 1;
        table.sockets.insert(number, Arc::clone(socket));
        let is_over = table.sockets.len() > self.places;
        drop(table);
        if is_over {
            self.close_oldest();
        }
        Stranger { number, strangers: Arc::clone(self), since: Instant::now() }
    }

    /// Closes the stranger that has been here for longest; `false` when there is none.
    pub fn close_oldest(&self) -> bool {
        let oldest = lock(&self.table).sockets.pop_first();
        let Some((_, socket)) = oldest else {
            return false;
        };
        // The next read or write of its thread fails.
        let _ = socket.shutdown(Shutdown::Both);
        metrics::add(&self.closed, 1);
        if let Some(left_out) = self.lines.admit() {
            warn!(
                "closed the oldest connection without a password, since {} of them hold all \
                 places for such{left_out}",
                self.places
            );
        }
        true
    }
}

impl Stranger {
    /// Whether its connection was closed to make room.
    pub fn was_closed(&self) -> bool {
        !lock(&self.strangers.table).sockets.contains_key(&self.number)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        lock(&self.strangers.table).sockets.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_oldest_stranger_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, Arc::new(listener.accept().unwrap().0))
        };
        let strangers = Arc::new(Strangers::new(5));
        let ends: Vec<_> = (0..4).map(|_| connect()).collect();
        let first = strangers.enter(&ends[0].1);
        let second = strangers.enter(&ends[1].1);
        let third = strangers.enter(&ends[2].1);
        assert_eq!(
            [first.was_closed(), second.was_closed(), third.was_closed()],
            [true, false, false]
        );
        assert_eq!(std::io::Read::read(&mut &ends[0].0, &mut [0]).unwrap(), 0, "it is closed");
        drop(second);
        let fourth = strangers.enter(&ends[3].1);
        assert_eq!((strangers.count(), metrics::read(&strangers.closed)), (2, 1));
        drop((first, third, fourth));
        assert_eq!(strangers.count(), 0);
        assert!(!strangers.close_oldest());
    }
}
