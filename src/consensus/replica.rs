//! The pure core: what one node knows and decides. No thread, socket, clock or file.
//!
//! Functions in, values out: times are arguments, messages are values, and what must reach the disk
//! is handed out by [`Replica::take_unwritten`]. The threads drive it under one mutex; the
//! simulation drives it with its own messages and disk.
//!
//! **How to drive it.** After every call, before the mutex is released: append what
//! [`Replica::take_unwritten`] returns to the log on the disk, in order, and tell the position of
//! each entry ([`Replica::wrote`]). When the disk has more, say so ([`Replica::saved`]). Nothing
//! that shows a term or a vote leaves before the last [`LogRecord::Term`] is on the disk (rule 1).
//!
//! Files: this one has the state and the clockwork; `election` who leads, `leading` what a leader
//! sends and learns, `following` what a follower takes, `proposing` how a write becomes an entry,
//! `changing` who is in the cluster, `view` what others may see.

use std::sync::Arc;

use super::election::Campaign;
use super::entry::{Entry, Payload};
use super::leading::Leading;
use super::log::{EntryId, Log};
use super::members::Members;
use super::proposing::{Building, Pending};
use crate::random::Random;

/// Applied entries are kept in memory up to so many bytes, for followers that lag a little.
const APPLIED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A peer that owes an answer counts as answering for so long: neither a long entry nor a slow
/// fsync deposes a leader.
pub(super) const EXCHANGE_MS_MAX: u64 = 5_000;
/// Election timeouts double with each failed attempt, up to this.
const ELECTION_TIMEOUT_MS_MAX: u64 = 5_000;
/// How many election timeouts a new cluster's only node waits before it leads itself: an older
/// cluster may greet it.
const FOUNDING_TIMEOUTS: u64 = 3;
/// The term of a new cluster's first entry. Leaders have higher ones.
pub const FOUNDING_TERM: u64 = 1;

/// One node's part in the agreement.
///
/// Invariants, each asserted where it could break:
/// - `applied <= commit <= last`.
/// - The term never falls, and within a term the vote never becomes another.
/// - The commit index never falls.
#[derive(Debug)]
pub struct Replica {
    pub(super) id: u64,
    pub(super) term: u64,
    pub(super) vote: Option<u64>,
    pub(super) role: Role,
    /// Who leads this term, as far as is known, and its newest read round that is confirmed.
    pub(super) leader: Option<u64>,
    pub(super) confirmed: u64,
    /// What a leader has told this node to be committed; its own log may not reach so far yet.
    pub(super) told_commit: u64,
    pub(super) log: Log,
    pub(super) commit: u64,
    pub(super) applied: u64,
    /// Every entry up to here is as safe on the disk as the fsync policy promises.
    pub(super) durable: u64,
    /// The position of the log on the disk up to which it is safe.
    safe: u64,
    /// Who was in the cluster from an index on: the committed value and those behind it.
    pub(super) members_from: Vec<(u64, Arc<Members>)>,
    pub(super) timing: Timing,
    /// Since when no leader is known.
    leaderless_since_ms: u64,
    /// When a follower or candidate stands for election, unless it hears a leader before.
    pub(super) election_at_ms: u64,
    /// Failed attempts since a leader was heard.
    pub(super) attempts: u32,
    /// Whether the next attempt is the one that follows a broken connection of the leader.
    pub(super) is_fast: bool,
    /// When the leader was heard last.
    heard_ms: Option<u64>,
    /// Requests of the leader that are being handled: for so long it counts as heard.
    handling: u32,
    random: Random,
    /// Why the disk takes nothing now; then this node answers nothing and does not stand.
    pub(super) disk_failure: Option<String>,
    pub(super) building: Option<Building>,
    pub(super) pending: Pending,
    pub(super) counts: Counts,
    unwritten: Vec<LogRecord>,
}

/// What a node does in its term.
#[derive(Debug)]
pub enum Role {
    /// Takes what the leader sends.
    Follower,
    /// Asks for votes.
    Candidate(Campaign),
    /// Leads.
    Leader(Leading),
}

/// Times, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Shortest election timeout; the longest is twice this.
    pub election_timeout_ms: u64,
    /// Pause between two signs of life of a leader.
    pub heartbeat_ms: u64,
}

impl Timing {
    /// How long a node that founds a cluster waits before it leads itself.
    pub fn founding_ms(&self) -> u64 {
        FOUNDING_TIMEOUTS * self.election_timeout_ms
    }
}

/// What the log on the disk gets, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    /// The term, and who got this node's vote in it.
    Term {
        /// The term.
        term: u64,
        /// Who got the vote.
        vote: Option<u64>,
    },
    /// An entry. It supersedes all from its index on, unless it is there already.
    Entry(Arc<Entry>),
}

