//! What all threads of a node share: the replica, and how to use it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use log::{error, info};

use super::disk;
use super::entry::Change;
use super::links::LinkTo;
use super::members::Members;
use super::replica::{LogRecord, Replica, Role};
use super::seen::Seen;
use super::tickets::Forwarding;
use super::waiters::{Until, Waiters};
use super::waker::Waker;
use crate::addresses::is_of_this_machine;
use crate::config::Dials;
use crate::durability::write_ahead_log::WriteAheadLog;
use crate::error::{Code, Error, Result};
use crate::locks::lock;
use crate::peers::cuts::Cuts;
use crate::peers::identity::Identity;
use crate::peers::inbound::Inbound;
use crate::peers::refused::RefusedPeers;
use crate::peers::status::PeerHandle;
use crate::store::KeyValueStore;

/// How a leader's role is called.
const LEADER: &str = "leader";
/// Bytes of entries that are applied between two looks at the replica.
const APPLY_BYTES: usize = 1024 * 1024;

/// What all threads of a node share.
///
/// Lock order: `applying` or `cuts`, then `replica`, then `waiters`, a shard, the log's `buffer` or
/// the queue of `forwarding`. `links` is taken with none of them held. `replica` is never held
/// across I/O.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) identity: Mutex<Identity>,
    pub(super) store: Arc<KeyValueStore>,
    pub(super) log: Arc<WriteAheadLog>,
    pub(super) replica: Mutex<Replica>,
    /// The threads that wait for something of the replica.
    pub(super) waiters: Mutex<Waiters>,
    /// Held by the thread that applies entries, for all.
    applying: Mutex<()>,
    /// Behind the newest term or vote in the log on the disk: nothing that shows it leaves before.
    pub(super) term_position: AtomicU64,
    /// The term in which this node leads and may evaluate; 0: it may not.
    pub(super) ready_term: AtomicU64,
    /// Whether there are committed entries that are not applied.
    must_apply: AtomicBool,
    pub(super) links: Mutex<BTreeMap<LinkTo, Arc<PeerHandle>>>,
    /// How many links were started: each has a number of its own.
    pub(super) links_started: AtomicU64,
    pub(super) inbound: Inbound,
    /// Where nodes that introduced themselves said that they are, by id.
    pub(super) heard: Mutex<BTreeMap<u64, String>>,
    pub(super) cuts: Mutex<Cuts>,
    pub(super) joining: Mutex<Joining>,
    pub(super) options: Options,
    pub(super) counters: Counters,
    /// What clients here ask of the leader.
    pub(super) forwarding: Forwarding,
    /// Whether this node founded its cluster in this run.
    pub(super) has_founded: AtomicBool,
    /// Why this node serves nothing any more: it was removed, or another cluster knows it as a
    /// member.
    pub(super) retired: Mutex<Option<String>>,
    pub(super) is_retired: AtomicBool,
    /// Up to where the log was safe, and since when it has not become safer.
    pub(super) standstill: Mutex<(u64, u64)>,
    /// Wakes the thread `raft`.
    pub(super) clock_waker: Waker,
    /// Wakes the thread `raft-log`.
    pub(super) log_waker: Waker,
    /// Nodes that introduced themselves and were refused.
    pub(super) refused_peers: RefusedPeers,
    /// Why a learner is not promoted, as it was logged last.
    promotion_reason: Mutex<String>,
    began: Instant,
}

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) seeds: Vec<String>,
    pub(super) advertise: Option<String>,
    pub(super) dials: Dials,
    pub(super) request_timeout: Duration,
    pub(super) reply_timeout: Duration,
    pub(super) password: Option<Vec<u8>>,
}

/// What a node that is no member yet has been told.
#[derive(Debug, Default)]
pub(super) struct Joining {
    /// The cluster that it joins: that of the first peer that answered.
    pub(super) cluster_id: Option<u64>,
    /// The members there: ids and addresses.
    pub(super) told: BTreeMap<u64, String>,
}

