//! What the threads of all nodes do, a step at a time: messages, disks, time.

use std::collections::BTreeSet;

use kvstore::consensus::messages::{AppendReply, AppendRequest, Appended};
use kvstore::consensus::replica::{LogRecord, Role};
use kvstore::consensus::tickets::request_of;

use crate::checks::Truth;
use crate::clients::Clients;
use crate::network::{Body, Message, Network};
use crate::nodes::{Exchange, Fault, Link, Node, Request, Waiting, WaitingVote};
use crate::reached::Event;

/// An exchange that takes longer is over.
const EXCHANGE_MS: u64 = 5_000;

pub struct Cluster {
    pub network: Network,
    /// Node *n* is at *n* − 1.
    pub nodes: Vec<Node>,
    pub fault: Fault,
    pub truth: Truth,
    pub clients: Clients,
    /// Members are changed for no reason.
    pub is_restless: bool,
    /// Most entries in one APPEND.
    pub batch: usize,
    /// One in so many leaders is killed soon after it was elected.
    pub storm: u64,
    /// Once in so many messages the power of a node goes when it has handled one.
    pub fragility: u64,
}

/// Shows what happens, with `TRACE=1`.
pub fn trace(line: impl FnOnce() -> String) {
    static IS_ON: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("TRACE").is_some());
    if *IS_ON {
        println!("{}", line());
    }
}

impl Cluster {
    pub fn now_ms(&self) -> u64 {
        self.network.now_ms
    }

    pub fn runs(&self, index: usize) -> bool {
        self.nodes[index].runs(self.now_ms())
    }

    /// One step of everything.
    pub fn step(&mut self) {
        self.network.pass();
        while let Some(message) = self.network.arrived() {
            self.deliver(message);
        }
        for index in 0..self.nodes.len() {
            let now_ms = self.now_ms();
            if self.nodes[index].starts_ms.is_some_and(|at_ms| now_ms >= at_ms) {
                self.restart(index);
            }
            if self.nodes[index].killed_ms.is_some_and(|at_ms| now_ms >= at_ms) {
                self.kill(index);
                let soon_ms = self.network.random.below(3_000);
                self.nodes[index].starts_ms = Some(now_ms + soon_ms);
            }
            if self.runs(index) {
                self.work(index);
            }
        }
        self.act();
        self.change_members();
        let leaders =
            self.nodes.iter().filter(|node| node.is_up && node.machine.replica.is_leader());
        if leaders.count() > 1 {
            self.network.reached.add(Event::TwoLeaders);
        }
    }

    pub fn run(&mut self, steps: u64) {
        (0..steps).for_each(|_| self.step());
    }

    // ---- One node ----

    /// What the threads of a node do when it is their turn.
    fn work(&mut self, index: usize) {
        self.work_of_disk(index);
        let now_ms = self.now_ms();
        let node = &mut self.nodes[index];
        if now_ms >= node.machine.replica.next_tick_ms(now_ms) || node.machine.replica.is_leader() {
            node.machine.replica.tick(now_ms);
            self.settle(index);
        }
        // Whoever waits for an entry seals it.
        if self.network.random.one_in(3) {
            self.nodes[index].machine.replica.seal();
            self.settle(index);
        }
        self.ask_others(index);
        self.answer(index);
    }

    /// After each call: the log gets what the replica hands out, and what must hold is checked.
    pub fn settle(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.heals_ms.is_none() {
            let had = node.machine.disk.end();
            for record in node.machine.write() {
                if let LogRecord::Entry(entry) = record {
                    self.truth.appended(&node.machine.replica, &entry);
                }
            }
            let end = node.machine.disk.end();
            if self.fault == Fault::AcknowledgedBeforeSync && end > had {
                node.machine.replica.saved(end, self.network.now_ms);
            }
        }
        node.confirmed = node.confirmed.max(node.machine.replica.confirmed_round());
        if self.truth.observe(&node.machine.replica, &mut node.seen_commit) {
            self.network.reached.add(Event::LeaderElected);
            if self.network.random.one_in(self.storm) {
                let soon_ms = self.network.random.below(400);
                node.killed_ms = Some(self.network.now_ms + soon_ms);
            }
            trace(|| {
                let (now_ms, term) = (self.network.now_ms, node.machine.replica.term());
                format!("{now_ms} node {} leads term {term}", node.id)
            });
        }
        // Not always at once.
        if self.network.random.one_in(2) {
            self.apply(index);
        }
        self.answer_clients(index);
    }

