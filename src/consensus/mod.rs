//! # Agreeing at once: consensus
//!
//! **The problem.** In an eventual cluster ([`crate::replication`]) two clients can write one key
//! on two sides of a cut, and one of the writes is lost. With `--raft` the nodes behave like one
//! that does not fail: a write that was acknowledged is never lost while a majority has its disks,
//! and a read never returns an older value than an earlier read did.
//!
//! **The idea** is Raft (Ongaro and Ousterhout, "In Search of an Understandable Consensus
//! Algorithm", 2014; numbers in parentheses are sections of Ongaro's dissertation of the same
//! year). One node leads. Its log is the order of all writes. It sends the log to the others, and
//! an entry is *committed* when a majority has it on disk. Committed entries are applied to the
//! store, in order, by all.
//!
//! ```text
//! client ─► leader: evaluate, append to the log in memory ──► APPEND to each follower
//!                   │                                              │ append, fsync
//!                   ▼ fsync (at the same time)                     ▼
//!                   the entry is on a majority of disks ◄──── "matches up to 7"
//!                   │
//!                   ▼ committed: apply to the store ─► OK
//! ```
//!
//! When the leader falls silent, a follower asks the others for their votes in a new *term*. Each
//! node votes once in a term, and only for a candidate whose log has all that its own has. So two
//! majorities share a node, and the new leader has every committed entry.
//!
//! **The rules**, and what breaks without them. Assertions in the core and the examples in
//! `tests/raft_traces` hold them.
//! 1. *A term and a vote are on disk before anything shows them.* A node that forgot its vote
//!    would vote twice, and elect two leaders in one term.
//! 2. *A follower answers for what the request names, once it is on disk; the leader counts itself
//!    the same way.* An answer for the end of its log could count entries that the leader does not
//!    have.
//! 3. *A vote goes only to a log that is as up to date (5.4.1), after a trial (9.6).* A node that
//!    was cut off would return with a high term and depose a working leader.
//! 4. *Only an entry of the own term is counted (5.4.2).* An older entry that a majority has can
//!    still be replaced by a later leader: Figure 8.
//! 5. *A follower cuts its log only where it differs, and never what is committed.* A late APPEND
//!    would cut entries that it has acknowledged.
//! 6. *A leader that no majority answers steps down (6.2).* Its clients would wait for ever.
//! 7. *One change of the members at a time (4.1).* Two at once could have two majorities that
//!    share no node.
//! 8. *A read is answered after a majority has confirmed, later, that the leader led then (6.4).*
//!    A leader that was paused does not know that another was elected, and would serve old values.
//! 9. *Only committed entries are applied.* Others may never happen.
//! 10. *After a failed write or fsync a node leads no more, and answers nothing until the disk has
//!     healed.* The leader counts what a node says that it has on disk.
//!
//! **What is left out.** A follower that lacks entries which the leader has no more waits: the
//! transfer of a whole state does not exist yet (`PEERS` says `behind=1`). There are no joint
//! changes of members (4.3), no leases for reads (6.4.1), and no sessions that make a repeated
//! write harmless (6.3).
//!
//! **Threads.** `raft` acts on timeouts: it stands for election, promotes learners and starts
//! links. `raft-log` writes what a leader appends, and applies what a follower has. Each link is a
//! thread of [`crate::peers::worker`]. Clients' threads evaluate and wait.
//!
//! Files: read [`replica`] first, the pure core, with [`election`], [`leading`], [`following`],
//! [`proposing`] and [`changing`]; [`entry`], [`log`] and [`members`] are what it keeps,
//! [`messages`] what nodes say. Then the threads: `shared` is how they use the core, `requests`
//! what clients ask, [`forward`] how followers ask the leader, with [`forwarded`] and [`tickets`],
//! `answering` what other nodes ask, `conversation` what a link says, `greeting` and `links` who
//! talks with whom, [`disk`] what a data directory holds. `tests/raft_traces` shows the rules at
//! work, one example a file.

mod answering;
pub mod changing;
mod conversation;
pub mod disk;
pub mod election;
pub mod entry;
pub mod following;
pub mod forward;
pub mod forwarded;
mod greeting;
pub mod leading;
mod links;
pub mod log;
pub mod members;
pub mod messages;
pub mod proposing;
pub mod replica;
mod requests;
mod saving;
mod seen;
mod shared;
pub mod status;
pub mod tickets;
pub mod view;
mod waiters;
mod waker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::log::{info, warn};

