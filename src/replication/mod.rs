//! # Agreeing: replication
//!
//! **The problem.** Several nodes hold the same data, each takes reads and writes, and networks lose, delay
//! and cut. A write must not wait for the others, and yet in the end all must hold the same.
//!
//! **The idea.** Each node has one link to each other member: a worker thread behind a bounded channel. The
//! channel says *which keys changed*; the worker reads what each key is *now* when it sends. So a key that
//! changes often travels once per batch, an old value cannot overtake a new one, and memory is bounded: when the
//! channel is full, a bit for the key's shard is enough to find it later. Beside the stream of changes, every
//! link compares digests with its peer and sends what the peer lacks ([`sync`]): on connect, when it was idle,
//! when another peer was lost, and every minute. That repairs whatever the stream missed, and brings an empty or returning node up to date.
//!
//! **Why it converges.** A record's version never changes, and merging keeps the larger version whatever the
//! order and however often ([`crate::store`]). So two nodes that have seen the same records are equal, and it
//! is enough that every record arrives at last: each is sent by the node that took the write, and if that is lost,
//! by whoever has it, in a comparison. Received records are merged and logged, never forwarded, so
//! nothing goes round in circles.
//!
//! **The rules.**
//! - A client's write never waits for a peer, and no lock is held across a channel send.
//! - One exchange at a time on a link, each with a time limit. A link that breaks starts again with a comparison.
//! - The list of links is read after the merge, and a link is on the list before its first digest is asked: a write
//!   is in that list's queues or in that comparison.
//! - A node's HELLO closes all its older connections, and nothing more is merged from them: a batch that was
//!   delayed for long cannot arrive after its deletes were forgotten.
//! - Deletes are forgotten only when every member was asked ([`tombstones`]).
//!
//! **What it is not.** Two clients that write one key at the same time on two nodes both get `OK`, and one
//! of the writes is lost on both nodes: the one with the smaller version (for more than this, a store needs consensus, such
//! as Raft, or types that merge, such as CRDT counters). A write to an in-memory node is gone if every node
//! that has it is gone. `WAIT` says how many peers hold a write; it does not order anything and is not
//! linearizability. See DeCandia et al., "Dynamo", 2007, for the family of such stores.
//!
//! Files: [`link`] is the conversation with a peer as a state machine, [`sync`] finds what differs,
//! [`members`] decides who is in the cluster, [`tombstones`] when a delete may be forgotten: none of
//! them knows sockets, threads or clocks, so one seed can drive them all through any trouble
//! (`tests/simulation.rs`). [`queue`] is the channel, [`messages`] the wire format, [`inbound`] the
//! connections that peers have made to us; `worker` drives a link over a socket.

pub mod inbound;
pub mod link;
pub mod members;
pub mod messages;
pub mod queue;
pub mod sync;
pub mod tombstones;
mod worker;

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use log::{info, warn};

use crate::config::{Configuration, Limits, ReplicationOptions};
use crate::error::{Error, Result};
use crate::metrics;
use crate::store::KeyValueStore;
use crate::store::version::{COUNTER_BITS, HybridClock, wall_clock_ms};
use inbound::Inbound;
use link::{Held, Link};
use members::{Identity, Members, Stored, Verdict};
pub use messages::{Introduction, Reply, Request};
use queue::{Change, Queue};
use sync::View;
use tombstones::{CLEAN_ROUNDS, Rounds, Tombstone};

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
    /// How far its clock was ahead of this node's at its last HELLO, in milliseconds; negative: behind.
    pub clock_ahead_ms: i64,
}

/// Counts since the start of the node.
#[derive(Debug, Default)]
#[allow(missing_docs)] // The names say it.
pub struct Counters {
    pub records_merged: AtomicU64,
    pub records_refused: AtomicU64,
    pub hellos_refused: AtomicU64,
    pub links_broken: AtomicU64,
    pub syncs_finished: AtomicU64,
    pub tombstones_dropped: AtomicU64,
}

