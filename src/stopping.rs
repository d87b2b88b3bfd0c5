//! The gentle stop: `SHUTDOWN`.
//!
//! `kill -9` loses nothing that is on the disk. A gentle stop also sends to the peers what only
//! this node has. It must not lose a write that it acknowledges meanwhile, so the order matters:
//!
//! 1. [`GentleStop::ask`] sets a flag. From then on a client's write is refused before it is
//!    stamped.
//! 2. The listener closes, see [`crate::server::NodeServer::stop`].
//! 3. The links drain, see [`crate::replication::drain`], and the log is fsynced.
//!
//! **Why no acknowledged write is lost.** A connection merges a write and queues it for the links.
//! Then it reads the flag, and only then it sends its replies. The drain begins after the flag was
//! set. If the connection found the flag unset, the drain waits for its write. If it found the flag
//! set, the reply says that the outcome is unknown.

use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::locks::Latch;

/// Whether the process was asked to stop.
#[derive(Debug, Default)]
pub struct GentleStop {
    asked: Latch,
}

impl GentleStop {
    /// Asks for the stop. From now on no client's write is acknowledged.
    pub fn ask(&self) {
        self.asked.open();
    }

    /// Whether a client asked for the stop.
    pub fn is_asked(&self) -> bool {
        self.asked.is_open()
    }

    /// Waits until a client asks for the stop, for at most `timeout`; whether one did.
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
