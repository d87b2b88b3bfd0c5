//! The memory of replies that clients have not taken, all connections together.
//!
//! A request of a few bytes can have a reply of hundreds of megabytes. So the server counts the
//! bytes that wait for clients. When they exceed `--reply-memory`, it closes the connection that
//! holds most of them. It counts only replies that a client does not take at once, and those longer
//! than [`LARGE_BYTES`]. Most replies are neither.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use log::warn;

use super::LogLimiter;
use crate::error::{Code, Error, Refusal, Result};
use crate::locks::lock;
use crate::metrics;

/// Replies from this length on are counted before they are sent, also if the client takes them at
/// once.
pub const LARGE_BYTES: usize = 1024 * 1024;

/// The replies that wait for clients.
///
/// Invariant: `who_holds_most_is_closed`: after each call the sum is at most `bytes_max`.
#[derive(Debug)]
pub struct ReplyMemory {
    bytes_max: u64,
    table: Mutex<Table>,
    lines: LogLimiter,
    /// Connections closed because all together held too much.
    pub closed: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    next_number: u64,
    bytes: u64,
    holders: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    bytes: u64,
    socket: Arc<TcpStream>,
}

/// The bytes that one connection holds, until this is dropped.
#[derive(Debug)]
pub struct Holding {
    number: u64,
    memory: Arc<ReplyMemory>,
}

impl ReplyMemory {
    /// Room for so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        ReplyMemory {
            bytes_max,
            table: Mutex::default(),
            lines: LogLimiter::default(),
            closed: AtomicU64::default(),
        }
    }

    /// Bytes that wait for clients now.
    pub fn bytes(&self) -> u64 {
        lock(&self.table).bytes
    }

    /// Counts a connection that holds nothing yet.
    pub fn holder(self: &Arc<Self>, socket: &Arc<TcpStream>) -> Holding {
        let mut table = lock(&self.table);
        let number = table.next_number;
        table.next_number += 1;
        table.holders.insert(number, Holder { bytes: 0, socket: Arc::clone(socket) });
        drop(table);
        Holding { number, memory: Arc::clone(self) }
    }
}

impl Holding {
    /// The connection holds so many bytes now. Fails if this connection was chosen to be closed,
    /// now or earlier.
    pub fn set(&mut self, bytes: usize) -> Result<()> {
        let memory = &self.memory;
        let mut table = lock(&memory.table);
        if let Some(holder) = table.holders.get_mut(&self.number) {
            let before = std::mem::replace(&mut holder.bytes, bytes as u64);
            table.bytes = table.bytes - before + bytes as u64;
        }
        while table.bytes > memory.bytes_max {
            let largest = table.holders.iter().max_by_key(|(_, holder)| holder.bytes);
            let Some(number) = largest.map(|(number, _)| *number) else {
                break;
            };
            if let Some(holder) = table.holders.remove(&number) {
                table.bytes -= holder.bytes;
                // This connection stays open, so that it can send the reason.
                memory.close(&holder, number != self.number);
            }
        }
        if table.holders.contains_key(&self.number) { Ok(()) } else { Err(memory.exceeded()) }
    }
}

impl ReplyMemory {
    fn close(&self, holder: &Holder, shut_down: bool) {
        if shut_down {
            let _ = holder.socket.shutdown(Shutdown::Both);
        }
        metrics::add(&self.closed, 1);
        if let Some(left_out) = self.lines.admit() {
            warn!(
                "closed the connection that held most of the replies not yet taken, {} of {} MiB \
                 (--reply-memory){left_out}",
                holder.bytes >> 20,
                self.bytes_max >> 20
            );
        }
    }

    fn exceeded(&self) -> Error {
        Error::Protocol(Refusal {
            code: Code::General,
            message: format!(
                "replies not yet taken exceed {} bytes, and this connection holds most of them; \
                 ask for less at a time, or start the server with a larger --reply-memory",
                self.bytes_max
            ),
        })
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut table = lock(&self.memory.table);
        if let Some(holder) = table.holders.remove(&self.number) {
            table.bytes -= holder.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn who_holds_most_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let memory = Arc::new(ReplyMemory::new(100));
        let (mut small, mut large, mut third) =
            (memory.holder(&socket), memory.holder(&socket), memory.holder(&socket));
        small.set(30).unwrap();
        large.set(60).unwrap();
        third.set(20).unwrap();
        assert_eq!(
            (memory.bytes(), metrics::read(&memory.closed)),
            (50, 1),
            "the largest has gone"
        );
        assert!(large.set(1).is_err(), "and learns it");
        assert!(third.set(80).is_err(), "it is the largest itself");
        assert_eq!(memory.bytes(), 30);
        small.set(10).unwrap();
        assert_eq!(memory.bytes(), 10);
        drop((small, large, third));
        assert_eq!(memory.bytes(), 0);
    }
}
