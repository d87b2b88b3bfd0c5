//! What changes of a replica are news to others.

use log::info;

use super::members::Members;
use super::replica::Replica;

/// What others may wait for, or what is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) role: &'static str,
    term: u64,
    pub(super) leader: Option<u64>,
    commit: u64,
    /// The term of the last committed entry.
    commit_term: Option<u64>,
    applied: u64,
    /// An exchange may show what others have, and confirm a read round.
    exchanges: u64,
    pub(super) members_from: u64,
}

impl Seen {
    pub(super) fn of(replica: &Replica) -> Self {
        Seen {
            role: replica.role().word(),
            term: replica.term(),
            leader: replica.leader(),
            commit: replica.commit_index(),
            commit_term: replica.log().term_at(replica.commit_index()),
            applied: replica.applied_index(),
            exchanges: replica.counts.exchanges,
            members_from: replica.members_since(),
        }
    }

    /// Whether who leads has changed, or whose entries are committed.
    pub(super) fn has_other_leader(&self, before: &Seen) -> bool {
        let whose = |seen: &Seen| (seen.role, seen.term, seen.leader, seen.commit_term);
        whose(self) != whose(before)
    }

    /// Logs a change of role, term or leader.
    pub(super) fn log_change(&self, before: &Seen, members: &Members) {
        if (before.role, before.term, before.leader) == (self.role, self.term, self.leader) {
            return;
        }
        let leader = match self.leader {
            Some(id) => {
                members.nodes.get(&id).map_or(format!("{id:016x}"), |it| it.address.clone())
            }
            None => "none".into(),
        };
        info!("{} in term {}, leader {leader}", self.role, self.term);
    }
}
