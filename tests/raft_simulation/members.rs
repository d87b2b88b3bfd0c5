//! Who is in the cluster: nodes that join, are removed, or are replaced; and a model of the
//! transfer to one that is too far behind.

use std::sync::Arc;

use kvstore::consensus::changing::MemberChange;
use kvstore::consensus::log::EntryId;
use kvstore::consensus::members::{Member, Members};
use kvstore::consensus::replica::Ground;

use crate::cluster::{Cluster, trace};
use crate::machine::{Disk, Machine, Store};
use crate::nodes::{Fault, Node};
use crate::reached::Event;

/// Most nodes that there are in one run, those that are gone included.
const NODES_MAX: usize = 9;

pub fn address(id: u64) -> String {
    format!("node{id}:8080")
}

impl Cluster {
    /// One more node.
    pub fn add(&mut self, ground: Ground) {
        let id = self.nodes.len() as u64 + 1;
        let (disk, seed) = (Disk::new(ground, Store::default()), self.network.id());
        let mut node = Node::new(id, Machine::start(id, disk, seed, self.now_ms()));
        node.sync_ms = [10, 50, 300][self.network.random.below(3) as usize];
        self.nodes.push(node);
    }

    /// Nodes that agree already on who they are; the last may be a learner.
    pub fn add_members(&mut self, count: u64, has_learner: bool) {
        let member =
            |id| (id, Member { address: address(id), is_voter: !has_learner || id < count });
        let nodes = (1..=count).map(member).collect();
        let members = Arc::new(Members { cluster_id: 1, nodes, ..Members::default() });
        let base = EntryId { index: 1, term: 1 };
        for _ in 0..count {
            let members = Arc::clone(&members);
            self.add(Ground { term: 1, base, members, ..Ground::default() });
        }
    }

    /// A cluster of one begins, unless it has begun before.
    pub fn found(&mut self) {
        let now_ms = self.now_ms();
        let replica = &mut self.nodes[0].machine.replica;
        if replica.log().last() == EntryId::default() {
            replica.found(Members::founded_by(1, 1, &address(1)), now_ms);
            self.settle(0);
        }
    }

    /// What leaders do about members: new nodes join, learners that have caught up count, and nodes
    /// that are gone are removed.
    pub fn change_members(&mut self) {
        for index in 0..self.nodes.len() {
            let leads = self.runs(index) && self.nodes[index].machine.replica.is_leader();
            if leads && self.network.random.one_in(20) {
                self.transfer(index);
                if let Some(change) = self.wanted_change(index) {
                    self.change(index, &change);
                }
            }
        }
    }

    fn wanted_change(&mut self, index: usize) -> Option<MemberChange> {
        let replica = &self.nodes[index].machine.replica;
        let members = replica.members();
        let gone = self.gone();
        if let Some(id) = members.nodes.keys().find(|id| gone.contains(id)) {
            return Some(MemberChange::Remove(*id));
        }
        if let Some(id) = replica.learner_to_promote() {
            return Some(MemberChange::Promote(id));
        }
        let is_new = |node: &&Node| {
            let is_known = members.nodes.contains_key(&node.id);
            node.is_up && !node.is_gone && !is_known && !members.removed.contains(&node.id)
        };
        let new = self.nodes.iter().find(is_new)?.id;
        Some(MemberChange::Join { id: new, address: address(new) })
    }

    fn change(&mut self, index: usize, change: &MemberChange) {
        let now_ms = self.now_ms();
        let replica = &mut self.nodes[index].machine.replica;
        if replica.change_members(change, now_ms).is_err() {
            return;
        }
        trace(|| format!("{now_ms} node {} appends {change:?}", index + 1));
        let id = self.nodes[index].id;
        self.network.reached.add(match change {
            MemberChange::Join { .. } => Event::NodeJoined,
            MemberChange::Promote(_) => Event::LearnerPromoted,
            MemberChange::Remove(gone) if *gone == id => Event::LeaderRemoved,
            MemberChange::Remove(_) => Event::MemberRemoved,
        });
        self.settle(index);
    }

    /// Whether a majority of every list of members that a node has is left without this one.
    fn is_dispensable(&self, id: u64) -> bool {
        self.nodes.iter().filter(|node| !node.is_gone).all(|node| {
            let members = node.machine.replica.members();
            members.voters().next().is_none()
                || members
                    .has_majority(|voter| voter != id && !self.nodes[voter as usize - 1].is_gone)
        })
    }

    /// A leader removes some member, perhaps itself.
    pub fn remove_one(&mut self) {
        let is_ready =
            |index: &usize| self.runs(*index) && self.nodes[*index].machine.replica.is_ready();
        let Some(leader) = (0..self.nodes.len()).find(is_ready) else {
            return;
        };
        if self.fault == Fault::TwoMembersChanged {
            self.change_two_members(leader);
            return;
        }
        let members = self.nodes[leader].machine.replica.members().clone();
        let at = self.network.random.below(members.nodes.len() as u64) as usize;
        let Some(id) = members.nodes.keys().nth(at).copied() else {
            return;
        };
        if self.nodes.len() < NODES_MAX && members.nodes.len() > 2 && self.is_dispensable(id) {
            self.change(leader, &MemberChange::Remove(id));
        }
    }

    /// A node loses all it has, and another takes its place. Nodes that were removed go first.
    pub fn replace_one(&mut self) {
        let removed = |index: &usize| {
            let id = self.nodes[*index].id;
            let knows =
                |node: &Node| node.machine.replica.committed_members().removed.contains(&id);
            !self.nodes[*index].is_gone && self.nodes.iter().any(knows)
        };
        let any = self.network.random.below(self.nodes.len() as u64) as usize;
        let index = (0..self.nodes.len()).find(removed).unwrap_or(any);
        let id = self.nodes[index].id;
        if self.nodes[index].is_gone || !self.is_dispensable(id) {
            return;
        }
        if self.fault == Fault::WipedNodeKeepsItsId {
            self.nodes[index].machine.disk = Disk::default();
            self.restart_now(index);
            return;
        }
        if self.nodes.len() < NODES_MAX {
            trace(|| format!("{} node {id} is wiped", self.network.now_ms));
            self.crash(index, false);
            self.nodes[index].is_gone = true;
            self.network.reached.add(Event::NodeReplaced);
            self.add(Ground::default());
        }
    }

    /// A model of the transfer: a follower whose entries the leader has no more gets the leader's
    /// store, as of what is applied there, in one step. The leader need not have committed an entry
    /// of its term: it may need this very follower for that.
    fn transfer(&mut self, leader: usize) {
        for peer in 0..self.nodes.len() {
            let (from, to) = (&self.nodes[leader].machine, &self.nodes[peer].machine);
            let (source, target) = (&from.replica, &to.replica);
            let is_led = target.leader() == Some(source.id()) && target.term() == source.term();
            if !self.runs(peer) || !source.is_behind(target.id()) || !is_led {
                continue;
            }
            let Ground { base, members, .. } = source.ground();
            if base.index <= target.commit_index() || self.nodes[peer].heals_ms.is_some() {
                continue;
            }
            let Ground { term, vote, mut entries, .. } = target.ground();
            let has_base = target.log().term_at(base.index) == Some(base.term);
            entries.retain(|entry| has_base && entry.index > base.index);
            let store = from.store.clone();
            self.network.reached.add(Event::Transferred);
            let disk = &mut self.nodes[peer].machine.disk;
            disk.publish(Ground { term, vote, base, members, entries }, store);
            self.restart_now(peer);
        }
    }
}
