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
//! what the peer lacks ([`crate::peers::comparison`]): on connect, when it was idle, when another peer was lost, and
//! every minute. That repairs whatever the stream missed, and brings an empty or returning node up
//! to date.
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
//!   large after a failure ([`crate::peers::pace`]); large records wait for small ones ([`crate::peers::large`]); what the peer
//!   refuses stays here ([`refusals`]).
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
//! Files: [`link`] is what is said to a peer, [`members`] who is in the cluster, [`tombstones`] when
//! a delete may be forgotten. None of them knows sockets, threads or clocks, so one seed can drive
//! them through any trouble (`tests/simulation`). [`queue`] is the channel, [`host`] the machine.

mod conversation;
pub mod drain;
mod forgetting;
mod handle;
pub mod host;
pub mod link;
pub mod members;
pub mod queue;
pub mod receive;
pub mod refusals;
mod shared;
mod skewed;
pub mod tombstones;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};

use log::{info, trace, warn};

use crate::config::Configuration;
use crate::error::{Error, Result};
use crate::guard::{LogLimiter, shown};
use crate::locks::{lock, unpoisoned};
use crate::metrics;
use crate::peers::identity::{Identity, advertised};
use crate::peers::inbound::{self, Inbound, Socket};
use crate::peers::introduction::Introduction;
use crate::peers::status::PeerState;
pub use crate::peers::status::PeerStatus;
use crate::peers::view::View;
use crate::store::KeyValueStore;
use crate::store::version::{COUNTER_BITS, HybridClock};
pub use conversation::EventualConversation;
use handle::LinkHandle;
pub use handle::Ticket;
use host::{Host, Threads};
use members::{Members, Stored};
use queue::Change;
pub use shared::{Counters, SaveFunction, Storage};
use shared::{Save, Shared};
use skewed::SkewedPeers;
use tombstones::{CLEAN_ROUNDS, ROUND_MS, Rounds};

/// Peers this node has links to. Each costs a thread and a queue. Further ones are refused and
/// counted.
const PEERS_MAX: usize = 64;

/// Members and the links to them.
#[derive(Debug)]
pub struct ReplicationManager {
    shared: Arc<Shared>,
}

/// A connection's place in the table of peers. Dropping it gives the place back, however the
/// connection stops being that peer's: by its end, by `RESET`, or by a HELLO with another id.
#[derive(Debug)]
pub struct Greeted {
    peer: Arc<inbound::Peer>,
    shared: Arc<Shared>,
}

