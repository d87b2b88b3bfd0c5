//! What the manager and the threads of all links share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use log::warn;

use super::contact::Stored;
use super::conversation::EventualConversation;
use super::handle::LinkHandle;
use super::host::Host;
use super::link::Link;
use super::members::{Members, Verdict};
use super::receive::is_plausible;
use super::skewed::SkewedPeers;
use super::tombstones::{self, Rounds};
use crate::config::{Limits, ReplicationOptions};
use crate::error::{Error, Result};
use crate::locks::{lock, unpoisoned};
use crate::metrics;
use crate::peers::caller::Caller;
use crate::peers::comparison::Revived;
use crate::peers::conversation::Target;
use crate::peers::inbound::Inbound;
use crate::peers::introduction::{Introduction, Way};
use crate::peers::refused::RefusedPeers;
use crate::peers::view::View;
use crate::store::KeyValueStore;
use crate::store::version::{COUNTER_BITS, HybridClock};

/// What the manager and the threads of all links share.
///
/// Lock order: members → links → a link's state; inbound and rounds are taken with none of these
/// held.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<KeyValueStore>,
    pub(super) clock: Arc<HybridClock>,
    pub(super) limits: Limits,
    pub(super) options: ReplicationOptions,
    pub(super) host: Box<dyn Host>,
    /// When this node started, on the monotonic clock.
    pub(super) began_ms: u64,
    pub(super) members: Mutex<Members>,
    /// What was stored last. Held while it is stored, so that nothing older is stored after it.
    pub(super) saved: Mutex<Stored>,
    pub(super) save: Option<Save>,
    pub(super) links: RwLock<Arc<Links>>,
    /// How often the list of links has changed.
    pub(super) list_number: AtomicU64,
    /// Whether there is any link: what a write looks at first.
    pub(super) has_links: AtomicBool,
    /// Whether deletes leave tombstones.
    pub(super) keeps_tombstones: AtomicBool,
    pub(super) inbound: Inbound,
    pub(super) rounds: Mutex<Rounds>,
    pub(super) counters: Counters,
    /// Signalled when a peer holds more, if anybody waits.
    pub(super) progress: (Mutex<()>, Condvar),
    pub(super) waiting: AtomicUsize,
    /// Nodes that introduced themselves and were refused.
    pub(super) refused: RefusedPeers,
    /// Peers whose records were refused.
    pub(super) skewed: SkewedPeers,
}

/// Counts since the start of the node.
#[derive(Debug, Default)]
#[allow(missing_docs)] // The names say it.
pub struct Counters {
    pub records_merged: AtomicU64,
    pub records_refused: AtomicU64,
    pub hellos_refused: AtomicU64,
    pub links_broken: AtomicU64,
    pub syncs_finished: AtomicU64,
    pub tombstones_dropped: AtomicU64,
}

/// The links by the numbers of their contacts.
pub(super) type Links = BTreeMap<u64, Arc<LinkHandle>>;

/// Where who is in the cluster survives a restart.
#[allow(missing_debug_implementations)] // It holds a function.
pub struct Storage {
    /// As of the start.
    pub stored: Stored,
    /// The largest time of all records in the store.
    pub time_max: u64,
    /// Stores it; safe when this returns.
    pub save: Box<SaveFunction>,
}

/// Stores who is in the cluster.
pub type SaveFunction = dyn Fn(&Stored) -> Result<()> + Send + std::marker::Sync;

pub(super) struct Save(pub(super) Box<SaveFunction>);

impl std::fmt::Debug for Save {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Save")
    }
}

impl Shared {
    pub(super) fn monotonic_ms(&self) -> u64 {
        self.host.monotonic_ms()
    }

