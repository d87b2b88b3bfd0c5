//! Changes of who is in the cluster: one at a time, each an entry, in force when it is appended
//! (dissertation, chapter 4). Rule 7.

use std::sync::Arc;

use super::entry::{Entry, Payload};
use super::members::{MEMBERS_MAX, Member, Members};
use super::replica::{Replica, Role};
use crate::config::BANS_MAX;

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new node joins as a learner, or a member has another address.
    Join {
        /// Its id.
        id: u64,
        /// Where it is reached.
        address: String,
    },
    /// A learner counts from now on.
    Promote(u64),
    /// A node is a member no more, and its id is never used again.
    Remove(u64),
}

impl Replica {
    /// Appends a change of the members; its index, or why it cannot be appended now. What is so
    /// already is not appended again.
    pub fn change_members(&mut self, change: &MemberChange, now_ms: u64) -> Result<u64, String> {
        if !self.is_ready() {
            return Err("this node does not lead, or not yet".into());
        }
        self.seal();
        if self.is_changing() {
            return Err("another change of the members is under way; try again".into());
        }
        let newest = self.members_since();
        let next = self.members().after(change)?;
        if next == **self.members() {
            return Ok(newest);
        }
        self.check_answering(change, &next, now_ms)?;
        let (index, term) = (self.log.last().index + 1, self.term);
        let payload = Payload::Members(Arc::new(next));
        self.push(Arc::new(Entry { index, term, payload }));
        self.update_peers();
        Ok(index)
    }

    /// Whether a change of the members is not committed yet.
    pub fn is_changing(&self) -> bool {
        self.members_since() > self.commit
    }

    /// The voters after the change must be able to commit it, and the next one.
    fn check_answering(
        &self,
        change: &MemberChange,
        next: &Members,
        now_ms: u64,
    ) -> Result<(), String> {
        let silent: Vec<&str> = next
            .voters()
            .filter(|id| !self.has_answered(*id, now_ms))
            .filter_map(|id| next.nodes.get(&id).map(|member| member.address.as_str()))
            .collect();
        let (count, needed) = (next.voters().count(), next.majority());
        if count - silent.len() < needed {
            let silent = silent.join(", ");
            return Err(format!(
                "of the {count} voters there would be, {needed} must answer, and {silent} do not"
            ));
        }
        if matches!(change, MemberChange::Promote(_)) && !silent.is_empty() {
            let silent = silent.join(", ");
            return Err(format!(
                "a learner becomes a voter while all voters answer; {silent} do not"
            ));
        }
        Ok(())
    }

    /// The learner that becomes a voter next: one that had everything when it was asked last.
    pub fn learner_to_promote(&self) -> Option<u64> {
        let Role::Leader(leading) = &self.role else {
            return None;
        };
        let is_caught_up =
            |id: &u64| leading.peers.get(id).is_some_and(|progress| progress.is_caught_up);
        let members = self.members();
        let mut learners = members.nodes.keys().filter(|id| !members.is_voter(**id));
        learners.find(|id| is_caught_up(id)).copied()
    }
}

impl Members {
    /// The members after a change.
    fn after(&self, change: &MemberChange) -> Result<Members, String> {
        let mut next = self.clone();
        match change {
            MemberChange::Join { id, .. } if self.removed.contains(id) => {
                return Err("this id was removed, and an id is never used again".into());
            }
            MemberChange::Join { id, address } => match next.nodes.get_mut(id) {
                Some(member) => member.address.clone_from(address),
                None if self.nodes.len() >= MEMBERS_MAX => {
                    return Err(format!(
                        "the cluster has {MEMBERS_MAX} members, which is the most"
                    ));
                }
                None => {
                    let learner = Member { address: address.clone(), is_voter: false };
                    next.nodes.insert(*id, learner);
                }
            },
            MemberChange::Promote(id) => match next.nodes.get_mut(id) {
                Some(member) => member.is_voter = true,
                None => return Err("it is no member".into()),
            },
            MemberChange::Remove(id) => {
                if next.nodes.remove(id).is_none() {
                    return Err("it is no member".into());
                }
                if next.voters().next().is_none() {
                    return Err("the last voter cannot be removed".into());
                }
                if next.removed.len() >= BANS_MAX {
                    return Err(format!("{BANS_MAX} nodes were removed, which is the most"));
                }
                next.removed.insert(*id);
            }
        }
        Ok(next)
    }
}
