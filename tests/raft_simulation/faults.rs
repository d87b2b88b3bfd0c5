//! Faults that need more than a line where they are planted.

use std::sync::Arc;

use kvstore::consensus::entry::{Entry, Payload};
use kvstore::consensus::replica::LogRecord;

use crate::cluster::Cluster;
use crate::nodes::Node;

impl Cluster {
    /// [`Fault::LateAppendCuts`]: the node goes on as if its log ended here.
    ///
    /// [`Fault::LateAppendCuts`]: crate::nodes::Fault::LateAppendCuts
    pub fn cut_log(&mut self, index: usize, last: u64) {
        let node = &mut self.nodes[index];
        let log = node.machine.replica.log();
        if log.last().index <= last || last <= log.base().index {
            return;
        }
        let (mut ground, store) = node.machine.disk.recover();
        ground.entries.retain(|entry| entry.index <= last);
        node.machine.disk.publish(ground, store);
        self.restart_now(index);
    }

    /// [`Fault::OlderTermCounted`]: what a majority has counts as committed, whatever its term.
    ///
    /// [`Fault::OlderTermCounted`]: crate::nodes::Fault::OlderTermCounted
    pub fn count_any_term(&mut self, index: usize, from: u64, matched: u64) {
        let node = &mut self.nodes[index];
        let replica = &node.machine.replica;
        if !replica.is_leader() {
            return;
        }
        let (id, term, members) = (node.id, replica.term(), replica.members().clone());
        node.counted.insert(from, (term, matched));
        for entry in replica.commit_index() + 1..=replica.log().last().index {
            let has = |voter: u64| {
                let counted = node.counted.get(&voter);
                let by_answer =
                    counted.is_some_and(|(of, matched)| *of == term && *matched >= entry);
                by_answer || voter == id && replica.durable_index() >= entry
            };
            if let Some(of) = replica.log().term_at(entry)
                && members.has_majority(has)
            {
                self.truth.commit(entry, of, term, id);
            }
        }
    }

    /// [`Fault::TwoMembersChanged`]: the leader appends an entry without two of the voters, and
    /// starts again.
    ///
    /// [`Fault::TwoMembersChanged`]: crate::nodes::Fault::TwoMembersChanged
    pub fn change_two_members(&mut self, index: usize) {
        let replica = &mut self.nodes[index].machine.replica;
        replica.seal();
        let mut members = (**replica.members()).clone();
        let others: Vec<u64> = members.voters().filter(|id| *id != replica.id()).collect();
        if !replica.is_ready() || others.len() < 4 {
            return;
        }
        for _ in 0..2 {
            let at = self.network.random.below(others.len() as u64) as usize;
            members.nodes.remove(&others[at]);
        }
        self.settle(index);
        let Node { machine, .. } = &mut self.nodes[index];
        let (entry, term) = (machine.replica.log().last().index + 1, machine.replica.term());
        let payload = Payload::Members(Arc::new(members));
        machine.disk.append(LogRecord::Entry(Arc::new(Entry { index: entry, term, payload })));
        let end = machine.disk.end();
        machine.disk.cut(end);
        self.restart_now(index);
    }

    /// A node starts again with what its disk has, and its peers do not notice.
    pub fn restart_now(&mut self, index: usize) {
        let (seed, now_ms) = (self.network.id(), self.now_ms());
        self.nodes[index].restart(seed, now_ms);
        self.settle(index);
    }
}
