//! The queue of what clients ask of the leader: see [`super::forward`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::forwarded::{Proposal, forward_request};
use super::leading::ReadRound;
use super::log::EntryId;
use crate::locks::{lock, unpoisoned};
use crate::peers::requests::PeerRequest;

/// Bytes of proposals that wait for the leader: as much as it lets wait itself.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of proposals in one exchange: the next batch grows while one travels.
pub(super) const EXCHANGE_BYTES: usize = 1024 * 1024;
/// Most proposals in one exchange: the answer has a number for each.
const EXCHANGE_TICKETS: usize = 1024;
/// What clients ask of the leader.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// Append these writes.
    Write(Arc<Proposal>),
    /// What must a read see?
    Read,
    /// Remove this member.
    Remove(u64),
}

/// What became of it.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Appended {
        first: EntryId,
        last: EntryId,
        count: u64,
    },
    /// The index that a read must see once the round is confirmed, and what members have.
    Read {
        round: ReadRound,
        index: u64,
        matched: Arc<[u64]>,
    },
    /// The leader refuses to remove the member, for this reason.
    Refused(String),
    /// The link broke: it may have been appended, or not.
    Unknown,
    /// It was not sent, and is not in the queue any more.
    NotSent,
}

/// A question in the queue, or under way.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) ask: Ask,
    pub(super) answer: Sender<Answer>,
    /// Gone when the client has given up.
    pub(super) client: Weak<()>,
}

/// The questions of clients that no link has taken.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    queue: Mutex<Queue>,
    /// Signalled when the queue gets shorter.
    room: Condvar,
    /// Tickets in the queue: a link looks at this without its lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    tickets: VecDeque<Ticket>,
    bytes: usize,
}

impl Ask {
    fn len(&self) -> usize {
        match self {
            Ask::Write(proposal) => proposal.len(),
            Ask::Read | Ask::Remove(_) => 0,
        }
    }
}

impl Forwarding {
    /// Whether a client waits to be asked for.
    pub(super) fn has_tickets(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Changes the queue.
    fn with<R>(&self, act: impl FnOnce(&mut Queue) -> R) -> R {
        let mut queue = lock(&self.queue);
        let result = act(&mut queue);
        queue.bytes = queue.tickets.iter().map(|ticket| ticket.ask.len()).sum();
        self.count.store(queue.tickets.len(), Ordering::SeqCst);
        drop(queue);
        self.room.notify_all();
        result
    }

    /// Waits for room, and joins the queue; `false` if the time is over.
    pub(super) fn push(&self, ticket: Ticket, deadline: Instant) -> bool {
        let mut queue = lock(&self.queue);
        while queue.bytes > 0 && queue.bytes + ticket.ask.len() > QUEUE_BYTES_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = unpoisoned(self.room.wait_timeout(queue, left)).0;
        }
        queue.bytes += ticket.ask.len();
        queue.tickets.push_back(ticket);
        self.count.store(queue.tickets.len(), Ordering::SeqCst);
        true
    }

    /// What the next exchange carries: a removal goes by itself.
    pub(super) fn take(&self) -> Vec<Ticket> {
        self.with(|queue| {
            let mut bytes = 0;
            let is_removal = |ticket: &&Ticket| matches!(ticket.ask, Ask::Remove(_));
            if queue.tickets.front().as_ref().is_some_and(is_removal) {
                return queue.tickets.drain(..1).collect();
            }
            let together = queue.tickets.iter().take_while(|ticket| !is_removal(ticket));
            let fitting = together.take(EXCHANGE_TICKETS).take_while(|ticket| {
                let is_first = bytes == 0;
                bytes += ticket.ask.len();
                is_first || bytes <= EXCHANGE_BYTES
            });
            let count = fitting.count();
            queue.tickets.drain(..count).collect()
        })
    }

    /// Tickets that cannot have been carried out wait again, in their order, before all others.
    pub(super) fn put_back(&self, tickets: Vec<Ticket>) {
        self.with(|queue| {
            let alive = tickets.into_iter().filter(|ticket| ticket.client.strong_count() > 0);
            alive.rev().for_each(|ticket| queue.tickets.push_front(ticket));
        });
    }

    /// This node leads: clients go on here.
    pub(super) fn withdraw(&self) {
        for ticket in self.with(|queue| std::mem::take(&mut queue.tickets)) {
            let _ = ticket.answer.send(Answer::NotSent);
        }
    }

    /// A client gives up; whether its ticket was in the queue still.
    pub(super) fn give_up(&self, client: Arc<()>) -> bool {
        self.with(|queue| {
            let before = queue.tickets.len();
            queue.tickets.retain(|ticket| ticket.client.as_ptr() != Arc::as_ptr(&client));
            drop(client);
            queue.tickets.len() < before
        })
    }
}

/// The request that carries these tickets.
pub(super) fn request_of(tickets: &[Ticket]) -> PeerRequest {
    let (mut wants_read, mut proposals) = (false, Vec::new());
    for ticket in tickets {
        match &ticket.ask {
            Ask::Write(proposal) => proposal.encode(&mut proposals),
            Ask::Read => wants_read = true,
            Ask::Remove(id) => {
                return PeerRequest::Agree { name: "REMOVE", numbers: vec![*id], body: None };
            }
        }
    }
    forward_request(wants_read, proposals)
}