    pub fn apply(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if self.fault == Fault::EvaluatesBeforeApplied {
            for entry in node.machine.replica.to_apply(usize::MAX) {
                node.machine.replica.applied(entry.index);
                node.not_merged.push(entry);
            }
            if self.network.random.one_in(4) {
                let entries = std::mem::take(&mut node.not_merged);
                entries.iter().for_each(|entry| node.machine.store.apply(entry));
            }
            return;
        }
        if !node.machine.apply().is_empty() {
            self.truth.applied(node.machine.replica.applied_index(), &node.machine.store);
        }
    }

    fn work_of_disk(&mut self, index: usize) {
        let now_ms = self.network.now_ms;
        let node = &mut self.nodes[index];
        if let Some(heals_ms) = node.heals_ms {
            if now_ms >= heals_ms {
                node.heals_ms = None;
                node.machine.compact(now_ms);
                node.machine.replica.set_disk_failure(None, now_ms);
                self.network.reached.add(Event::DiskHealed);
                self.settle(index);
            }
            return;
        }
        match node.sync {
            Some((target, at_ms)) if now_ms >= at_ms => {
                node.sync = None;
                if std::mem::take(&mut node.disk_fails) {
                    self.fail_disk(index);
                } else {
                    node.machine.sync(target, now_ms);
                }
                self.settle(index);
            }
            None if node.machine.disk.synced < node.machine.disk.end() => {
                let took_ms = self.network.random.below(node.sync_ms);
                node.sync = Some((node.machine.disk.end(), now_ms + took_ms));
            }
            _ => {}
        }
    }

    /// An fsync failed: connections whose requests were waiting for it end.
    fn fail_disk(&mut self, index: usize) {
        let now_ms = self.network.now_ms;
        let node = &mut self.nodes[index];
        node.heals_ms = Some(now_ms + 100 + self.network.random.below(3_000));
        node.machine.replica.set_disk_failure(Some("the disk is gone".into()), now_ms);
        for Waiting { from, .. } in std::mem::take(&mut node.waiting) {
            node.machine.replica.end_handling(from, now_ms);
        }
        node.waiting_votes.clear();
        self.network.reached.add(Event::DiskFailed);
    }

    /// Whether what shows the term of a node may leave. Rule 1.
    fn may_show_term(&self, index: usize) -> bool {
        self.fault == Fault::VoteNotSynced || self.nodes[index].machine.disk.is_term_synced()
    }

    // ---- What a node asks ----

    fn ask_others(&mut self, index: usize) {
        let now_ms = self.now_ms();
        let node = &self.nodes[index];
        let is_follower = matches!(node.machine.replica.role(), Role::Follower);
        let is_idle = node.links.values().all(|link| link.exchange.is_none());
        if is_follower && is_idle && !node.forwarding.has_tickets() {
            return;
        }
        for peer in 1..=self.nodes.len() as u64 {
            let may_show_term = self.may_show_term(index);
            let node = &mut self.nodes[index];
            if peer == node.id {
                continue;
            }
            let link = node.links.entry(peer).or_default();
            if link.exchange.as_ref().is_some_and(|exchange| now_ms >= exchange.deadline_ms) {
                self.end_exchange(index, peer);
                continue;
            }
            let is_idle = link.exchange.is_none() && now_ms >= link.idle_until_ms;
            if !is_idle || !may_show_term || node.heals_ms.is_some() {
                continue;
            }
            let replica = &mut node.machine.replica;
            let request = replica.append_request(peer, now_ms).map(Request::Append);
            let request = request.or_else(|| replica.vote_request(peer).map(Request::Vote));
            let leads = replica.leader() == Some(peer) && replica.is_led();
            let may_forward = || leads && node.forwarding.has_tickets();
            let request =
                request.or_else(|| may_forward().then(|| Request::Forward(node.forwarding.take())));
            if let Some(mut request) = request {
                if let Request::Append(request) = &mut request {
                    request.entries.truncate(self.batch);
                }
                self.settle(index);
                self.send_request(index, peer, request);
            }
        }
    }

