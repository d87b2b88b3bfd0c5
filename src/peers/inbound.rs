//! The connections that peers have made to this node: one counts for each node id, the newest.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::locks::lock;

/// A peer that introduces itself again after less time compares everything again and again.
const RESTLESS_MS: u64 = 8_000;

/// The connection of a peer; a test has its own kind.
pub trait Socket: Debug + Send + Sync {
    /// Ends it in both directions.
    fn shut(&self);
}

impl Socket for TcpStream {
    fn shut(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// A connection on which a peer has introduced itself.
#[derive(Debug)]
pub struct Peer {
    id: u64,
    greeted_ms: u64,
    address: String,
    socket: Arc<dyn Socket>,
    /// Held while a batch is merged: when a newer connection has taken over, nothing more comes
    /// from this one.
    is_current: Mutex<bool>,
}

impl Peer {
    /// Does something that only the newest connection of a node may do.
    pub fn while_current<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_current = lock(&self.is_current);
        if *is_current {
            return act();
        }
        Err(Error::refused(
            "this node has a newer connection, or was cut off; say PEER HELLO again",
        ))
    }

    /// Whether this node introduced itself on this connection only moments ago. It compares so
    /// often because it cannot reach some other member: see `APART_MS` in
    /// `replication::schedule`. It is the only one to know.
    pub fn was_just_greeted(&self, id: u64, now_ms: u64) -> bool {
        self.id == id && now_ms.saturating_sub(self.greeted_ms) < RESTLESS_MS
    }

    /// The peer's node id and address.
    pub fn name(&self) -> (u64, &str) {
        (self.id, &self.address)
    }

    fn end(&self) {
        *lock(&self.is_current) = false;
        self.socket.shut();
    }
}

/// The newest connection of each peer.
///
/// Invariant: `a_connection_that_was_a_peers_leaves_no_descriptor_behind` (in
/// `tests/strangers.rs`): an entry goes with the [`crate::replication::Greeted`] that it was made
/// for, or is replaced by a newer one.
#[derive(Debug, Default)]
pub struct Inbound(Mutex<HashMap<u64, Arc<Peer>>>);

impl Inbound {
    /// A node introduced itself on `socket`: its older connections end.
    pub fn greeted(
        &self,
        id: u64,
        address: &str,
        socket: Arc<dyn Socket>,
        now_ms: u64,
    ) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            id,
            greeted_ms: now_ms,
            address: address.into(),
            socket: Arc::clone(&socket),
            is_current: Mutex::new(true),
        });
        let before = lock(&self.0).insert(id, Arc::clone(&peer));
        if let Some(before) = before {
            *lock(&before.is_current) = false;
            if !Arc::ptr_eq(&before.socket, &socket) {
                before.end();
            }
        }
        peer
    }

    /// A connection has ended; whether it was the peer's newest.
    pub fn ended(&self, peer: &Arc<Peer>) -> bool {
        let mut peers = lock(&self.0);
        let newest = peers.get(&peer.id);
        let is_newest = newest.is_some_and(|newest| Arc::ptr_eq(newest, peer));
        if is_newest {
            peers.remove(&peer.id);
        }
        is_newest
    }

    /// Closes the connections of some peers, by id and address.
    pub fn close(&self, is_meant: impl Fn(u64, &str) -> bool) {
        let peers: Vec<Arc<Peer>> = lock(&self.0).values().cloned().collect();
        for peer in peers.iter().filter(|peer| is_meant(peer.id, &peer.address)) {
            peer.end();
        }
    }

    /// Closes the connections of all peers.
    pub fn close_all(&self) {
        self.close(|_, _| true);
    }
}
