//! What goes wrong, and one run of it all.

use kvstore::consensus::log::EntryId;

use crate::checks::Truth;
use crate::clients::Clients;
use crate::cluster::{Cluster, trace};
use crate::network::{Body, Message, Network};
use crate::nodes::{Fault, Node};
use crate::reached::{Event, Reached};

/// After everything has healed, this is long enough for all to agree.
const HEALED_MS: u64 = 120_000;

/// One run: a seed decides everything.
pub fn simulate(seed: u64, fault: Fault) -> Reached {
    let mut cluster = Cluster {
        network: Network::new(seed),
        nodes: Vec::new(),
        fault,
        truth: Truth::default(),
        clients: Clients::default(),
        is_restless: false,
        batch: usize::MAX,
        storm: u64::MAX,
        fragility: u64::MAX,
    };
    let random = &mut cluster.network.random;
    let (count, kind) = (if random.one_in(2) { 3 } else { 5 }, random.below(6));
    cluster.is_restless = random.one_in(2);
    cluster.batch = [1, 3, usize::MAX][random.below(3) as usize];
    cluster.storm = [2, u64::MAX, u64::MAX][random.below(3) as usize];
    cluster.fragility = [20, 200, u64::MAX][random.below(3) as usize];
    match kind {
        0 => {
            cluster.network.reached.add(Event::ClusterFounded);
            (0..count).for_each(|_| cluster.add(Default::default()));
            cluster.found();
            cluster.run(300);
        }
        kind => cluster.add_members(count, kind == 1),
    }
    let (steps, calm) =
        (300 + cluster.network.random.below(600), 10 + cluster.network.random.below(60));
    for _ in 0..steps {
        if cluster.network.random.one_in(calm) {
            cluster.trouble();
        }
        cluster.step();
    }
    cluster.heal();
    cluster.agree();
    cluster.give_up();
    cluster.clients.history.check().unwrap();
    cluster.network.reached
}

impl Cluster {
    fn any_node(&mut self) -> usize {
        let any = self.network.random.below(self.nodes.len() as u64) as usize;
        // What happens to a leader matters most.
        let leads = |index: &usize| self.nodes[*index].machine.replica.is_leader();
        let leader = (0..self.nodes.len()).find(leads);
        if self.network.random.one_in(3) { leader.unwrap_or(any) } else { any }
    }

    fn trouble(&mut self) {
        let index = self.any_node();
        let node = &mut self.nodes[index];
        match self.network.random.below(25) {
            0 | 1 => self.crash(index, true),
            2 => self.crash(index, false),
            3 => self.kill(index),
            4..8 => {
                for index in 0..self.nodes.len() {
                    self.restart(index);
                }
            }
            8 | 9 => self.partition(),
            10 | 11 => self.cut_one_way(index),
            12..15 => self.network.cuts.clear(),
            15 => {
                node.paused_until_ms = self.network.now_ms + self.network.random.below(6_000);
                self.network.reached.add(Event::Paused);
            }
            16 => {
                node.sync_ms = [10, 100, 1_500][self.network.random.below(3) as usize];
                self.network.reached.add(Event::DiskSlow);
            }
            17 => node.disk_fails = true,
            18 | 19 if node.is_up && node.heals_ms.is_none() => {
                node.machine.compact(self.network.now_ms);
                self.network.reached.add(Event::Compacted);
                self.settle(index);
            }
            20 if self.is_restless => self.replace_one(),
            21..24 if self.is_restless => self.remove_one(),
            _ => {}
        }
    }

    /// The process is killed: the disk keeps all that was written. Its connections break.
    pub fn kill(&mut self, index: usize) {
        if self.nodes[index].is_up {
            let disk = &mut self.nodes[index].machine.disk;
            let end = disk.end();
            disk.cut(end);
            self.network.reached.add(Event::Killed);
            self.stop(index, true);
        }
    }

    /// The power goes: of what was written, some of what was not synced is lost.
    pub fn crash(&mut self, index: usize, is_noticed: bool) {
        if self.nodes[index].is_up {
            let disk = &mut self.nodes[index].machine.disk;
            let unsynced = disk.end() - disk.synced;
            let lost = self.network.random.below(unsynced + 1);
            let end = disk.end() - lost;
            disk.cut(end);
            self.network.reached.add(Event::PowerLost);
            if lost > 0 {
                self.network.reached.add(Event::PowerLossTookRecords);
            }
            self.stop(index, is_noticed);
        }
    }

