//! A link: the conversation with one peer, as a state machine without sockets, threads or clocks.
//!
//! ```text
//!   down ─connected─► greeting ─HELLO answered─► open: a comparison of everything, then batches
//!     ▲                   ▲______idle, or a minute later______│
//!     └───────────────── broken, from anywhere ───────────────┘
//! ```
//!
//! One exchange is under way at a time: requests that were sent together, then all their replies.
//! While a batch is under way the next one grows in the queue, so batches adapt to the round trip,
//! and since nobody ever waits with unread replies, no two nodes can lock each other up.
//!
//! `worker` drives it with a real socket, the simulation with messages of its own.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::queue::{Change, Overflows, Queue};
use super::refusals::Refusals;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::peers::comparison::{Comparison, Revived, ShardSet};
use crate::peers::introduction::Introduction;
use crate::peers::large::{Large, Waiting};
use crate::peers::pace::{Allowed, Fate, Pace};
use crate::peers::requests::{PeerReply, PeerRequest};
use crate::peers::view::View;
use crate::store::prefetch::PREFETCH_KEYS_MAX;

/// A link that was idle for so long compares digests once, so that a small loss is soon found.
const SYNC_IDLE_MS: u64 = 10_000;
/// When a peer is lost, the others are compared with so soon: it may have told one of them what
/// it told nobody else. A new connection is compared again so soon.
const SYNC_AFTER_CHANGE_MS: u64 = 1_000;
/// Every link compares digests this often, busy or not.
const SYNC_INTERVAL_MS: u64 = 60_000;
/// While a member cannot be reached, everything is compared so often: what it was sent may come by
/// way of another.
const APART_SYNC_MS: u64 = 5_000;

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Send these together and hand them with their replies to [`Link::take`].
    Send(Vec<PeerRequest>),
    /// Nothing until a change is queued or this time has come.
    Wait {
        /// In milliseconds of the caller's monotonic clock.
        until_ms: u64,
    },
    /// A comparison of everything has finished with nothing refused. Ask again at once.
    Synced {
        /// When it began.
        began_ms: u64,
        /// What the peer held older values of: now, or in a comparison before it that broke or was
        /// about marks.
        revived: Revived,
    },
}

/// What a peer is known to hold, for `WAIT`.
///
/// It is what one run of the peer has acknowledged after its own commit. So it counts while that
/// run is connected. It also counts while a peer with stored data is away, since that data comes
/// back. It does not count while an in-memory peer is away, which may have crashed. When another
/// run answers, nothing counts before a comparison of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Everything was compared at least once, so what was written before there was a link is there
    /// too.
    pub is_complete: bool,
    /// Changes of the queue that the peer holds.
    pub sent: u64,
    /// Marks that a finished comparison has dealt with.
    pub overflows: Overflows,
}

impl Held {
    /// Whether the peer holds all that was put into the queue, or marked, up to these counts.
    pub fn covers(&self, sent: u64, overflows: &Overflows) -> bool {
        self.is_complete && self.sent >= sent && self.overflows.covers(overflows)
    }
}

/// One run of a peer's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    node_id: u64,
    run_id: u64,
    is_durable: bool,
}

/// The state of the conversation.
///
/// Invariants, checked by the simulation in `tests/simulation`:
/// - No change is lost: the peer holds it, or it is in the queue, under way or marked, or a
///   comparison of everything is due or running.
/// - `held` never counts a change that the peer refused or may not have.
/// - A mark is cleared before the digest of its shard is asked: a change that comes later marks it
///   again.
#[derive(Debug)]
pub struct Link {
    phase: Phase,
    sync: Option<Running>,
    /// For the next [`Step::Synced`].
    revived: Revived,
    is_introduced: bool,
    is_answering: bool,
    is_waiting_for_replies: bool,
    /// Changes taken from the queue so far.
    taken: u64,
    /// Those among them that the peer has answered, whether it took or refused them.
    answered: u64,
    /// Who answered our HELLO last.
    peer: Option<Run>,
    /// Of that run of the peer.
    held: Held,
    /// Something may have been lost, or was refused, since the last finished comparison of
    /// everything: until the next one an acknowledged batch does not say that the peer holds all
    /// before it.
    is_unsettled: bool,
    /// The peer refused records because they are too far ahead of its clock.
    is_refused: bool,
    /// Which.
    refusals: Refusals,
    /// The batch under way is a probe, to see whether the peer still does.
    is_probing: bool,
    /// How large batches are.
    pace: Pace,
    /// Changes of large records that were taken from the queue and not yet sent.
    large: Large,
    /// The time of the last step.
    now_ms: u64,
    /// When the oldest change was made that was taken from the queue and that the peer may not
    /// hold.
    oldest_ms: Option<u64>,
    /// Changes that were taken from the queue and not yet sent: at most [`PREFETCH_KEYS_MAX`], and
    /// what the driver received.
    ahead: VecDeque<Change>,
    next_sync_ms: u64,
    /// When to compare because of idleness; `None` when that was done since the last activity.
    idle_sync_ms: Option<u64>,
    /// When the last comparison of everything began.
    compared_ms: Option<u64>,
    /// When to compare because a member told that it cannot reach another one.
    nudged_ms: Option<u64>,
    /// Changes go next, so that they do not wait for the end of a sync.
    changes_go_next: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Down,
    /// HELLO comes next.
    Greeting,
    /// HELLO was answered just now: a comparison of everything comes next.
    Greeted,
    Open,
}