/// Members and the links to them.
#[derive(Debug)]
pub struct ReplicationManager {
    shared: Arc<Shared>,
}

/// What survives a restart: what was stored, and how to store it.
#[allow(missing_debug_implementations)] // It holds a function.
pub struct Memory {
    /// As of the start.
    pub stored: Stored,
    /// Stores it; safe when this returns.
    pub save: Box<SaveFunction>,
}

/// Stores who is in the cluster.
pub type SaveFunction = dyn Fn(&Stored) -> Result<()> + Send + std::marker::Sync;

struct Save(Box<SaveFunction>);

impl std::fmt::Debug for Save {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Save")
    }
}

/// What the manager and the threads of all links share.
///
/// Lock order: members → links → a link's state; inbound and rounds are taken with none of these held.
#[derive(Debug)]
struct Shared {
    store: Arc<KeyValueStore>,
    clock: Arc<HybridClock>,
    limits: Limits,
    options: ReplicationOptions,
    password: Option<Vec<u8>>,
    began: Instant,
    members: Mutex<Members>,
    /// What was stored last. Held while it is stored, so that nothing older is stored after it.
    saved: Mutex<Stored>,
    save: Option<Save>,
    links: RwLock<Arc<BTreeMap<u64, Arc<Handle>>>>,
    /// Whether there is any link: what a write looks at first.
    has_links: AtomicBool,
    inbound: Inbound,
    rounds: Mutex<Rounds>,
    counters: Counters,
    /// Signalled when a peer holds more, if anybody waits.
    progress: (Mutex<()>, Condvar),
    waiting: AtomicUsize,
    /// Why nodes that introduced themselves were refused last, by address: logged when it changes.
    refusals: Mutex<BTreeMap<String, String>>,
}

/// What others see of a link.
#[derive(Debug)]
struct Handle {
    number: u64,
    queue: Queue,
    wake: Sender<()>,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    shown: Mutex<Shown>,
    socket: Mutex<Option<Arc<TcpStream>>>,
}

#[derive(Debug)]
struct Shown {
    address: String,
    state: State,
    held: Held,
    oldest_ms: Option<u64>,
    waiting: usize,
    last_sync_ms: Option<u64>,
    clock_ahead_ms: i64,
}

/// What a connection's writes must reach at each link before its peer counts for `WAIT`.
#[derive(Debug)]
pub struct Ticket(Vec<(Arc<Handle>, u64, u64)>);

impl ReplicationManager {
    /// A manager without links yet. Where others reach this node is known only once it listens:
    /// [`ReplicationManager::start`].
    pub fn new(
        configuration: &Configuration,
        (node_id, run_id): (u64, u64),
        store: Arc<KeyValueStore>,
        clock: Arc<HybridClock>,
        memory: Option<Memory>,
    ) -> Self {
        let (options, limits) = (&configuration.replication, &configuration.limits);
        let identity = Identity {
            node_id,
            run_id,
            cluster: options.cluster.clone(),
            is_durable: memory.is_some(),
            address: Err("it does not listen yet".into()),
        };
        let rounds = Rounds::new(
            limits.tombstone_round.as_millis() as u64,
            limits.tombstones_per_round_max,
            CLEAN_ROUNDS,
        );
        let (stored, save) = match memory {
            Some(Memory { stored, save }) => (stored, Some(save)),
            None => (Stored::default(), None),
        };
        let members = Members::new(identity, &options.seeds, &stored, limits.peers_max);
        ReplicationManager {
            shared: Arc::new(Shared {
                store,
                clock,
                limits: limits.clone(),
                options: options.clone(),
                password: configuration.password.clone(),
                began: Instant::now(),
                members: Mutex::new(members),
                saved: Mutex::new(stored),
                save: save.map(Save),
                links: RwLock::default(),
                has_links: AtomicBool::new(false),
                inbound: Inbound::default(),
                rounds: Mutex::new(rounds),
                counters: Counters::default(),
                progress: (Mutex::default(), Condvar::new()),
                waiting: AtomicUsize::new(0),
                refusals: Mutex::default(),
            }),
        }
    }

