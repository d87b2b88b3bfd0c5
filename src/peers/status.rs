//! What others see of a peer: its state, and what travelled.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{info, warn};

use crate::locks::{Latch, lock};
use crate::metrics::read;

/// How the link to a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// No connection; why the last one ended or failed, empty at the start.
    Connecting(String),
    /// Connected, and catching up.
    Syncing,
    /// Changes are sent as they come.
    Live,
    /// Cut by `PARTITION`.
    Partitioned,
    /// The peer or this node does not want the link, for this reason; tried again all the same.
    Refused(String),
}

/// What `PEERS` shows of a peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The address tried or used last.
    pub address: String,
    /// Its node id, once it is known.
    pub id: Option<u64>,
    /// `connecting`, `syncing`, `live`, `partitioned` or `refused: reason`.
    pub state: String,
    /// Why the last attempt to connect failed, while there is no connection.
    pub error: Option<String>,
    /// Whether it is known who the peer is: a seed that was never started is not.
    pub met: bool,
    /// Changed keys that wait to be sent.
    pub queued_keys: usize,
    /// Age of the oldest change that the peer has not acknowledged, in milliseconds; 0 without one.
    pub lag_ms: u64,
    /// Time since the last finished comparison of everything, in milliseconds.
    pub last_sync_ms: Option<u64>,
    /// Bytes sent on this node's link to it.
    pub sent_bytes: u64,
    /// Bytes received on this node's link to it.
    pub received_bytes: u64,
    /// How far its clock was ahead of this node's at its last HELLO, in milliseconds; negative:
    /// behind.
    pub clock_ahead_ms: i64,
    /// What it is in a cluster that agrees by consensus.
    pub raft: Option<RaftPeer>,
}

/// A member of a cluster that agrees by consensus.
#[derive(Clone, Debug)]
pub struct RaftPeer {
    /// `leader`, `voter`, `learner`, or `stranger`.
    pub role: &'static str,
    /// Up to where its log is known to match; only the leader knows.
    pub matched: Option<u64>,
    /// Whether it needs entries that the leader has no more.
    pub is_behind: bool,
}

/// A peer, for all threads but its own.
#[derive(Debug)]
pub struct PeerHandle {
    /// Of its contact.
    pub number: u64,
    /// Bytes sent to it.
    pub sent_bytes: AtomicU64,
    /// Bytes of its replies.
    pub received_bytes: AtomicU64,
    /// Opens after the first attempt to reach the peer: a starting node waits for it.
    pub tried: Latch,
    /// Receives a wake-up.
    pub woken: Receiver<()>,
    wake: Sender<()>,
    /// Attempts and conversations that have ended.
    ended: AtomicU64,
    shown: Mutex<Shown>,
    socket: Mutex<Option<Arc<TcpStream>>>,
}

#[derive(Debug)]
struct Shown {
    address: String,
    state: PeerState,
    /// Who is talked with.
    id: Option<u64>,
}

impl PeerHandle {
    /// A peer that nobody has called yet.
    pub fn new(number: u64, address: &str) -> Self {
        let (wake, woken) = bounded(1);
        let state = PeerState::Connecting(String::new());
        PeerHandle {
            number,
            sent_bytes: AtomicU64::default(),
            received_bytes: AtomicU64::default(),
            tried: Latch::default(),
            woken,
            wake,
            ended: AtomicU64::default(),
            shown: Mutex::new(Shown { address: address.into(), state, id: None }),
            socket: Mutex::default(),
        }
    }

    /// A row of `PEERS` for the node with this id, as far as this link alone knows.
    pub fn status(&self, id: Option<u64>) -> PeerStatus {
        let state = self.state();
        PeerStatus {
            address: self.address(),
            id,
            state: state.to_string(),
            error: match state {
                PeerState::Connecting(reason) if !reason.is_empty() => Some(reason),
                _ => None,
            },
            met: id.is_some(),
            queued_keys: 0,
            lag_ms: 0,
            last_sync_ms: None,
            sent_bytes: read(&self.sent_bytes),
            received_bytes: read(&self.received_bytes),
            clock_ahead_ms: 0,
            raft: None,
        }
    }

    /// How the link is.
    pub fn state(&self) -> PeerState {
        lock(&self.shown).state.clone()
    }

    /// The address tried or used last.
    pub fn address(&self) -> String {
        lock(&self.shown).address.clone()
    }

    pub(super) fn set_address(&self, address: &str) {
        lock(&self.shown).address = address.into();
    }

    /// The node id of who is talked with now.
    pub fn id(&self) -> Option<u64> {
        lock(&self.shown).id
    }

    /// This node is talked with now, or nobody.
    pub fn set_id(&self, id: Option<u64>) {
        lock(&self.shown).id = id;
    }

    /// Attempts and conversations that have ended.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn note_end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
        self.tried.open();
    }

    pub(super) fn set_socket(&self, socket: Option<Arc<TcpStream>>) {
        *lock(&self.socket) = socket;
    }

    /// Notes how the link is; logs it if that is news.
    pub fn set_state(&self, state: PeerState) {
        let mut shown = lock(&self.shown);
        if shown.state == state {
            return;
        }
        let (address, before) =
            (shown.address.clone(), std::mem::replace(&mut shown.state, state.clone()));
        drop(shown);
        // At the start nothing was tried yet.
        let was_tried = before != PeerState::Connecting(String::new());
        match (before, state) {
            // The reason of a failed connection may change every time, and is no news.
            (PeerState::Connecting(_), PeerState::Connecting(_)) if was_tried => {}
            (_, PeerState::Connecting(reason)) if was_tried => {
                warn!("peer {address} is lost: {reason}")
            }
            (_, PeerState::Connecting(reason)) => {
                info!("peer {address} cannot be reached yet, and is tried again: {reason}")
            }
            (_, PeerState::Syncing) => info!("peer {address} answers; comparing"),
            (_, PeerState::Live) => info!("peer {address} is live"),
            (_, PeerState::Partitioned) => warn!("peer {address} is cut off by PARTITION"),
            (_, PeerState::Refused(reason)) => warn!("peer {address} refused: {reason}"),
        }
    }

    /// Has the peer's thread look what has changed for it.
    pub fn wake(&self) {
        // Full means that it will wake anyway.
        let _ = self.wake.try_send(());
    }

    /// Ends what is under way with the peer, so that its thread looks what has changed for it.
    pub fn interrupt(&self) {
        if let Some(socket) = &*lock(&self.socket) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.wake();
    }
}

impl PeerState {
    /// The state in one word.
    pub fn word(&self) -> &'static str {
        match self {
            PeerState::Connecting(_) => "connecting",
            PeerState::Syncing => "syncing",
            PeerState::Live => "live",
            PeerState::Partitioned => "partitioned",
            PeerState::Refused(_) => "refused",
        }
    }
}

impl std::fmt::Display for PeerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PeerState::Refused(reason) => write!(f, "refused: {reason}"),
            other => f.write_str(other.word()),
        }
    }
}
