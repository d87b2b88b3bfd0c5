//! What a leader sends, and what it learns from the answers.

use std::collections::BTreeMap;

use super::log::EntryId;
use super::messages::{AppendReply, AppendRequest, Appended};
use super::replica::{EXCHANGE_MS_MAX, Replica, Role};

/// Bytes of entries in one APPEND: the next batch grows while one travels.
const APPEND_BYTES: usize = 1024 * 1024;

/// What a reader waits for: an answer of a majority to a request that left after this was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRound {
    /// Of the leader.
    pub term: u64,
    /// Within the term.
    pub number: u64,
}

/// What a leader knows.
#[derive(Debug)]
pub struct Leading {
    /// The entry that began its term.
    pub(super) first: u64,
    pub(super) peers: BTreeMap<u64, Progress>,
    /// The read round that the next requests carry.
    pub(super) round: u64,
    /// Whether a request with that round has left.
    pub(super) is_round_sent: bool,
    /// When a majority had answered last.
    pub(super) quorum_ms: u64,
}

/// What a leader knows of a peer.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The next entry to send.
    pub(super) next: u64,
    /// The logs are known to match up to here.
    pub(super) matched: u64,
    /// The newest read round that it has confirmed.
    pub(super) round: u64,
    pub(super) answered_ms: Option<u64>,
    pub(super) sent_ms: u64,
    /// The last sign of life while it owes an answer.
    pub(super) alive_ms: u64,
    pub(super) sent_round: u64,
    /// What its clients wait for: an entry to be committed, and a round to be confirmed.
    pub(super) wanted_commit: u64,
    pub(super) wanted_round: u64,
    /// What the last APPEND that it answered said of these.
    pub(super) told_commit: u64,
    pub(super) told_round: u64,
    pub(super) is_in_flight: bool,
    /// Whether its last answer had all that was committed when it was asked.
    pub(super) is_caught_up: bool,
    /// Whether the entries that it needs are not in memory any more.
    pub(super) is_behind: bool,
}

impl Replica {
    /// The APPEND for a peer, if there is something to send: entries, a read round, or a sign of
    /// life that is due. At most one is under way to each peer.
    pub fn append_request(&mut self, peer: u64, now_ms: u64) -> Option<AppendRequest> {
        if self.is_append_due(peer, now_ms) {
            self.seal();
        } else {
            return None;
        }
        let (term, base, last, commit) = (self.term, self.log.base(), self.log.last(), self.commit);
        let confirmed = self.confirmed_round();
        let Role::Leader(leading) = &mut self.role else {
            return None;
        };
        let progress = leading.peers.get_mut(&peer)?;
        progress.is_behind = progress.next <= base.index;
        let (previous, entries) = if progress.is_behind {
            (base, Vec::new())
        } else {
            let index = progress.next - 1;
            let term = self.log.term_at(index)?;
            (EntryId { index, term }, self.log.from(progress.next, APPEND_BYTES))
        };
        debug_assert!(previous.index <= last.index);
        leading.is_round_sent = true;
        progress.is_in_flight = true;
        progress.sent_ms = now_ms;
        progress.sent_round = leading.round;
        Some(AppendRequest { term, previous, commit, round: leading.round, confirmed, entries })
    }

    /// Whether there is an APPEND for a peer: see [`Replica::append_request`].
    pub(super) fn is_append_due(&self, peer: u64, now_ms: u64) -> bool {
        let Role::Leader(leading) = &self.role else {
            return false;
        };
        let Some(progress) = leading.peers.get(&peer).filter(|progress| !progress.is_in_flight)
        else {
            return false;
        };
        let has_entries = self.last_begun() >= progress.next && !progress.is_behind;
        has_entries
            || leading.round > progress.sent_round
            || self.owes_news(progress)
            || now_ms >= progress.sent_ms + self.timing.heartbeat_ms
    }

