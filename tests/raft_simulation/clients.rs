//! Clients: what they ask, and what they see.

use std::sync::Arc;

use kvstore::consensus::forwarded::Proposal;
use kvstore::consensus::leading::ReadRound;
use kvstore::consensus::log::EntryId;
use kvstore::consensus::proposing::Operation as Asked;
use kvstore::consensus::status::Fate;
use kvstore::consensus::tickets::{self, Ask};

use crate::cluster::{Cluster, trace};
use crate::linearizability::{Event as Seen, History, Operation, Outcome};
use crate::nodes::{Fault, Node};
use crate::reached::Event;

const KEYS: [&str; 3] = ["a", "b", "c"];
const CLIENTS: usize = 4;

#[derive(Default)]
pub struct Clients {
    pub waiting: [Option<Request>; CLIENTS],
    pub history: History,
    /// Grows with everything that happens to clients.
    moment: u64,
    /// The last value that was put.
    value: u64,
    /// Writes that were answered.
    pub answered: u64,
    /// Nobody asks for anything more.
    pub are_quiet: bool,
}

/// What a client waits for: operations that one node carries out together.
pub struct Request {
    pub node: usize,
    run: u64,
    start: u64,
    pub is_write: bool,
    pub seen: Vec<(&'static str, Operation)>,
    pub needs: Need,
    give_up_ms: u64,
}

pub enum Need {
    /// The leader's answer.
    Ticket(tickets::Client, Ask),
    /// This entry is applied.
    Entry(EntryId),
    /// A majority confirms the round, and the store has everything up to an index. The value may
    /// be read before or after that.
    Round(ReadRound, u64, When),
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

fn value_in(node: &Node, key: &str) -> Option<u64> {
    node.machine.store.get(key.as_bytes()).map(number)
}

fn number(value: &[u8]) -> u64 {
    u64::from_le_bytes(value.try_into().expect("8 bytes"))
}

impl Cluster {
    /// Clients that have nothing to wait for may ask something.
    pub fn act(&mut self) {
        let now_ms = self.now_ms();
        for client in 0..CLIENTS {
            match &self.clients.waiting[client] {
                Some(request) if self.nodes[request.node].run != request.run => {
                    self.finish(client, |_| Outcome::Unknown);
                }
                Some(request) if now_ms >= request.give_up_ms => self.run_out(client),
                None if !self.clients.are_quiet && self.network.random.one_in(6) => {
                    self.ask(client);
                }
                _ => {}
            }
        }
    }

    fn any_key(&mut self) -> &'static str {
        KEYS[self.network.random.below(KEYS.len() as u64) as usize]
    }

    /// A client asks a node that believes to lead, or knows who does.
    fn ask(&mut self, client: usize) {
        let serves = |index: &usize| {
            let replica = &self.nodes[*index].machine.replica;
            self.runs(*index) && (replica.is_ready() || replica.is_led())
        };
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(serves).collect();
        if nodes.is_empty() {
            return;
        }
        let leads = |index: &&usize| self.nodes[**index].machine.replica.is_ready();
        let leader = nodes.iter().find(leads).copied();
        let any = nodes[self.network.random.below(nodes.len() as u64) as usize];
        let node = if self.network.random.one_in(3) { leader.unwrap_or(any) } else { any };
        self.clients.moment += 1;
        let mut request = Request {
            node,
            run: self.nodes[node].run,
            start: self.clients.moment,
            is_write: self.network.random.below(10) >= 4,
            seen: Vec::new(),
            needs: Need::Nothing,
            give_up_ms: self.now_ms() + 1_000 + self.network.random.below(10_000),
        };
        if request.is_write {
            self.write(&mut request);
        } else {
            request.seen.push((self.any_key(), Operation::Get(None)));
            self.submit(&mut request, Ask::Read);
        }
        self.clients.waiting[client] = Some(request);
        self.settle(node);
    }

    /// What a key has now at the node.
    pub fn read_store(&self, request: &mut Request) {
        for (key, operation) in &mut request.seen {
            *operation = Operation::Get(value_in(&self.nodes[request.node], key));
        }
    }

    /// A leader has applied what it knows to be committed before it reads.
    pub fn read_at_leader(&mut self, request: &mut Request) {
        if self.fault != Fault::LeaderReadsBeforeApplied {
            self.apply(request.node);
        }
        self.read_store(request);
        let is_after = self.network.random.one_in(2);
        let node = &mut self.nodes[request.node];
        let mut round = node.machine.replica.read_round().expect("it leads");
        if self.fault == Fault::ReadWithOlderRound {
            round.number = round.number.saturating_sub(1);
        }
        let when = if is_after { When::After } else { When::Before };
        request.needs = match self.fault {
            Fault::ReadWithoutRound => Need::Nothing,
            _ => Need::Round(round, 0, when),
        };
    }

