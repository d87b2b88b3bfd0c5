//! What must hold: in every step, and when everything has healed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kvstore::replication;
use kvstore::store::KeyValueStore;
use kvstore::store::version::Version;

use crate::nodes::{Cluster, GRACE, KEYS, START_MS, SimNode};
use crate::reached::Event;

/// Larger than what travels with small records.
pub const LARGE_BYTES: usize = 64 * 1024;

/// What clients were told.
#[derive(Default)]
pub struct History {
    /// The latest acknowledged version of each key that is not excused, and whether it was a
    /// delete.
    pub expected: HashMap<&'static str, (Version, bool)>,
    /// The latest delete of each key, excused or not: it may have got away before its node lost it.
    pub deletes: HashMap<&'static str, Version>,
    /// What was written under a version: a number, repeated up to a length.
    pub values: HashMap<Version, (u64, usize)>,
}

/// A write whose client waits until peers hold it.
pub struct Ticket {
    pub node: usize,
    pub key: &'static str,
    pub version: Version,
    pub reach: replication::Ticket,
    /// Links whose peers were looked at.
    pub checked: BTreeSet<u64>,
}

pub fn value_of(number: u64, len: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

impl Cluster {
    /// A peer that counts for `WAIT` holds the write.
    pub fn check_tickets(&mut self) {
        let mut tickets = std::mem::take(&mut self.tickets);
        for ticket in &mut tickets {
            for link in ticket.reach.holders() {
                if ticket.checked.insert(link) {
                    self.check_holder(ticket, link);
                }
            }
        }
        tickets.retain(|ticket| ticket.checked.len() < self.nodes[ticket.node].links.len());
        self.tickets = tickets;
    }

    fn check_holder(&mut self, ticket: &Ticket, link: u64) {
        let node = &self.nodes[ticket.node];
        let Some(link) = node.links.get(&link) else {
            return;
        };
        // It may have crashed since, or have dropped the tombstone.
        let peer_id = link.caller.conversation.peer_id();
        let is_holder = |node: &&SimNode| node.is_up && Some(node.node_id) == peer_id;
        let Some(holder) = self.nodes.iter().find(is_holder) else {
            return;
        };
        let held = holder.store.version(ticket.key.as_bytes());
        // Aged tombstones are not compared: a peer without a value had what a delete asks for.
        let now_ms = START_MS + self.network.now_ms + node.fastest_ms;
        let is_old = ticket.version.wall_ms() + GRACE.as_millis() as u64 * 7 / 8 < now_ms;
        let is_gone = is_old || is_deleted(&holder.store, ticket.key);
        let is_dropped = is_gone && self.history.deletes.get(ticket.key) >= Some(&ticket.version);
        assert!(
            held >= Some(ticket.version) || is_dropped,
            "{}: WAIT counted a peer without {ticket}; it has {held:?}, skews {:?}",
            self.network.now_ms,
            self.nodes.iter().map(|node| node.skew_ms).collect::<Vec<_>>()
        );
        self.network.reached.add(Event::WaitConfirmed);
    }

    /// A node is about to lose all but what is `left`. What nobody else holds may be gone. Whether
    /// it loses anything.
    pub fn excuse(&mut self, index: usize, left: &KeyValueStore) -> bool {
        let mut has_lost = false;
        for key in KEYS {
            let of = |store: &KeyValueStore| store.version(key.as_bytes());
            let held = of(&self.nodes[index].store);
            has_lost |= held > of(left);
            let Some((version, is_delete)) = self.history.expected.get(key).copied() else {
                continue;
            };
            let others = self.nodes.iter().enumerate();
            let stores = others
                .filter(|(other, node)| *other != index && !node.is_forgotten)
                .filter(|(_, node)| node.is_up || node.is_durable())
                .map(|(_, node)| &*node.store)
                .chain([left]);
            let best = stores.filter_map(|store| Some((of(store)?, is_deleted(store, key)))).max();
            // A node on its own, or one that has dropped it, knows of a delete without a tombstone.
            let has_it = held >= Some(version) || is_delete && held.is_none();
            if has_it && best.is_none_or(|(best, _)| best < version) {
                match best {
                    Some(best) => self.history.expected.insert(key, best),
                    None => self.history.expected.remove(key),
                };
            }
        }
        has_lost
    }

    /// As the thread `tombstones` does it.
    pub fn forget_deletes(&mut self, index: usize) {
        let before = self.nodes[index].versions();
        self.nodes[index].manager.forget_deletes();
        self.note_forgotten(index, before);
    }

    /// A node has forgotten deletes: `before` is what it had.
    pub fn note_forgotten(&mut self, index: usize, before: [Option<Version>; KEYS.len()]) {
        let node = &self.nodes[index];
        for (key, (before, after)) in KEYS.iter().zip(before.into_iter().zip(node.versions())) {
            if before == after {
                continue;
            }
            trace(|| format!("{} node {index} drops {key} {before:?}", self.network.now_ms));
            // Whom it never met it cannot ask, so this delete promises nothing to them.
            let is_latest = self.history.expected.get(key).map(|(version, _)| *version) == before;
            let is_alone = node.knows_nobody();
            if is_alone && is_latest {
                self.history.expected.remove(key);
            }
            self.network.reached.add(match is_alone {
                true => Event::DeletesWereForgottenAlone,
                false => Event::DeletesWereForgotten,
            });
        }
    }

    /// The nodes that are in the cluster, with all they hold: each value is the one that was
    /// written under its version.
    pub fn contents(&self) -> Vec<(usize, BTreeMap<&'static str, Version>)> {
        let inside = self.nodes.iter().enumerate().filter(|(_, node)| !node.is_forgotten);
        let content = |(index, node): (usize, &SimNode)| {
            let mut content = BTreeMap::new();
            for key in KEYS.into_iter().filter(|key| !is_deleted(&node.store, key)) {
                let version = node.store.version(key.as_bytes()).expect("it has a value");
                let (number, len) = self.history.values[&version];
                let is_it = |value: Option<&[u8]>| value == Some(value_of(number, len).as_slice());
                let is_it = node.store.get(key.as_bytes(), is_it).0;
                assert!(is_it, "node {index} has another value of {key} at {version:?}");
                content.insert(key, version);
            }
            (index, content)
        };
        inside.map(content).collect()
    }

    pub fn check_convergence(&self) {
        let contents = self.contents();
        for (index, content) in &contents {
            assert_eq!(*content, contents[0].1, "node {index} differs from node {}", contents[0].0);
        }
        for (key, (version, is_delete)) in &self.history.expected {
            let held = contents[0].1.get(key);
            match is_delete {
                true => {
                    assert!(held.is_none_or(|held| held > version), "the delete of {key} came back")
                }
                false if held.is_none() && self.history.deletes.get(key) > Some(version) => {}
                false => assert!(
                    held >= Some(version),
                    "the write of {key} is lost: {held:?}, not {version:?}"
                ),
            }
        }
    }

    /// An idle cluster sends no records, and has forgotten its deletes.
    pub fn check_quiet(&mut self) {
        self.merges = 0;
        self.run(self.network.now_ms + 70_000, 1_000);
        assert_eq!(self.merges, 0, "an idle cluster still sends records");
        // What was too young for the rounds that have just ended goes with the next ones.
        self.run_until(400_000, 2_000, |cluster| !cluster.keeps_deletes());
        assert!(!self.keeps_deletes(), "tombstones stay for ever");
    }

    fn keeps_deletes(&self) -> bool {
        // A node whose only seed was forgotten cannot ask anybody, and keeps them.
        let asks = |node: &&SimNode| !node.is_forgotten && !node.knows_nobody();
        self.nodes.iter().filter(asks).any(|node| node.store.size().tombstones > 0)
    }
}

impl SimNode {
    pub fn versions(&self) -> [Option<Version>; KEYS.len()] {
        KEYS.map(|key| self.store.version(key.as_bytes()))
    }

    pub fn knows_nobody(&self) -> bool {
        self.manager.peers().iter().all(|peer| peer.id.is_none())
    }
}

/// Shows what happens, if `TRACE` is set.
pub fn trace(line: impl FnOnce() -> String) {
    static IS_ON: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("TRACE").is_some());
    if *IS_ON {
        eprintln!("{}", line());
    }
}

pub fn is_deleted(store: &KeyValueStore, key: &str) -> bool {
    store.get(key.as_bytes(), |value| value.is_none()).0
}

impl std::fmt::Display for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {:?}, written on node {}", self.key, self.version, self.node)
    }
}
