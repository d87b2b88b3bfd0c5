//! The queue of what clients ask of the leader: see [`super::forward`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::forwarded::{Proposal, forward_request};
use super::leading::ReadRound;
use super::log::EntryId;
use super::messages::ForwardReply;
use crate::error::{Error, Result};
use crate::locks::{lock, unpoisoned};
use crate::peers::requests::PeerRequest;

/// Bytes of proposals that wait for the leader: as much as it lets wait itself.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of proposals in one exchange: the next batch grows while one travels.
pub(super) const EXCHANGE_BYTES: usize = 1024 * 1024;
/// Most proposals in one exchange: the answer has a number for each, and is short.
const EXCHANGE_TICKETS: usize = 512;

/// What clients ask of the leader.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Append these writes.
    Write(Arc<Proposal>),
    /// What must a read see?
    Read,
    /// Remove this member.
    Remove(u64),
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The leader appended the writes.
    Appended {
        /// The first entry that holds some of them.
        first: EntryId,
        /// The last one.
        last: EntryId,
        /// How many keys of the last request had a value before.
        count: u64,
    },
    /// What a read must see.
    Read {
        /// The round that must be confirmed.
        round: ReadRound,
        /// The index up to which the store must have applied the log.
        index: u64,
        /// What each other member of the leader has on its disk.
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
pub struct Ticket {
    ask: Ask,
    answer: Sender<Answer>,
    /// Gone when the client has given up.
    client: Weak<()>,
}

/// The client's end of a ticket.
#[derive(Debug)]
pub struct Client {
    present: Arc<()>,
    answered: Receiver<Answer>,
}

/// The questions of clients that no link has taken.
///
/// Invariant: `bytes` and `count` are those of the tickets in the queue.
#[derive(Debug, Default)]
pub struct Forwarding {
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

impl Ticket {
    /// A question, and the end that its client keeps.
    pub fn new(ask: Ask) -> (Ticket, Client) {
        let (present, (answer, answered)) = (Arc::new(()), bounded(1));
        let ticket = Ticket { ask, answer, client: Arc::downgrade(&present) };
        (ticket, Client { present, answered })
    }

    /// A ticket is answered once, so there is room for the answer. The client may be gone.
    fn answer(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }
}

impl Client {
    /// The answer, if there is one by then.
    pub fn wait(&self, deadline: Instant) -> Option<Answer> {
        self.answered.recv_deadline(deadline).ok()
    }
}

impl Forwarding {
    /// Whether a client waits to be asked for.
    pub fn has_tickets(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Changes the queue.
    fn with<R>(&self, act: impl FnOnce(&mut Queue) -> R) -> R {
        let mut queue = lock(&self.queue);
        let result = act(&mut queue);
        self.count.store(queue.tickets.len(), Ordering::SeqCst);
        drop(queue);
        self.room.notify_all();
        result
    }

    /// Waits for room, and joins the queue; `false` if the time is over.
    pub fn push(&self, ticket: Ticket, deadline: Instant) -> bool {
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
    pub fn take(&self) -> Vec<Ticket> {
        self.with(|queue| {
            let mut bytes = 0;
            let is_removal = |ticket: &&Ticket| matches!(ticket.ask, Ask::Remove(_));
            if queue.tickets.front().as_ref().is_some_and(is_removal) {
                return queue.remove_first(1);
            }
            let together = queue.tickets.iter().take_while(|ticket| !is_removal(ticket));
            let fitting = together.take(EXCHANGE_TICKETS).take_while(|ticket| {
                let is_first = bytes == 0;
                bytes += ticket.ask.len();
                is_first || bytes <= EXCHANGE_BYTES
            });
            let count = fitting.count();
            queue.remove_first(count)
        })
    }

    /// Tickets that cannot have been carried out wait again, in their order, before all others.
    fn put_back(&self, tickets: Vec<Ticket>) {
        self.with(|queue| {
            // A client gives up under the same lock.
            let alive = tickets.into_iter().filter(|ticket| ticket.client.strong_count() > 0);
            for ticket in alive.rev() {
                queue.bytes += ticket.ask.len();
                queue.tickets.push_front(ticket);
            }
        });
    }

    /// The link broke before the answer. Rule 1.
    pub fn broke(&self, tickets: Vec<Ticket>) {
        let is_question = |ticket: &Ticket| matches!(ticket.ask, Ask::Read);
        let (questions, lost): (Vec<_>, Vec<_>) = tickets.into_iter().partition(is_question);
        lost.into_iter().for_each(|ticket| ticket.answer(Answer::Unknown));
        self.put_back(questions);
    }

    /// Hands out what the leader answered; what it could not do now waits again. `false` if there
    /// is such a ticket.
    pub fn answered(&self, tickets: Vec<Ticket>, reply: &ForwardReply) -> Result<bool> {
        let writes = tickets.iter().filter(|ticket| !matches!(ticket.ask, Ask::Read)).count();
        if reply.entries.is_some() && reply.counts.len() != writes {
            self.broke(tickets);
            return Err(Error::Corrupt("a FORWARD was answered with another count".into()));
        }
        let (mut counts, mut left) = (reply.counts.iter().copied(), Vec::new());
        let matched: Arc<[u64]> = reply.matched.as_slice().into();
        for ticket in tickets {
            let answer = match (&ticket.ask, reply.read) {
                (Ask::Write(_) | Ask::Remove(_), _) => reply.appended(counts.next()),
                (Ask::Read, Some((number, index))) => {
                    let round = ReadRound { term: reply.term, number };
                    Answer::Read { round, index, matched: Arc::clone(&matched) }
                }
                (Ask::Read, None) => Answer::NotSent,
            };
            match answer {
                Answer::NotSent => left.push(ticket),
                answer => ticket.answer(answer),
            }
        }
        let is_done = left.is_empty();
        self.put_back(left);
        Ok(is_done)
    }

    /// The leader refuses a removal for good; `false` if these tickets are none.
    pub(super) fn refused(tickets: &[Ticket], reason: &str) -> bool {
        let [Ticket { ask: Ask::Remove(_), answer, .. }] = tickets else {
            return false;
        };
        let _ = answer.send(Answer::Refused(reason.into()));
        true
    }

    /// This node leads: clients go on here.
    pub fn withdraw(&self) {
        // A leader asks this for each change that it sees.
        if self.has_tickets() {
            let tickets = self.with(std::mem::take).tickets;
            tickets.into_iter().for_each(|ticket| ticket.answer(Answer::NotSent));
        }
    }

    /// A client gives up. Rule 2: it was not sent if its ticket is in the queue still.
    pub fn give_up(&self, client: Client) -> Answer {
        let Client { present, answered } = client;
        let was_queued = self.with(|queue| {
            let is_its = |ticket: &Ticket| ticket.client.as_ptr() == Arc::as_ptr(&present);
            let ticket = queue.tickets.iter().position(is_its);
            let ticket = ticket.and_then(|at| queue.tickets.remove(at));
            queue.bytes -= ticket.as_ref().map_or(0, |ticket| ticket.ask.len());
            drop(present);
            ticket.is_some()
        });
        if was_queued { Answer::NotSent } else { answered.try_recv().unwrap_or(Answer::Unknown) }
    }
}

impl Queue {
    fn remove_first(&mut self, count: usize) -> Vec<Ticket> {
        let tickets: Vec<Ticket> = self.tickets.drain(..count).collect();
        self.bytes -= tickets.iter().map(|ticket| ticket.ask.len()).sum::<usize>();
        tickets
    }
}

impl ForwardReply {
    /// What became of a proposal, if the leader appended some: all, or none.
    pub(super) fn appended(&self, count: Option<u64>) -> Answer {
        match (self.entries, count) {
            (Some((first, last)), Some(count)) => {
                let of = |index| EntryId { index, term: self.term };
                Answer::Appended { first: of(first), last: of(last), count }
            }
            _ => Answer::NotSent,
        }
    }
}

/// The request that carries these tickets.
pub fn request_of(tickets: &[Ticket]) -> PeerRequest {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::proposing::Operation;
    use super::*;

    /// A write of one key with so many bytes.
    fn write(key: &[u8], len: usize) -> Ask {
        let mut proposal = Proposal::default();
        proposal.push(&[Operation::Put { key, value: &vec![0; len] }]).expect("not too long");
        Ask::Write(Arc::new(proposal))
    }

    fn push(forwarding: &Forwarding, ask: Ask) -> Client {
        let (ticket, client) = Ticket::new(ask);
        assert!(forwarding.push(ticket, Instant::now()), "there is room");
        client
    }

    /// What these tickets ask: the lengths of writes, 0 for a read.
    fn lengths(tickets: &[Ticket]) -> Vec<usize> {
        tickets.iter().map(|ticket| ticket.ask.len()).collect()
    }

    fn answer(client: &Client) -> String {
        client.wait(Instant::now()).map_or("none".into(), |answer| format!("{answer:?}"))
    }

    #[test]
    fn a_full_queue_takes_nothing_more_until_a_link_takes_some() {
        let forwarding = Forwarding::default();
        let _clients = [(); 2].map(|()| push(&forwarding, write(b"a", QUEUE_BYTES_MAX / 2 - 100)));
        let (ticket, _) = Ticket::new(write(b"b", 1_000));
        assert!(!forwarding.push(ticket, Instant::now() + Duration::from_millis(1)), "full");
        let _read = push(&forwarding, Ask::Read);
        assert_eq!(forwarding.take().len(), 1, "a long one goes by itself");
        let _more = push(&forwarding, write(b"b", 1_000));
        let mut queue = lock(&forwarding.queue);
        let bytes: usize = lengths(queue.tickets.make_contiguous()).iter().sum();
        assert_eq!(queue.bytes, bytes);
    }

    #[test]
    fn an_exchange_has_a_mebibyte_and_a_removal_goes_by_itself() {
        let forwarding = Forwarding::default();
        let (_one, _two) = (push(&forwarding, Ask::Read), push(&forwarding, write(b"a", 600_000)));
        let (_three, _four) =
            (push(&forwarding, write(b"b", 600_000)), push(&forwarding, Ask::Remove(7)));
        let _five = push(&forwarding, Ask::Read);
        let taken: Vec<_> = (0..4).map(|_| lengths(&forwarding.take())).collect();
        assert_eq!(taken, [vec![0, 600_014], vec![600_014], vec![0], vec![0]]);
        assert!(!forwarding.has_tickets() && forwarding.take().is_empty());
    }

    #[test]
    fn who_gives_up_is_not_sent_only_while_no_link_has_taken_the_ticket() {
        let forwarding = Forwarding::default();
        let (queued, taken) = (push(&forwarding, write(b"a", 1)), push(&forwarding, Ask::Read));
        assert!(matches!(forwarding.give_up(queued), Answer::NotSent));
        let tickets = forwarding.take();
        assert!(matches!(forwarding.give_up(taken), Answer::Unknown));
        // Nobody waits for what cannot be answered any more.
        forwarding.broke(tickets);
        assert!(!forwarding.has_tickets());
        // The answer came in the last moment.
        let late = push(&forwarding, write(b"a", 1));
        let reply = ForwardReply { entries: Some((7, 7)), counts: vec![1], ..Default::default() };
        assert!(forwarding.answered(forwarding.take(), &reply).expect("well-formed"));
        assert!(matches!(forwarding.give_up(late), Answer::Appended { count: 1, .. }));
    }

    #[test]
    fn a_link_that_breaks_loses_writes_and_asks_questions_again() {
        let forwarding = Forwarding::default();
        let (written, read) = (push(&forwarding, write(b"a", 1)), push(&forwarding, Ask::Read));
        let behind = push(&forwarding, write(b"b", 2));
        let mut tickets = forwarding.take();
        let kept = tickets.pop().expect("three");
        forwarding.put_back(vec![kept]);
        forwarding.broke(tickets);
        assert_eq!([answer(&written), answer(&read), answer(&behind)], ["Unknown", "none", "none"]);
        assert_eq!(lengths(&forwarding.take()), [0, 16], "in their order");
    }

    #[test]
    fn what_a_leader_could_not_do_waits_again_in_front() {
        let forwarding = Forwarding::default();
        let (first, read) = (push(&forwarding, write(b"a", 1)), push(&forwarding, Ask::Read));
        let second = push(&forwarding, write(b"b", 2));
        let tickets = forwarding.take();
        let _later = push(&forwarding, write(b"c", 3));
        let reply = ForwardReply { term: 2, read: Some((12, 6)), ..Default::default() };
        assert!(!forwarding.answered(tickets, &reply).expect("well-formed"));
        let round = "ReadRound { term: 2, number: 12 }";
        assert_eq!(answer(&read), format!("Read {{ round: {round}, index: 6, matched: [] }}"));
        assert_eq!([answer(&first), answer(&second)], ["none", "none"]);
        assert_eq!(lengths(&forwarding.take()), [15, 16, 17]);
    }

    #[test]
    fn an_answer_with_another_count_is_believed_by_nobody() {
        let forwarding = Forwarding::default();
        let clients = [(); 2].map(|()| push(&forwarding, write(b"a", 1)));
        let reply = ForwardReply { entries: Some((7, 7)), counts: vec![1], ..Default::default() };
        assert!(forwarding.answered(forwarding.take(), &reply).is_err());
        assert_eq!(clients.map(|client| answer(&client)), ["Unknown", "Unknown"]);
        assert!(!forwarding.has_tickets(), "nothing is sent again");
    }

    #[test]
    fn a_node_that_leads_sends_nothing() {
        let forwarding = Forwarding::default();
        let clients = [push(&forwarding, write(b"a", 1)), push(&forwarding, Ask::Read)];
        forwarding.withdraw();
        assert_eq!(clients.map(|client| answer(&client)), ["NotSent", "NotSent"]);
        let _again = push(&forwarding, write(b"a", QUEUE_BYTES_MAX));
    }
}
