//! What others may see of a replica.

use std::sync::Arc;

use super::log::{EntryId, Log};
use super::members::Members;
use super::replica::{Ground, Replica, Role, Timing};

impl Replica {
    /// The times that it goes by.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// This node.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The newest term that it knows.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// What it does in that term.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Who leads, as far as is known.
    pub fn leader(&self) -> Option<u64> {
        self.leader
    }

    /// The entries in memory.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The last entry that is known to be committed.
    pub fn commit_index(&self) -> u64 {
        self.commit
    }

    /// The last entry whose changes are in the store.
    pub fn applied_index(&self) -> u64 {
        self.applied
    }

    /// The last entry up to which all are on the disk.
    pub fn durable_index(&self) -> u64 {
        self.durable
    }

    /// The last entry that a peer of this leader is known to have on its disk.
    pub fn matched(&self, peer: u64) -> Option<u64> {
        let Role::Leader(leading) = &self.role else {
            return None;
        };
        leading.peers.get(&peer).map(|progress| progress.matched)
    }

    /// Whether a peer of this leader needs entries that are not in memory any more.
    pub fn is_behind(&self, peer: u64) -> bool {
        let Role::Leader(leading) = &self.role else {
            return false;
        };
        leading.peers.get(&peer).is_some_and(|progress| progress.is_behind)
    }

    /// Who is in the cluster: the newest value in the log, committed or not.
    pub fn members(&self) -> &Arc<Members> {
        // There is always one.
        &self.members_from[self.members_from.len() - 1].1
    }

    /// Who is in the cluster for sure: the newest committed value.
    pub fn committed_members(&self) -> &Arc<Members> {
        let committed = self.members_from.iter().rev().find(|(from, _)| *from <= self.commit);
        &committed.unwrap_or(&self.members_from[0]).1
    }

    /// What a snapshot needs besides the store, which has all changes up to its base.
    pub fn ground(&self) -> Ground {
        let base =
            EntryId { index: self.applied, term: self.log.term_at(self.applied).unwrap_or(0) };
        Ground {
            term: self.term,
            vote: self.vote,
            base,
            members: Arc::clone(&self.members_from[0].1),
            entries: self.log.from(self.applied + 1, usize::MAX),
        }
    }
}
