//! A few replicas whose messages the test delivers by hand.

use std::sync::Arc;

use kvstore::consensus::changing::MemberChange;
use kvstore::consensus::entry::{Entry, Payload};
use kvstore::consensus::leading::ReadRound;
use kvstore::consensus::log::EntryId;
use kvstore::consensus::members::{Member, Members};
use kvstore::consensus::messages::{
    AppendReply, AppendRequest, ForwardReply, VoteReply, VoteRequest,
};
use kvstore::consensus::proposing::Operation;
use kvstore::consensus::replica::{Ground, Replica};

use crate::machine::{Disk, Machine, Store};

pub struct Cluster {
    machines: Vec<Machine>,
    pub now_ms: u64,
}

/// An entry that does nothing.
pub fn entry(index: u64, term: u64) -> Arc<Entry> {
    Arc::new(Entry { index, term, payload: Payload::Nothing })
}

/// These nodes, all of them voters.
pub fn voters(ids: impl IntoIterator<Item = u64>) -> Members {
    let member = |id| (id, Member { address: format!("node{id}:8080"), is_voter: true });
    Members { cluster_id: 1, nodes: ids.into_iter().map(member).collect(), ..Members::default() }
}

impl Cluster {
    /// Three nodes, of which the first leads; all have its first entry.
    pub fn led() -> Cluster {
        let mut cluster = Cluster::of(3);
        cluster.elect(1, &[2]);
        cluster.replicate(1, &[2, 3]);
        cluster
    }

    /// Nodes 1, 2, 3 …, each with a log of one entry of term 1.
    pub fn of(count: usize) -> Self {
        Cluster::with_logs(&vec!["1"; count])
    }

    /// Nodes 1, 2, 3 …, whose logs have entries of these terms.
    pub fn with_logs(logs: &[&str]) -> Self {
        let members = Arc::new(voters(1..=logs.len() as u64));
        let mut cluster = Cluster { machines: Vec::new(), now_ms: 10_000 };
        for log in logs {
            let terms: Vec<u64> = log.split(' ').map(|term| term.parse().unwrap()).collect();
            let entries = (1..).zip(&terms).map(|(index, term)| entry(index, *term)).collect();
            let (term, members) = (*terms.last().unwrap(), Arc::clone(&members));
            cluster.add(Ground { term, members, entries, ..Ground::default() });
        }
        cluster
    }

    /// One more node, which starts from this.
    pub fn add(&mut self, ground: Ground) -> u64 {
        let id = self.machines.len() as u64 + 1;
        let disk = Disk::new(ground, Store::default());
        self.machines.push(Machine::start(id, disk, id, self.now_ms));
        id
    }

    pub fn machine(&mut self, id: u64) -> &mut Machine {
        &mut self.machines[id as usize - 1]
    }

    pub fn node(&mut self, id: u64) -> &mut Replica {
        &mut self.machine(id).replica
    }

    // ---- What is to be seen ----

    /// The terms of the entries of a node's log.
    pub fn log(&self, id: u64) -> String {
        let entries = self.machines[id as usize - 1].replica.log().from(1, usize::MAX);
        entries.iter().map(|entry| entry.term.to_string()).collect::<Vec<_>>().join(" ")
    }

    pub fn commit(&self, id: u64) -> u64 {
        self.machines[id as usize - 1].replica.commit_index()
    }

    pub fn leads(&self, id: u64) -> bool {
        self.machines[id as usize - 1].replica.is_leader()
    }

    // ---- What a node does by itself ----

    pub fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    pub fn tick(&mut self, id: u64) {
        let now_ms = self.now_ms;
        self.node(id).tick(now_ms);
        self.settle(id);
    }

    /// The disk gets all, and what is committed is applied.
    pub fn settle(&mut self, id: u64) {
        let now_ms = self.now_ms;
        let machine = self.machine(id);
        machine.write();
        machine.sync(machine.disk.end(), now_ms);
        machine.apply();
    }

    /// So long passes that this node stands for election.
    pub fn time_out(&mut self, id: u64) {
        self.wait(2_000);
        let now_ms = self.now_ms;
        let due_ms = self.node(id).next_tick_ms(now_ms);
        self.now_ms = self.now_ms.max(due_ms);
        self.tick(id);
    }

    /// `kill -9`, and a start.
    pub fn restart(&mut self, id: u64) {
        let (disk, now_ms) = (self.machine(id).disk.clone(), self.now_ms);
        *self.machine(id) = Machine::start(id, disk, id, now_ms);
    }

    /// A leader begins an entry with a write of one key.
    pub fn propose(&mut self, id: u64, key: &str) -> EntryId {
        let operation = Operation::Put { key: key.as_bytes(), value: b"value" };
        self.node(id).propose(&[operation], |_| None).expect("it leads").entry
    }

    /// A leader appends an entry with a write of one key.
    pub fn put(&mut self, id: u64, key: &str) -> EntryId {
        let entry = self.propose(id, key);
        self.node(id).seal();
        self.machine(id).write();
        entry
    }