    fn send_request(&mut self, index: usize, peer: u64, request: Request) {
        let (id, now_ms) = (self.network.id(), self.now_ms());
        let node = &mut self.nodes[index];
        let body = match &request {
            Request::Append(request) => Body::Append(request.clone()),
            Request::Vote(request) => Body::Vote(*request),
            Request::Forward(tickets) => Body::Forward(request_of(tickets)),
        };
        let deadline_ms = now_ms + EXCHANGE_MS;
        let link = node.links.entry(peer).or_default();
        link.exchange = Some(Exchange { id, request, deadline_ms });
        self.network.send(Message { from: node.id, to: peer, exchange: id, body });
    }

    /// An exchange ends without an answer.
    fn end_exchange(&mut self, index: usize, peer: u64) {
        let idle_until_ms = self.now_ms() + self.network.random.below(200);
        let node = &mut self.nodes[index];
        let link = node.links.insert(peer, Link { exchange: None, idle_until_ms });
        node.machine.replica.broken(peer);
        if let Some(Exchange { request: Request::Forward(tickets), .. }) =
            link.and_then(|link| link.exchange)
        {
            self.forward_broke(index, tickets);
        }
        self.settle(index);
    }

    // ---- What a node is asked and told ----

    fn deliver(&mut self, message: Message) {
        let index = message.to as usize - 1;
        if !self.nodes[index].is_up {
            return;
        }
        if !self.runs(index) {
            let pause_ms = self.nodes[index].paused_until_ms - self.now_ms();
            self.network.arrive_in(pause_ms, message);
            return;
        }
        let (from, now_ms) = (message.from, self.now_ms());
        let is_request = matches!(message.body, Body::Append(_) | Body::Vote(_));
        let is_expected = |node: &Node| {
            let exchange = node.links.get(&from).and_then(|link| link.exchange.as_ref());
            exchange.is_some_and(|exchange| exchange.id == message.exchange)
        };
        let node = &mut self.nodes[index];
        match message.body {
            Body::Append(request) => self.handle_append(index, from, message.exchange, request),
            Body::Vote(request) => {
                if let Ok(reply) = node.machine.replica.handle_vote(from, &request, now_ms) {
                    self.settle(index);
                    let (exchange, position) =
                        (message.exchange, self.nodes[index].machine.disk.end());
                    let vote = WaitingVote { from, exchange, reply, position };
                    self.nodes[index].waiting_votes.push(vote);
                }
            }
            Body::Forward(request) => self.handle_forward(index, from, message.exchange, &request),
            Body::Appended(_) | Body::Voted(_) | Body::Forwarded(_) | Body::Broken
                if !is_expected(node) =>
            {
                return;
            }
            Body::Appended(reply) => {
                let exchange = node.links.get_mut(&from).and_then(|link| link.exchange.take());
                if let Some(Exchange { request: Request::Append(request), .. }) = exchange {
                    self.take_append(index, from, request, reply);
                }
            }
            Body::Voted(reply) => {
                let exchange = node.links.get_mut(&from).and_then(|link| link.exchange.take());
                if let Some(Exchange { request: Request::Vote(request), .. }) = exchange {
                    let replica = &mut node.machine.replica;
                    replica.take_vote(from, &request, &reply, now_ms);
                    if self.fault == Fault::VoteCountedTwice && reply.is_granted {
                        let other = replica.members().voters().find(|id| *id != from);
                        other.inspect(|id| replica.take_vote(*id, &request, &reply, now_ms));
                    }
                }
            }
            Body::Forwarded(reply) => {
                let link = node.links.get_mut(&from);
                let exchange = link.and_then(|link| link.exchange.take());
                if let Some(Exchange { request: Request::Forward(tickets), .. }) = exchange {
                    self.take_forward(index, from, tickets, &reply);
                }
            }
            Body::Broken => self.end_exchange(index, from),
            Body::Lost => node.machine.replica.lost(from, now_ms),
        }
        self.settle(index);
        self.answer(index);
        if is_request && self.network.random.one_in(self.fragility) {
            self.crash(index, true);
            self.restart(index);
        }
    }