/// What a node starts from.
#[derive(Clone, Debug, Default)]
pub struct Ground {
    /// The newest term.
    pub term: u64,
    /// The vote in that term.
    pub vote: Option<u64>,
    /// The last entry whose changes are in the store.
    pub base: EntryId,
    /// Who was in the cluster at the base.
    pub members: Arc<Members>,
    /// The entries above the base.
    pub entries: Vec<Arc<Entry>>,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // The names say it.
pub struct Counts {
    pub elections: u64,
    pub leader_changes: u64,
    pub read_rounds: u64,
    /// APPENDs handled, and answers to APPENDs.
    pub exchanges: u64,
}

impl Replica {
    /// A replica that goes on from `ground`. `seed` is any number, another one on each node.
    pub fn new(id: u64, ground: Ground, timing: Timing, seed: u64, now_ms: u64) -> Self {
        let Ground { term, vote, base, members, entries } = ground;
        let mut replica = Replica {
            id,
            term,
            vote,
            role: Role::Follower,
            leader: None,
            confirmed: 0,
            told_commit: 0,
            log: Log::recovered(base, Vec::new()),
            commit: base.index,
            applied: base.index,
            durable: base.index,
            safe: 0,
            members_from: vec![(base.index, members)],
            timing,
            leaderless_since_ms: now_ms,
            election_at_ms: 0,
            attempts: 0,
            is_fast: false,
            heard_ms: None,
            handling: 0,
            random: Random(seed),
            disk_failure: None,
            building: None,
            pending: Pending::default(),
            counts: Counts::default(),
            unwritten: Vec::new(),
        };
        for entry in &entries {
            replica.note_members(entry);
        }
        replica.log = Log::recovered(base, entries);
        replica.durable = replica.log.last().index;
        assert!(replica.log.last().term <= term, "a term is on the disk before its entries");
        replica.rest(now_ms);
        replica
    }

    /// A cluster of one begins: its first entry names it as the only voter. It leads itself after
    /// [`Timing::founding_ms`].
    pub fn found(&mut self, members: Members, now_ms: u64) {
        assert!(self.log.last() == EntryId::default(), "founded once");
        assert!(self.term <= FOUNDING_TERM, "another cluster's log is not known yet");
        // A power loss may have left the term without the entry.
        if self.term == 0 {
            self.set_term(FOUNDING_TERM, None);
        }
        let members = Payload::Members(Arc::new(members));
        self.push(Arc::new(Entry { index: 1, term: FOUNDING_TERM, payload: members }));
        self.election_at_ms = now_ms + self.timing.founding_ms();
        self.leaderless_since_ms = self.election_at_ms;
    }

    /// Acts on timeouts.
    pub fn tick(&mut self, now_ms: u64) {
        match self.role {
            Role::Leader(_) => self.check_quorum(now_ms),
            Role::Follower | Role::Candidate(_) => {
                let is_due = now_ms >= self.election_at_ms && self.handling == 0;
                if is_due && self.may_stand() {
                    self.stand(now_ms);
                } else if is_due {
                    self.rest(now_ms);
                }
            }
        }
    }

    /// Whether this node may become leader. Who is removed goes on until that is committed: it may
    /// be the only one with the entry (4.2.2). Rule 7.
    fn may_stand(&self) -> bool {
        let is_voter = |members: &Members| members.is_voter(self.id);
        self.disk_failure.is_none()
            && (is_voter(self.members()) || is_voter(self.committed_members()))
    }

    /// When [`Replica::tick`] has something to do.
    pub fn next_tick_ms(&self, now_ms: u64) -> u64 {
        let soon_ms = now_ms + self.timing.heartbeat_ms;
        match self.role {
            Role::Leader(_) => soon_ms,
            // It does not stand while a request of the leader is handled.
            _ if self.handling > 0 => self.election_at_ms.max(soon_ms),
            Role::Follower | Role::Candidate(_) => self.election_at_ms,
        }
    }

    /// There was a sign of life from a node on its connection to this one: it matters if that one
    /// leads, or owes this leader an answer.
    pub fn hear(&mut self, from: u64, now_ms: u64) {
        self.hear_answer(from, now_ms);
        if self.leader == Some(from) && self.id != from {
            self.heard_ms = Some(now_ms);
            self.attempts = 0;
            self.rest(now_ms);
        }
    }

    /// A request of the leader is being handled from now on: it may wait for the disk.
    pub fn begin_handling(&mut self) {
        self.handling += 1;
    }

    /// A request of a node was handled.
    pub fn end_handling(&mut self, from: u64, now_ms: u64) {
        self.handling -= 1;
        self.hear(from, now_ms);
    }

    /// The newest connection of a node to this one broke. If that one leads, this node stands soon,
    /// once.
    pub fn lost(&mut self, from: u64, now_ms: u64) {
        if self.leader == Some(from) && self.id != from {
            self.heard_ms = None;
            self.is_fast = true;
            self.election_at_ms = now_ms + 50 + self.random.below(100);
        }
    }

