//! What others see of a link: its queue, its state, its counts.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;
use log::{info, warn};

use super::link::Held;
use super::queue::Queue;
use crate::config::Limits;
use crate::locks::{Latch, lock};
use crate::metrics;
use crate::store::version::wall_clock_ms;

/// How a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
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
}

/// What others see of a link.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) number: u64,
    pub(super) queue: Queue,
    wake: Sender<()>,
    /// Opens after the first attempt to reach the peer: a starting node waits for it.
    pub(super) tried: Latch,
    pub(super) sent_bytes: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    /// Conversations that have ended, those among them that never began included.
    pub(super) ended: AtomicU64,
    pub(super) shown: Mutex<Shown>,
    socket: Mutex<Option<Arc<TcpStream>>>,
}

#[derive(Debug)]
pub(super) struct Shown {
    pub(super) address: String,
    pub(super) state: State,
    /// Who is talked with.
    pub(super) peer: Option<u64>,
    pub(super) held: Held,
    /// Changes of the queue that the peer has answered, whether it took or refused them.
    pub(super) answered: u64,
    /// The peer has introduced itself on a connection that is still there.
    pub(super) is_connected: bool,
    pub(super) oldest_ms: Option<u64>,
    pub(super) waiting: usize,
    pub(super) last_sync_ms: Option<u64>,
    pub(super) clock_ahead_ms: i64,
}

/// Bytes of the keys that wait for one peer. When full, the key's shard is marked and compared
/// later.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Handle {
    pub(super) fn new(number: u64, address: &str, wake: Sender<()>, limits: &Limits) -> Self {
        Handle {
            number,
            queue: Queue::new(limits.queue_keys_max, QUEUE_BYTES_MAX),
            wake,
            tried: Latch::default(),
            sent_bytes: AtomicU64::default(),
            received_bytes: AtomicU64::default(),
            ended: AtomicU64::default(),
            shown: Mutex::new(Shown {
                address: address.into(),
                state: State::Connecting(String::new()),
                peer: None,
                held: Held::default(),
                answered: 0,
                is_connected: false,
                oldest_ms: None,
                waiting: 0,
                last_sync_ms: None,
                clock_ahead_ms: 0,
            }),
            socket: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> State {
        lock(&self.shown).state.clone()
    }

    pub(super) fn set_address(&self, address: &str) {
        lock(&self.shown).address = address.into();
    }

    pub(super) fn set_socket(&self, socket: Option<Arc<TcpStream>>) {
        *lock(&self.socket) = socket;
    }

    /// Notes how the link is; logs it if that is news.
    pub(super) fn set_state(&self, state: State) {
        let mut shown = lock(&self.shown);
        // The reason of a failed connection may change every time, and is no news.
        let was_tried = shown.state != State::Connecting(String::new());
        let is_news = match (&shown.state, &state) {
            (State::Connecting(before), State::Connecting(_)) => before.is_empty(),
            (before, now) => before != now,
        };
        let address = shown.address.clone();
        shown.state = state.clone();
        drop(shown);
        if !is_news {
            return;
        }
        match state {
            State::Connecting(reason) if was_tried => warn!("peer {address} is lost: {reason}"),
            State::Connecting(reason) => {
                info!("peer {address} cannot be reached yet, and is tried again: {reason}")
            }
            State::Syncing => info!("peer {address} answers; comparing"),
            State::Live => info!("peer {address} is live"),
            State::Partitioned => warn!("peer {address} is cut off by PARTITION"),
            State::Refused(reason) => warn!("peer {address} refused: {reason}"),
        }
    }

    pub(super) fn wake(&self) {
        // Full means that it will wake anyway.
        let _ = self.wake.try_send(());
    }

    /// Ends what the link is doing, so that it looks at its fate.
    pub(super) fn interrupt(&self) {
        if let Some(socket) = &*lock(&self.socket) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.wake();
    }

    pub(super) fn status(&self, id: Option<u64>, now_ms: u64) -> PeerStatus {
        let shown = lock(&self.shown);
        let wall_ms = wall_clock_ms();
        PeerStatus {
            address: shown.address.clone(),
            id,
            state: shown.state.to_string(),
            error: match &shown.state {
                State::Connecting(reason) if !reason.is_empty() => Some(reason.clone()),
                _ => None,
            },
            met: id.is_some(),
            queued_keys: self.queue.len() + shown.waiting,
            lag_ms: shown.oldest_ms.map_or(0, |at| wall_ms.saturating_sub(at)),
            last_sync_ms: shown.last_sync_ms.map(|at| now_ms.saturating_sub(at)),
            sent_bytes: metrics::read(&self.sent_bytes),
            received_bytes: metrics::read(&self.received_bytes),
            clock_ahead_ms: shown.clock_ahead_ms,
        }
    }
}

impl State {
    /// The state in one word.
    pub fn word(&self) -> &'static str {
        match self {
            State::Connecting(_) => "connecting",
            State::Syncing => "syncing",
            State::Live => "live",
            State::Partitioned => "partitioned",
            State::Refused(_) => "refused",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            State::Refused(reason) => write!(f, "refused: {reason}"),
            other => f.write_str(other.word()),
        }
    }
}