    fn stop(&mut self, index: usize, is_noticed: bool) {
        let (id, now_ms) = (self.nodes[index].id, self.now_ms());
        trace(|| format!("{now_ms} node {id} stops"));
        let node = &mut self.nodes[index];
        node.is_up = false;
        node.killed_ms = None;
        node.run += 1;
        for peer in (0..self.nodes.len()).filter(|peer| is_noticed && *peer != index) {
            let to = self.nodes[peer].id;
            let link = self.nodes[peer].links.get(&id);
            if let Some(exchange) = link.and_then(|link| link.exchange.as_ref()) {
                let (exchange, body) = (exchange.id, Body::Broken);
                self.network.arrive_in(5, Message { from: id, to, exchange, body });
            }
            self.network.arrive_in(5, Message { from: id, to, exchange: 0, body: Body::Lost });
        }
    }

    pub fn restart(&mut self, index: usize) {
        if self.nodes[index].is_up || self.nodes[index].is_gone {
            return;
        }
        trace(|| format!("{} node {} starts", self.network.now_ms, index + 1));
        self.restart_now(index);
        // The founder may have lost the power before its first entry was safe.
        if self.truth.last_committed() == 0 && index == 0 {
            let is_empty = self.nodes[0].machine.replica.log().last() == EntryId::default();
            if is_empty && self.nodes.iter().all(|node| node.machine.replica.term() <= 1) {
                self.found();
            }
        }
    }

    /// Two groups that do not reach each other.
    fn partition(&mut self) {
        let groups: Vec<bool> = self.nodes.iter().map(|_| self.network.random.one_in(2)).collect();
        for (one, left) in (1..).zip(&groups) {
            for (other, right) in (1..).zip(&groups) {
                if left != right {
                    self.network.cuts.insert((one, other));
                }
            }
        }
        trace(|| format!("{} groups {groups:?}", self.network.now_ms));
        self.network.reached.add(Event::Partition);
    }

    /// Nothing leaves a node, nothing reaches it, or both; or one way between two nodes is cut.
    fn cut_one_way(&mut self, index: usize) {
        let id = self.nodes[index].id;
        let kind = self.network.random.below(4);
        let only = 1 + self.network.random.below(self.nodes.len() as u64);
        for other in (1..=self.nodes.len() as u64).filter(|other| *other != id) {
            match kind {
                0 => drop(self.network.cuts.insert((id, other))),
                1 => drop(self.network.cuts.insert((other, id))),
                2 => {
                    self.network.cuts.insert((id, other));
                    self.network.cuts.insert((other, id));
                }
                _ if other == only => drop(self.network.cuts.insert((id, other))),
                _ => {}
            }
        }
        trace(|| format!("{} one way of node {id}: {kind}", self.network.now_ms));
        self.network.reached.add(Event::OneWay);
    }

    /// Everything runs, and everything reaches everything.
    fn heal(&mut self) {
        trace(|| format!("{} heals", self.network.now_ms));
        self.network.heal();
        (self.storm, self.fragility) = (u64::MAX, u64::MAX);
        for index in 0..self.nodes.len() {
            self.restart(index);
            let node = &mut self.nodes[index];
            (node.sync_ms, node.disk_fails, node.paused_until_ms) = (10, false, 0);
            node.killed_ms = None;
        }
    }

    /// After healing, writes are answered, new nodes count, nodes that are gone do not, and all
    /// stores are the same.
    fn agree(&mut self) {
        let (until_ms, answered) = (self.now_ms() + HEALED_MS, self.clients.answered);
        while self.clients.answered < answered + 3 {
            self.step();
            assert!(self.now_ms() < until_ms, "no write is answered: {}", self.described());
        }
        self.clients.are_quiet = true;
        while !self.is_settled() {
            self.step();
            assert!(self.now_ms() < until_ms, "no progress: {}", self.described());
        }
    }

    /// Whether all members that there should be have applied the same.
    fn is_settled(&self) -> bool {
        let leader = self.nodes.iter().find(|node| node.is_up && node.machine.replica.is_ready());
        let Some(leader) = leader else {
            return false;
        };
        let (replica, gone) = (&leader.machine.replica, self.gone());
        let (members, last) = (replica.members(), replica.log().last().index);
        let is_member = |id: u64| members.is_voter(id) || members.removed.contains(&id);
        let applied = |id: u64| &self.nodes[id as usize - 1].machine;
        replica.applied_index() == last
            && self.nodes.iter().all(|node| node.is_gone || is_member(node.id))
            && members.nodes.keys().all(|id| {
                !gone.contains(id)
                    && applied(*id).replica.applied_index() == last
                    && applied(*id).store == leader.machine.store
            })
    }

    fn described(&self) -> String {
        let of = |node: &Node| {
            let replica = &node.machine.replica;
            let (log, role) = (replica.log(), if replica.is_leader() { "leads" } else { "" });
            let state = (node.is_up, node.is_gone, replica.term(), role);
            let ends = (log.base(), log.last(), replica.commit_index(), replica.applied_index());
            let voters: Vec<u64> = replica.members().voters().collect();
            format!("\n{}: (up, gone, term): {state:?} {ends:?} voters {voters:?}", node.id)
        };
        self.nodes.iter().map(of).collect()
    }
}