    /// When the next APPEND to a peer is due if nothing else happens.
    pub fn append_due_ms(&self, peer: u64) -> Option<u64> {
        let Role::Leader(leading) = &self.role else {
            return None;
        };
        leading.peers.get(&peer).map(|progress| progress.sent_ms + self.timing.heartbeat_ms)
    }

    /// The answer to [`Replica::append_request`].
    pub fn take_append(
        &mut self,
        peer: u64,
        request: &AppendRequest,
        reply: &AppendReply,
        now_ms: u64,
    ) {
        if reply.term > self.term {
            self.follow(reply.term, None, now_ms);
            return;
        }
        self.counts.exchanges += 1;
        let (term, last) = (self.term, self.log.last().index);
        let Role::Leader(leading) = &mut self.role else {
            return;
        };
        let is_of_this_term = request.term == term && reply.term == term;
        let Some(progress) = leading.peers.get_mut(&peer).filter(|_| is_of_this_term) else {
            return;
        };
        progress.is_in_flight = false;
        progress.answered_ms = Some(now_ms);
        // Rule 8: an answer confirms only the round that it carries.
        progress.round = progress.round.max(reply.round.min(leading.round));
        progress.told_commit = progress.told_commit.max(request.commit);
        progress.told_round = progress.told_round.max(request.confirmed);
        match reply.outcome {
            Appended::Matches(index) => {
                // Nothing beyond what the request named: rule 2.
                let index = index.min(request.last_named());
                progress.matched = progress.matched.max(index);
                progress.next = progress.next.max(progress.matched + 1);
                progress.is_caught_up = progress.matched >= request.commit;
                progress.is_behind = false;
            }
            Appended::Differs(index) => {
                progress.next = index.clamp(1, last + 1);
                // It may have lost what it had: with `--fsync everysec` a power loss takes entries.
                progress.matched = progress.matched.min(progress.next - 1);
                progress.is_caught_up = false;
            }
            Appended::OldTerm => {}
        }
        self.advance_commit(now_ms);
    }

    /// A peer has sent something on this node's link to it: it matters if that one owes this leader
    /// an answer. It says nothing of a leader: what it sent before its connection broke may be seen
    /// afterwards.
    pub fn hear_answer(&mut self, from: u64, now_ms: u64) {
        if let Role::Leader(leading) = &mut self.role
            && let Some(progress) = leading.peers.get_mut(&from)
        {
            progress.alive_ms = now_ms;
        }
    }

    /// The connection to a peer broke, or could not be made: what was asked is not answered.
    pub fn broken(&mut self, peer: u64) {
        match &mut self.role {
            Role::Leader(leading) => {
                // What was sent is sent again: `next` moves only with an answer.
                if let Some(progress) = leading.peers.get_mut(&peer) {
                    progress.is_in_flight = false;
                    progress.is_caught_up = false;
                }
            }
            Role::Candidate(campaign) => drop(campaign.asked.remove(&peer)),
            Role::Follower => {}
        }
    }

    /// Counts how far a majority is. Rule 4: only an entry of this term is counted (5.4.2, Figure
    /// 8), a learner never counts, and neither does a leader that is removed.
    pub(super) fn advance_commit(&mut self, now_ms: u64) {
        let Role::Leader(leading) = &self.role else {
            return;
        };
        let mut matched: Vec<u64> = self
            .members()
            .voters()
            .map(|id| match leading.peers.get(&id) {
                Some(progress) => progress.matched,
                None if id == self.id => self.durable,
                None => 0,
            })
            .collect();
        matched.sort_unstable();
        let majority = self.members().majority();
        let Some(&index) = matched.len().checked_sub(majority).and_then(|at| matched.get(at))
        else {
            return;
        };
        if index > self.commit && self.log.term_at(index) == Some(self.term) {
            self.commit = index;
            self.update_peers();
            if !self.committed_members().nodes.contains_key(&self.id) {
                // Its removal is committed: the others elect one of them.
                self.follow(self.term, None, now_ms);
            }
        }
    }

