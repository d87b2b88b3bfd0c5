//! What the server knows of one connection between requests.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::error::Result;
use crate::guard::{Holding, Stranger};
use crate::node::{Batch, Greeted, Node};

/// What happens to the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Go on with the next request.
    Continue,
    /// Send the replies, wait until so many peers hold this connection's writes, and reply how many
    /// do.
    Wait {
        /// How many.
        peers: usize,
        /// How long; 0 is for ever.
        timeout_ms: u64,
    },
    /// Send the replies and close; later requests are not executed.
    Close,
    /// Send the replies and stop the server.
    ShutDown,
}

impl Outcome {
    /// Whether the reply has been written: `SHUTDOWN` has none, and that of `WAIT` comes later.
    pub fn has_reply(self) -> bool {
        !matches!(self, Outcome::ShutDown | Outcome::Wait { .. })
    }
}

/// What the server knows of one connection between requests.
#[derive(Debug)]
pub struct Session {
    /// What this connection did since its last replies left.
    pub batch: Batch,
    /// Number of the connection since the server's start.
    pub(super) id: u64,
    /// Where the server listens.
    pub(super) address: SocketAddr,
    /// The connection's socket, once a peer may want to have it closed; tests have none.
    pub(super) socket: Option<Arc<TcpStream>>,
    /// The node that introduced itself on this connection.
    pub(super) peer: Option<Greeted>,
    /// Where the client is; tests have none.
    pub(super) client: Option<IpAddr>,
    /// The connection's place among those without a password, until it has given it.
    pub(super) stranger: Option<Stranger>,
    /// Replies that the client has not taken yet, if they were counted.
    pub(super) holding: Option<Holding>,
    /// As the client calls itself.
    pub(super) name: Vec<u8>,
    /// Whether the password was given, or none is needed.
    pub(super) authenticated: bool,
    /// 2, or 3 after `HELLO 3`.
    pub(super) resp_version: u8,
    /// Whether commands are answered with `+QUEUED`: from `MULTI` to `EXEC`, `DISCARD` or `RESET`.
    pub(super) is_in_transaction: bool,
}

/// Longest sleep while a password waits for its turn. After each sleep the thread checks whether
/// its connection was closed to make room.
const TURN_SLICE: Duration = Duration::from_millis(100);

impl Session {
    /// A new connection.
    pub fn new(id: u64, address: SocketAddr, authenticated: bool) -> Self {
        Session {
            batch: Batch::default(),
            id,
            address,
            socket: None,
            peer: None,
            client: None,
            stranger: None,
            holding: None,
            name: Vec::new(),
            authenticated,
            resp_version: 2,
            is_in_transaction: false,
        }
    }

    /// Makes the connection as new. What it has written and not settled stays, and without its
    /// password it is a stranger again.
    pub(super) fn reset(&mut self, node: &Node) {
        let is_open = !node.configuration.passwords.is_set();
        let old = std::mem::replace(self, Session::new(self.id, self.address, is_open));
        self.stranger = match (old.stranger, &old.socket) {
            (None, Some(socket)) if !is_open => Some(node.guard.strangers.enter(socket)),
            (stranger, _) => stranger,
        };
        (self.batch, self.holding) = (old.batch, old.holding);
        (self.socket, self.client) = (old.socket, old.client);
    }

    /// The client has given the password: it gives up its place among the strangers.
    pub(super) fn trust(&mut self) {
        self.authenticated = true;
        self.stranger = None;
    }

    /// Waits for the turn of a password; `false` when the connection was closed meanwhile.
    pub(super) fn wait_for_turn(&self, mut wait: Duration) -> bool {
        while !wait.is_zero() {
            if self.stranger.as_ref().is_some_and(Stranger::was_closed) {
                return false;
            }
            let slice = wait.min(TURN_SLICE);
            thread::sleep(slice);
            wait -= slice;
        }
        true
    }

    /// Counts replies of so many bytes until they are taken. Fails when the connection must be
    /// closed because all clients together hold too many.
    pub(super) fn hold(&mut self, bytes: usize, node: &Node) -> Result<()> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        self.holding.get_or_insert_with(|| node.guard.replies.holder(socket)).set(bytes)
    }
}
