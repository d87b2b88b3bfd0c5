//! What the writers and others see of a link: its queue, and what its peer is known to hold.

use std::sync::{Arc, Mutex};

use super::queue::{Held, Queue};
use crate::config::Limits;
use crate::locks::lock;
use crate::peers::status::{PeerHandle, PeerStatus};

/// Bytes of the keys that wait for one peer. When full, the key's shard is marked and compared
/// later.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A link, for all threads but its own.
#[derive(Debug)]
pub(super) struct LinkHandle {
    pub(super) peer: Arc<PeerHandle>,
    pub(super) queue: Queue,
    pub(super) shown: Mutex<Shown>,
}

/// What a link's thread shows to others.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) held: Held,
    /// Changes of the queue that the peer has answered, whether it took or refused them.
    pub(super) answered: u64,
    pub(super) oldest_ms: Option<u64>,
    /// Changes taken from the queue and not yet sent.
    pub(super) waiting: usize,
    pub(super) last_sync_ms: Option<u64>,
    pub(super) clock_ahead_ms: i64,
}

impl LinkHandle {
    pub(super) fn new(number: u64, address: &str, limits: &Limits) -> Self {
        LinkHandle {
            peer: Arc::new(PeerHandle::new(number, address)),
            queue: Queue::new(limits.queue_keys_max, QUEUE_BYTES_MAX),
            shown: Mutex::default(),
        }
    }

    /// A row of `PEERS`.
    pub(super) fn status(&self, id: Option<u64>, now_ms: u64, wall_ms: u64) -> PeerStatus {
        let shown = lock(&self.shown);
        PeerStatus {
            queued_keys: self.queue.len() + shown.waiting,
            lag_ms: shown.oldest_ms.map_or(0, |at| wall_ms.saturating_sub(at)),
            last_sync_ms: shown.last_sync_ms.map(|at| now_ms.saturating_sub(at)),
            clock_ahead_ms: shown.clock_ahead_ms,
            ..self.peer.status(id)
        }
    }
}