    /// Has an entry in `peers` for each other member.
    pub(super) fn update_peers(&mut self) {
        let (members, own, next) = (self.members().clone(), self.id, self.log.last().index + 1);
        let Role::Leader(leading) = &mut self.role else {
            return;
        };
        leading.peers.retain(|id, _| members.nodes.contains_key(id));
        for id in members.nodes.keys().filter(|id| **id != own) {
            leading.peers.entry(*id).or_insert_with(|| Progress::new(next));
        }
    }

    /// Steps down when no majority has answered for an election timeout. Rule 6.
    pub(super) fn check_quorum(&mut self, now_ms: u64) {
        let is_answering = |id| self.has_answered(id, now_ms) || self.may_answer(id, now_ms);
        let has_quorum = self.members().has_majority(is_answering);
        let timeout_ms = self.timing.election_timeout_ms;
        let Role::Leader(leading) = &mut self.role else {
            return;
        };
        if has_quorum {
            leading.quorum_ms = now_ms;
        } else if now_ms.saturating_sub(leading.quorum_ms) >= timeout_ms {
            self.follow(self.term, None, now_ms);
        }
    }

    /// Whether a member has answered within the last election timeout.
    pub(super) fn has_answered(&self, id: u64, now_ms: u64) -> bool {
        let Role::Leader(leading) = &self.role else {
            return false;
        };
        let is_recent = |at: u64| now_ms.saturating_sub(at) < self.timing.election_timeout_ms;
        let answered_ms = leading.peers.get(&id).and_then(|progress| progress.answered_ms);
        id == self.id || answered_ms.is_some_and(is_recent)
    }

    /// Whether a member owes an answer, and may still give it.
    fn may_answer(&self, id: u64, now_ms: u64) -> bool {
        let Role::Leader(leading) = &self.role else {
            return false;
        };
        leading.peers.get(&id).is_some_and(|progress| {
            let since_ms = now_ms.saturating_sub(progress.sent_ms.max(progress.alive_ms));
            progress.is_in_flight && since_ms < EXCHANGE_MS_MAX
        })
    }

    /// Whether this node leads and may evaluate: all up to the entry that began its term is
    /// applied.
    pub fn is_ready(&self) -> bool {
        matches!(&self.role, Role::Leader(leading) if self.applied >= leading.first)
    }

    /// Draws a read round; many readers may get the same. `None` if this node may not answer.
    /// Rule 8.
    pub fn read_round(&mut self) -> Option<ReadRound> {
        if !self.is_ready() {
            return None;
        }
        let term = self.term;
        let Role::Leader(leading) = &mut self.role else {
            return None;
        };
        if leading.is_round_sent {
            leading.round += 1;
            leading.is_round_sent = false;
            self.counts.read_rounds += 1;
        }
        Some(ReadRound { term, number: leading.round })
    }

    /// Whether a majority has confirmed that the leader led after a round was drawn, as the leader
    /// counts it or has let this node know. `None`: it may still. `Some(false)`: that leader leads
    /// no more.
    pub fn is_confirmed(&self, round: ReadRound) -> Option<bool> {
        // A follower may not have heard of the term of the leader that it asked.
        if round.term > self.term {
            return None;
        }
        if round.term == self.term && self.confirmed_round() >= round.number {
            return Some(true);
        }
        let leads = round.term == self.term && self.leader.is_some();
        if leads { None } else { Some(false) }
    }
}

impl Progress {
    fn new(next: u64) -> Self {
        Progress {
            next,
            matched: 0,
            round: 0,
            answered_ms: None,
            sent_ms: 0,
            alive_ms: 0,
            sent_round: 0,
            wanted_commit: 0,
            wanted_round: 0,
            told_commit: 0,
            told_round: 0,
            is_in_flight: false,
            is_caught_up: false,
            is_behind: false,
        }
    }
}