    /// Whether a leader was heard lately.
    pub(super) fn hears_leader(&self, now_ms: u64) -> bool {
        let is_recent = |at: u64| now_ms.saturating_sub(at) < self.timing.election_timeout_ms;
        self.handling > 0 || self.heard_ms.is_some_and(is_recent)
    }

    /// Waits for an election timeout from now on.
    pub(super) fn rest(&mut self, now_ms: u64) {
        let doubled = self.timing.election_timeout_ms << self.attempts.min(8);
        let shortest = doubled.min(ELECTION_TIMEOUT_MS_MAX.max(self.timing.election_timeout_ms));
        self.election_at_ms = now_ms + shortest + self.random.below(shortest.max(1));
        self.is_fast = false;
    }

    /// The disk failed, or takes again what it is given. Rule 10.
    pub fn set_disk_failure(&mut self, reason: Option<String>, now_ms: u64) {
        let has_failed = reason.is_some();
        self.disk_failure = reason;
        if has_failed && !matches!(self.role, Role::Follower) {
            self.follow(self.term, None, now_ms);
        }
    }

    /// What must be appended to the log on the disk now, in this order.
    pub fn take_unwritten(&mut self) -> Vec<LogRecord> {
        std::mem::take(&mut self.unwritten)
    }

    /// An entry was appended to the log on the disk, and ends at this position.
    pub fn wrote(&mut self, index: u64, position: u64) {
        self.log.set_position(index, position);
    }

    /// The log on the disk is safe up to this position, by the fsync policy. Rule 2.
    pub fn saved(&mut self, position: u64, now_ms: u64) {
        self.safe = self.safe.max(position);
        self.durable = self.log.last_safe(self.durable, self.safe);
        self.advance_commit(now_ms);
    }

    /// The committed entries that are not applied yet, in order, up to about so many bytes.
    /// Rule 9.
    pub fn to_apply(&self, bytes_max: usize) -> Vec<Arc<Entry>> {
        let mut entries = self.log.from(self.applied + 1, bytes_max);
        entries.retain(|entry| entry.index <= self.commit);
        entries
    }

    /// The store has the changes of all entries up to this index.
    pub fn applied(&mut self, index: u64) {
        assert!(
            self.applied <= index && index <= self.commit,
            "only committed entries are applied"
        );
        self.applied = index;
        self.pending.applied(index);
        // What is not in memory counts as safe: an entry stays until it is.
        self.log.forget(index.min(self.durable), APPLIED_BYTES_MAX);
        // The value in force at the applied index stays.
        while self.members_from.get(1).is_some_and(|(from, _)| *from <= index) {
            self.members_from.remove(0);
        }
    }

    /// Appends an entry to the log.
    pub(super) fn push(&mut self, entry: Arc<Entry>) {
        self.note_members(&entry);
        self.unwritten.push(LogRecord::Entry(Arc::clone(&entry)));
        self.log.push(entry);
    }

    /// Cuts the log: entries from this index on were never committed. Rule 5.
    pub(super) fn cut(&mut self, index: u64) {
        assert!(index > self.commit, "what is committed stays");
        self.log.truncate(index);
        self.durable = self.durable.min(index - 1);
        self.members_from.retain(|(from, _)| *from < index);
    }

    fn note_members(&mut self, entry: &Entry) {
        if let Payload::Members(members) = &entry.payload {
            self.members_from.push((entry.index, Arc::clone(members)));
        }
    }

    /// A new term, or a vote in this one.
    pub(super) fn set_term(&mut self, term: u64, vote: Option<u64>) {
        assert!(term >= self.term, "the term never falls");
        assert!(term > self.term || self.vote.is_none() || self.vote == vote, "one vote a term");
        self.confirmed = if term > self.term { 0 } else { self.confirmed };
        (self.term, self.vote) = (term, vote);
        self.unwritten.push(LogRecord::Term { term, vote });
    }

    /// Becomes a follower in a term that is not older.
    pub(super) fn follow(&mut self, term: u64, leader: Option<u64>, now_ms: u64) {
        // What was begun is an entry of the old term: its fate is that of every other.
        self.seal();
        self.pending.clear();
        if term > self.term {
            self.set_term(term, None);
            self.heard_ms = None;
        }
        self.role = Role::Follower;
        self.set_leader(leader, now_ms);
        self.rest(now_ms);
    }

    pub(super) fn set_leader(&mut self, leader: Option<u64>, now_ms: u64) {
        if self.leader.is_some() && leader.is_none() {
            self.leaderless_since_ms = now_ms;
        }
        if leader.is_some() && self.leader != leader {
            self.counts.leader_changes += 1;
        }
        self.leader = leader;
    }

    /// Since when no leader is known, if none is; a cluster that is founded counts from its first
    /// election on.
    pub fn leaderless_since_ms(&self) -> u64 {
        self.leaderless_since_ms
    }
}
