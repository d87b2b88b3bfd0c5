//! What the manager and the threads of all links share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread;
use std::time::Instant;

use crossbeam_channel::bounded;
use log::warn;

use super::handle::{Handle, State};
use super::link::Link;
use super::members::{Members, Stored, Verdict};
use super::receive::is_plausible;
use super::skewed::SkewedPeers;
use super::tombstones::{self, Rounds};
use super::{Counters, SaveFunction, worker};
use crate::config::{Limits, ReplicationOptions};
use crate::error::{Error, Result};
use crate::guard::LogLimiter;
use crate::locks::{lock, unpoisoned};
use crate::metrics;
use crate::peers::comparison::Revived;
use crate::peers::inbound::Inbound;
use crate::peers::introduction::Introduction;
use crate::peers::view::View;
use crate::store::KeyValueStore;
use crate::store::version::{COUNTER_BITS, HybridClock, wall_clock_ms};

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
    pub(super) password: Option<Vec<u8>>,
    pub(super) began: Instant,
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
    /// Why nodes that introduced themselves were refused last, by address: logged when it changes.
    pub(super) refusals: Mutex<BTreeMap<String, String>>,
    /// Lines of log about refused nodes.
    pub(super) refusal_lines: LogLimiter,
    /// Peers whose records were refused.
    pub(super) skewed: SkewedPeers,
}

/// The links by the numbers of their contacts.
pub(super) type Links = BTreeMap<u64, Arc<Handle>>;

pub(super) struct Save(pub(super) Box<SaveFunction>);

impl std::fmt::Debug for Save {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Save")
    }
}

impl Shared {
    pub(super) fn monotonic_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    pub(super) fn view(&self) -> View<'_> {
        View {
            store: &self.store,
            cutoff: tombstones::cutoff(wall_clock_ms(), self.options.tombstone_grace),
        }
    }

    pub(super) fn links(&self) -> Arc<Links> {
        let links = unpoisoned(self.links.read());
        Arc::clone(&links)
    }

    pub(super) fn addresses(&self, number: u64) -> Option<Vec<String>> {
        let members = lock(&self.members);
        Some(members.contacts().get(&number)?.addresses.clone())
    }

    /// Whether a link must end or stand still.
    pub(super) fn link_fate(&self, number: u64) -> Option<worker::End> {
        let members = lock(&self.members);
        if !members.contacts().contains_key(&number) {
            return Some(worker::End::Gone);
        }
        members.is_cut(number).then_some(worker::End::Cut)
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
            clock: self.clock.latest().max(wall_clock_ms() << COUNTER_BITS),
            address,
            members: known,
            bans,
        })
    }

    pub(super) fn heard(self: &Arc<Self>, from: &Introduction) -> Result<()> {
        let mut members = lock(&self.members);
        if members.is_cut_off(Some(from.node_id), &from.address) {
            return Err(Error::refused("partitioned"));
        }
        members.heard(from)?;
        let known_to = members.links_to(from.node_id, &from.address);
        drop(members);
        self.adopt_clock(from);
        self.update_links()?;
        let links = self.links();
        let known = known_to.iter().filter_map(|number| links.get(number));
        known.for_each(|link| link.wake());
        Ok(())
    }

    /// The peer of a link answered our HELLO.
    pub(super) fn answered(
        self: &Arc<Self>,
        link: &Handle,
        address: &str,
        by: &Introduction,
    ) -> Result<Verdict> {
        let verdict = lock(&self.members).answered(link.number, address, by);
        if verdict == Verdict::Member {
            lock(&link.shown).clock_ahead_ms = self.adopt_clock(by);
        }
        self.update_links()?;
        self.inbound.close(|id, _| by.bans.contains(&id));
        Ok(verdict)
    }

    /// Learns of another node's clock, unless it is too far ahead. How far ahead it is.
    pub(super) fn adopt_clock(&self, of: &Introduction) -> i64 {
        let wall_ms = wall_clock_ms();
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
                let (wake, woken) = bounded(1);
                let link = Handle::new(*number, &contact.addresses[0], wake, &self.limits);
                let link = Arc::new(link);
                next.insert(*number, Arc::clone(&link));
                new.push((link, woken));
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
        gone.iter().for_each(|link| link.interrupt());
        for (link, woken) in new {
            let shared = Arc::clone(self);
            thread::Builder::new()
                .name(format!("link-{}", link.number))
                .spawn(move || worker::run(&link, &shared, &woken))?;
        }
        Ok(())
    }

    /// A link talks with this node now, or with nobody.
    pub(super) fn reached(&self, link: &Handle, id: Option<u64>) {
        lock(&link.shown).peer = id;
        self.update_apart();
    }

    /// Whether another link talks with this node.
    pub(super) fn is_reached(&self, id: u64, besides: &Handle) -> bool {
        let links = self.links();
        let others = links.values().filter(|link| link.number != besides.number);
        others.map(|link| lock(&link.shown).peer).any(|peer| peer == Some(id))
    }

    /// Lets all links know whether some member cannot be reached.
    fn update_apart(&self) {
        let holders = lock(&self.members).holders();
        let links = self.links();
        let is_away =
            |number| links.get(number).is_some_and(|link| lock(&link.shown).peer.is_none());
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

    /// Shows to others how a link is.
    pub(super) fn publish(&self, handle: &Handle, link: &Link) {
        let mut shown = lock(&handle.shown);
        let has_progressed = shown.held != link.held();
        shown.held = link.held();
        (shown.answered, shown.is_connected) = (link.answered(), link.is_introduced());
        shown.oldest_ms = link.oldest_ms();
        shown.waiting = link.waiting();
        drop(shown);
        if has_progressed && self.waiting.load(Ordering::SeqCst) > 0 {
            // Under the lock, so that nobody who has just found nothing falls asleep after this.
            let _guard = lock(&self.progress.0);
            self.progress.1.notify_all();
        }
        if link.is_refused() {
            handle.set_state(State::Refused("clock skew".into()));
        } else if link.is_live() {
            handle.set_state(State::Live);
        } else if link.is_answering()
            || link.is_introduced() && !matches!(handle.state(), State::Refused(_))
        {
            // Who refused before may do so again after its HELLO: that is no news.
            handle.set_state(State::Syncing);
        }
    }

    /// A link has compared everything with its peer.
    pub(super) fn synced(&self, handle: &Handle, began_ms: u64, revived: &Revived) {
        let now_ms = self.monotonic_ms();
        metrics::add(&self.counters.syncs_finished, 1);
        lock(&handle.shown).last_sync_ms = Some(now_ms);
        let holders = lock(&self.members).holders();
        let mut rounds = lock(&self.rounds);
        rounds.compared(handle.number, (began_ms, now_ms), revived, &holders, &self.store);
        rounds.begin(now_ms, self.view());
    }
}