    /// Starts the links to the seeds; the node listens at `listening`. Returns when each seed has answered or
    /// failed, or after a second: a node that restarts empty must have seen the others' clocks before
    /// it stamps a write, or the write could lose against its own earlier ones.
    pub fn start(&self, listening: SocketAddr) -> Result<()> {
        let address = advertised(self.shared.options.advertise.as_deref(), listening);
        if let Ok(address) = &address {
            info!("peers are told to reach this node at {address}");
        }
        lock(&self.shared.members).set_address(address);
        let (tried, all_tried) = bounded::<()>(0);
        self.shared.update_links(Some(&tried))?;
        drop(tried);
        // Nobody sends: it ends when the last link has dropped its sender, or with the time.
        let _ = all_tried.recv_timeout(self.shared.limits.seeds_timeout);
        Ok(())
    }

    /// Hands a changed key to every link. Called after the merge; never waits.
    pub fn changed(&self, key: &[u8], at_ms: u64) {
        if !self.shared.has_links.load(Ordering::SeqCst) {
            return;
        }
        let links = self.shared.links();
        if links.is_empty() {
            return;
        }
        let key: Arc<[u8]> = key.into();
        for link in links.values() {
            link.queue.offer(Change {
                key: Arc::clone(&key),
                at_ms,
            });
        }
    }

