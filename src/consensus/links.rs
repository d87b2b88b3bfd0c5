//! The links: one to each other node, and to the seeds while no member is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::warn;

use super::conversation::RaftConversation;
use super::shared::Shared;
use crate::error::Result;
use crate::locks::{lock, spawn};
use crate::metrics;
use crate::peers::caller::Caller;
use crate::peers::conversation::Target;
use crate::peers::status::{PeerHandle, PeerState};
use crate::peers::wire::WireOptions;
use crate::peers::worker;
use crate::random::random_id;

/// Where a link leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LinkTo {
    /// To the node with this id.
    Node(u64),
    /// To whoever answers at this address.
    Seed(String),
}

impl Shared {
    /// The other nodes, ids and addresses: those of the log, and while this node is in none, those
    /// that it was told.
    pub(super) fn others(&self) -> BTreeMap<u64, String> {
        let (own, is_member) = (self.id(), self.is_member());
        let members = self.with(|replica, _| Arc::clone(replica.members()));
        let mut others = BTreeMap::new();
        if !is_member {
            others.clone_from(&lock(&self.joining).told);
        }
        others.extend(members.nodes.iter().map(|(id, member)| (*id, member.address.clone())));
        others.remove(&own);
        others
    }

    /// Where the links should lead.
    fn wanted_links(&self) -> BTreeSet<LinkTo> {
        let others = self.others();
        if others.is_empty() && !self.is_member() {
            return self.options.seeds.iter().cloned().map(LinkTo::Seed).collect();
        }
        others.into_keys().map(LinkTo::Node).collect()
    }

    /// Starts the links that are missing, and ends those that are wanted no more.
    pub(super) fn update_links(self: &Arc<Self>) {
        let wanted = self.wanted_links();
        let mut links = lock(&self.links);
        let mut gone = Vec::new();
        links.retain(|to, peer| {
            let stays = wanted.contains(to);
            if !stays {
                gone.push(Arc::clone(peer));
            }
            stays
        });
        let mut new = Vec::new();
        for to in wanted {
            if !links.contains_key(&to) {
                let number = self.links_started.fetch_add(1, Ordering::Relaxed) + 1;
                let peer = Arc::new(PeerHandle::new(number, ""));
                links.insert(to.clone(), Arc::clone(&peer));
                new.push((to, peer));
            }
        }
        drop(links);
        gone.iter().for_each(|peer| peer.interrupt());
        for (to, peer) in new {
            if let Err(error) = self.start_link(to.clone(), peer) {
                warn!("cannot start the thread of a link; trying again: {error}");
                lock(&self.links).remove(&to);
            }
        }
    }

    fn start_link(self: &Arc<Self>, to: LinkTo, peer: Arc<PeerHandle>) -> Result<()> {
        let (shared, number) = (Arc::clone(self), peer.number);
        let conversation = RaftConversation::new(Arc::clone(self), Arc::clone(&peer), to);
        let caller = Caller::new(conversation, peer, random_id());
        let wire = WireOptions {
            silence_max: self.options.reply_timeout,
            password: self.options.password.clone(),
        };
        let run = move || worker::run(caller, &wire, || shared.now_ms());
        Ok(spawn(&format!("link-{number}"), run)?)
    }

    /// Where a link can be connected to now.
    pub(super) fn target(&self, to: &LinkTo) -> Target {
        let mut others = self.others();
        let (id, mut addresses) = match to {
            LinkTo::Seed(address) => (None, vec![address.clone()]),
            LinkTo::Node(id) => match others.remove(id) {
                None => return Target::Gone,
                Some(address) => (Some(*id), vec![address]),
            },
        };
        if !self.wanted_links().contains(to) {
            return Target::Gone;
        }
        // A node that restarted at another address has told this one, or is at a seed's where no
        // other member is.
        addresses.extend(id.and_then(|id| lock(&self.heard).get(&id).cloned()));
        if id.is_some() {
            let is_of_another = |seed: &&String| others.values().any(|address| address == *seed);
            addresses
                .extend(self.options.seeds.iter().filter(|seed| !is_of_another(seed)).cloned());
        }
        let cuts = lock(&self.cuts);
        if addresses.iter().take(1).any(|address| cuts.has(id, address)) {
            return Target::Cut;
        }
        let mut seen = BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        Target::At(addresses)
    }

    /// Whether a link talks with a node.
    pub(super) fn is_reached(&self, id: u64) -> bool {
        lock(&self.links).values().any(|peer| peer.id() == Some(id))
    }

    /// Notes which peers have sent something on their links since the last look: it is a sign of
    /// life of one that takes a long entry. Rule 6. What a leader answers is none: it may have come
    /// before its connection broke. `received` is what this function remembers.
    pub(super) fn hear_peers(&self, received: &mut BTreeMap<u64, u64>) {
        let links = lock(&self.links).clone();
        let mut alive = Vec::new();
        for peer in links.values() {
            let bytes = metrics::read(&peer.received_bytes);
            let before = received.insert(peer.number, bytes);
            alive.extend(peer.id().filter(|_| before.is_some_and(|before| bytes > before)));
        }
        received.retain(|number, _| links.values().any(|peer| peer.number == *number));
        self.with(|replica, now_ms| alive.iter().for_each(|id| replica.hear_answer(*id, now_ms)));
    }

    /// Wakes the thread of every link: there may be something to send.
    pub(super) fn wake_links(&self) {
        lock(&self.links).values().for_each(|peer| peer.wake());
    }

    /// Ends the connections of nodes whose removal is committed.
    pub(super) fn close_removed(&self) {
        let members = self.with(|replica, _| Arc::clone(replica.committed_members()));
        if !members.removed.is_empty() {
            self.inbound.close(|id, _| members.removed.contains(&id));
        }
    }

    /// Ends the links and connections that are cut off now.
    pub(super) fn interrupt_cut(&self) {
        self.inbound.close(|id, address| lock(&self.cuts).has(Some(id), address));
        let links = lock(&self.links).clone();
        for (to, peer) in links {
            if self.target(&to) == Target::Cut {
                peer.interrupt();
                peer.set_state(PeerState::Partitioned);
            }
        }
    }
}