    fn handle_append(&mut self, index: usize, from: u64, exchange: u64, request: AppendRequest) {
        let now_ms = self.now_ms();
        let node = &mut self.nodes[index];
        let replica = &mut node.machine.replica;
        let had = replica.log().last();
        replica.begin_handling();
        match replica.handle_append(from, &request, now_ms) {
            Ok(outcome) => {
                if replica.log().term_at(had.index) != Some(had.term) {
                    self.network.reached.add(Event::EntriesCut);
                }
                node.waiting.push(Waiting { from, exchange, request, outcome });
                self.settle(index);
                if let (Fault::LateAppendCuts, Appended::Matches(last)) = (self.fault, outcome) {
                    self.cut_log(index, last);
                }
            }
            Err(error) => {
                replica.end_handling(from, now_ms);
                let is_known = self.nodes[index].heals_ms.is_some();
                assert!(is_known, "node {} refuses: {error}", index + 1);
            }
        }
    }

    fn take_append(
        &mut self,
        index: usize,
        from: u64,
        mut request: AppendRequest,
        reply: AppendReply,
    ) {
        let now_ms = self.now_ms();
        let was_leader = self.nodes[index].machine.replica.is_leader();
        if let (Fault::AnswerNamesTheEndOfTheLog, Appended::Matches(last)) =
            (self.fault, reply.outcome)
        {
            request.previous.index = last - request.entries.len() as u64;
        }
        self.nodes[index].machine.replica.take_append(from, &request, &reply, now_ms);
        self.check_answer(index, from);
        if was_leader && !self.nodes[index].machine.replica.is_leader() {
            self.network.reached.add(Event::LeaderDeposed);
        }
        if let (Fault::OlderTermCounted, Appended::Matches(last)) = (self.fault, reply.outcome) {
            self.count_any_term(index, from, last);
        }
    }

    /// What a leader believes of a follower after its answer is true.
    fn check_answer(&self, index: usize, from: u64) {
        let (own, peer) = (&self.nodes[index].machine.replica, &self.nodes[from as usize - 1]);
        let other = &peer.machine.replica;
        let Some(last) = own.matched(from).filter(|last| *last >= other.log().base().index) else {
            return;
        };
        let is_comparable = peer.is_up && other.term() == own.term();
        if let Some(term) = own.log().term_at(last).filter(|_| is_comparable) {
            let there = other.log().term_at(last);
            assert!(
                there == Some(term),
                "true answers: {from} has {there:?} at {last}, its leader believes {term}"
            );
        }
    }

    /// Answers what the disk has by now. Rules 1 and 2.
    fn answer(&mut self, index: usize) {
        let (may_show_term, now_ms) = (self.may_show_term(index), self.now_ms());
        let node = &mut self.nodes[index];
        for vote in std::mem::take(&mut node.waiting_votes) {
            let is_safe = node.machine.disk.synced >= vote.position;
            if !is_safe && self.fault != Fault::VoteNotSynced {
                node.waiting_votes.push(vote);
                continue;
            }
            let WaitingVote { from, exchange, reply, .. } = vote;
            let body = Body::Voted(reply);
            self.network.send(Message { from: node.id, to: from, exchange, body });
        }
        if !may_show_term {
            return;
        }
        for waiting in std::mem::take(&mut node.waiting) {
            let reply = node.machine.replica.append_reply(&waiting.request, waiting.outcome);
            let Some(mut reply) = reply else {
                node.waiting.push(waiting);
                continue;
            };
            if let (Fault::AnswerNamesTheEndOfTheLog, Appended::Matches(last)) =
                (self.fault, &mut reply.outcome)
            {
                *last = (*last).max(node.machine.replica.durable_index());
            }
            let Waiting { from, exchange, .. } = waiting;
            node.machine.replica.end_handling(from, now_ms);
            let body = Body::Appended(reply);
            self.network.send(Message { from: node.id, to: from, exchange, body });
        }
    }

    /// The ids of nodes that never come back.
    pub fn gone(&self) -> BTreeSet<u64> {
        self.nodes.iter().filter(|node| node.is_gone).map(|node| node.id).collect()
    }
}