    /// Whether a delete must leave a tombstone: not on a node with neither seeds nor members.
    pub fn keeps_tombstones(&self) -> bool {
        self.shared.has_links.load(Ordering::SeqCst)
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
            Ok(()) => drop(lock(&self.shared.refusals).remove(&from.address)),
            Err(reason) => self.refused(&from.address, &reason.to_string()),
        }
        result
    }

    /// Counts that somebody who wanted to be a peer was refused; logs it if it is news.
    pub fn refused(&self, who: &str, reason: &str) {
        metrics::add(&self.shared.counters.hellos_refused, 1);
        let mut refusals = lock(&self.shared.refusals);
        if refusals.len() >= self.shared.limits.peers_max && !refusals.contains_key(who) {
            refusals.clear();
        }
        let before = refusals.insert(who.into(), reason.into());
        drop(refusals);
        if before.as_deref() != Some(reason) {
            warn!("refused the peer {who}: {reason}");
        }
    }

    /// The connection that a peer made to this node has ended.
    pub fn inbound_ended(&self, peer: &Arc<inbound::Peer>) {
        if self.shared.inbound.ended(peer) {
            self.shared.lost_a_peer();
        }
    }

    /// The connections that peers made to this node.
    pub fn inbound(&self) -> &Inbound {
        &self.shared.inbound
    }

    /// Counts what a peer's batch did. Nothing is handed on, but every link compares when things are quiet: the
    /// batch may come from somebody whom another peer cannot reach.
    pub fn merged(&self, done: sync::Merged) {
        let links = self.shared.links();
        links.values().for_each(|link| link.queue.stir());
        metrics::add(&self.shared.counters.records_merged, done.merged);
        if metrics::add(&self.shared.counters.records_refused, done.refused) == done.refused
            && done.refused > 0
        {
            warn!(
                "refused {} records that are more than {} s ahead of this machine's clock; set the clocks right",
                done.refused,
                self.shared.options.clock_skew_max.as_secs()
            );
        }
    }

    /// Bans a node for good, by address or id.
    pub fn forget(&self, target: &str) -> Result<()> {
        let ended = lock(&self.shared.members).forget(target)?;
        info!("forgot {target}: {} links end", ended.len());
        self.shared.update_links(None)?;
        self.shared.save_members()?;
        if !self.keeps_tombstones() {
            // Nobody can bring an older value back.
            self.shared.store.drop_all_tombstones();
        }
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
            if lock(members).is_cut(link.number) {
                link.interrupt();
                link.set_state(State::Partitioned);
            }
        }
        Ok(())
    }

    /// Ends all partitions.
    pub fn heal(&self) -> Result<()> {
        self.check_fault_injection("HEAL")?;
        lock(&self.shared.members).heal();
        self.shared.links().values().for_each(|link| link.wake());
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
            |link: &Arc<Handle>| (Arc::clone(link), link.queue.sent(), link.queue.overflows());
        Ticket(links.values().map(reach).collect())
    }

    /// How many peers hold what the ticket is about.
    pub fn holding(&self, ticket: &Ticket) -> usize {
        let holds = |(link, sent, overflows): &&(Arc<Handle>, u64, u64)| {
            let held = lock(&link.shown).held;
            held.is_complete && held.sent >= *sent && held.overflows >= *overflows
        };
        ticket.0.iter().filter(holds).count()
    }

    /// How many peers are live.
    pub fn live_peers(&self) -> usize {
        let links = self.shared.links();
        links
            .values()
            .filter(|link| link.state() == State::Live)
            .count()
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
            guard = match condvar.wait_timeout(guard, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        drop(guard);
        self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until all live peers hold everything, for a gentle stop; at most `timeout`.
    pub fn drain(&self, timeout: Duration) {
        let ticket = self.ticket();
        self.wait_until(timeout, || self.holding(&ticket) >= self.live_peers());
    }

    /// How each peer is.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let members = lock(&self.shared.members);
        let links = self.shared.links();
        let shown = links.values().filter_map(|link| {
            let contact = members.contacts().get(&link.number)?;
            let id = contact.id.or(contact.introduced_as);
            Some(link.status(id, self.shared.monotonic_ms()))
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
        links.values().map(|link| link.queue.overflows()).sum()
    }

    /// Where others reach this node; empty when nobody was told.
    pub fn advertised_address(&self) -> String {
        let members = lock(&self.shared.members);
        members.identity().address.clone().unwrap_or_default()
    }
}

impl Shared {
    fn monotonic_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn view(&self) -> View<'_> {
        View {
            store: &self.store,
            cutoff: sync::cutoff(wall_clock_ms(), self.options.tombstone_grace),
        }
    }

    fn links(&self) -> Arc<BTreeMap<u64, Arc<Handle>>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&links)
    }

    fn addresses(&self, number: u64) -> Option<Vec<String>> {
        let members = lock(&self.members);
        Some(members.contacts().get(&number)?.addresses.clone())
    }

    /// Whether a link must end or stand still.
    fn link_fate(&self, number: u64) -> Option<worker::End> {
        let members = lock(&self.members);
        if !members.contacts().contains_key(&number) {
            return Some(worker::End::Gone);
        }
        members.is_cut(number).then_some(worker::End::Cut)
    }

    fn introduction(&self, is_answer: bool) -> Result<Introduction> {
        let members = lock(&self.members);
        let identity = members.identity();
        let address = identity.address.clone().map_err(Error::refused)?;
        let (mut known, mut bans) = (Vec::new(), Vec::new());
        if is_answer {
            (known, bans) = (members.members(), members.bans());
        }
        Ok(Introduction {
            cluster: identity.cluster.clone(),
            node_id: identity.node_id,
            run_id: identity.run_id,
            is_durable: identity.is_durable,
            clock: self.clock.latest().max(wall_clock_ms() << COUNTER_BITS),
            address,
            members: known,
            bans,
        })
    }

    fn heard(self: &Arc<Self>, from: &Introduction) -> Result<()> {
        let mut members = lock(&self.members);
        if members.is_cut_off(Some(from.node_id), &from.address) {
            return Err(Error::refused("partitioned"));
        }
        members.heard(from)?;
        let known_to = members.links_to(from.node_id, &from.address);
        drop(members);
        self.adopt_clock(from);
        self.update_links(None)?;
        let links = self.links();
        let known = known_to.iter().filter_map(|number| links.get(number));
        known.for_each(|link| link.wake());
        Ok(())
    }

    /// The peer of a link answered our HELLO.
    fn answered(
        self: &Arc<Self>,
        link: &Handle,
        address: &str,
        by: &Introduction,
    ) -> Result<Verdict> {
        let verdict = lock(&self.members).answered(link.number, address, by);
        if verdict == Verdict::Member {
            lock(&link.shown).clock_ahead_ms = self.adopt_clock(by);
        }
        self.update_links(None)?;
        self.inbound.close(|id, _| by.bans.contains(&id));
        Ok(verdict)
    }

    /// Learns of another node's clock, unless it is too far ahead. How far ahead it is.
    fn adopt_clock(&self, of: &Introduction) -> i64 {
        let wall_ms = wall_clock_ms();
        if sync::is_plausible(of.clock, wall_ms, self.options.clock_skew_max) {
            self.clock.observe(of.clock);
        }
        (of.clock >> COUNTER_BITS) as i64 - wall_ms as i64
    }

    /// Starts links to contacts that have none, and ends those whose contacts are gone. `tried` goes to
    /// the new links, which drop it after their first attempt.
    fn update_links(self: &Arc<Self>, tried: Option<&Sender<()>>) -> Result<()> {
        let members = lock(&self.members);
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let mut next = (**links).clone();
        next.retain(|number, link| {
            let stays = members.contacts().contains_key(number);
            if !stays {
                gone.push(Arc::clone(link));
            }
            stays
        });
        for (number, contact) in members.contacts() {
            if !next.contains_key(number) {
                let (wake, woken) = bounded(1);
                let link = Handle::new(*number, &contact.addresses[0], wake, &self.limits);
                let link = Arc::new(link);
                next.insert(*number, Arc::clone(&link));
                new.push((link, woken));
            }
        }
        self.has_links.store(!next.is_empty(), Ordering::SeqCst);
        *links = Arc::new(next);
        drop(links);
        drop(members);
        if let Err(error) = self.save_members() {
            warn!("cannot store who is in the cluster: {error}");
        }
        gone.iter().for_each(|link| link.interrupt());
        for (link, woken) in new {
            let (shared, tried) = (Arc::clone(self), tried.cloned());
            thread::Builder::new()
                .name(format!("link-{}", link.number))
                .spawn(move || worker::run(&link, &shared, &woken, tried))?;
        }
        Ok(())
    }

    /// A peer's connection, in either direction, is gone.
    fn lost_a_peer(&self) {
        let links = self.links();
        links.values().for_each(|link| link.queue.lost_another());
    }

    /// Stores members and bans if they have changed.
    fn save_members(&self) -> Result<()> {
        let Some(Save(save)) = &self.save else {
            return Ok(());
        };
        let mut saved = lock(&self.saved);
        let now = lock(&self.members).stored();
        if *saved != now {
            save(&now)?;
            *saved = now;
        }
        Ok(())
    }

    /// Shows to others how a link is.
    fn publish(&self, handle: &Handle, link: &Link) {
        let mut shown = lock(&handle.shown);
        let has_progressed = shown.held != link.held();
        shown.held = link.held();
        shown.oldest_ms = link.oldest_ms();
        shown.waiting = link.waiting();
        drop(shown);
        if has_progressed && self.waiting.load(Ordering::SeqCst) > 0 {
            // Under the lock, so that nobody who has just found nothing falls asleep after this.
            let _guard = lock(&self.progress.0);
            self.progress.1.notify_all();
        }
        if link.is_refused() {
            handle.set_state(State::Refused("clock skew".into()));
        } else if link.is_live() {
            handle.set_state(State::Live);
        } else if link.is_introduced() {
            handle.set_state(State::Syncing);
        }
    }

    /// A link has compared everything with its peer.
    fn synced(&self, handle: &Handle, began_ms: u64, revived: &[Tombstone]) {
        let now_ms = self.monotonic_ms();
        metrics::add(&self.counters.syncs_finished, 1);
        lock(&handle.shown).last_sync_ms = Some(now_ms);
        let holders = lock(&self.members).holders();
        let mut rounds = lock(&self.rounds);
        let dropped = rounds.compared(handle.number, (began_ms, now_ms), revived, &holders);
        rounds.begin(now_ms, self.view());
        drop(rounds);
        self.drop_tombstones(dropped);
    }

    fn drop_tombstones(&self, tombstones: Vec<Tombstone>) {
        for (key, version) in tombstones {
            let is_dropped = self.store.drop_tombstone(&key, version);
            metrics::add(&self.counters.tombstones_dropped, u64::from(is_dropped));
        }
    }
}

