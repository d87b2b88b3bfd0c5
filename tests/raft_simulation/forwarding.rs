//! Clients at followers: the real queue of tickets, and what a link does with it.

use std::time::Instant;

use kvstore::consensus::leading::ReadRound;
use kvstore::consensus::log::EntryId;
use kvstore::consensus::messages::ForwardReply;
use kvstore::consensus::tickets::{Answer, Ask, Ticket};
use kvstore::peers::requests::{PeerReply, PeerRequest};

use crate::clients::{Need, Request, When};
use crate::cluster::Cluster;
use crate::linearizability::{Operation, Outcome};
use crate::network::{Body, Message};
use crate::nodes::Fault;
use crate::reached::Event;

/// Pause of a link whose leader could not take everything.
const PAUSE_MS: u64 = 20;

impl Cluster {
    /// A client's request joins the queue of its node, or is carried out there if it leads by now.
    pub fn submit(&mut self, request: &mut Request, ask: Ask) {
        let node = &mut self.nodes[request.node];
        if node.machine.replica.is_ready() {
            self.submit_here(request, ask);
            return;
        }
        if self.fault == Fault::FollowerReadsAtOnce && matches!(ask, Ask::Read) {
            self.read_store(request);
            request.needs = Need::Nothing;
            return;
        }
        let (ticket, client) = Ticket::new(ask.clone());
        assert!(node.forwarding.push(ticket, Instant::now()), "there is room");
        request.needs = Need::Ticket(client, ask);
    }

    fn submit_here(&mut self, request: &mut Request, ask: Ask) {
        let Ask::Write(proposal) = ask else {
            self.read_at_leader(request);
            return;
        };
        let (node, mut bytes) = (&mut self.nodes[request.node], Vec::new());
        proposal.encode(&mut bytes);
        let store = &node.machine.store;
        let stored = |key: &[u8]| store.version(key);
        let replica = &mut node.machine.replica;
        let reply = replica.handle_forward(node.id, false, &bytes, stored).expect("well-formed");
        let (_, index) = reply.entries.expect("it leads, and has room");
        request.appended(EntryId { index, term: reply.term }, reply.counts[0]);
    }

    /// What became of a ticket, for its client.
    pub fn hear_answer(&mut self, client: usize) {
        let Some(Request { needs: Need::Ticket(end, _), .. }) = &self.clients.waiting[client]
        else {
            return;
        };
        let Some(answer) = end.wait(Instant::now()) else {
            return;
        };
        let mut request = self.clients.waiting[client].take().expect("it waits");
        let needs = std::mem::replace(&mut request.needs, Need::Nothing);
        match (answer, needs) {
            (Answer::Appended { last, count, .. }, _) => {
                request.appended(last, count);
                self.network.reached.add(Event::WriteForwarded);
            }
            (Answer::Read { round, index, .. }, _) => {
                request.needs = Need::Round(round, index, When::After);
                self.network.reached.add(Event::ReadForwarded);
            }
            (Answer::NotSent, Need::Ticket(_, ask)) => {
                self.network.reached.add(Event::ForwardWithdrawn);
                self.submit(&mut request, ask);
            }
            _ => {
                self.clients.waiting[client] = Some(request);
                self.finish(client, |_| Outcome::Unknown);
                return;
            }
        }
        self.clients.waiting[client] = Some(request);
    }

    /// Whether a node that reads knows that a round is confirmed.
    pub fn is_confirmed(&self, index: usize, round: ReadRound) -> Option<bool> {
        let node = &self.nodes[index];
        let replica = &node.machine.replica;
        let is_forwarded = !replica.is_leader();
        match self.fault {
            Fault::RoundNotAwaited if is_forwarded => Some(true),
            Fault::RoundKeptAcrossTerms if is_forwarded && node.confirmed >= round.number => {
                Some(true)
            }
            _ => replica.is_confirmed(round),
        }
    }

    /// A client's time is over.
    pub fn run_out(&mut self, client: usize) {
        let Some(request) = &mut self.clients.waiting[client] else {
            return;
        };
        let needs = std::mem::replace(&mut request.needs, Need::Nothing);
        let mut outcome = Outcome::Unknown;
        if let Need::Ticket(end, _) = needs {
            let answer = self.nodes[request.node].forwarding.give_up(end);
            if matches!(answer, Answer::NotSent) {
                self.network.reached.add(Event::GivenUpInQueue);
                outcome = Outcome::Dropped;
            }
            if self.fault == Fault::TakenTicketNotStored && matches!(answer, Answer::Unknown) {
                outcome = Outcome::Dropped;
            }
        }
        self.finish(client, |_| outcome);
    }

    /// `PEER FORWARD` arrives at whoever leads, or led.
    pub fn handle_forward(
        &mut self,
        index: usize,
        from: u64,
        exchange: u64,
        request: &PeerRequest,
    ) {
        let PeerRequest::Agree { numbers, body: Some(proposals), .. } = request else {
            panic!("no FORWARD: {request:?}");
        };
        let node = &mut self.nodes[index];
        let store = &node.machine.store;
        let stored = |key: &[u8]| store.version(key);
        let wants_read = numbers[..] == [1];
        let reply = node.machine.replica.handle_forward(from, wants_read, proposals, stored);
        let reply = ForwardReply::decode(PeerReply::Numbers(reply.expect("well-formed").numbers()));
        self.settle(index);
        let (id, body) = (self.nodes[index].id, Body::Forwarded(reply.expect("well-formed")));
        self.network.send(Message { from: id, to: from, exchange, body });
    }

    /// The leader's answer.
    pub fn take_forward(
        &mut self,
        index: usize,
        from: u64,
        tickets: Vec<Ticket>,
        reply: &ForwardReply,
    ) {
        let idle_until_ms = self.now_ms() + PAUSE_MS;
        let node = &mut self.nodes[index];
        if !node.forwarding.answered(tickets, reply).expect("an answer for each") {
            self.network.reached.add(Event::ForwardRefused);
            node.links.entry(from).or_default().idle_until_ms = idle_until_ms;
        }
    }

    /// The answer will never come.
    pub fn forward_broke(&mut self, index: usize, tickets: Vec<Ticket>) {
        self.network.reached.add(Event::ForwardBroken);
        let forwarding = &self.nodes[index].forwarding;
        if self.fault != Fault::TicketSentAgain {
            forwarding.broke(tickets);
            return;
        }
        for ticket in tickets {
            forwarding.push(ticket, Instant::now());
        }
    }
}

impl Request {
    /// The leader has appended it.
    fn appended(&mut self, entry: EntryId, count: u64) {
        self.needs = Need::Entry(entry);
        if let [(_, Operation::Delete(existed))] = &mut self.seen[..] {
            *existed = Some(count == 1);
        }
    }
}
