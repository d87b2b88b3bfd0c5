//! HELLO: who may be a peer, founding, and joining.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::{info, warn};

use super::Consensus;
use super::changing::MemberChange;
use super::links::LinkTo;
use super::members::MEMBERS_MAX;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::locks::lock;
use crate::metrics;
use crate::peers::identity::may_not_dial;
use crate::peers::inbound::{self, Socket};
use crate::peers::introduction::{Introduction, Way, other_way};

/// How a node that was removed is refused. It serves nothing any more when it reads this.
const REMOVED: &str = "this id was removed from the cluster by PEER FORGET, and an id is never \
                       used again; start the node with an empty --data-dir";

/// A connection's place in the table of peers. Dropping it gives the place back.
#[derive(Debug)]
pub struct Greeted {
    peer: Arc<inbound::Peer>,
    shared: Arc<Shared>,
}

impl Greeted {
    /// Who it is.
    pub fn id(&self) -> u64 {
        self.peer.name().0
    }

    /// The peer gave a sign of life.
    pub fn hear(&self) {
        let id = self.id();
        self.shared.with(|replica, now_ms| replica.hear(id, now_ms));
    }

    /// An error if a newer connection of that node took this one's place.
    pub fn check_current(&self) -> Result<()> {
        self.while_current(|| Ok(()))
    }

    /// Does something that a newer connection of that node must not overtake.
    pub fn while_current<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.peer.while_current(act)
    }
}

impl Drop for Greeted {
    fn drop(&mut self) {
        if self.shared.inbound.ended(&self.peer) {
            let id = self.id();
            self.shared.with(|replica, now_ms| replica.lost(id, now_ms));
            self.shared.wake_clock();
        }
    }
}

impl Consensus {
    /// A node connected and introduced itself. If it may stay, the answer is what this node says of
    /// itself, with all members. `peer` becomes the node's connection, which ends its older ones.
    pub fn greet(
        &self,
        from: &Introduction,
        socket: Option<Arc<dyn Socket>>,
        peer: &mut Option<Greeted>,
    ) -> Result<Introduction> {
        let checked = self.shared.check(from).and_then(|()| {
            let may_dial = self.shared.may_dial(&from.address);
            if may_dial { Ok(()) } else { Err(may_not_dial(&from.address)) }
        });
        if checked.is_err() && self.shared.is_wiped_founder(from) {
            self.shared.retire(format!(
                "this node has founded a cluster of its own, and {0} knows it as a member of \
                 another: its directory was emptied. Stop it, remove its directory, and start it \
                 with --peer {0}",
                from.address
            ));
        }
        checked.inspect_err(|reason| self.refused(&from.address, &reason.to_string()))?;
        self.shared.refused_peers.forget(&from.address);
        self.shared.heard(from);
        let answer = self.shared.introduction(true)?;
        if let Some(socket) = socket {
            let now_ms = self.shared.now_ms();
            let inbound = &self.shared.inbound;
            let current = inbound.greeted(from.node_id, &from.address, socket, now_ms);
            *peer = Some(Greeted { peer: current, shared: Arc::clone(&self.shared) });
        }
        Ok(answer)
    }
}

impl Shared {
    /// This node serves nothing any more, for a reason that its user must act on.
    fn retire(&self, reason: String) {
        let before = lock(&self.retired).replace(reason.clone());
        if before.is_none() {
            warn!("{reason}");
        }
        self.is_retired.store(true, Ordering::SeqCst);
        self.ready_term.store(0, Ordering::SeqCst);
    }

    /// Counts and logs that a node which wanted to be a peer was refused.
    pub(super) fn refused(&self, who: &str, reason: &str) {
        metrics::add(&self.counters.hellos_refused, 1);
        self.refused_peers.note(who, reason);
    }

    /// What this node says of itself to whoever answers at an address. It says its cluster only
    /// where a member should be: at the address of a seed there may be anybody.
    pub(super) fn question(&self, to: &LinkTo, address: &str) -> Result<Introduction> {
        let introduction = self.introduction(false)?;
        let is_members = match to {
            LinkTo::Seed(_) => false,
            LinkTo::Node(id) => {
                let stored = self.with(|replica, _| {
                    replica.members().nodes.get(id).map(|member| member.address.clone())
                });
                stored.as_deref() == Some(address)
                    || lock(&self.heard).get(id).is_some_and(|heard| heard == address)
            }
        };
        let way = if is_members { introduction.way } else { Way::Raft { cluster_id: None } };
        Ok(Introduction { way, ..introduction })
    }

    /// What this node says of itself; with the members when it answers.
    pub(super) fn introduction(&self, is_answer: bool) -> Result<Introduction> {
        let identity = lock(&self.identity).clone();
        let members = self.with(|replica, _| Arc::clone(replica.members()));
        let address = identity.address.map_err(Error::refused)?;
        let known = members.nodes.iter().map(|(id, it)| (*id, it.address.clone()));
        Ok(Introduction {
            cluster: identity.cluster,
            node_id: identity.node_id,
            run_id: identity.run_id,
            is_durable: true,
            clock: 0,
            address,
            way: Way::Raft { cluster_id: self.cluster_id() },
            members: known.filter(|_| is_answer).collect(),
            // Who is removed is refused.
            bans: Vec::new(),
        })
    }

