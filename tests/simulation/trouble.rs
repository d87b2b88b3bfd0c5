//! What clients do, what goes wrong, and time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use kvstore::store::KeyValueStore;
use kvstore::store::version::Version;

use crate::checks::{LARGE_BYTES, Ticket, is_deleted, trace, value_of};
use crate::nodes::{Cluster, Fault, KEYS, Seeds, loaded, seeds_of};
use crate::reached::Event;

impl Cluster {
    /// Two or three nodes, of any kind.
    pub fn random(seed: u64, fault: Fault) -> (Self, Seeds) {
        let mut cluster = Cluster::empty(seed, fault);
        let random = &mut cluster.network.random;
        let seeds = match random.below(4) {
            0 | 1 => Seeds::All,
            2 => Seeds::One,
            _ => Seeds::FirstHasNone,
        };
        let count = 2 + random.below(2) as usize;
        for index in 0..count {
            let random = &mut cluster.network.random;
            let is_durable = random.one_in(2);
            let skew_ms = match random.below(8) {
                0 => 100_000,
                1 => -20_000,
                _ => random.below(4_000) as i64 - 2_000,
            };
            cluster.add(is_durable, seeds_of(index, count, seeds), skew_ms);
        }
        (cluster, seeds)
    }

    // ---- What clients do ----

    pub fn write(&mut self) {
        let index = self.network.random.below(self.nodes.len() as u64) as usize;
        let key = KEYS[self.network.random.below(KEYS.len() as u64) as usize];
        let is_delete = self.network.random.one_in(3);
        self.write_at(index, key, is_delete);
    }

    /// As `Node::write`.
    pub fn write_at(&mut self, index: usize, key: &'static str, is_delete: bool) {
        let (number, wall_ms) = (self.network.id(), self.wall_ms(index));
        let len = if self.network.random.one_in(50) { LARGE_BYTES + 8 } else { 8 };
        if !self.serves(index) || self.nodes[index].is_forgotten {
            return;
        }
        let node = &mut self.nodes[index];
        let (mut version, origin) = (Version::default(), node.run_id);
        let mut keep = node.manager.keeps_tombstones();
        if self.fault == Fault::NoTombstonesWithoutSeeds {
            keep = !node.seeds.is_empty();
        }
        let value = (!is_delete).then(|| value_of(number, len));
        let stamp = |floor| {
            version = Version { time: node.clock.stamp(wall_ms, floor), origin };
            version
        };
        let shard = node.store.write(key.as_bytes(), value.as_deref(), keep, stamp, |_| 0).shard;
        node.manager.changed(key.as_bytes(), shard, wall_ms, &mut node.known_links);
        trace(|| {
            let now_ms = self.network.now_ms;
            format!("{now_ms} node {index} writes {key} {version:?} delete={is_delete}")
        });
        let (reach, checked) = (node.manager.ticket(), BTreeSet::new());
        self.tickets.push(Ticket { node: index, key, version, reach, checked });
        let history = &mut self.history;
        history.values.insert(version, (number, len));
        if is_delete {
            let latest = history.deletes.entry(key).or_default();
            *latest = version.max(*latest);
        }
        if is_delete && !node.manager.keeps_tombstones() {
            // On a node on its own a delete leaves nothing, and so promises nothing to strangers.
            history.expected.remove(key);
            return;
        }
        let known = history.expected.entry(key).or_insert((version, is_delete));
        if version > known.0 {
            *known = (version, is_delete);
        }
    }

    // ---- What goes wrong ----

    pub fn trouble(&mut self, seeds: Seeds) {
        let count = self.nodes.len() as u64;
        let random = &mut self.network.random;
        let (one, other) = (random.below(count) as usize, random.below(count) as usize);
        match random.below(24) {
            0..4 if one != other => self.network.cut(one, other),
            4..8 => self.network.cuts.clear(),
            8 | 9 => self.crash(one),
            10..14 => self.restart(one),
            14 if seeds == Seeds::All && one != other => {
                self.crash(other);
                self.forget(one, other);
            }
            15 => {
                self.network.now_ms += self.network.random.below(50_000);
                self.set_clocks();
            }
            16 if one != other => self.network.block(one, other),
            17 | 18 => {
                let skew_ms = self.network.random.below(160_000) as i64 - 60_000;
                self.step_clock(one, skew_ms);
            }
            19 => self.lose_power(one),
            20 if self.nodes[one].is_durable() => self.bring_old_copy(one),
            21 => self.replace(one),
            _ => {}
        }
    }

    pub fn step_clock(&mut self, index: usize, skew_ms: i64) {
        let node = &mut self.nodes[index];
        let event = if skew_ms > node.skew_ms { Event::ClockForward } else { Event::ClockBack };
        node.skew_ms = skew_ms;
        node.fastest_ms = node.fastest_ms.max(skew_ms.max(0) as u64);
        self.network.reached.add(event);
        self.set_clocks();
    }

