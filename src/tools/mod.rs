//! # Measuring and leaving: the tools
//!
//! [`mod@bench`] says how fast a server is and how long its clients wait; [`export`] writes a
//! node's data out for other programs. Both are clients of a running server and know nothing of
//! how it works, so read them last, or not at all.

pub mod bench;
pub mod export;
