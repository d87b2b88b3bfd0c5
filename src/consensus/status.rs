//! What others see of a replica, and of the cluster.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Consensus;
use super::links::LinkTo;
use super::log::EntryId;
use super::members::Members;
use super::replica::{Counts, Replica, Role};
use super::shared::Counters;
use crate::locks::lock;
use crate::peers::status::{PeerStatus, RaftPeer};

/// A replica at one time.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names say it.
pub struct RaftStatus {
    pub role: &'static str,
    pub term: u64,
    /// The address of the leader; empty: none is known.
    pub leader: String,
    pub commit: u64,
    pub applied: u64,
    pub last: u64,
    pub durable: u64,
    pub voters: usize,
    pub learners: usize,
    pub counts: Counts,
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may still happen, or not.
    Open,
    /// It is committed and applied.
    Happened,
    /// Another entry is committed in its place.
    NeverHappened,
    /// It is too long ago to tell.
    Unknown,
}

impl Role {
    /// The role in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Role::Follower => "follower",
            Role::Candidate(_) => "candidate",
            Role::Leader(_) => "leader",
        }
    }
}

impl Replica {
    /// Whether there are committed entries that are not applied.
    pub fn must_apply(&self) -> bool {
        self.commit > self.applied
    }

    /// Where the newest value of the members stands in the log.
    pub fn members_since(&self) -> u64 {
        self.members_from.last().map_or(0, |(from, _)| *from)
    }

    /// The newest read round that a majority has confirmed; a follower has it from its leader.
    pub fn confirmed_round(&self) -> u64 {
        let Role::Leader(leading) = &self.role else {
            return self.confirmed;
        };
        let round_of = |id: u64| match leading.peers.get(&id) {
            Some(progress) => progress.round,
            None if id == self.id => leading.round,
            None => 0,
        };
        let mut rounds: Vec<u64> = self.members().voters().map(round_of).collect();
        rounds.sort_unstable_by(|a, b| b.cmp(a));
        rounds.get(self.members().majority() - 1).copied().unwrap_or(0)
    }

    /// How many other members have the log up to an index.
    pub fn holders(&self, index: u64) -> usize {
        self.members().nodes.keys().filter(|id| self.has(**id, index)).count()
    }

    /// How many other voters have the log up to an index.
    pub fn voters_with(&self, index: u64) -> usize {
        self.members().voters().filter(|id| self.has(*id, index)).count()
    }

    /// How many entries this node lacks that a leader has told it to be committed: 0 while an
    /// APPEND holds all that it lacks.
    pub fn entries_missing(&self) -> u64 {
        self.told_commit.saturating_sub(self.commit)
    }

    /// What each other member is known to have.
    pub(super) fn all_matched(&self) -> Vec<u64> {
        self.members().nodes.keys().filter_map(|id| self.matched(*id)).collect()
    }

    fn has(&self, peer: u64, index: u64) -> bool {
        self.matched(peer).is_some_and(|matched| matched >= index)
    }

    /// What is known of an entry that a leader appended, this node or another.
    pub fn fate(&self, entry: EntryId) -> Fate {
        let committed_term = self.log.term_at(self.commit);
        match self.log.term_ever_at(entry.index) {
            // Terms never fall from one entry to the next.
            _ if self.commit < entry.index && committed_term > Some(entry.term) => {
                Fate::NeverHappened
            }
            _ if self.applied < entry.index && self.commit < entry.index => Fate::Open,
            Some(term) if term != entry.term => Fate::NeverHappened,
            Some(_) if self.applied >= entry.index => Fate::Happened,
            Some(_) => Fate::Open,
            None => Fate::Unknown,
        }
    }

    /// What a leader knows of a member.
    fn peer_status(&self, id: u64) -> RaftPeer {
        let members = self.members();
        let role = match (self.leader == Some(id), members.is_voter(id)) {
            (true, _) => "leader",
            (_, true) => "voter",
            _ if members.nodes.contains_key(&id) => "learner",
            _ => "stranger",
        };
        RaftPeer { role, matched: self.matched(id), is_behind: self.is_behind(id) }
    }
}

impl Consensus {
    /// The replica now.
    pub fn status(&self) -> RaftStatus {
        self.shared.with(|replica, _| {
            let members: &Arc<Members> = replica.members();
            let leader = replica.leader().and_then(|id| members.nodes.get(&id));
            let voters = members.voters().count();
            RaftStatus {
                role: replica.role().word(),
                term: replica.term(),
                leader: leader.map(|member| member.address.clone()).unwrap_or_default(),
                commit: replica.commit,
                applied: replica.applied,
                last: replica.last_begun(),
                durable: replica.durable,
                voters,
                learners: members.nodes.len() - voters,
                counts: replica.counts,
            }
        })
    }

    /// Why requests should go to another node, if they should: this one neither leads nor knows who
    /// does, or is behind.
    pub fn reason_not_ready(&self) -> Option<String> {
        let shared = &self.shared;
        let is_retired = shared.is_retired.load(Ordering::SeqCst);
        let serves = |replica: &mut Replica| replica.is_led() && replica.entries_missing() == 0;
        let serves = !is_retired && shared.with(|replica, _| serves(replica));
        (!serves && !shared.leads()).then(|| shared.why_not_served())
    }

    /// Counts since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// How each other node is.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let (links, others) = (lock(&self.shared.links).clone(), self.shared.others());
        let rows = links.iter().map(|(to, peer)| {
            let id = match to {
                LinkTo::Node(id) => Some(*id),
                LinkTo::Seed(_) => peer.id(),
            };
            let raft = id.map(|id| self.shared.with(|replica, _| replica.peer_status(id)));
            let status = PeerStatus { raft, ..peer.status(id) };
            // What `PEER FORGET` calls a member, wherever it was called last.
            let member = id.and_then(|id| others.get(&id).cloned());
            PeerStatus { address: member.unwrap_or(status.address), ..status }
        });
        rows.collect()
    }

    /// Threads that wait for a majority, or for a leader.
    pub fn waiting(&self) -> usize {
        lock(&self.shared.waiters).len()
    }
}