    pub(super) fn view(&self) -> View<'_> {
        View {
            store: &self.store,
            cutoff: tombstones::cutoff(self.host.wall_ms(), self.options.tombstone_grace),
        }
    }

    pub(super) fn links(&self) -> Arc<Links> {
        let links = unpoisoned(self.links.read());
        Arc::clone(&links)
    }

    /// How many addresses the peer of a link has.
    pub(super) fn address_count(&self, number: u64) -> u64 {
        let members = lock(&self.members);
        members.contacts().get(&number).map_or(0, |contact| contact.addresses.len() as u64)
    }

    /// Where the peer of a link can be reached.
    pub(super) fn target(&self, number: u64) -> Target {
        let members = lock(&self.members);
        match members.contacts().get(&number) {
            None => Target::Gone,
            Some(_) if members.is_cut(number) => Target::Cut,
            Some(contact) => Target::At(contact.addresses.clone()),
        }
    }

    pub(super) fn introduction(&self, is_answer: bool) -> Result<Introduction> {
        let members = lock(&self.members);
        let identity = members.identity();
        let address = identity.address.clone().map_err(Error::refused)?;
        let (mut known, mut bans) = (Vec::new(), Vec::new());
        if is_answer {
            (known, bans) = (members.members(), members.bans());
        }
        Ok(Introduction {
            cluster: identity.cluster.clone(),
            node_id: identity.node_id,
            run_id: identity.run_id,
            is_durable: identity.is_durable,
            clock: self.clock.latest().max(self.host.wall_ms() << COUNTER_BITS),
            address,
            way: Way::Eventual,
            members: known,
            bans,
        })
    }

    pub(super) fn heard(self: &Arc<Self>, from: &Introduction) -> Result<()> {
        let mut members = lock(&self.members);
        if members.is_cut_off(from.node_id, &from.address) {
            return Err(Error::refused("partitioned"));
        }
        members.heard(from)?;
        let known_to = members.links_to(from.node_id, &from.address);
        drop(members);
        self.adopt_clock(from);
        self.update_links()?;
        let links = self.links();
        let known = known_to.iter().filter_map(|number| links.get(number));
        known.for_each(|link| link.peer.wake());
        Ok(())
    }

    /// The peer of a link answered our HELLO.
    pub(super) fn answered(
        self: &Arc<Self>,
        link: &LinkHandle,
        address: &str,
        by: &Introduction,
    ) -> Result<Verdict> {
        let verdict = lock(&self.members).answered(link.peer.number, address, by);
        if verdict == Verdict::Member {
            lock(&link.shown).clock_ahead_ms = self.adopt_clock(by);
        }
        self.update_links()?;
        self.inbound.close(|id, _| by.bans.contains(&id));
        Ok(verdict)
    }

    /// Learns of another node's clock, unless it is too far ahead. How far ahead it is.
    pub(super) fn adopt_clock(&self, of: &Introduction) -> i64 {
        let wall_ms = self.host.wall_ms();
        if is_plausible(of.clock, wall_ms, self.options.clock_skew_max) {
            self.clock.observe(of.clock);
        }
        (of.clock >> COUNTER_BITS) as i64 - wall_ms as i64
    }

    /// Starts links to contacts that have none, and ends those whose contacts are gone.
    pub(super) fn update_links(self: &Arc<Self>) -> Result<()> {
        let members = lock(&self.members);
        let mut links = unpoisoned(self.links.write());
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let mut next = (**links).clone();
        next.retain(|number, link| {
            let stays = members.contacts().contains_key(number);
            if !stays {
                gone.push(Arc::clone(link));
            }
            stays
        });
        for (number, contact) in members.contacts() {
            if !next.contains_key(number) {
                let address = &contact.addresses[0];
                let link = Arc::new(LinkHandle::new(*number, address, &self.limits));
                next.insert(*number, Arc::clone(&link));
                new.push(link);
            }
        }
        self.has_links.store(!next.is_empty(), Ordering::SeqCst);
        if !members.is_alone() {
            self.keeps_tombstones.store(true, Ordering::SeqCst);
        }
        *links = Arc::new(next);
        // Before the new links start: a write that still sees the old number is in their first
        // comparison.
        self.list_number.fetch_add(1, Ordering::SeqCst);
        drop(links);
        drop(members);
        self.update_apart();
        if let Err(error) = self.save_members() {
            warn!("cannot store who is in the cluster: {error}");
        }
        gone.iter().for_each(|link| link.peer.interrupt());
        for link in new {
            let peer = Arc::clone(&link.peer);
            let conversation = EventualConversation::new(Arc::clone(self), link);
            self.host.start(Caller::new(conversation, peer, self.host.random()))?;
        }
        Ok(())
    }

    /// A link talks with this node now, or with nobody.
    pub(super) fn reached(&self, link: &LinkHandle, id: Option<u64>) {
        link.peer.set_id(id);
        self.update_apart();
    }

    /// Whether another link than this one talks with this node.
    pub(super) fn is_reached(&self, id: u64, number: u64) -> bool {
        let links = self.links();
        links.values().any(|link| link.peer.number != number && link.peer.id() == Some(id))
    }

    /// Lets all links know whether some member cannot be reached.
    fn update_apart(&self) {
        let holders = lock(&self.members).holders();
        let links = self.links();
        let is_away = |number| links.get(number).is_some_and(|link| link.peer.id().is_none());
        let is_apart = holders.keys().any(is_away);
        links.values().for_each(|link| link.queue.set_apart(is_apart));
    }

    /// A peer's connection, in either direction, is gone.
    pub(super) fn lost_a_peer(&self) {
        let links = self.links();
        links.values().for_each(|link| link.queue.lost_another());
    }

    /// Stores members and bans if they have changed.
    pub(super) fn save_members(&self) -> Result<()> {
        let Some(Save(save)) = &self.save else {
            return Ok(());
        };
        let mut saved = lock(&self.saved);
        let now = lock(&self.members).stored();
        if *saved != now {
            save(&now)?;
            *saved = now;
        }
        Ok(())
    }

    /// Shows to others what the peer of a link holds.
    pub(super) fn publish(&self, handle: &LinkHandle, link: &Link) {
        let mut shown = lock(&handle.shown);
        let has_progressed = shown.held != link.held();
        shown.held = link.held();
        shown.answered = link.answered();
        shown.oldest_ms = link.outgoing.oldest_ms();
        shown.waiting = link.outgoing.waiting();
        drop(shown);
        if has_progressed && self.waiting.load(Ordering::SeqCst) > 0 {
            // Under the lock, so that nobody who has just found nothing falls asleep after this.
            let _guard = lock(&self.progress.0);
            self.progress.1.notify_all();
        }
    }

    /// A link has compared everything with its peer.
    pub(super) fn compared(&self, handle: &LinkHandle, began_ms: u64, revived: &Revived) {
        let now_ms = self.monotonic_ms();
        metrics::add(&self.counters.syncs_finished, 1);
        lock(&handle.shown).last_sync_ms = Some(now_ms);
        let holders = lock(&self.members).holders();
        let mut rounds = lock(&self.rounds);
        rounds.compared(handle.peer.number, (began_ms, now_ms), revived, &holders, &self.store);
        rounds.begin(now_ms, self.view());
    }
}
