//! # Agreeing: replication
//!
//! **The problem.** Several nodes hold the same data, each takes reads and writes, and networks
//! lose, delay and cut. A write must not wait for the others, and yet in the end all must hold the
//! same.
//!
//! **The idea.** Each node has one link to each other member: a worker thread behind a bounded
//! channel. The channel says *which keys changed*; the worker reads what each key is *now* when it
//! sends. So a key that changes often travels once per batch, an old value cannot overtake a new
//! one, and memory is bounded: when the channel is full, a bit for the key's shard is enough to
//! find it later. Beside the stream of changes, every link compares digests with its peer and sends
//! what the peer lacks ([`crate::peers::comparison`]): on connect, when it was idle, when another
//! peer was lost, and every minute. That repairs whatever the stream missed, and brings an empty or
//! returning node up to date.
//!
//! **Why it converges.** A record's version never changes, and merging keeps the larger version
//! whatever the order and however often ([`crate::store`]). So two nodes that have seen the same
//! records are equal, and it is enough that every record arrives at last: each is sent by the node
//! that took the write, and if that is lost, by whoever has it, in a comparison. Received records
//! are merged and logged, never forwarded, so nothing goes round in circles.
//!
//! **The rules.**
//! - A client's write never waits for a peer, and no lock is held across a channel send.
//! - One exchange at a time on a link, with a limit to the peer's silence (`wire`). A link that
//!   breaks starts again with a comparison. Batches are as large as a second allows, and half as
//!   large after a failure ([`crate::peers::pace`]); large records wait for small ones
//!   ([`crate::peers::large`]); what the peer refuses stays here ([`refusals`]).
//! - While a member cannot be reached, every link compares every five seconds, and so do those who
//!   notice: what it was sent comes by way of a third. TCP delivers once and in order, so nothing
//!   that was sent arrives behind a later comparison of that link.
//! - The list of links, or the number of the list already known, is read after the merge, and a
//!   link is on the list before its first digest is asked: a write is in that list's queues or in
//!   that comparison.
//! - A node's HELLO closes all its older connections, and nothing more is merged from them: a batch
//!   that was delayed for long cannot arrive after its deletes were forgotten.
//! - Deletes are forgotten only when every member was asked ([`tombstones`]).
//!
//! **What it is not.** Two clients that write one key at the same time on two nodes both get `OK`,
//! and one of the writes is lost on both nodes: the one with the smaller version (for more than
//! this, a store needs consensus, such as Raft, or types that merge, such as CRDT counters). A
//! write to an in-memory node is gone if every node that has it is gone. One that restarts while no
//! other node can be reached does not know how far its clock had come: where that was ahead of the
//! wall clock (by at most `--max-clock-skew`), a write from before the restart wins over one after
//! it. `WAIT` says how many peers hold a write; it does not order anything and is not
//! linearizability. See DeCandia et al., "Dynamo", 2007, for the family of such stores.
//!
//! Files: [`link`] is what is said to a peer, [`members`] who is in the cluster, [`tombstones`]
//! when a delete may be forgotten. None of them knows sockets, threads or clocks, so one seed can
//! drive them through any trouble (`tests/simulation`). [`queue`] is the channel, [`host`] the
//! machine. `outgoing` fills the batches of a link, `schedule` says when it compares.

pub mod contact;
mod conversation;
pub mod drain;
mod forgetting;
mod greeted;
mod handle;
pub mod host;
pub mod link;
pub mod members;
mod outgoing;
mod partition;
pub mod queue;
pub mod receive;
pub mod refusals;
mod schedule;
mod shared;
mod skewed;
pub mod tombstones;
mod waiting;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::Instant;

use log::{info, trace, warn};

use crate::config::Configuration;
use crate::error::Result;
use crate::locks::lock;
use crate::peers::identity::{Identity, advertised};
use crate::peers::inbound::Inbound;
use crate::peers::introduction::Introduction;
use crate::peers::refused::RefusedPeers;
use crate::peers::status::PeerState;
pub use crate::peers::status::PeerStatus;
use crate::peers::view::View;
use crate::store::KeyValueStore;
use crate::store::version::HybridClock;
use contact::Stored;
pub use conversation::EventualConversation;
pub use greeted::Greeted;
use host::{Host, Threads};
use members::Members;
use queue::Change;
pub use shared::{Counters, SaveFunction, Storage};
use shared::{Save, Shared};
use skewed::SkewedPeers;
use tombstones::{CLEAN_ROUNDS, ROUND_MS, Rounds};
pub use waiting::Ticket;

