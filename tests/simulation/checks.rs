//! What must hold: in every step, and when everything has healed.

use std::collections::BTreeMap;

use kvstore::store::version::Version;

use crate::nodes::{Cluster, GRACE, KEYS, START_MS, SimNode, Ticket};

impl Cluster {
    /// A peer that counts for `WAIT` holds the write.
    pub fn check_tickets(&mut self) {
        let mut tickets = std::mem::take(&mut self.tickets);
        tickets.retain(|ticket| {
            let node = &self.nodes[ticket.node];
            let Some(sim) = node.links.get(&ticket.link) else {
                return false;
            };
            if !sim.link.held().covers(ticket.sent, &ticket.overflows) {
                return true;
            }
            let holder =
                self.nodes.iter().find(|node| Some(node.members.identity().node_id) == sim.peer);
            // It may have crashed since, or have dropped the tombstone.
            if let Some(holder) = holder.filter(|holder| holder.is_up) {
                let held = holder.store.version(ticket.key.as_bytes());
                // Aged tombstones are not compared: a peer without a value had what a delete asks
                // for.
                let now_ms = START_MS + self.network.now_ms + node.fastest_ms;
                let is_old = ticket.version.wall_ms() + GRACE.as_millis() as u64 * 7 / 8 < now_ms;
                let is_gone = is_old || is_deleted(holder, ticket.key);
                let is_dropped = is_gone && self.deletes.get(ticket.key) >= Some(&ticket.version);
                assert!(
                    held >= Some(ticket.version) || is_dropped,
                    "{}: WAIT counted a peer without {ticket}; it has {held:?}, skews {:?}",
                    self.network.now_ms,
                    self.nodes.iter().map(|node| node.skew_ms).collect::<Vec<_>>()
                );
            }
            false
        });
        self.tickets = tickets;
    }

    /// The nodes that are in the cluster, with all they hold.
    pub fn contents(&self) -> Vec<(usize, BTreeMap<Vec<u8>, Version>)> {
        let inside = self.nodes.iter().enumerate().filter(|(_, node)| !node.is_forgotten);
        inside
            .map(|(index, node)| {
                let live = KEYS.iter().filter(|key| !is_deleted(node, key));
                let entry = |key: &&str| {
                    Some((key.as_bytes().to_vec(), node.store.version(key.as_bytes())?))
                };
                (index, live.filter_map(entry).collect())
            })
            .collect()
    }

    pub fn check_convergence(&self) {
        let contents = self.contents();
        for (index, content) in &contents {
            assert_eq!(*content, contents[0].1, "node {index} differs from node {}", contents[0].0);
        }
        for (key, (version, is_delete)) in &self.expected {
            let held = contents[0].1.get(key.as_bytes());
            match is_delete {
                true => {
                    assert!(held.is_none_or(|held| held > version), "the delete of {key} came back")
                }
                false if held.is_none() && self.deletes.get(key) > Some(version) => {}
                false => assert!(
                    held >= Some(version),
                    "the write of {key} is lost: {held:?}, not {version:?}"
                ),
            }
        }
    }
}

/// Shows what happens, if `TRACE` is set.
pub fn trace(line: impl FnOnce() -> String) {
    if std::env::var_os("TRACE").is_some() {
        eprintln!("{}", line());
    }
}

pub fn is_deleted(node: &SimNode, key: &str) -> bool {
    node.store.get(key.as_bytes(), |value| value.is_none()).0
}

impl std::fmt::Display for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {:?}, written on node {}", self.key, self.version, self.node)
    }
}
