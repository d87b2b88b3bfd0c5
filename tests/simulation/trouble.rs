//! What clients do, what goes wrong, and time.

use kvstore::config::Dials;
use kvstore::replication::members::Members;
use kvstore::replication::queue::Change;
use kvstore::store::KeyValueStore;
use kvstore::store::version::Version;

use crate::checks::{is_deleted, trace};
use crate::nodes::{Cluster, KEYS, SimNode, Ticket, address};

impl Cluster {
    pub fn write(&mut self) {
        let index = self.network.random.below(self.nodes.len() as u64) as usize;
        let key = KEYS[self.network.random.below(KEYS.len() as u64) as usize];
        let is_delete = self.network.random.one_in(3);
        self.write_at(index, key, is_delete);
    }

    pub fn write_at(&mut self, index: usize, key: &'static str, is_delete: bool) {
        let wall_ms = self.wall_ms(index);
        let node = &mut self.nodes[index];
        if !node.is_up || node.is_forgotten {
            return;
        }
        let origin = node.members.identity().run_id;
        let mut version = Version::default();
        let keep = !node.links.is_empty();
        let value = (!is_delete).then(|| origin.to_le_bytes());
        let stamp = |floor| {
            version = Version { time: node.clock.stamp(wall_ms, floor), origin };
            version
        };
        let value = value.as_ref().map(|value| &value[..]);
        let shard = node.store.write(key.as_bytes(), value, keep, stamp, |_| 0).shard;
        trace(|| {
            format!(
                "{} node {index} writes {key} {version:?} delete={is_delete}",
                self.network.now_ms
            )
        });
        for (number, link) in &node.links {
            link.queue.offer(Change { key: key.as_bytes().into(), at_ms: wall_ms }, shard);
            let (sent, overflows) = (link.queue.sent(), link.queue.overflows());
            self.tickets.push(Ticket { node: index, link: *number, key, version, sent, overflows });
        }
        if is_delete {
            let latest = self.deletes.entry(key).or_default();
            *latest = version.max(*latest);
        }
        if is_delete && !keep {
            // On a node on its own a delete leaves nothing, and so promises nothing to strangers.
            self.expected.remove(key);
            return;
        }
        let known = self.expected.entry(key).or_insert((version, is_delete));
        if version > known.0 {
            *known = (version, is_delete);
        }
    }

    pub fn trouble(&mut self) {
        let count = self.nodes.len() as u64;
        let (one, other) =
            (self.network.random.below(count) as usize, self.network.random.below(count) as usize);
        match self.network.random.below(17) {
            16 if one != other => {
                self.network.one_way.insert((one, other));
            }
            0..4 if one != other => {
                self.network.cut(one, other);
            }
            4..8 => self.network.cuts.clear(),
            8 | 9 => self.crash(one),
            10..14 => self.restart(one),
            14 => self.forget(one, other),
            _ => self.network.now_ms += self.network.random.below(50_000),
        }
    }

    pub fn crash(&mut self, index: usize) {
        if !std::mem::take(&mut self.nodes[index].is_up) {
            return;
        }
        trace(|| format!("{} node {index} crashes", self.network.now_ms));
        self.nodes[index].links.clear();
        self.nodes[index].inbound.clear();
        self.tickets.retain(|ticket| ticket.node != index);
        if !self.nodes[index].is_durable {
            self.excuse(index);
            self.nodes[index].store = KeyValueStore::new();
        }
    }

    /// What only this node held is gone with it.
    pub fn excuse(&mut self, index: usize) {
        for key in KEYS {
            let Some((version, is_delete)) = self.expected.get(key).copied() else {
                continue;
            };
            let of = |node: &SimNode| node.store.version(key.as_bytes());
            let others = self.nodes.iter().enumerate();
            let best = others
                .filter(|(other, node)| *other != index && !node.is_forgotten)
                .filter_map(|(_, node)| of(node).map(|version| (version, is_deleted(node, key))))
                .max();
            // A node on its own, or one that has dropped it, knows of a delete without a tombstone.
            let held = of(&self.nodes[index]);
            let has_it = held >= Some(version) || is_delete && held.is_none();
            if has_it && best.is_none_or(|(best, _)| best < version) {
                match best {
                    Some(best) => self.expected.insert(key, best),
                    None => self.expected.remove(key),
                };
            }
        }
    }

    pub fn restart(&mut self, index: usize) {
        if self.nodes[index].is_up {
            return;
        }
        trace(|| format!("{} node {index} restarts", self.network.now_ms));
        let (count, skew_ms) = (self.nodes.len(), self.nodes[index].skew_ms);
        let is_durable = self.nodes[index].is_durable;
        let mut fresh = self.fresh(index, count, is_durable, skew_ms);
        fresh.fastest_ms = self.nodes[index].fastest_ms;
        if is_durable {
            fresh.store = std::mem::take(&mut self.nodes[index].store);
            let before = &self.nodes[index];
            let mut identity = fresh.members.identity().clone();
            identity.node_id = before.members.identity().node_id;
            let seeds: Vec<String> =
                (1..count).map(|step| address((index + step) % count)).collect();
            fresh.members = Members::new(
                identity,
                self.named(&seeds),
                Dials::Everybody,
                &before.members.stored(),
                10,
            );
            fresh.is_forgotten = before.is_forgotten;
            for key in KEYS {
                fresh.clock.observe(fresh.store.version(key.as_bytes()).unwrap_or_default().time);
            }
        }
        self.nodes[index] = fresh;
        self.update_links(index);
    }

    /// Somebody forgets a node that is down.
    pub fn forget(&mut self, index: usize, gone: usize) {
        let who = &self.nodes[gone];
        if !self.names_all
            || index == gone
            || who.is_up
            || !self.nodes[index].is_up
            || self.nodes[index].is_forgotten
        {
            return;
        }
        let id = format!("{:016x}", who.members.identity().node_id);
        self.excuse(gone);
        self.nodes[gone].is_forgotten = self.nodes[gone].is_durable;
        trace(|| format!("{} node {index} forgets {gone}", self.network.now_ms));
        let ended = self.nodes[index].members.forget(&id).expect("another node");
        self.tickets.retain(|ticket| ticket.node != index || !ended.contains(&ticket.link));
        self.update_links(index);
        // All connections to it end, so that all hear of it.
        self.nodes[index].inbound.clear();
    }

    pub fn tick(&mut self, step_ms: u64) {
        self.network.now_ms += step_ms;
        while let Some((to, message)) = self.network.arrived() {
            self.deliver(to, message);
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_up {
                let numbers: Vec<u64> = self.nodes[index].links.keys().copied().collect();
                numbers.into_iter().for_each(|number| self.drive(index, number));
                self.forget_tombstones(index);
            }
        }
        self.check_tickets();
    }

    pub fn heal(&mut self) {
        self.network.heal();
        for index in 0..self.nodes.len() {
            self.nodes[index].skew_ms = 0;
            self.restart(index);
        }
    }

    pub fn run(&mut self, until_ms: u64, step_ms: u64) {
        while self.network.now_ms < until_ms {
            self.tick(step_ms);
        }
    }
}
