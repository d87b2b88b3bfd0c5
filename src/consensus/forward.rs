//! # Forwarding: every node takes every request
//!
//! **The problem.** Only the leader appends, and only the leader knows what was committed last. A
//! client that reached another node should notice neither.
//!
//! **The idea.** A follower does not execute writes: it sends them to the leader, which evaluates
//! and appends them like its own. Nor does it trust its store: before a read it asks the leader up
//! to which index the store must have applied the log (a *read index*, 6.4), and then reads its own
//! store. So the leader's work for a read at a follower does not depend on the value's length.
//!
//! ```text
//! client ─► follower: SET, SET, DEL, GET of one batch
//!             │ FORWARD: one exchange for all clients that wait
//!             ▼
//!           leader: evaluate, append ──► answers at once: entries 7 to 7, DEL found 1 key
//!             │                                           round 12, index 6
//!             │ APPEND (7) … APPEND (commit 7, confirmed 12): at once, not with the next heartbeat
//!             ▼
//!           follower: applies 7 ─► OK, OK, 1; has applied 6 and round 12 is confirmed ─► value
//! ```
//!
//! **Writes.** The writes of one connection's batch travel together, as a [`Proposal`]. They are
//! sent when a result is needed (the count of `DEL`), when a read comes behind them, when they are
//! long, or when the batch is settled. A leader appends all proposals of a FORWARD, or none. Then
//! the client's thread waits on its own node: the write has happened when the entry with this index
//! and term is applied here. It has not when another entry is committed there.
//!
//! **Rules**, and what breaks without them.
//! 1. *A ticket that a link has taken is not sent again.* The leader may have appended it, and a
//!    write that happens a second time can undo another client's write in between. So when the
//!    connection breaks before the answer, the outcome is unknown. Questions are asked again.
//! 2. *`not stored` is said only when the ticket was removed from the queue under its lock*, or the
//!    leader answered that it appended nothing.
//! 3. *One ticket of a connection at a time.* So its writes are appended in its order, whoever
//!    leads.
//! 4. *A read index counts once its round is confirmed in the leader's term* (rule 8 of
//!    [`super`]). A confirmed round is a fact: it stays true when the leader changes.
//!
//! **Limits.** The queue holds 64 MiB, as much as a leader lets wait; a client that finds it full
//! waits until its request's time is over. An exchange carries 1 MiB, or one longer request.
//!
//! **What is left out.** A follower does not send entries on behalf of the leader, and no client is
//! sent to the leader (`MOVED`): see chapter 6.2 of the dissertation for that way.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::forwarded::Proposal;
use super::links::LinkTo;
use super::messages::ForwardReply;
use super::replica::Replica;
use super::shared::Shared;
use super::tickets::{Answer, Ask, Forwarding, Ticket};
use super::waiters::Until;
use crate::error::Result;
use crate::locks::lock;
use crate::peers::requests::PeerReply;

/// After so long a question is asked again: the leader may have changed.
const QUESTION_PATIENCE: Duration = Duration::from_millis(300);

impl Shared {
    /// Asks the leader, through the link to it.
    pub(super) fn ask(&self, ask: Ask, deadline: Instant) -> Answer {
        let (ticket, client) = Ticket::new(ask);
        if !self.forwarding.push(ticket, deadline) {
            return Answer::NotSent;
        }
        self.withdraw_if_leader();
        self.wake_link_to_leader();
        client.wait(deadline).unwrap_or_else(|| self.forwarding.give_up(client))
    }

    /// Whether this node leads, and may evaluate.
    pub(super) fn leads(&self) -> bool {
        self.ready_term.load(Ordering::SeqCst) != 0
    }

    fn wake_link_to_leader(&self) {
        let leader = lock(&self.replica).leader();
        if let Some(id) = leader
            && let Some(link) = lock(&self.links).get(&LinkTo::Node(id))
        {
            link.wake();
        }
    }

