//! The machine of a node: clocks that the network sets, and links that the test drives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;
use kvstore::error::Result;
use kvstore::peers::caller::Caller;
use kvstore::random::Random;
use kvstore::replication::EventualConversation;
use kvstore::replication::host::Host;

/// Calls one peer of a node.
pub type SimCaller = Caller<EventualConversation>;

/// The two clocks of a node, in milliseconds.
#[derive(Debug, Default)]
pub struct Clocks {
    /// Since 1970.
    pub wall_ms: AtomicU64,
    /// Since the start of the node.
    pub monotonic_ms: AtomicU64,
}

#[derive(Debug)]
pub struct SimHost {
    pub clocks: Arc<Clocks>,
    /// State of the generator of random numbers.
    pub random: AtomicU64,
    /// Where new callers go.
    pub callers: Sender<SimCaller>,
}

impl Host for SimHost {
    fn monotonic_ms(&self) -> u64 {
        self.clocks.monotonic_ms.load(Ordering::Relaxed)
    }

    fn wall_ms(&self) -> u64 {
        self.clocks.wall_ms.load(Ordering::Relaxed)
    }

    fn random(&self) -> u64 {
        Random(self.random.fetch_add(1, Ordering::Relaxed)).draw()
    }

    fn start(&self, caller: SimCaller) -> Result<()> {
        // A test that is over lets go of the other end.
        drop(self.callers.send(caller));
        Ok(())
    }
}