    /// The directory of a node is copied, and brought back a while later.
    fn bring_old_copy(&mut self, index: usize) {
        if !self.nodes[index].is_up {
            return;
        }
        let node = &self.nodes[index];
        let (records, stored) = (node.records(), node.stored.lock().expect("no panic").clone());
        for _ in 0..self.network.random.below(60) {
            if self.network.random.one_in(3) {
                self.write();
            }
            let step_ms = self.network.random.below(1_500);
            self.tick(step_ms);
        }
        self.crash(index);
        let left = loaded(&records);
        self.excuse(index, &left);
        // Deletes that were forgotten everywhere come back with what they deleted: the README says
        // so.
        self.history.expected.retain(|key, (version, is_delete)| {
            let old = left.version(key.as_bytes());
            !*is_delete || is_deleted(&left, key) || old >= Some(*version)
        });
        self.tickets.clear();
        let node = &mut self.nodes[index];
        node.store = Arc::new(left);
        node.stored = Arc::new(Mutex::new(stored));
        self.network.reached.add(Event::OldCopyBrought);
        self.restart(index);
    }

    /// A node that is down comes back with an empty directory at its old address.
    pub fn replace(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.is_up || !node.is_durable() || node.is_forgotten {
            return;
        }
        trace(|| format!("{} node {index} is replaced", self.network.now_ms));
        let (seeds, skew_ms, fastest_ms) = (node.seeds.clone(), node.skew_ms, node.fastest_ms);
        self.replaced.push(node.node_id);
        self.excuse(index, &KeyValueStore::new());
        let (node_id, disk) = (self.network.id(), self.new_disk());
        let store = KeyValueStore::new();
        let mut fresh = self.start(index, node_id, store, Some(disk), seeds, skew_ms);
        fresh.fastest_ms = fastest_ms;
        self.nodes[index] = fresh;
        self.receive_callers(index);
        self.network.reached.add(Event::NodeReplaced);
    }

    /// Somebody forgets a node that is down.
    pub fn forget(&mut self, index: usize, gone: usize) {
        let who = &self.nodes[gone];
        if index == gone || who.is_up || !self.serves(index) || self.nodes[index].is_forgotten {
            return;
        }
        let (id, is_durable) = (who.node_id, who.is_durable());
        self.excuse(gone, &KeyValueStore::new());
        self.nodes[gone].is_forgotten = is_durable;
        trace(|| format!("{} node {index} forgets {gone}", self.network.now_ms));
        self.nodes[index].manager.forget(&format!("{id:016x}")).expect("another node");
        self.network.reached.add(Event::NodeForgotten);
    }

    /// Everything can reach everything, and runs; clocks stay as they are. Nodes that were replaced
    /// are forgotten when those who knew them have met who is there now, as `PEERS` shows.
    pub fn heal(&mut self) {
        for node in self.nodes.iter().filter(|node| node.is_up) {
            let overflows = node.manager.queue_overflows();
            self.network.reached.add_times(Event::QueueOverflowed, overflows);
        }
        self.network.heal();
        for index in 0..self.nodes.len() {
            self.restart(index);
        }
        if !self.replaced.is_empty() {
            self.run_for(10_000, 100);
        }
        for id in std::mem::take(&mut self.replaced) {
            for node in &self.nodes {
                node.manager.forget(&format!("{id:016x}")).expect("nobody has it any more");
            }
        }
    }

    // ---- Time ----

    pub fn tick(&mut self, step_ms: u64) {
        self.network.now_ms += step_ms;
        self.set_clocks();
        self.sync_disks();
        while let Some((to, message)) = self.network.arrived() {
            self.deliver(to, message);
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_up {
                self.close_sessions(index);
                self.receive_callers(index);
                let numbers: Vec<u64> = self.nodes[index].links.keys().copied().collect();
                numbers.into_iter().for_each(|number| self.drive(index, number));
                self.forget_deletes(index);
            }
        }
        self.check_tickets();
    }

    pub fn run(&mut self, until_ms: u64, step_ms: u64) {
        while self.network.now_ms < until_ms {
            self.tick(step_ms);
        }
    }

    /// Runs until it `is_done`, or for a time.
    pub fn run_until(&mut self, ms_max: u64, step_ms: u64, is_done: impl Fn(&Self) -> bool) {
        let until_ms = self.network.now_ms.saturating_add(ms_max);
        while self.network.now_ms < until_ms && !is_done(self) {
            self.tick(step_ms);
        }
    }

    pub fn run_for(&mut self, ms: u64, step_ms: u64) {
        self.run(self.network.now_ms + ms, step_ms);
    }
}
