//! # Guarding: what strangers may take, and what becomes of their words
//!
//! **The problem.** Whoever reaches the port can send bytes, before any password. Those bytes must not fill the memory,
//! the log or the table of open files, and must not pass for the server's own words.
//!
//! **The rules.**
//! - Words of others are escaped and cut ([`shown`], [`sentence`]) before they reach the log, a state or a message about somebody else.
//! - What others can cause to be logged is limited to a line a second ([`LogLimiter`]). Every event is counted all the same.
//!
//! Everything here is a leaf: it knows no node, store or socket protocol.

mod limiter;
mod words;

pub use limiter::LogLimiter;
pub use words::{sentence, shown};