/// Peers this node has links to. Each costs a thread and a queue. Further ones are refused and
/// counted.
const PEERS_MAX: usize = 64;

/// Members and the links to them.
#[derive(Debug)]
pub struct ReplicationManager {
    shared: Arc<Shared>,
}

/// The list of links as a connection read it last: to read it for every write would make the
/// processors pass its lock to and fro. It is let go with each batch of replies, so that nobody
/// holds the queues of links that are gone.
#[derive(Debug, Default)]
pub struct KnownLinks(Option<(u64, Arc<shared::Links>)>);

impl ReplicationManager {
    /// A manager without links yet. Where others reach this node is known only once it listens:
    /// [`ReplicationManager::advertise`].
    pub fn new(
        configuration: &Configuration,
        ids: (u64, u64),
        store: Arc<KeyValueStore>,
        clock: Arc<HybridClock>,
        storage: Option<Storage>,
    ) -> Self {
        let host = Box::new(Threads::new(configuration));
        ReplicationManager::with_host(configuration, ids, store, clock, storage, host)
    }

    /// A manager on a machine that a test makes up.
    pub fn with_host(
        configuration: &Configuration,
        (node_id, run_id): (u64, u64),
        store: Arc<KeyValueStore>,
        clock: Arc<HybridClock>,
        storage: Option<Storage>,
        host: Box<dyn Host>,
    ) -> Self {
        let (options, limits) = (&configuration.replication, &configuration.limits);
        let identity = Identity {
            node_id,
            run_id,
            cluster: options.cluster.clone(),
            is_durable: storage.is_some(),
            address: Err("it does not listen yet".into()),
        };
        let rounds = Rounds::new(ROUND_MS, CLEAN_ROUNDS);
        let (stored, save) = match storage {
            Some(Storage { stored, time_max, save }) => {
                clock.observe(time_max);
                (stored, Some(save))
            }
            None => (Stored::default(), None),
        };
        let members =
            Members::new(identity, &options.seeds, configuration.dials(), &stored, PEERS_MAX);
        if members.is_alone() {
            // Recovery needed the tombstones, because it merges records in any order. From now on
            // no other node can bring an older value back.
            store.drop_all_tombstones();
        }
        ReplicationManager {
            shared: Arc::new(Shared {
                store,
                clock,
                limits: limits.clone(),
                options: options.clone(),
                began_ms: host.monotonic_ms(),
                host,
                saved: Mutex::new(stored),
                save: save.map(Save),
                links: RwLock::default(),
                list_number: AtomicU64::new(0),
                has_links: AtomicBool::new(false),
                keeps_tombstones: AtomicBool::new(!members.is_alone()),
                members: Mutex::new(members),
                inbound: Inbound::default(),
                rounds: Mutex::new(rounds),
                counters: Counters::default(),
                progress: (Mutex::default(), Condvar::new()),
                waiting: AtomicUsize::new(0),
                refused: RefusedPeers::default(),
                skewed: SkewedPeers::default(),
            }),
        }
    }

    /// Decides where others are told to reach this node, which listens at `listening`.
    pub fn advertise(&self, listening: SocketAddr) -> String {
        let address = advertised(self.shared.options.advertise.as_deref(), listening);
        let told = address.clone().unwrap_or_else(|_| "nothing".into());
        lock(&self.shared.members).set_address(address);
        told
    }

