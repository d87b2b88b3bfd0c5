//! Clients: what they ask, and what they see.

use kvstore::consensus::leading::ReadRound;
use kvstore::consensus::log::EntryId;
use kvstore::consensus::proposing::Operation as Asked;
use kvstore::consensus::status::Fate;

use crate::cluster::{Cluster, trace};
use crate::linearizability::{Event as Seen, History, Operation, Outcome};
use crate::nodes::{Fault, Node};
use crate::reached::Event;

const KEYS: [&str; 3] = ["a", "b", "c"];
const CLIENTS: usize = 4;

#[derive(Default)]
pub struct Clients {
    waiting: [Option<Request>; CLIENTS],
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
struct Request {
    node: usize,
    run: u64,
    start: u64,
    seen: Vec<(&'static str, Operation)>,
    needs: Need,
    give_up_ms: u64,
}

enum Need {
    /// This entry is applied.
    Entry(EntryId),
    /// A majority confirms the round, and the store has everything up to an index. The value may
    /// be read before or after that.
    Round(ReadRound, u64, When),
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
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
                Some(request) if now_ms >= request.give_up_ms => {
                    self.finish(client, |_| Outcome::Unknown);
                }
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

    /// A client asks a node that believes to lead.
    fn ask(&mut self, client: usize) {
        let leads = |index: &usize| self.nodes[*index].machine.replica.is_leader();
        let leaders: Vec<usize> =
            (0..self.nodes.len()).filter(|index| self.runs(*index)).filter(leads).collect();
        if leaders.is_empty() {
            return;
        }
        let node = leaders[self.network.random.below(leaders.len() as u64) as usize];
        self.clients.moment += 1;
        let mut request = Request {
            node,
            run: self.nodes[node].run,
            start: self.clients.moment,
            seen: Vec::new(),
            needs: Need::Nothing,
            give_up_ms: self.now_ms() + 1_000 + self.network.random.below(10_000),
        };
        let has_begun = match self.network.random.below(10) {
            0..4 => self.read(&mut request),
            _ => self.write(&mut request),
        };
        if has_begun {
            self.clients.waiting[client] = Some(request);
            self.settle(node);
        }
    }

    fn read(&mut self, request: &mut Request) -> bool {
        let key = self.any_key();
        let is_after = self.network.random.one_in(2);
        let node = &mut self.nodes[request.node];
        let Some(mut round) = node.machine.replica.read_round() else {
            return false;
        };
        request.seen.push((key, Operation::Get(value_in(node, key))));
        if self.fault == Fault::ReadWithOlderRound {
            round.number = round.number.saturating_sub(1);
        }
        let when = if is_after { When::After } else { When::Before };
        request.needs = match self.fault {
            Fault::ReadWithoutRound => Need::Nothing,
            _ => Need::Round(round, node.machine.replica.commit_index(), when),
        };
        true
    }

    /// One to three writes, and perhaps a read behind them on the same connection.
    fn write(&mut self, request: &mut Request) -> bool {
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
        let machine = &mut self.nodes[request.node].machine;
        let store = &machine.store;
        let proposed = machine.replica.propose(&asked, |key| store.version(key));
        let Ok(proposed) = proposed else {
            return false;
        };
        request.needs = Need::Entry(proposed.entry);
        if is_flush {
            self.network.reached.add(Event::Flushed);
            request.seen.extend(KEYS.map(|key| (key, Operation::Delete(None))));
            return true;
        }
        let written = operations.iter().zip(&proposed.existed);
        request.seen.extend(written.map(|((key, value), existed)| {
            let delete = Operation::Delete(Some(*existed));
            (*key, value.map_or(delete, |value| Operation::Put(number(&value))))
        }));
        if let [(_, Operation::Delete(Some(false)))] = request.seen[..] {
            self.network.reached.add(Event::DeleteWithoutEffect);
            if self.fault == Fault::NoEffectAnsweredAtOnce {
                request.needs = Need::Nothing;
            }
        } else if self.network.random.one_in(4) {
            self.read_behind(request);
        }
        true
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
        for client in 0..CLIENTS {
            let Some(request) = &self.clients.waiting[client] else {
                continue;
            };
            let node = &self.nodes[index];
            if request.node != index || request.run != node.run {
                continue;
            }
            let replica = &node.machine.replica;
            match request.needs {
                Need::Nothing => self.finish(client, Outcome::Ok),
                Need::Entry(entry) => match replica.fate(entry) {
                    Fate::Open => {}
                    Fate::Happened => self.finish(client, Outcome::Ok),
                    Fate::NeverHappened => self.finish(client, |_| Outcome::Dropped),
                    Fate::Unknown => self.finish(client, |_| Outcome::Unknown),
                },
                Need::Round(round, commit, when) => match replica.is_confirmed(round) {
                    Some(true) if replica.applied_index() >= commit => {
                        self.end_read(client, when);
                    }
                    Some(false) => self.finish(client, |_| Outcome::Unknown),
                    _ => {}
                },
            }
        }
    }

    fn end_read(&mut self, client: usize, when: When) {
        if let Some(request) = &mut self.clients.waiting[client]
            && when == When::After
        {
            let node = &self.nodes[request.node];
            for (key, operation) in &mut request.seen {
                *operation = Operation::Get(value_in(node, key));
            }
        }
        self.finish(client, Outcome::Ok);
    }

    /// A client gets its answer, or gives up.
    fn finish(&mut self, client: usize, outcome: impl Fn(u64) -> Outcome) {
        let Some(request) = self.clients.waiting[client].take() else {
            return;
        };
        self.clients.moment += 1;
        let outcome = outcome(self.clients.moment);
        let is_write = matches!(request.needs, Need::Entry(_));
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