impl Greeted {
    /// Does something that only the newest connection of a node may do.
    pub fn while_current<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.peer.while_current(act)
    }

    /// Whether this node introduced itself on this connection only moments ago.
    pub fn was_just_greeted(&self, id: u64) -> bool {
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
                refusals: Mutex::default(),
                refusal_lines: LogLimiter::default(),
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
                "none of {all} peers answers yet; they are tried again and again, see PEERS. If this node was restarted, its \
                 writes from before may win over those it takes until one answers"
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

    /// A node connected and introduced itself: decides whether it may stay, and links back to it.
    pub fn heard(&self, from: &Introduction) -> Result<()> {
        let result = self.shared.heard(from);
        match &result {
            Ok(()) => drop(lock(&self.shared.refusals).remove(&shown(&from.address))),
            Err(reason) => self.refused(&from.address, &reason.to_string()),
        }
        result
    }

    /// Counts that somebody who wanted to be a peer was refused; logs it if it is news.
    pub fn refused(&self, who: &str, reason: &str) {
        metrics::add(&self.shared.counters.hellos_refused, 1);
        let (who, reason) = (shown(who), reason.to_string());
        let mut refusals = lock(&self.shared.refusals);
        if refusals.get(&who) == Some(&reason) {
            return;
        }
        // What may not be logged now is not noted either: if it goes on, it is logged later.
        let Some(left_out) = self.shared.refusal_lines.admit() else {
            return;
        };
        if refusals.len() >= PEERS_MAX {
            refusals.clear();
        }
        warn!("refused the peer '{who}': {reason}{left_out}");
        refusals.insert(who, reason);
    }

    /// A node that may stay introduced itself on `socket`: its older connections end. The
    /// connection counts as that node's until the result is dropped.
    pub fn greeted(&self, from: &Introduction, socket: Arc<dyn Socket>) -> Greeted {
        let now_ms = self.shared.monotonic_ms();
        let peer = self.shared.inbound.greeted(from.node_id, &from.address, socket, now_ms);
        Greeted { peer, shared: Arc::clone(&self.shared) }
    }

    /// Counts what a peer's batch did. Nothing is handed on, but every link compares when things
    /// are quiet: the batch may come from somebody whom another peer cannot reach.
    pub fn merged(&self, from: &Greeted, done: receive::Merged) {
        let links = self.shared.links();
        links.values().for_each(|link| link.queue.stir());
        metrics::add(&self.shared.counters.records_merged, done.merged);
        metrics::add(&self.shared.counters.records_refused, done.refused);
        if done.refused > 0 {
            self.refused_records(from, done.refused_time_max);
        }
    }

    /// A peer compares again and again, since it cannot reach some member. What that one sent this
    /// node may be what the peer lacks, so this node compares too.
    pub fn nudge(&self) {
        self.shared.links().values().for_each(|link| link.queue.nudge());
    }

    /// Records of a peer were refused, up to one of this time.
    fn refused_records(&self, from: &Greeted, time_max: u64) {
        let (shared, (id, address)) = (&self.shared, from.peer.name());
        let ahead_s = (time_max >> COUNTER_BITS).saturating_sub(shared.host.wall_ms()) / 1_000;
        shared.skewed.refused(id, shared.monotonic_ms(), PEERS_MAX, || {
            let Some(left_out) = shared.refusal_lines.admit() else {
                return false;
            };
            warn!(
                "records of the peer '{}' are refused: they lie up to {ahead_s} s ahead of this machine's clock, and \
                 --max-clock-skew is {} s. If this clock is right, that node's is or was wrong: its /readyz says what to do{left_out}",
                shown(address),
                shared.options.clock_skew_max.as_secs()
            );
            true
        });
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

    /// Pretends that a peer (address or id), or everybody (`*`), cannot be reached.
    pub fn partition(&self, target: &str) -> Result<()> {
        self.check_fault_injection("PARTITION")?;
        let members = &self.shared.members;
        lock(members).partition(target)?;
        let is_cut_off = |id, address: &str| lock(members).is_cut_off(Some(id), address);
        self.shared.inbound.close(is_cut_off);
        for link in self.shared.links().values() {
            if lock(members).is_cut(link.peer.number) {
                link.peer.interrupt();
                link.peer.set_state(PeerState::Partitioned);
            }
        }
        Ok(())
    }

    /// Ends the partition from one peer, an address or id, or all partitions (`*`).
    pub fn heal(&self, target: &str) -> Result<()> {
        self.check_fault_injection("HEAL")?;
        let mut members = lock(&self.shared.members);
        match target {
            "*" => members.heal(),
            peer => members.heal_peer(peer)?,
        }
        drop(members);
        self.shared.links().values().for_each(|link| link.peer.wake());
        Ok(())
    }

    fn check_fault_injection(&self, command: &str) -> Result<()> {
        if self.shared.options.fault_injection {
            return Ok(());
        }
        Err(Error::refused(format!(
            "{command} needs a server that was started with --enable-fault-injection"
        )))
    }

    /// What each peer must reach to hold all that was written here so far.
    pub fn ticket(&self) -> Ticket {
        let links = self.shared.links();
        let reach =
            |link: &Arc<LinkHandle>| (Arc::clone(link), link.queue.sent(), link.queue.overflows());
        Ticket(links.values().map(reach).collect())
    }

    /// How many peers hold what the ticket is about.
    pub fn holding(&self, ticket: &Ticket) -> usize {
        ticket.holders().count()
    }

    /// How many peers are live.
    pub fn live_peers(&self) -> usize {
        let links = self.shared.links();
        links.values().filter(|link| link.peer.state() == PeerState::Live).count()
    }

    /// Waits until `is_done`, which is asked again whenever a peer holds more, or for `timeout`.
    pub fn wait_until(&self, timeout: Duration, mut is_done: impl FnMut() -> bool) {
        let (mutex, condvar) = &self.shared.progress;
        self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        let mut guard = lock(mutex);
        while !is_done() {
            let Some(left) = timeout.checked_sub(began.elapsed()) else {
                break;
            };
            guard = unpoisoned(condvar.wait_timeout(guard, left)).0;
        }
        drop(guard);
        self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many threads wait until peers hold more: those of clients in a `WAIT`, and at the end
    /// that of the gentle stop.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::SeqCst)
    }

    /// How each peer is.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let host = &self.shared.host;
        let members = lock(&self.shared.members);
        let links = self.shared.links();
        let shown = links.values().filter_map(|link| {
            let contact = members.contacts().get(&link.peer.number)?;
            Some(link.status(contact.any_id(), host.monotonic_ms(), host.wall_ms()))
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
