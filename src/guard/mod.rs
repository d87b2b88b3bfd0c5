//! # Guarding: what strangers and greedy clients may take
//!
//! **The problem.** Whoever reaches the port can send bytes, before any password. Those bytes must
//! not fill the memory, the log or the table of open files, must not pass for the server's own
//! words, and must not keep others out. Who has the password is trusted with the data, but a client
//! that asks for more than it takes must not end the process.
//!
//! **The rules.**
//! - The password is the boundary. A stranger has not given it: see [`Strangers`] for its place and
//!   `server::connection` for its 10 s, 16 KiB a request and 64 KiB in all. Without a password
//!   everybody who can connect is trusted, which is why only loopback goes without one.
//! - Wrong passwords are counted and delayed ([`Attempts`]).
//! - Replies not yet taken are counted, all connections together ([`ReplyMemory`]).
//! - Words of others are escaped and cut ([`shown`], [`sentence`]) before they reach the log, a
//!   state or a message about somebody else. What others can cause to be logged is limited to a
//!   line a second ([`LogLimiter`]), and counted.
//!
//! **What is left out.** Requests that are on their way are not counted together: a connection with
//! the password may send one of 512 MiB, and it is gone 10 minutes later at the latest. Whoever may
//! do that may also store as much.
//!
//! Everything here is a leaf: it knows no node, store or protocol. Only HTTP requests with
//! a password use it per request.

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

/// Compares without stopping at the first difference, so that the time taken says nothing about
/// how much of a guess is right.
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