#[derive(Debug)]
struct Running {
    sync: Comparison,
    is_full: bool,
    began_ms: u64,
    /// Marks dealt with when this has finished.
    overflows: Overflows,
    is_refused: bool,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            phase: Phase::Down,
            sync: None,
            revived: Revived::new(),
            is_introduced: false,
            is_answering: false,
            is_waiting_for_replies: false,
            taken: 0,
            answered: 0,
            peer: None,
            held: Held::default(),
            is_unsettled: true,
            is_refused: false,
            refusals: Refusals::default(),
            is_probing: false,
            pace: Pace::default(),
            large: Large::default(),
            now_ms: 0,
            oldest_ms: None,
            ahead: VecDeque::new(),
            next_sync_ms: 0,
            idle_sync_ms: None,
            compared_ms: None,
            nudged_ms: None,
            changes_go_next: false,
        }
    }
}

impl Link {
    /// There is a new connection.
    pub fn connected(&mut self) {
        self.phase = Phase::Greeting;
        (self.is_introduced, self.is_answering) = (false, false);
    }

    /// The connection is gone. What was under way may or may not have arrived; the next
    /// connection starts with a comparison of everything.
    pub fn broken(&mut self) {
        self.phase = Phase::Down;
        (self.is_introduced, self.is_answering) = (false, false);
        (self.is_refused, self.is_probing) = (false, false);
        self.pace.broken();
        if let Some(running) = self.sync.take() {
            self.revived.extend(running.sync.revived);
        }
        self.is_waiting_for_replies = false;
        self.is_unsettled = true;
    }

    /// Somebody answered our HELLO. What another run acknowledged may not be there any more.
    fn introduced(&mut self, by: &Introduction) {
        let run = Run { node_id: by.node_id, run_id: by.run_id, is_durable: by.is_durable };
        if self.peer.replace(run) != Some(run) {
            self.held = Held::default();
            self.refusals.end();
            // It may be the same connection: what comes after must not count for what came before.
            self.is_unsettled = true;
        }
        self.is_introduced = true;
    }

    /// Whether the peer has said who it is on this connection.
    pub fn is_introduced(&self) -> bool {
        self.is_introduced
    }

    /// Whether the peer has answered on this connection what only one in working order answers.
    pub fn is_answering(&self) -> bool {
        self.is_answering
    }

    /// Whether changes are sent as they come, with nothing to catch up.
    pub fn is_live(&self) -> bool {
        self.phase != Phase::Down && !self.is_unsettled
    }

    /// Whether the peer refused records because they are too far ahead of its clock.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// What the peer holds now, as far as this link can know.
    pub fn held(&self) -> Held {
        let is_safe = self.peer.is_some_and(|peer| peer.is_durable);
        if self.is_introduced || is_safe { self.held } else { Held::default() }
    }

    /// Changes of the queue that the peer has answered, whether it took or refused them.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// When the oldest change was made that the peer may not hold, as far as the link has seen.
    pub fn oldest_ms(&self) -> Option<u64> {
        let ahead = self.ahead.iter().map(|change| change.at_ms);
        ahead.chain(self.oldest_ms).chain(self.large.oldest_changed_ms()).min()
    }

    /// Looks at the first queued change, to know its age, while nothing can be sent.
    pub fn peek(&mut self, queue: &Queue) {
        if self.ahead.is_empty() {
            self.ahead.extend(queue.take());
        }
    }

