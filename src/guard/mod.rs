//! # Guarding: limits for strangers and greedy clients
//!
//! **The problem.** Everybody who reaches the port can send bytes before the password. These bytes
//! must not fill the memory, the log or the table of open files, must not forge lines of the log,
//! and must not keep other clients out. A client with the password is trusted with the data. But a
//! client that requests more than it reads must not end the process.
//!
//! **The rules.**
//! - The password is the boundary. A stranger is a connection that has not given it. [`Strangers`]
//!   limits their number. `server::connection` limits each to 10 s, 16 KiB a request and 64 KiB in
//!   all. A server without a password trusts everybody who can connect, so by default it listens on
//!   loopback only.
//! - Wrong passwords are counted and delayed ([`Attempts`]).
//! - The bytes of replies that clients have not taken are counted, all connections together
//!   ([`ReplyMemory`]).
//! - Text from others is escaped and cut ([`shown`], [`sentence`]) before it is logged or shown.
//!   Messages that others can cause are limited to one line of log a second ([`LogLimiter`]).
//!
//! **What is left out.** Incomplete requests are not counted together: a connection with the
//! password may send one of 512 MiB, which must be complete within 10 minutes. A client that may do
//! so may also store as much.
//!
//! This chapter knows no node, store or protocol. Only HTTP requests with a password use it per
//! request.

mod attempts;
mod limiter;
mod reply_memory;
mod strangers;
mod words;

use std::sync::Arc;

pub use attempts::Attempts;
pub use limiter::LogLimiter;
pub use reply_memory::{Holding, LARGE_BYTES, ReplyMemory};
pub use strangers::{Stranger, Strangers};
pub use words::{sentence, shown};

/// Compares without stopping at the first difference, so that the time taken does not depend on how
/// much of a guess is right.
pub fn same_in_constant_time(expected: &[u8], given: &[u8]) -> bool {
    let mut difference = expected.len() ^ given.len();
    for (index, byte) in given.iter().enumerate() {
        let expected = expected.get(index % expected.len().max(1)).copied().unwrap_or_default();
        difference |= usize::from(std::hint::black_box(expected ^ byte));
    }
    difference == 0
}

/// The guards of one node.
#[derive(Debug)]
pub struct Guard {
    /// Connections that have not given the password.
    pub strangers: Arc<Strangers>,
    /// Wrong passwords.
    pub attempts: Attempts,
    /// Replies not yet taken.
    pub replies: Arc<ReplyMemory>,
}

impl Guard {
    /// Guards for so many connections and bytes of replies.
    pub fn new(connections_max: usize, reply_memory_bytes: u64) -> Self {
        Guard {
            strangers: Arc::new(Strangers::new(connections_max)),
            attempts: Attempts::default(),
            replies: Arc::new(ReplyMemory::new(reply_memory_bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_compared_as_a_whole() {
        assert!(same_in_constant_time(b"secret", b"secret"));
        for wrong in [&b""[..], b"secre", b"secrets", b"secretsecret", b"Secret", b"xxxxxx"] {
            assert!(!same_in_constant_time(b"secret", wrong));
        }
        assert!(!same_in_constant_time(b"", b"x"));
    }
}