    /// The cluster that this node is in, or that it joins.
    pub(super) fn cluster_id(&self) -> Option<u64> {
        let members = self.with(|replica, _| Arc::clone(replica.members()));
        let is_known = !members.nodes.is_empty();
        is_known.then_some(members.cluster_id).or(lock(&self.joining).cluster_id)
    }

    /// Whether this node founded its cluster in this run and is alone in it, while a node of
    /// another cluster calls it. That one says its cluster only to the addresses of members.
    fn is_wiped_founder(&self, caller: &Introduction) -> bool {
        let Way::Raft { cluster_id: Some(its) } = caller.way else {
            return false;
        };
        let is_alone = self.with(|replica, _| replica.members().nodes.len() == 1);
        let has_founded = self.has_founded.load(Ordering::SeqCst);
        let has_same_name = lock(&self.identity).cluster == caller.cluster;
        let is_cut = lock(&self.cuts).has(Some(caller.node_id), &caller.address);
        has_founded && is_alone && has_same_name && !is_cut && self.cluster_id() != Some(its)
    }

    /// Whether a node may be a peer.
    fn check(&self, other: &Introduction) -> Result<()> {
        let identity = lock(&self.identity).clone();
        let Way::Raft { cluster_id } = other.way else {
            return Err(other_way());
        };
        if other.node_id == 0 {
            return Err(Error::refused("a node's id is not 0, which stands for nobody in votes"));
        }
        if other.node_id == identity.node_id {
            return Err(Error::refused(if other.run_id == identity.run_id {
                "this is the node itself"
            } else {
                "this id is mine: two nodes run with copies of one data directory; give one of \
                 them an empty directory"
            }));
        }
        if other.cluster != identity.cluster {
            return Err(Error::refused(format!(
                "this node is of cluster '{}', not of '{}'; see --cluster",
                identity.cluster, other.cluster
            )));
        }
        if let (Some(own), Some(its)) = (self.cluster_id(), cluster_id)
            && own != its
        {
            return Err(Error::refused(format!(
                "this node is of the raft cluster {own:016x}, not of {its:016x}: each was founded \
                 by itself. Start the one whose data can go with an empty --data-dir and --peer"
            )));
        }
        if lock(&self.cuts).has(Some(other.node_id), &other.address) {
            return Err(Error::refused("partitioned"));
        }
        let committed = self.with(|replica, _| Arc::clone(replica.committed_members()));
        if committed.removed.contains(&other.node_id) {
            return Err(Error::refused(REMOVED));
        }
        Ok(())
    }

    /// A node may be a peer: the leader makes it a member, or notes where it is now.
    fn heard(self: &Arc<Self>, from: &Introduction) {
        let members = self.with(|replica, _| Arc::clone(replica.members()));
        if members.nodes.contains_key(&from.node_id) {
            let mut heard = lock(&self.heard);
            heard.retain(|id, _| members.nodes.contains_key(id));
            heard.insert(from.node_id, from.address.clone());
        }
        let (id, address) = (from.node_id, from.address.clone());
        let added = self.with(|replica, now_ms| {
            let known = replica.members().nodes.get(&id).map(|member| &member.address);
            if !replica.is_ready() || known == Some(&address) {
                return None;
            }
            Some(replica.change_members(&MemberChange::Join { id, address }, now_ms))
        });
        match added {
            None => {}
            Some(Ok(_)) => {
                info!("{} ({id:016x}) joins as a learner, or has moved there", from.address);
                self.wake_links();
                self.wake_clock();
            }
            Some(Err(reason)) => warn!("{} cannot join yet: {reason}", from.address),
        }
    }

    /// A node refused our HELLO.
    pub(super) fn refused_by(&self, reason: String) -> Error {
        if reason == REMOVED {
            self.retire(reason.clone());
        }
        Error::refused(reason)
    }

    /// A node answered our HELLO: is it the one that the link leads to?
    pub(super) fn answered(self: &Arc<Self>, to: &LinkTo, by: &Introduction) -> Result<()> {
        self.check(by)?;
        match to {
            LinkTo::Node(id) if *id != by.node_id => Err(Error::Unreachable(format!(
                "another node answers there: {:016x} instead of {id:016x}",
                by.node_id
            ))),
            LinkTo::Node(_) => {
                self.note_members(by);
                Ok(())
            }
            LinkTo::Seed(address) => {
                self.note_members(by);
                if self.cluster_id().is_none() {
                    return Err(Error::refused(format!(
                        "{address} has not joined a cluster yet either; start one node without \
                         --peer to found it"
                    )));
                }
                Ok(())
            }
        }
    }

    /// While this node is no member, it links to all members that it is told of: the leader is
    /// among them.
    fn note_members(self: &Arc<Self>, by: &Introduction) {
        if self.is_member() {
            return;
        }
        let mut joining = lock(&self.joining);
        if let (None, Way::Raft { cluster_id: Some(id) }) = (joining.cluster_id, by.way) {
            info!("joining the cluster {id:016x} that {} is in", by.address);
            joining.cluster_id = Some(id);
        }
        if joining.cluster_id.is_some() {
            let others = by.members.iter().filter(|(_, address)| self.may_dial(address));
            for (id, address) in others.take(MEMBERS_MAX) {
                if joining.told.len() < MEMBERS_MAX {
                    joining.told.insert(*id, address.clone());
                }
            }
        }
        drop(joining);
        self.wake_clock();
    }
}