    /// Has something appended, here or at the leader.
    pub(super) fn submit(&self, ask: &Ask, deadline: Instant) -> Answer {
        loop {
            let answer = match ask {
                Ask::Write(proposal) if self.leads() => self.append_here(proposal, deadline),
                Ask::Remove(id) if self.leads() => self.remove_here(*id, deadline),
                _ => self.ask(ask.clone(), deadline),
            };
            if !matches!(answer, Answer::NotSent) || Instant::now() >= deadline {
                return answer;
            }
        }
    }

    fn append_here(&self, proposal: &Proposal, deadline: Instant) -> Answer {
        let (id, mut bytes) = (self.id(), Vec::new());
        proposal.encode(&mut bytes);
        let stored = |key: &[u8]| self.store.version(key);
        let appended = self.wait(deadline, Until::Changed, |replica| {
            if !replica.is_ready() {
                return Some(None);
            }
            // What this node wrote can be read. Without entries too much waits to be applied.
            let reply = replica.handle_forward(id, false, &bytes, stored).ok()?;
            reply.entries.map(|_| Some(reply))
        });
        match appended.flatten() {
            Some(reply) => reply.appended(reply.counts.first().copied()),
            None => Answer::NotSent,
        }
    }

    fn remove_here(&self, id: u64, deadline: Instant) -> Answer {
        // Another change, such as a promotion, may be under way.
        let removed = self.wait(deadline, Until::Changed, |replica| {
            match replica.handle_remove(self.id(), id, self.now_ms()) {
                Ok(Some(entry)) => Some(Answer::Appended { first: entry, last: entry, count: 0 }),
                Ok(None) if replica.is_ready() => None,
                Ok(None) => Some(Answer::NotSent),
                Err(reason) => Some(Answer::Refused(reason)),
            }
        });
        removed.unwrap_or(Answer::NotSent)
    }

    /// How many other members have the log up to an index on disk, as the leader knows it.
    pub(super) fn holders(&self, index: u64) -> usize {
        if self.leads() {
            return self.with(|replica, _| replica.holders(index));
        }
        match self.ask(Ask::Read, Instant::now() + QUESTION_PATIENCE) {
            Answer::Read { matched, .. } => matched.iter().filter(|held| **held >= index).count(),
            _ => 0,
        }
    }

    /// Waits until the store has all that was committed when this was called, as the leader says.
    /// Returns `false` if the time is over, or this node leads by now.
    pub(super) fn catch_up(&self, deadline: Instant) -> bool {
        while !self.leads() && Instant::now() < deadline {
            let patience = deadline.min(Instant::now() + QUESTION_PATIENCE);
            let Answer::Read { round, index, .. } = self.ask(Ask::Read, patience) else {
                continue;
            };
            let confirmed = Until::Confirmed(round.number);
            if self.wait(deadline, confirmed, |replica| replica.is_confirmed(round)) == Some(true) {
                let is_applied = |replica: &mut Replica| replica.applied_index() >= index;
                let wait = |replica: &mut Replica| is_applied(replica).then_some(());
                return self.wait(deadline, Until::Applied(index), wait).is_some();
            }
        }
        false
    }

    /// The link broke before the answer.
    pub(super) fn forward_broke(&self, tickets: Vec<Ticket>) {
        self.forwarding.broke(tickets);
        self.withdraw_if_leader();
    }

    /// Hands out the answers of an exchange; `false` if the leader could not take everything now.
    pub(super) fn forward_answered(&self, tickets: Vec<Ticket>, reply: PeerReply) -> Result<bool> {
        if let PeerReply::Error(reason) = &reply
            && Forwarding::refused(&tickets, reason)
        {
            return Ok(true);
        }
        let result = match ForwardReply::decode(reply) {
            Ok(reply) => self.forwarding.answered(tickets, &reply),
            Err(error) => {
                self.forwarding.broke(tickets);
                Err(error)
            }
        };
        self.withdraw_if_leader();
        result
    }

    /// Whoever begins to lead after this has looked sees the tickets.
    fn withdraw_if_leader(&self) {
        if self.leads() {
            self.forwarding.withdraw();
        }
    }
}
