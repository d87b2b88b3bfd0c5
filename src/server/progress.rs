//! Signs of life while a peer's batch is read.
//!
//! A peer waits for the acknowledgement of its batch, and on a slow connection the batch takes
//! minutes. So while one is read this node sends a line `+<bytes so far>` every second, in front of
//! the reply:
//!
//! ```text
//!   peer:   *3 $4 PEER $5 MERGE $1048576 <1,048,576 bytes>
//!   here:                                  +102400   +204800   …   *2 :100 :0
//! ```
//!
//! Only a connection that has completed a `PEER HELLO` gets such lines, and only while it sends a
//! `PEER MERGE`, so no other client ever meets one.

use std::time::{Duration, Instant};

/// Pause between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest sleep while a batch is read, so that a line is sent on time.
pub const SLICE: Duration = Duration::from_millis(250);

/// Batches from this size on: a smaller one arrives within a sender's patience of 5 s at 3 KB/s.
pub const BYTES_MIN: usize = 16 * 1024;

/// When the last line was sent.
#[derive(Debug, Default)]
pub struct Progress {
    last: Option<Instant>,
}

impl Progress {
    /// The line to be sent now, if it is time for one; `bytes` of the batch are here.
    pub fn line(&mut self, bytes: usize) -> Option<String> {
        let last = self.last.get_or_insert_with(Instant::now);
        if last.elapsed() < INTERVAL {
            return None;
        }
        *last = Instant::now();
        Some(format!("+{bytes}\r\n"))
    }

    /// No batch is under way.
    pub fn end(&mut self) {
        self.last = None;
    }
}