    /// Takes a change that the driver received while it waited.
    pub fn received(&mut self, change: Change) {
        self.ahead.push_back(change);
    }

    /// Changes taken from the queue and not yet sent.
    pub fn waiting(&self) -> usize {
        self.ahead.len() + self.large.count()
    }

    /// What to do next. `now_ms` is a monotonic clock; no exchange may be under way.
    pub fn next(&mut self, now_ms: u64, queue: &Queue, view: View, limits: &Limits) -> Step {
        debug_assert!(!self.is_waiting_for_replies, "one exchange at a time");
        self.now_ms = now_ms;
        self.pace.acknowledged(now_ms, limits.batch_bytes);
        if queue.take_stir() {
            self.idle_sync_ms = Some(now_ms + SYNC_IDLE_MS);
        }
        if queue.take_loss() {
            self.next_sync_ms = self.next_sync_ms.min(now_ms + SYNC_AFTER_CHANGE_MS);
        }
        if queue.take_nudge() {
            self.nudged_ms = Some(now_ms.max(self.compared_ms.unwrap_or(0) + APART_SYNC_MS));
        }
        let scheduled_ms = self.scheduled_ms(queue);
        let is_scheduled = self.phase == Phase::Greeted || now_ms >= scheduled_ms;
        match self.phase {
            Phase::Down => return Step::Wait { until_ms: u64::MAX },
            // Before each comparison that is due by itself: so names of new and forgotten members
            // travel.
            Phase::Open if is_scheduled && self.sync.is_none() => self.phase = Phase::Greeting,
            _ => {}
        }
        if self.phase == Phase::Greeting {
            return self.send(vec![PeerRequest::Hello]);
        }
        if self.sync.is_none()
            && let Some(record) = self.probe(view)
        {
            self.is_probing = true;
            return self.send(vec![PeerRequest::Merge(record)]);
        }
        let is_due = is_scheduled || self.nudged_ms.is_some_and(|at| now_ms >= at);
        if self.sync.is_none() && (is_due || queue.has_marks()) {
            self.start_sync(is_due, now_ms, queue);
        }
        let allowed = self.pace.allowed(now_ms, limits.batch_bytes, self.refusals.from_ms());
        if self.sync.is_none() || std::mem::take(&mut self.changes_go_next) {
            let batch = self.drain(queue, view, &allowed);
            if !batch.is_empty() {
                self.idle_sync_ms = Some(now_ms + SYNC_IDLE_MS);
                return self.send(vec![PeerRequest::Merge(batch)]);
            }
        }
        let Some(running) = &mut self.sync else {
            let others = [self.nudged_ms, self.refusals.probe_ms()].into_iter().flatten();
            return Step::Wait { until_ms: others.chain([scheduled_ms]).min().unwrap_or(u64::MAX) };
        };
        let requests = running.sync.next(view, &allowed);
        if !requests.is_empty() {
            self.changes_go_next = true;
            return self.send(requests);
        }
        match self.sync.take() {
            Some(done) => self.finish_sync(done, now_ms),
            None => Step::Wait { until_ms: now_ms },
        }
    }

    /// Takes the replies to the requests of the last step; the introduction if they were HELLO's.
    /// An error means that the connection is of no use.
    pub fn take(
        &mut self,
        requests: &[PeerRequest],
        replies: Vec<PeerReply>,
        view: View,
    ) -> Result<Option<Introduction>> {
        if !std::mem::take(&mut self.is_waiting_for_replies) || requests.len() != replies.len() {
            return Err(Error::Corrupt("a reply that nobody asked for".into()));
        }
        for (request, reply) in requests.iter().zip(replies) {
            match (request, reply) {
                (_, PeerReply::Error(reason)) => return Err(Error::refused(reason)),
                (PeerRequest::Hello, PeerReply::Introduction(introduction)) => {
                    self.phase = Phase::Greeted;
                    self.introduced(&introduction);
                    return Ok(Some(introduction));
                }
                (request, reply) => self.take_one(request, &reply, view)?,
            }
        }
        Ok(None)
    }