    /// Starts the links to the seeds and to the members of an earlier run. Returns when each of
    /// them has answered or failed, or after a second: a node that restarts empty must have seen
    /// the others' clocks before it stamps a write, or the write could lose against its own earlier
    /// ones. If nobody answers, it could, and the log says so.
    pub fn start(&self) -> Result<()> {
        self.start_links()?;
        forgetting::start(&self.shared)?;
        let deadline = Instant::now() + self.shared.limits.seeds_timeout;
        for link in self.shared.links().values() {
            link.peer.tried.wait_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        let peers = self.peers();
        let answering =
            peers.iter().filter(|peer| peer.last_sync_ms.is_some() || peer.id.is_some());
        let (answering, all) = (answering.count(), peers.len());
        if answering == 0 && all > 0 && self.shared.save.is_none() {
            warn!(
                "none of {all} peers answers yet; they are tried again and again, see PEERS. If \
                 this node was restarted, its writes from before may win over those it takes until \
                 one answers"
            );
        } else if all > 0 {
            info!(
                "{answering} of {all} peers known; the others are tried again and again, see PEERS"
            );
        }
        Ok(())
    }

    /// Starts the links, and keeps tombstones from now on.
    pub fn start_links(&self) -> Result<()> {
        self.shared.keeps_tombstones.store(true, Ordering::SeqCst);
        self.shared.update_links()
    }

    /// Forgets the deletes that nobody needs any more.
    pub fn forget_deletes(&self) {
        self.shared.forget_deletes();
    }

    /// Asks fewer or more rounds whether a delete may be forgotten: for the test that shows why
    /// there are so many.
    pub fn set_clean_rounds(&self, clean_rounds: u32) {
        *lock(&self.shared.rounds) = Rounds::new(ROUND_MS, clean_rounds);
    }

    /// Hands a changed key of this shard to every link. Called after the merge; never waits.
    pub fn changed(&self, key: &[u8], shard: usize, at_ms: u64, known: &mut KnownLinks) {
        if !self.shared.has_links.load(Ordering::SeqCst) {
            return;
        }
        let list_number = self.shared.list_number.load(Ordering::SeqCst);
        let links = match &known.0 {
            Some((number, links)) if *number == list_number => links,
            _ => &known.0.insert((list_number, self.shared.links())).1,
        };
        let mut shared_key: Option<Arc<[u8]>> = None;
        for link in links.values() {
            if link.queue.has_room(key.len()) {
                let key = Arc::clone(shared_key.get_or_insert_with(|| key.into()));
                link.queue.offer(Change { key, at_ms }, shard);
            } else {
                // A peer that is away for long must not cost an allocation for each write.
                link.queue.mark(shard);
            }
        }
        trace!("queued the key for links: {}", links.len());
    }

    /// Whether a delete must leave a tombstone: not on a node that is alone
    /// ([`Members::is_alone`]).
    pub fn keeps_tombstones(&self) -> bool {
        self.shared.keeps_tombstones.load(Ordering::SeqCst)
    }

    /// The store as comparisons see it.
    pub fn view(&self) -> View<'_> {
        self.shared.view()
    }

    /// What this node says of itself; with members and bans when it answers.
    pub fn introduction(&self, is_answer: bool) -> Result<Introduction> {
        self.shared.introduction(is_answer)
    }

    /// Bans a node for good, by address or id.
    pub fn forget(&self, target: &str) -> Result<()> {
        let ended = lock(&self.shared.members).forget(target)?;
        info!("forgot {target}: {} links end", ended.len());
        self.shared.update_links()?;
        self.shared.save_members()?;
        self.shared.forget_if_alone();
        // All come back at once, and learn of the ban from the answer to their HELLO.
        self.shared.inbound.close_all();
        Ok(())
    }

    /// How many peers are live.
    pub fn live_peers(&self) -> usize {
        let links = self.shared.links();
        links.values().filter(|link| link.peer.state() == PeerState::Live).count()
    }

    /// How each peer is.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let host = &self.shared.host;
        let members = lock(&self.shared.members);
        let links = self.shared.links();
        let shown = links.values().filter_map(|link| {
            let contact = members.contacts().get(&link.peer.number)?;
            Some(link.status(contact.id(), host.monotonic_ms(), host.wall_ms()))
        });
        shown.collect()
    }

    /// Counts since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Changes that found a queue full since the start of its link, and marked a shard instead.
    pub fn queue_overflows(&self) -> u64 {
        let links = self.shared.links();
        links.values().map(|link| link.queue.overflows().total()).sum()
    }

    /// Where others reach this node; empty when nobody was told.
    pub fn advertised_address(&self) -> String {
        let members = lock(&self.shared.members);
        members.identity().address.clone().unwrap_or_default()
    }
}