use crate::config::Configuration;
use crate::durability::snapshot::HeadFunction;
use crate::durability::write_ahead_log::WriteAheadLog;
use crate::error::{Error, Result};
use crate::locks::{lock, spawn};
use crate::peers::cuts::Cuts;
use crate::peers::identity::{Identity, advertised, parse_id};
use crate::random::random_id;
use crate::store::KeyValueStore;
use changing::MemberChange;
pub use greeting::Greeted;
use members::Members;
use replica::{Ground, Replica, Timing};
pub use requests::Unsettled;
use shared::{Options, Shared};
use tickets::{Answer, Ask};

/// Pause between two signs of life of a leader.
const HEARTBEAT_MS: u64 = 100;
/// Longest sleep of the thread `raft`.
const CLOCK_SLICE: Duration = Duration::from_millis(100);

/// The nodes that agree with this one, and the threads that talk with them.
#[derive(Debug)]
pub struct Consensus {
    shared: Arc<Shared>,
}

impl Consensus {
    /// Goes on from what the data directory holds. `ids` are the node's id and this run's.
    pub fn new(
        configuration: &Configuration,
        (node_id, run_id): (u64, u64),
        store: Arc<KeyValueStore>,
        log: Arc<WriteAheadLog>,
        ground: Ground,
    ) -> Self {
        let options = &configuration.replication;
        let identity = Identity {
            node_id,
            run_id,
            cluster: options.cluster.clone(),
            is_durable: true,
            address: Err("it does not listen yet".into()),
        };
        let timing = Timing {
            election_timeout_ms: configuration.raft.election_timeout.as_millis() as u64,
            heartbeat_ms: HEARTBEAT_MS,
        };
        let replica = Replica::new(node_id, ground, timing, random_id(), 0);
        let options = Options {
            seeds: options.seeds.clone(),
            advertise: options.advertise.clone(),
            dials: configuration.dials(),
            request_timeout: configuration.raft.request_timeout,
            reply_timeout: configuration.limits.link_reply_timeout,
            password: configuration.passwords.first.clone(),
        };
        let shared = Shared::new(identity, store, log, replica, options, Instant::now());
        Consensus { shared: Arc::new(shared) }
    }

    /// Decides where others are told to reach this node, which listens at `listening`, founds a
    /// cluster if there is none to be in, and starts the links and the clock.
    pub fn start(&self, listening: SocketAddr) -> Result<String> {
        let shared = &self.shared;
        let address = advertised(shared.options.advertise.as_deref(), listening);
        let address = address.map_err(Error::Fatal)?;
        lock(&shared.identity).address = Ok(address.clone());
        let (is_new, term, timing) = shared.with(|replica, _| {
            (replica.members().nodes.is_empty(), replica.term(), replica.timing())
        });
        if is_new && shared.options.seeds.is_empty() {
            if term > replica::FOUNDING_TERM {
                return Err(Error::Fatal(
                    "this node had begun to join a cluster, and does not know its members yet; \
                     name one of them with --peer, or start with an empty --data-dir"
                        .into(),
                ));
            }
            let members = Members::founded_by(random_id(), shared.id(), &address);
            info!(
                "founding a cluster, {:016x}: no --peer is named and the directory is new. It is \
                 led from here in {} s, unless an older cluster greets this node",
                members.cluster_id,
                timing.founding_ms() as f64 / 1_000.0
            );
            shared.with(|replica, now_ms| replica.found(members, now_ms));
            shared.has_founded.store(true, Ordering::SeqCst);
            shared.save_term()?;
        } else if !shared.options.seeds.is_empty() && shared.others().is_empty() && !is_new {
            warn!(
                "--peer changes nothing: this node is the only member of its own cluster, as its \
                 --data-dir says. To join another, start it with an empty one"
            );
        }
        shared.update_links();
        let clock = Arc::clone(shared);
        spawn("raft", move || run_clock(&clock))?;
        let writer = Arc::clone(shared);
        spawn("raft-log", move || run_log(&writer))?;
        Ok(address)
    }