    fn take_one(&mut self, request: &PeerRequest, reply: &PeerReply, view: View) -> Result<()> {
        if let (PeerRequest::Merge(batch), PeerReply::Merged { refused, .. }) = (request, reply) {
            let is_probe = std::mem::take(&mut self.is_probing);
            if self.sync.is_none() {
                self.answered = self.handled();
            }
            if *refused > 0 {
                self.refusals.note(batch, *refused, self.now_ms);
                self.refused();
            } else if is_probe {
                self.refusals.lift();
                self.next_sync_ms = self.now_ms;
            } else if !self.is_unsettled {
                self.holds_all_sent();
            }
            return Ok(());
        }
        self.is_answering = true;
        match &mut self.sync {
            Some(running) => running.sync.take(request, reply, view),
            None => Err(Error::Corrupt("a reply of another kind".into())),
        }
    }

    /// The peer refused a record, or would.
    fn refused(&mut self) {
        (self.is_refused, self.is_unsettled) = (true, true);
        if let Some(running) = &mut self.sync {
            running.is_refused = true;
        }
    }

    /// A record that the peer refused, when it is time to try whether it still does.
    fn probe(&mut self, view: View) -> Option<Vec<u8>> {
        let key = self.refusals.probe(self.now_ms)?;
        let mut record = Vec::new();
        view.store.copy_record(key, &mut record, |_| true);
        if record.is_empty() {
            // It was a dropped tombstone. Others may be left.
            self.refusals.lift();
            self.next_sync_ms = self.now_ms;
            return None;
        }
        Some(record)
    }

    /// When everything is compared next.
    fn scheduled_ms(&self, queue: &Queue) -> u64 {
        let apart_ms = self.compared_ms.filter(|_| queue.is_apart()).map(|at| at + APART_SYNC_MS);
        let others = self.idle_sync_ms.into_iter().chain(apart_ms);
        others.chain([self.next_sync_ms]).min().unwrap_or(u64::MAX)
    }

    fn send(&mut self, requests: Vec<PeerRequest>) -> Step {
        self.is_waiting_for_replies = true;
        if let [PeerRequest::Merge(batch)] = requests.as_slice() {
            self.pace.sent(self.now_ms, batch.len());
        }
        Step::Send(requests)
    }

    /// Begins a comparison: of everything, or of the marked shards.
    fn start_sync(&mut self, is_full: bool, now_ms: u64, queue: &Queue) {
        // First the count, then the marks, and only then, in `Comparison::next`, the digests: what
        // changes later is in the queue or marks its shard again.
        let overflows = queue.overflows();
        let marks = queue.take_marks();
        if is_full {
            self.phase = Phase::Open;
            // A new connection is greeted twice: nodes that joined a moment apart may have missed
            // each other's name.
            let is_new = self.is_unsettled && !self.is_refused;
            let interval = if is_new { SYNC_AFTER_CHANGE_MS } else { SYNC_INTERVAL_MS };
            self.next_sync_ms = now_ms + interval;
            (self.idle_sync_ms, self.nudged_ms, self.compared_ms) = (None, None, Some(now_ms));
            if self.is_unsettled {
                // What is queued now was merged before: this comparison will find it.
                for _ in 0..queue.len() + self.ahead.len() {
                    self.take_change(queue);
                }
                self.large.clear();
            }
        }
        self.sync = Some(Running {
            sync: Comparison::new(if is_full { ShardSet::ALL } else { marks }),
            is_full,
            began_ms: now_ms,
            overflows,
            is_refused: false,
        });
    }

    fn finish_sync(&mut self, done: Running, now_ms: u64) -> Step {
        self.changes_go_next = false;
        self.revived.extend(done.sync.revived);
        self.answered = self.handled();
        if done.is_refused || done.sync.has_refused {
            // The clocks may come together by themselves: a probe will tell.
            self.refused();
            self.next_sync_ms = self.next_sync_ms.max(now_ms + SYNC_INTERVAL_MS);
            return Step::Wait { until_ms: now_ms };
        }
        if !done.is_full {
            // While something is unsettled, an earlier mark may have been dealt with by a record
            // that was refused.
            if !self.is_unsettled {
                self.held.overflows = done.overflows;
                self.holds_all_sent();
            }
            return Step::Wait { until_ms: now_ms };
        }
        self.held.overflows = done.overflows;
        // Batches that were sent meanwhile were acknowledged, or this would have been noted as
        // refused.
        (self.is_unsettled, self.is_refused) = (false, false);
        self.refusals.end();
        self.held.is_complete = true;
        self.holds_all_sent();
        Step::Synced { began_ms: done.began_ms, revived: std::mem::take(&mut self.revived) }
    }