    pub fn change(&mut self, id: u64, change: MemberChange) -> Result<u64, String> {
        let now_ms = self.now_ms;
        self.node(id).change_members(&change, now_ms)
    }

    // ---- Messages ----

    /// The VOTE that a candidate has for a node, and its answer.
    pub fn vote(&mut self, from: u64, to: u64) -> VoteReply {
        let request = self.node(from).vote_request(to).expect("it asks each voter once");
        let reply = self.ask_vote(from, to, &request);
        let now_ms = self.now_ms;
        self.node(from).take_vote(to, &request, &reply, now_ms);
        self.settle(from);
        reply
    }

    pub fn ask_vote(&mut self, from: u64, to: u64, request: &VoteRequest) -> VoteReply {
        let now_ms = self.now_ms;
        let reply = self.node(to).handle_vote(from, request, now_ms).expect("its disk is well");
        self.settle(to);
        reply
    }

    /// A node stands, and asks these.
    pub fn stand(&mut self, id: u64, asked: &[u64]) {
        self.time_out(id);
        // The trial, and then the vote. A candidate that has a majority asks no more.
        for _ in 0..2 {
            for to in asked {
                if let Some(request) = self.node(id).vote_request(*to) {
                    let (reply, now_ms) = (self.ask_vote(id, *to, &request), self.now_ms);
                    self.node(id).take_vote(*to, &request, &reply, now_ms);
                    self.settle(id);
                }
            }
        }
    }

    /// As `stand`, and it wins. The first attempt may only tell it of a newer term.
    pub fn elect(&mut self, id: u64, asked: &[u64]) {
        self.stand(id, asked);
        if !self.leads(id) {
            self.stand(id, asked);
        }
        assert!(self.leads(id), "node {id} leads");
    }

    /// The APPEND that a leader has for a node after a heartbeat's pause.
    pub fn send(&mut self, from: u64, to: u64) -> AppendRequest {
        self.wait(100);
        let now_ms = self.now_ms;
        let request = self.node(from).append_request(to, now_ms).expect("one at a time");
        self.machine(from).write();
        request
    }

    /// A whole exchange with an APPEND that does not wait for a heartbeat's pause.
    pub fn append_at_once(&mut self, from: u64, to: u64) {
        let now_ms = self.now_ms;
        let request = self.node(from).append_request(to, now_ms).expect("the peer waits for it");
        let reply = self.receive(from, to, &request);
        self.answer(from, to, &request, &reply);
    }

    /// A follower asks for its clients, and gets this answer.
    pub fn forward(
        &mut self,
        from: u64,
        to: u64,
        wants_read: bool,
        proposals: &[u8],
    ) -> ForwardReply {
        let machine = self.machine(to);
        let (replica, store) = (&mut machine.replica, &machine.store);
        let reply = replica.handle_forward(from, wants_read, proposals, |key| store.version(key));
        machine.write();
        reply.expect("well-formed")
    }

    /// The round that must be confirmed for a read.
    pub fn round(&self, reply: &ForwardReply) -> ReadRound {
        ReadRound { term: reply.term, number: reply.read.expect("the leader may answer").0 }
    }

    /// A node takes an APPEND, and answers when its disk has the entries.
    pub fn receive(&mut self, from: u64, to: u64, request: &AppendRequest) -> AppendReply {
        let now_ms = self.now_ms;
        let outcome = self.node(to).handle_append(from, request, now_ms).expect("taken");
        self.settle(to);
        self.node(to).append_reply(request, outcome).expect("the disk has it")
    }

    /// The answer of a node reaches the leader.
    pub fn answer(&mut self, to: u64, from: u64, request: &AppendRequest, reply: &AppendReply) {
        let now_ms = self.now_ms;
        self.node(to).take_append(from, request, reply, now_ms);
        self.machine(to).write();
        self.machine(to).apply();
    }

    /// A whole exchange.
    pub fn append(&mut self, from: u64, to: u64) -> AppendReply {
        let request = self.send(from, to);
        let reply = self.receive(from, to, &request);
        self.answer(from, to, &request, &reply);
        reply
    }

    /// An APPEND of a node that leads a term, without entries.
    pub fn heartbeat(&self, term: u64, index: u64, entry_term: u64) -> AppendRequest {
        let previous = EntryId { index, term: entry_term };
        AppendRequest { term, previous, commit: 0, round: 1, confirmed: 0, entries: Vec::new() }
    }

    /// A whole exchange, with no more than so many entries.
    pub fn append_only(&mut self, from: u64, to: u64, entries: usize) {
        let mut request = self.send(from, to);
        request.entries.truncate(entries);
        let reply = self.receive(from, to, &request);
        self.answer(from, to, &request, &reply);
    }

    /// The leader's disk has its entries too, and everybody hears of what is committed.
    pub fn replicate(&mut self, from: u64, to: &[u64]) {
        self.settle(from);
        for _ in 0..4 {
            for id in to {
                if self.leads(from) {
                    self.append(from, *id);
                }
            }
        }
    }
}