impl Handle {
    fn new(number: u64, address: &str, wake: Sender<()>, limits: &Limits) -> Self {
        Handle {
            number,
            queue: Queue::new(limits.queue_keys_max, limits.queue_bytes_max),
            wake,
            sent_bytes: AtomicU64::default(),
            received_bytes: AtomicU64::default(),
            shown: Mutex::new(Shown {
                address: address.into(),
                state: State::Connecting(String::new()),
                held: Held::default(),
                oldest_ms: None,
                waiting: 0,
                last_sync_ms: None,
                clock_ahead_ms: 0,
            }),
            socket: Mutex::default(),
        }
    }

    fn state(&self) -> State {
        lock(&self.shown).state.clone()
    }

    fn set_address(&self, address: &str) {
        lock(&self.shown).address = address.into();
    }

    fn set_socket(&self, socket: Option<Arc<TcpStream>>) {
        *lock(&self.socket) = socket;
    }

    /// Notes how the link is; logs it if that is news.
    fn set_state(&self, state: State) {
        let mut shown = lock(&self.shown);
        // The reason of a failed connection may change every time, and is no news.
        let is_news = match (&shown.state, &state) {
            (State::Connecting(before), State::Connecting(_)) => before.is_empty(),
            (before, now) => before != now,
        };
        if !is_news {
            return;
        }
        let address = shown.address.clone();
        shown.state = state.clone();
        drop(shown);
        match state {
            State::Connecting(reason) => warn!("peer {address} cannot be reached: {reason}"),
            State::Syncing => info!("peer {address} answers; comparing"),
            State::Live => info!("peer {address} is live"),
            State::Partitioned => warn!("peer {address} is cut off by PARTITION"),
            State::Refused(reason) => warn!("peer {address} refused: {reason}"),
        }
    }

    fn wake(&self) {
        // Full means that it will wake anyway.
        let _ = self.wake.try_send(());
    }

    /// Ends what the link is doing, so that it looks at its fate.
    fn interrupt(&self) {
        if let Some(socket) = &*lock(&self.socket) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.wake();
    }

    fn status(&self, id: Option<u64>, now_ms: u64) -> PeerStatus {
        let shown = lock(&self.shown);
        let wall_ms = wall_clock_ms();
        PeerStatus {
            address: shown.address.clone(),
            id,
            state: shown.state.to_string(),
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

/// Where others reach a node that listens at `listening`.
fn advertised(wanted: Option<&str>, listening: SocketAddr) -> std::result::Result<String, String> {
    match wanted {
        Some(address) => Ok(address.into()),
        None if listening.ip().is_unspecified() => Err(format!(
            "it listens on {}, which stands for every interface, and was not told where others reach it; \
             start it with --advertise HOST:PORT",
            listening.ip()
        )),
        None if listening.ip().is_loopback() => Ok(format!("localhost:{}", listening.port())),
        None => Ok(listening.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process, so nobody meets a lock that a panicking thread left behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