/// Counts since the start of the node.
#[derive(Debug, Default)]
#[allow(missing_docs)] // The names say it.
pub struct Counters {
    pub hellos_refused: AtomicU64,
    pub links_broken: AtomicU64,
    pub proposals_refused: AtomicU64,
    pub outcomes_unknown: AtomicU64,
    pub writes_forwarded: AtomicU64,
    pub reads_forwarded: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        identity: Identity,
        store: Arc<KeyValueStore>,
        log: Arc<WriteAheadLog>,
        replica: Replica,
        options: Options,
        began: Instant,
    ) -> Self {
        let shared = Shared {
            identity: Mutex::new(identity),
            store,
            log,
            replica: Mutex::new(replica),
            waiters: Mutex::default(),
            applying: Mutex::default(),
            term_position: AtomicU64::new(0),
            ready_term: AtomicU64::new(0),
            must_apply: AtomicBool::new(false),
            links: Mutex::default(),
            links_started: AtomicU64::new(0),
            inbound: Inbound::default(),
            heard: Mutex::default(),
            cuts: Mutex::default(),
            joining: Mutex::default(),
            options,
            counters: Counters::default(),
            forwarding: Forwarding::default(),
            has_founded: AtomicBool::new(false),
            retired: Mutex::default(),
            is_retired: AtomicBool::new(false),
            standstill: Mutex::default(),
            clock_waker: Waker::default(),
            log_waker: Waker::default(),
            refused_peers: RefusedPeers::default(),
            promotion_reason: Mutex::default(),
            began,
        };
        // What was recovered counts only if the disk took it at the start: rule 10.
        shared.check_disk();
        shared
    }

    /// A monotonic clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Does something with the replica. What it must keep goes to the log's buffer before anybody
    /// else sees the replica, so the log on the disk has the order of what happened.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut Replica, u64) -> R) -> R {
        let mut replica = lock(&self.replica);
        let before = Seen::of(&replica);
        let result = act(&mut replica, self.now_ms());
        self.write_out(&mut replica);
        let after = Seen::of(&replica);
        let mut woken = Vec::new();
        if after != before {
            after.log_change(&before, replica.members());
            woken = self.moved(&replica, after.has_other_leader(&before));
        }
        let (must_apply, leads) = (replica.must_apply(), after.role == LEADER);
        let owes_news = after != before && replica.owes_anybody_news();
        drop(replica);
        woken.iter().for_each(Thread::unpark);
        if owes_news {
            self.wake_links();
        }
        match (must_apply, leads) {
            (true, true) => self.apply(),
            // A follower's answer to its leader does not wait for this.
            (true, false) => self.log_waker.wake(),
            (false, _)
                if (after.role, after.leader, after.members_from)
                    != (before.role, before.leader, before.members_from) =>
            {
                self.wake_clock();
            }
            (false, _) => {}
        }
        result
    }

    fn write_out(&self, replica: &mut Replica) {
        let mut bytes = Vec::new();
        for record in replica.take_unwritten() {
            bytes.clear();
            disk::encode(&record, &mut bytes);
            let position = self.log.append(&bytes);
            match record {
                LogRecord::Term { .. } => self.term_position.store(position, Ordering::Release),
                LogRecord::Entry(entry) => replica.wrote(entry.index, position),
            }
        }
    }

    /// Something has changed: the threads to wake when the replica lock is released.
    fn moved(&self, replica: &Replica, has_other_leader: bool) -> Vec<Thread> {
        let is_ready = replica.is_ready() && !self.is_retired.load(Ordering::SeqCst);
        let ready_term = if is_ready { replica.term() } else { 0 };
        self.ready_term.store(ready_term, Ordering::SeqCst);
        self.must_apply.store(replica.must_apply(), Ordering::SeqCst);
        if is_ready {
            self.forwarding.withdraw();
        }
        let mut waiters = lock(&self.waiters);
        if has_other_leader {
            return waiters.take_all();
        }
        waiters.take_due(replica.applied_index(), replica.confirmed_round())
    }

    /// Applies what is committed. Rule 9.
    pub(super) fn apply(&self) {
        let _applying = lock(&self.applying);
        loop {
            let entries = lock(&self.replica).to_apply(APPLY_BYTES);
            let Some(last) = entries.last().map(|entry| entry.index) else {
                return;
            };
            for change in entries.iter().flat_map(|entry| entry.changes()) {
                match change {
                    Ok(Change::Write(record)) => self.store.apply(&record),
                    Ok(Change::Flush(version)) => self.store.remove_before(version),
                    // Entries are walked through when they are decoded.
                    Err(error) => error!("an entry that cannot be applied: {error}"),
                }
            }
            let mut replica = lock(&self.replica);
            replica.applied(last);
            let woken = self.moved(&replica, false);
            drop(replica);
            woken.iter().for_each(Thread::unpark);
        }
    }

    /// Applies what the replica knows to be committed, before a leader reads. A follower can be
    /// quicker: it may have acknowledged a write that this leader has not applied.
    pub(super) fn apply_committed(&self) {
        if self.must_apply.load(Ordering::SeqCst) {
            self.apply();
        }
    }

    /// Waits until `is_over` says what came of it, or until the deadline: then `None`. It looks
    /// when what `until` names is there.
    pub(super) fn wait<R>(
        &self,
        deadline: Instant,
        until: Until,
        is_over: impl Fn(&mut Replica) -> Option<R>,
    ) -> Option<R> {
        let mut place = None;
        loop {
            let mut replica = lock(&self.replica);
            let result = is_over(&mut replica);
            self.write_out(&mut replica);
            let left = deadline.saturating_duration_since(Instant::now());
            let mut waiters = lock(&self.waiters);
            if let Some(place) = place.take() {
                waiters.leave(&place);
            }
            if result.is_some() || left.is_zero() {
                return result;
            }
            place = Some(waiters.join(until));
            drop(waiters);
            drop(replica);
            thread::park_timeout(left);
        }
    }

    /// Whether this node may connect to an address.
    pub(super) fn may_dial(&self, address: &str) -> bool {
        self.options.dials == Dials::Everybody
            || self.options.seeds.iter().any(|seed| seed == address)
            || is_of_this_machine(address)
    }

    /// Wakes the thread `raft`.
    pub(super) fn wake_clock(&self) {
        self.clock_waker.wake();
    }

    /// The node's id.
    pub(super) fn id(&self) -> u64 {
        lock(&self.identity).node_id
    }

    /// Whether the log says that this node is in the cluster.
    pub(super) fn is_member(&self) -> bool {
        let id = self.id();
        self.with(|replica, _| replica.members().nodes.contains_key(&id))
    }

    /// An error while this node is in no cluster, and has nothing to read.
    pub(super) fn check_member(&self) -> Result<()> {
        if self.with(|replica, _| replica.members().nodes.is_empty()) {
            return Err(self.no_leader(""));
        }
        Ok(())
    }

    /// Logs why a learner is not a voter yet, if that is news.
    pub(super) fn promotion_waits(&self, id: u64, reason: &str) {
        let mut before = lock(&self.promotion_reason);
        if *before != reason {
            info!("{id:016x} has caught up and is not a voter yet: {reason}");
            *before = reason.into();
        }
    }

    /// Why a request cannot be served here now. `outcome` says what became of it, if that is
    /// certain and it was a write.
    pub(super) fn no_leader(&self, outcome: &str) -> Error {
        self.counters.proposals_refused.fetch_add(1, Ordering::Relaxed);
        let outcome = if outcome.is_empty() { String::new() } else { format!(" ({outcome})") };
        Error::refused_as(Code::ClusterDown, format!("{}{outcome}", self.why_not_served()))
    }

    /// Why this node serves nothing now.
    pub(super) fn why_not_served(&self) -> String {
        if let Some(reason) = &*lock(&self.retired) {
            return reason.clone();
        }
        let linked = self.linked();
        self.with(|replica, now_ms| {
            let members = replica.members();
            match replica.leader().and_then(|id| Some((id, members.nodes.get(&id)?))) {
                Some((id, _)) if id != replica.id() && replica.entries_missing() > 0 => {
                    format!(
                        "this node lacks {} entries that are committed; ask another node",
                        replica.entries_missing()
                    )
                }
                Some((id, member)) if id != replica.id() => {
                    format!("the leader, {}, has not answered in time", member.address)
                }
                Some(_) => "the leader applies what its predecessor left".into(),
                _ if members.nodes.is_empty() => "this node has not joined a cluster yet".into(),
                _ if !members.nodes.contains_key(&replica.id()) => {
                    "this node was removed from the cluster by PEER FORGET".into()
                }
                _ => {
                    let voters = members.voters().count();
                    let answering = answering(members, replica, &linked, now_ms);
                    format!(
                        "no leader: {answering} of {voters} voters answer, {} are needed",
                        members.majority()
                    )
                }
            }
        })
    }

    /// The nodes that a link talks with.
    fn linked(&self) -> BTreeSet<u64> {
        lock(&self.links).values().filter_map(|peer| peer.id()).collect()
    }
}

/// How many voters answer this node, itself included.
fn answering(members: &Members, replica: &Replica, linked: &BTreeSet<u64>, now_ms: u64) -> usize {
    let is_leader = matches!(replica.role(), Role::Leader(_));
    let answers = |id: &u64| {
        *id == replica.id()
            || if is_leader { replica.has_answered(*id, now_ms) } else { linked.contains(id) }
    };
    members.voters().filter(answers).count()
}
