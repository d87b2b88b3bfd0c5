//! Who leads: votes, and the trial before them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entry::{Entry, Payload};
use super::leading::Leading;
use super::log::EntryId;
use super::messages::{VoteReply, VoteRequest};
use super::replica::{Replica, Role};
use crate::error::{Error, Result};

/// An attempt to become leader.
#[derive(Debug)]
pub struct Campaign {
    /// Pre-vote (9.6): only asks whether there would be votes.
    pub(super) is_trial: bool,
    pub(super) asked: BTreeSet<u64>,
    pub(super) granted: BTreeSet<u64>,
}

impl Replica {
    /// Begins an attempt to become leader, with a trial: a node that cannot win disturbs nobody
    /// (9.6).
    pub(super) fn stand(&mut self, now_ms: u64) {
        self.counts.elections += 1;
        // The fast attempt is one more; the normal ones begin after it.
        self.attempts += u32::from(!std::mem::take(&mut self.is_fast));
        self.set_leader(None, now_ms);
        self.campaign(true, now_ms);
    }

    fn campaign(&mut self, is_trial: bool, now_ms: u64) {
        if !is_trial {
            self.set_term(self.term + 1, Some(self.id));
        }
        self.rest(now_ms);
        let granted = BTreeSet::from([self.id]);
        self.role = Role::Candidate(Campaign { is_trial, asked: BTreeSet::new(), granted });
        self.count_votes(now_ms);
    }

    fn count_votes(&mut self, now_ms: u64) {
        let Role::Candidate(campaign) = &self.role else {
            return;
        };
        if !self.members().has_majority(|id| campaign.granted.contains(&id)) {
            return;
        }
        if campaign.is_trial {
            self.campaign(false, now_ms);
        } else {
            self.lead(now_ms);
        }
    }

    /// Becomes leader: its term begins with an entry of its own, because only such an entry may be
    /// counted (5.4.2).
    fn lead(&mut self, now_ms: u64) {
        assert!(self.building.is_none(), "only a leader builds entries");
        let first = self.log.last().index + 1;
        self.role = Role::Leader(Leading {
            first,
            peers: BTreeMap::new(),
            // Nobody has confirmed it: progress begins at 0.
            round: 1,
            is_round_sent: false,
            quorum_ms: now_ms,
        });
        self.set_leader(Some(self.id), now_ms);
        self.attempts = 0;
        // The first APPEND names the entry before it, which others may have.
        self.update_peers();
        self.push(Arc::new(Entry { index: first, term: self.term, payload: Payload::Nothing }));
        self.advance_commit(now_ms);
    }

    /// The VOTE that a candidate has for a peer, if it has not asked this one yet. Only voters are
    /// asked.
    pub fn vote_request(&mut self, peer: u64) -> Option<VoteRequest> {
        let is_voter = self.members().is_voter(peer);
        let (term, last) = (self.term, self.log.last());
        let Role::Candidate(campaign) = &mut self.role else {
            return None;
        };
        if !is_voter || !campaign.asked.insert(peer) {
            return None;
        }
        let is_trial = campaign.is_trial;
        Some(VoteRequest { term: term + u64::from(is_trial), is_trial, last })
    }

    /// A candidate asks for this node's vote. Rule 3. It is answered by the same rules whatever
    /// this node's own log says that it is: its members may be older than the candidate's (4.1).
    pub fn handle_vote(
        &mut self,
        from: u64,
        request: &VoteRequest,
        now_ms: u64,
    ) -> Result<VoteReply> {
        self.check_disk()?;
        if request.is_trial {
            let is_granted = request.term > self.term
                && self.is_up_to_date(request.last)
                && !self.hears_leader(now_ms)
                && !matches!(self.role, Role::Leader(_));
            return Ok(VoteReply { term: self.term, is_granted });
        }
        if request.term > self.term {
            self.follow(request.term, None, now_ms);
        }
        let is_free = self.vote.is_none_or(|vote| vote == from);
        // A leader that has just become a follower has sealed an entry: its log counts with it.
        let is_granted = request.term == self.term
            && is_free
            && self.leader.is_none()
            && self.is_up_to_date(request.last);
        if is_granted {
            if self.vote.is_none() {
                self.set_term(self.term, Some(from));
            }
            self.rest(now_ms);
        }
        Ok(VoteReply { term: self.term, is_granted })
    }

    /// Whether a candidate's log has all that this one may have committed: by term, then by index
    /// (5.4.1).
    fn is_up_to_date(&self, last: EntryId) -> bool {
        let own = self.log.last();
        (last.term, last.index) >= (own.term, own.index)
    }

    /// The answer to [`Replica::vote_request`].
    pub fn take_vote(&mut self, from: u64, request: &VoteRequest, reply: &VoteReply, now_ms: u64) {
        if reply.term > self.term {
            self.follow(reply.term, None, now_ms);
            return;
        }
        let term = self.term + u64::from(request.is_trial);
        if let Role::Candidate(campaign) = &mut self.role
            && campaign.is_trial == request.is_trial
            && request.term == term
            && reply.is_granted
        {
            campaign.granted.insert(from);
            self.count_votes(now_ms);
        }
    }

    pub(super) fn check_disk(&self) -> Result<()> {
        match &self.disk_failure {
            None => Ok(()),
            Some(reason) => Err(Error::refused(format!("read-only: {reason}"))),
        }
    }
}