    /// What stands before the map in a snapshot: see [`disk`].
    pub fn snapshot_head(&self) -> Box<HeadFunction<'static>> {
        let shared = Arc::clone(&self.shared);
        Box::new(move |number| shared.snapshot_head(number))
    }

    /// Counts and logs that a node which wanted to be a peer was refused.
    pub fn refused(&self, who: &str, reason: &str) {
        self.shared.refused(who, reason);
    }

    /// Where others reach this node.
    pub fn advertised_address(&self) -> String {
        lock(&self.shared.identity).address.clone().unwrap_or_default()
    }

    /// Removes a member, by address or id.
    pub fn forget(&self, target: &str) -> Result<()> {
        let shared = &self.shared;
        let deadline = shared.admit("not removed")?;
        let id = self.member_at(target)?;
        let entry = match shared.submit(&Ask::Remove(id), deadline) {
            Answer::Appended { last, .. } => last,
            Answer::Refused(reason) => return Err(Error::refused(reason)),
            Answer::NotSent if shared.with(|replica, _| replica.is_changing()) => {
                return Err(Error::refused("another change of the members is under way"));
            }
            Answer::NotSent => return Err(shared.no_leader("not removed")),
            _ => return Err(shared.outcome_unknown()),
        };
        shared.wake_clock();
        shared.bring_to_majority();
        shared.wait_for(entry, entry, deadline)?;
        info!("{target} ({id:016x}) is no member any more, and its id is never used again");
        shared.close_removed();
        Ok(())
    }

    fn member_at(&self, target: &str) -> Result<u64> {
        let members = self.shared.with(|replica, _| Arc::clone(replica.members()));
        let id = parse_id(target);
        let found: Vec<u64> = members
            .nodes
            .iter()
            .filter(|(other, member)| Some(**other) == id || member.address == target)
            .map(|(id, _)| *id)
            .collect();
        match found.as_slice() {
            [id] => Ok(*id),
            [] => Err(Error::refused(format!("no member is '{target}'; PEERS shows them"))),
            several => {
                let ids: Vec<String> = several.iter().map(|id| format!("{id:016x}")).collect();
                Err(Error::refused(format!(
                    "several members are at '{target}'; say which by its id: {}",
                    ids.join(", ")
                )))
            }
        }
    }

    /// Pretends that a member (address or id), or everybody (`*`), cannot be reached.
    pub fn partition(&self, target: &str) -> Result<()> {
        match target {
            "*" => *lock(&self.shared.cuts) = Cuts::Everybody,
            peer => {
                let names = self.names_of(peer)?;
                lock(&self.shared.cuts).add(names);
            }
        }
        self.shared.interrupt_cut();
        Ok(())
    }

    /// Ends the partition from one member, or all partitions (`*`).
    pub fn heal(&self, target: &str) -> Result<()> {
        let mut cuts = lock(&self.shared.cuts);
        match target {
            "*" => *cuts = Cuts::default(),
            _ if matches!(*cuts, Cuts::Everybody) => {
                return Err(Error::refused("everybody is cut off; HEAL ends that"));
            }
            peer => cuts.remove(&self.names_of(peer)?),
        }
        drop(cuts);
        self.shared.wake_links();
        Ok(())
    }

    fn names_of(&self, target: &str) -> Result<Vec<String>> {
        let id = self.member_at(target)?;
        let members = self.shared.with(|replica, _| Arc::clone(replica.members()));
        let address = members.nodes.get(&id).map(|member| member.address.clone());
        Ok(address.into_iter().chain([format!("{id:016x}")]).collect())
    }
}

/// The thread `raft-log`: writes what a leader appends, for all its clients, and applies what a
/// follower has.
fn run_log(shared: &Shared) {
    while shared.log_waker.woken.recv().is_ok() {
        shared.with(|replica, _| replica.seal());
        // A failure is noted by the replica, and tried again after the log has healed.
        let _ = shared.save();
        shared.apply();
    }
}

/// The thread `raft`: acts on timeouts.
fn run_clock(shared: &Arc<Shared>) {
    let mut received = BTreeMap::new();
    loop {
        shared.hear_peers(&mut received);
        let (next_ms, learner) = shared.with(|replica, now_ms| {
            replica.tick(now_ms);
            (replica.next_tick_ms(now_ms), replica.learner_to_promote())
        });
        shared.check_disk();
        shared.apply();
        shared.update_links();
        shared.close_removed();
        if let Some(id) = learner {
            let change = MemberChange::Promote(id);
            let promoted = shared.with(|replica, now_ms| replica.change_members(&change, now_ms));
            match promoted {
                Ok(_) => info!("{id:016x} has caught up and is a voter now"),
                Err(reason) => shared.promotion_waits(id, &reason),
            }
        }
        if shared.log.end() > shared.log.safe() {
            shared.log_waker.wake();
        }
        shared.wake_links();
        let left = Duration::from_millis(next_ms.saturating_sub(shared.now_ms()));
        let _ = shared.clock_waker.woken.recv_timeout(left.min(CLOCK_SLICE));
    }
}
