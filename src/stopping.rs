//! The gentle stop: `SHUTDOWN`.
//!
//! `kill -9` is safe for what is on the disk. A gentle stop also brings to the peers what only this
//! node has. It must not lose what it acknowledges meanwhile, so the order matters:
//!
//! 1. [`GentleStop::ask`] sets a flag. From then on a client's write is refused before it is
//!    stamped.
//! 2. The listener closes, see [`crate::server::NodeServer::stop`].
//! 3. The links drain, see [`crate::replication::drain`], and the log is fsynced.
//!
//! **Why nothing acknowledged is missed.** A connection merges a write and queues it for the links.
//! Then it looks at the flag, and only then it sends its replies. The drain begins after the flag
//! was set. So either the connection found the flag unset, and the drain waits for its write, or it
//! found the flag set, and the client hears that the outcome is unknown.

use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::locks::Latch;

/// Whether the process was asked to stop, and who waits for that.
#[derive(Debug, Default)]
pub struct GentleStop {
    asked: Latch,
}

impl GentleStop {
    /// From now on no client's write is acknowledged.
    pub fn ask(&self) {
        self.asked.open();
    }

    /// Whether somebody asked.
    pub fn is_asked(&self) -> bool {
        self.asked.is_open()
    }

    /// Waits until somebody asks, or for `timeout`; whether somebody asked.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.asked.wait_timeout(timeout)
    }

    /// Refuses to begin a write, or to acknowledge one that the drain may have missed. `outcome`
    /// says what became of the write.
    pub fn check(&self, outcome: &str) -> Result<()> {
        if self.is_asked() {
            return Err(Error::refused_as(
                Code::ReadOnly,
                format!("stopping: ask another node ({outcome})"),
            ));
        }
        Ok(())
    }
}
