//! Nodes that connect to this one and introduce themselves.

use std::sync::Arc;

use super::ReplicationManager;
use super::shared::Shared;
use crate::error::Result;
use crate::metrics;
use crate::peers::inbound::{self, Socket};
use crate::peers::introduction::Introduction;

/// A connection's place in the table of peers. Dropping it gives the place back, however the
/// connection stops being that peer's: by its end, by `RESET`, or by a HELLO with another id.
#[derive(Debug)]
pub struct Greeted {
    peer: Arc<inbound::Peer>,
    shared: Arc<Shared>,
}

impl Greeted {
    /// The peer's node id and address.
    pub(super) fn name(&self) -> (u64, &str) {
        self.peer.name()
    }

    /// Does something that only the newest connection of a node may do.
    pub fn while_current<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.peer.while_current(act)
    }

    /// Whether this node introduced itself on this connection only moments ago.
    fn was_just_greeted(&self, id: u64) -> bool {
        self.peer.was_just_greeted(id, self.shared.monotonic_ms())
    }
}

impl Drop for Greeted {
    fn drop(&mut self) {
        if self.shared.inbound.ended(&self.peer) {
            self.shared.lost_a_peer();
        }
    }
}

impl ReplicationManager {
    /// A node connected and introduced itself. If it may stay, this node links back to it, and the
    /// answer is what this node says of itself. `peer` becomes the node's connection, which ends
    /// its older ones; a test without a socket has none.
    pub fn greet(
        &self,
        from: &Introduction,
        socket: Option<Arc<dyn Socket>>,
        peer: &mut Option<Greeted>,
    ) -> Result<Introduction> {
        self.heard(from)?;
        let answer = self
            .shared
            .introduction(true)
            .inspect_err(|error| self.refused(&from.address, &error.to_string()))?;
        if peer.as_ref().is_some_and(|peer| peer.was_just_greeted(from.node_id)) {
            self.nudge();
        }
        if let Some(socket) = socket {
            *peer = Some(self.greeted(from, socket));
        }
        Ok(answer)
    }

    fn heard(&self, from: &Introduction) -> Result<()> {
        let result = self.shared.heard(from);
        match &result {
            Ok(()) => self.shared.refused.forget(&from.address),
            Err(reason) => self.refused(&from.address, &reason.to_string()),
        }
        result
    }

    /// Counts that somebody who wanted to be a peer was refused; logs it if it is news.
    pub fn refused(&self, who: &str, reason: &str) {
        metrics::add(&self.shared.counters.hellos_refused, 1);
        self.shared.refused.note(who, reason);
    }

    /// The connection counts as that node's until the result is dropped.
    fn greeted(&self, from: &Introduction, socket: Arc<dyn Socket>) -> Greeted {
        let now_ms = self.shared.monotonic_ms();
        let peer = self.shared.inbound.greeted(from.node_id, &from.address, socket, now_ms);
        Greeted { peer, shared: Arc::clone(&self.shared) }
    }
}