    /// Up to which change of the queue nothing waits here any more.
    fn handled(&self) -> u64 {
        self.large.first_number().map_or(self.taken, |number| number - 1)
    }

    /// The peer holds what was taken from the queue, but for the large records that still wait.
    fn holds_all_sent(&mut self) {
        self.held.sent = self.handled();
        self.oldest_ms = None;
    }

    fn take_change(&mut self, queue: &Queue) -> Option<Change> {
        let change = self.ahead.pop_front().or_else(|| queue.take().ok())?;
        self.taken += 1;
        self.oldest_ms = Some(self.oldest_ms.map_or(change.at_ms, |at| at.min(change.at_ms)));
        Some(change)
    }

    /// Collects what the changed keys are now, as much as is allowed: small records, or large ones.
    fn drain(&mut self, queue: &Queue, view: View, allowed: &Allowed) -> Vec<u8> {
        let mut batch = Vec::new();
        let mut has_refused =
            self.large.is_due(allowed) && self.large.fill(view, allowed, &mut batch);
        if batch.is_empty() {
            has_refused |= self.drain_small(queue, view, allowed, &mut batch);
            self.large.small_went();
        }
        if batch.is_empty() {
            has_refused |= self.large.fill(view, allowed, &mut batch);
        }
        if has_refused {
            self.refused();
        }
        if batch.is_empty() {
            self.answered = self.handled();
        }
        if batch.is_empty() && !self.is_unsettled {
            // Keys that are gone, if any: dropped tombstones. The peer needs nothing of them.
            self.holds_all_sent();
        }
        batch
    }