    /// One to three writes, and perhaps a read behind them on the same connection.
    fn write(&mut self, request: &mut Request) {
        let mut operations: Vec<(&'static str, Option<[u8; 8]>)> = Vec::new();
        let is_flush = self.network.random.one_in(30);
        for _ in 0..1 + self.network.random.below(4) / 3 {
            self.clients.value += 1;
            let is_put = !self.network.random.one_in(3);
            let value = is_put.then(|| self.clients.value.to_le_bytes());
            operations.push((self.any_key(), value));
        }
        operations.dedup_by_key(|(key, _)| *key);
        let mut asked: Vec<Asked> = operations
            .iter()
            .map(|(key, value)| match value {
                Some(value) => Asked::Put { key: key.as_bytes(), value },
                None => Asked::Delete { key: key.as_bytes() },
            })
            .collect();
        if is_flush {
            asked = vec![Asked::Flush];
        }
        if is_flush {
            self.network.reached.add(Event::Flushed);
            request.seen.extend(KEYS.map(|key| (key, Operation::Delete(None))));
        } else {
            request.seen.extend(operations.iter().map(|(key, value)| {
                let delete = Operation::Delete(None);
                (*key, value.map_or(delete, |value| Operation::Put(number(&value))))
            }));
        }
        let machine = &mut self.nodes[request.node].machine;
        if !machine.replica.is_ready() {
            let mut proposal = Proposal::default();
            proposal.push(&asked).expect("not too long");
            self.submit(request, Ask::Write(Arc::new(proposal)));
            return;
        }
        let store = &machine.store;
        let proposed = machine.replica.propose(&asked, |key| store.version(key));
        let proposed = proposed.expect("it leads, and has room");
        request.needs = Need::Entry(proposed.entry);
        if is_flush {
            return;
        }
        for ((_, operation), existed) in request.seen.iter_mut().zip(proposed.existed) {
            if let Operation::Delete(result) = operation {
                *result = Some(existed);
            }
        }
        if let [(_, Operation::Delete(Some(false)))] = request.seen[..] {
            self.network.reached.add(Event::DeleteWithoutEffect);
            if self.fault == Fault::NoEffectAnsweredAtOnce {
                request.needs = Need::Nothing;
            }
        } else if self.network.random.one_in(4) {
            self.read_behind(request);
        }
    }

    /// A read behind a write of the same connection waits for that one, and sees what is pending.
    fn read_behind(&mut self, request: &mut Request) {
        let key = self.any_key();
        if request.seen.iter().any(|(other, _)| *other == key) {
            return;
        }
        self.network.reached.add(Event::ReadBehindAWrite);
        let node = &self.nodes[request.node];
        let value = match node.machine.replica.pending_value(key.as_bytes()) {
            Some(pending) => pending.map(number),
            None => value_in(node, key),
        };
        request.seen.push((key, Operation::Get(value)));
    }

    /// A node may answer clients by now.
    pub fn answer_clients(&mut self, index: usize) {
        if self.nodes[index].machine.replica.is_ready() {
            self.nodes[index].forwarding.withdraw();
        }
        for client in 0..CLIENTS {
            let is_asked =
                |request: &&Request| request.node == index && request.run == self.nodes[index].run;
            if self.clients.waiting[client].as_ref().filter(is_asked).is_none() {
                continue;
            }
            self.hear_answer(client);
            let Some(request) = &self.clients.waiting[client] else {
                continue;
            };
            let replica = &self.nodes[index].machine.replica;
            match request.needs {
                Need::Nothing => self.finish(client, Outcome::Ok),
                Need::Ticket(..) => {}
                Need::Entry(entry) => match replica.fate(entry) {
                    Fate::Open => {}
                    Fate::Happened => self.finish(client, Outcome::Ok),
                    Fate::NeverHappened => self.finish(client, |_| Outcome::Dropped),
                    Fate::Unknown => self.finish(client, |_| Outcome::Unknown),
                },
                Need::Round(round, awaited, when) => match self.is_confirmed(index, round) {
                    Some(true) if replica.applied_index() >= awaited => {
                        self.end_read(client, when);
                    }
                    Some(false) => self.finish(client, |_| Outcome::Unknown),
                    _ => {}
                },
            }
        }
    }

    fn end_read(&mut self, client: usize, when: When) {
        if let Some(mut request) = self.clients.waiting[client].take() {
            if when == When::After {
                self.read_store(&mut request);
            }
            self.clients.waiting[client] = Some(request);
        }
        self.finish(client, Outcome::Ok);
    }

    /// A client gets its answer, or gives up.
    pub fn finish(&mut self, client: usize, outcome: impl Fn(u64) -> Outcome) {
        let Some(request) = self.clients.waiting[client].take() else {
            return;
        };
        self.clients.moment += 1;
        let outcome = outcome(self.clients.moment);
        let is_write = request.is_write;
        self.clients.answered += u64::from(is_write && matches!(outcome, Outcome::Ok(_)));
        self.network.reached.add(match (is_write, outcome) {
            (true, Outcome::Ok(_)) => Event::WriteAnswered,
            (true, Outcome::Dropped) => Event::WriteThatNeverHappened,
            (true, Outcome::Unknown) => Event::WriteUnknown,
            (false, Outcome::Ok(_)) => Event::ReadAnswered,
            (false, _) => Event::ReadRefused,
        });
        for (key, operation) in request.seen {
            let start = request.start;
            let seen = Seen { client, start, operation, outcome };
            trace(|| format!("{} node {} {key}: {seen}", self.network.now_ms, request.node + 1));
            self.clients.history.add(key, seen);
        }
    }

    /// Nobody waits any more.
    pub fn give_up(&mut self) {
        (0..CLIENTS).for_each(|client| self.finish(client, |_| Outcome::Unknown));
    }
}