    /// Collects small records, and sets large ones aside; a key that changed many times is read
    /// once. Whether any must stay here because the peer would refuse it.
    fn drain_small(
        &mut self,
        queue: &Queue,
        view: View,
        allowed: &Allowed,
        batch: &mut Vec<u8>,
    ) -> bool {
        let (mut keys, mut has_refused) = (HashSet::new(), false);
        while batch.len() < allowed.bytes && !self.large.is_full() {
            if self.ahead.is_empty() {
                self.ahead.extend(std::iter::from_fn(|| queue.take().ok()).take(PREFETCH_KEYS_MAX));
                view.store.prefetch(self.ahead.iter().map(|change| &*change.key));
            }
            let Some(change) = self.take_change(queue) else {
                break;
            };
            let mut fate = Fate::Small;
            if keys.insert(Arc::clone(&change.key)) {
                view.store.copy_record(&change.key, batch, |entry| {
                    fate = allowed.fate(entry);
                    fate == Fate::Small
                });
            }
            match fate {
                Fate::Small => {}
                Fate::Large => self.large.add(Waiting {
                    key: change.key,
                    number: self.taken,
                    changed_ms: change.at_ms,
                    since_ms: allowed.now_ms,
                }),
                Fate::Refused => has_refused = true,
            }
        }
        has_refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::versions;
    use crate::store::KeyValueStore;
    use crate::store::record::{Record, decode_all};
    use crate::store::version::Version;

    /// What a peer with this store answers.
    fn reply(request: &PeerRequest, store: &KeyValueStore) -> PeerReply {
        let view = View { store, cutoff: 0 };
        match request {
            PeerRequest::Hello => PeerReply::Introduction(Introduction::default()),
            PeerRequest::ShardDigests => PeerReply::Bytes(view.shard_digests()),
            PeerRequest::BucketDigests(shard) => PeerReply::Bytes(view.bucket_digests(*shard)),
            PeerRequest::Versions(place) => {
                PeerReply::Listed(versions::list(&view, place, place.bytes_max()))
            }
            PeerRequest::Merge(records) => {
                for record in decode_all(records) {
                    store.merge(&record.expect("our own bytes"), |_| 0);
                }
                PeerReply::Merged { merged: 1, refused: 0 }
            }
        }
    }

    /// A peer that refuses versions beyond `limit`.
    fn reply_within(request: &PeerRequest, store: &KeyValueStore, limit: u64) -> PeerReply {
        let PeerRequest::Merge(records) = request else {
            return reply(request, store);
        };
        let records = decode_all(records).map(|record| record.expect("our own bytes"));
        let (taken, refused): (Vec<_>, Vec<_>) =
            records.partition(|record| record.version.time <= limit);
        for record in &taken {
            store.merge(record, |_| 0);
        }
        PeerReply::Merged { merged: taken.len() as u64, refused: refused.len() as u64 }
    }

    /// Drives a link until it waits; the peer answers HELLO with `introduction` and takes versions
    /// up to `limit`.
    fn drive(
        link: &mut Link,
        (now_ms, limit): (u64, u64),
        queue: &Queue,
        (ours, theirs): (&KeyValueStore, &KeyValueStore),
        introduction: &Introduction,
    ) {
        let (view, limits) = (View { store: ours, cutoff: 0 }, Limits::default());
        for _ in 0..100 {
            match link.next(now_ms, queue, view, &limits) {
                Step::Send(requests) => {
                    let replies = requests.iter().map(|request| match request {
                        PeerRequest::Hello => PeerReply::Introduction(introduction.clone()),
                        request => reply_within(request, theirs, limit),
                    });
                    let replies = replies.collect();
                    link.take(&requests, replies, view).expect("it makes sense");
                }
                Step::Wait { until_ms } if until_ms > now_ms => return,
                Step::Wait { .. } | Step::Synced { .. } => {}
            }
        }
        panic!("it never waits");
    }

    fn write(store: &KeyValueStore, key: &str, time: u64) -> usize {
        let version = Version { time, origin: 1 };
        store.merge(&Record { version, key: key.as_bytes(), value: Some(b"v") }, |_| 0).shard
    }

    #[test]
    fn a_refused_change_does_not_count_though_a_later_mark_is_settled() {
        let (ours, theirs) = (KeyValueStore::new(), KeyValueStore::new());
        let (queue, peer, mut link) =
            (Queue::new(100, 10_000), Introduction::default(), Link::default());
        link.connected();
        let at = |link: &mut Link, now_ms, limit| {
            drive(link, (now_ms, limit), &queue, (&ours, &theirs), &peer)
        };
        at(&mut link, 0, 10);
        at(&mut link, 2_000, 10);
        assert!(link.held().is_complete && link.is_live());
        // It finds the queue full, and the peer refuses it: too far ahead of its clock just now.
        queue.mark(write(&ours, "first", 11));
        let (sent, overflows) = (queue.sent(), queue.overflows());
        at(&mut link, 2_001, 10);
        assert!(link.is_refused() && theirs.version(b"first").is_none());
        // The peer would take it now, and has it no more than before.
        queue.mark(write(&ours, "second", 12));
        at(&mut link, 2_002, 20);
        assert!(theirs.version(b"first").is_none());
        assert!(!link.held().covers(sent, &overflows));
        at(&mut link, 60_000, 20);
        assert!(theirs.version(b"first").is_some() && link.held().covers(sent, &overflows));
    }

    #[test]
    fn what_a_peer_held_counts_as_long_as_that_run_of_it_may_hold_it() {
        for is_durable in [false, true] {
            let (ours, theirs) = (KeyValueStore::new(), KeyValueStore::new());
            let (queue, mut link) = (Queue::new(100, 10_000), Link::default());
            let mut peer =
                Introduction { node_id: 7, run_id: 1, is_durable, ..Introduction::default() };
            link.connected();
            drive(&mut link, (0, 10), &queue, (&ours, &theirs), &peer);
            let shard = write(&ours, "k", 5);
            queue.offer(Change { key: b"k"[..].into(), at_ms: 0 }, shard);
            let (sent, overflows) = (queue.sent(), queue.overflows());
            drive(&mut link, (1, 10), &queue, (&ours, &theirs), &peer);
            let counts = |link: &Link| link.held().covers(sent, &overflows);
            assert!(counts(&link));

            link.broken();
            assert_eq!(counts(&link), is_durable, "away: only what is stored comes back");
            link.connected();
            assert_eq!(
                counts(&link),
                is_durable,
                "whoever has accepted the connection may be another one"
            );
            drive(&mut link, (2, 10), &queue, (&ours, &theirs), &peer);
            assert!(counts(&link), "the same run has it");

            link.broken();
            peer.run_id = 2;
            link.connected();
            let Step::Send(hello) =
                link.next(3, &queue, View { store: &ours, cutoff: 0 }, &Limits::default())
            else {
                panic!("HELLO comes first");
            };
            let answer = vec![PeerReply::Introduction(peer.clone())];
            link.take(&hello, answer, View { store: &ours, cutoff: 0 }).unwrap();
            assert!(!counts(&link), "another run: not before it was compared");
            let restarted = KeyValueStore::new();
            drive(&mut link, (3, 10), &queue, (&ours, &restarted), &peer);
            assert!(counts(&link) && restarted.version(b"k").is_some());
        }
    }

    #[test]
    fn a_change_received_while_others_wait_replaces_none_of_them() {
        let (ours, theirs) = (KeyValueStore::new(), KeyValueStore::new());
        let view = View { store: &ours, cutoff: 0 };
        let queue = Queue::new(100, 10_000);
        // One record for each batch, so that most changes wait while the marked shards are
        // compared.
        let limits = Limits { batch_bytes: 1, ..Limits::default() };
        let keys: Vec<String> = (0..2 * PREFETCH_KEYS_MAX).map(|i| format!("key{i}")).collect();
        let mut link = Link::default();
        link.connected();
        let (mut is_synced, mut received) = (false, 0);
        for step in 0..1_000 {
            if is_synced && step % 10 == 0 && step < 50 {
                for (index, key) in keys.iter().enumerate() {
                    let (version, key) = (Version { time: step, origin: 1 }, key.as_bytes());
                    let shard =
                        ours.merge(&Record { version, key, value: Some(b"v") }, |_| 0).shard;
                    match index {
                        0 => queue.mark(shard),
                        _ => queue.offer(Change { key: key.into(), at_ms: 0 }, shard),
                    }
                }
            }
            match link.next(0, &queue, view, &limits) {
                Step::Send(requests) => {
                    let replies = requests.iter().map(|request| reply(request, &theirs)).collect();
                    link.take(&requests, replies, view).expect("it makes sense");
                }
                // As the worker does it.
                Step::Wait { .. } => {
                    if let Ok(change) = queue.take() {
                        received += usize::from(link.waiting() > 0);
                        link.received(change);
                    }
                }
                Step::Synced { .. } => is_synced = true,
            }
        }
        assert!(received > 0, "the test is about this");
        assert!(queue.is_empty() && link.waiting() == 0);
        assert_eq!(link.held().sent, queue.sent());
        for key in &keys {
            assert_eq!(theirs.version(key.as_bytes()), ours.version(key.as_bytes()), "{key}");
        }
    }

    /// A link that has just compared an empty store with an empty one.
    fn settled(queue: &Queue, view: View, limits: &Limits) -> Link {
        let (mut link, theirs) = (Link::default(), KeyValueStore::new());
        link.connected();
        loop {
            match link.next(0, queue, view, limits) {
                Step::Send(requests) => {
                    let replies = requests.iter().map(|request| reply(request, &theirs)).collect();
                    link.take(&requests, replies, view).expect("it makes sense");
                }
                Step::Wait { .. } => panic!("there is nothing to wait for"),
                Step::Synced { .. } => return link,
            }
        }
    }

    fn put(key: &str, value: &[u8], time_ms: u64, store: &KeyValueStore, queue: &Queue) {
        let version = Version { time: time_ms << 16, origin: 1 };
        let shard =
            store.merge(&Record { version, key: key.as_bytes(), value: Some(value) }, |_| 0).shard;
        queue.offer(Change { key: key.as_bytes().into(), at_ms: 0 }, shard);
    }

    /// The keys of the batch that is sent next.
    fn batch(
        link: &mut Link,
        now_ms: u64,
        queue: &Queue,
        view: View,
        limits: &Limits,
    ) -> Vec<String> {
        match link.next(now_ms, queue, view, limits) {
            Step::Send(requests) => match requests.as_slice() {
                [PeerRequest::Merge(records)] => {
                    let key = |record: Record| String::from_utf8_lossy(record.key).into_owned();
                    decode_all(records).map(|record| key(record.expect("our own bytes"))).collect()
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn acknowledge(link: &mut Link, view: View, refused: u64, records: &[u8]) {
        let replies = vec![PeerReply::Merged { merged: 1, refused }];
        link.take(&[PeerRequest::Merge(records.to_vec())], replies, view).expect("it makes sense");
    }

    #[test]
    fn a_large_record_waits_for_small_ones_for_ten_seconds_on_a_slow_connection() {
        let (store, limits) =
            (KeyValueStore::new(), Limits { batch_bytes: 200, ..Limits::default() });
        let (view, queue) = (View { store: &store, cutoff: 0 }, Queue::new(100, 10_000));
        let mut link = settled(&queue, view, &limits);
        // A batch that took long: from now on the connection is slow.
        put("slow", &[0; 300], 1, &store, &queue);
        assert_eq!(batch(&mut link, 0, &queue, view, &limits), ["slow"]);
        link.broken();
        let mut link = Link {
            phase: Phase::Open,
            is_introduced: true,
            is_unsettled: false,
            next_sync_ms: u64::MAX,
            ..link
        };
        put("large", &[0; 100_000], 2, &store, &queue);
        let (mut now_ms, mut small_first) = (0, 0);
        loop {
            for i in 0..5 {
                put(&format!("small{i}"), &[0; 50], 3 + now_ms, &store, &queue);
            }
            let keys = batch(&mut link, now_ms, &queue, view, &limits);
            acknowledge(&mut link, view, 0, b"");
            if keys == ["large"] {
                break;
            }
            assert!(keys.iter().all(|key| key.starts_with("small")), "{keys:?}");
            assert!(link.held().sent < 2, "the large one is not there, nor is all after it");
            small_first += 1;
            now_ms += 600;
        }
        assert_eq!((small_first, now_ms), (17, 10_200), "the first after ten seconds");
        while !queue.is_empty() || link.waiting() > 0 {
            now_ms += 100;
            batch(&mut link, now_ms, &queue, view, &limits);
            acknowledge(&mut link, view, 0, b"");
        }
        assert_eq!(link.held().sent, queue.sent());
    }

    #[test]
    fn what_the_peer_refused_stays_here_and_one_record_asks_for_all() {
        let (store, limits) = (KeyValueStore::new(), Limits::default());
        let (view, queue) = (View { store: &store, cutoff: 0 }, Queue::new(100, 10_000));
        let mut link = settled(&queue, view, &limits);
        link.next_sync_ms = u64::MAX;
        put("good", b"v", 1_000, &store, &queue);
        put("early", b"v", 100_000, &store, &queue);
        put("earlier", b"v", 90_000, &store, &queue);
        let Step::Send(requests) = link.next(0, &queue, view, &limits) else {
            panic!("there are changes");
        };
        link.take(&requests, vec![PeerReply::Merged { merged: 1, refused: 2 }], view)
            .expect("it makes sense");
        assert!(link.is_refused());
        put("later", b"v", 110_000, &store, &queue);
        put("good too", b"v", 1_001, &store, &queue);
        assert_eq!(batch(&mut link, 10, &queue, view, &limits), ["good too"]);
        acknowledge(&mut link, view, 0, b"");
        assert!(matches!(link.next(999, &queue, view, &limits), Step::Wait { until_ms: 1_000 }));
        assert_eq!(batch(&mut link, 1_000, &queue, view, &limits), ["earlier"], "a probe");
        acknowledge(&mut link, view, 0, b"");
        assert!(
            matches!(link.next(1_001, &queue, view, &limits), Step::Send(ask) if ask == [PeerRequest::Hello])
        );
        assert_eq!(link.held().sent, 0, "nothing counts that may not be there");
    }

    #[test]
    fn an_older_value_that_was_met_is_told_though_the_connection_broke() {
        let (ours, theirs) = (KeyValueStore::new(), KeyValueStore::new());
        let (deleted, written) = (Version { time: 5, origin: 1 }, Version { time: 4, origin: 1 });
        ours.merge(&Record { version: deleted, key: b"k", value: None }, |_| 0);
        theirs.merge(&Record { version: written, key: b"k", value: Some(b"v") }, |_| 0);
        let view = View { store: &ours, cutoff: 6 };
        let (queue, limits) = (Queue::new(10, 1_000), Limits::default());
        let (mut link, mut breaks) = (Link::default(), 0);
        link.connected();
        let revived = loop {
            match link.next(0, &queue, view, &limits) {
                Step::Send(requests) => {
                    let replies = requests.iter().map(|request| reply(request, &theirs)).collect();
                    if matches!(requests[..], [PeerRequest::Merge(_)]) {
                        // The peer took the tombstone, and its answer is lost.
                        link.broken();
                        link.connected();
                        breaks += 1;
                    } else {
                        link.take(&requests, replies, view).expect("it makes sense");
                    }
                }
                Step::Wait { .. } => panic!("there is nothing to wait for"),
                Step::Synced { revived, .. } => break revived,
            }
        };
        assert_eq!((breaks, theirs.version(b"k")), (1, Some(deleted)));
        assert_eq!(revived, Revived::from([(b"k"[..].into(), deleted)]));
    }
}
