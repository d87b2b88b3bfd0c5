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

use super::queue::{Change, Held, Overflows, Queue};
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
pub enum LinkStep {
    /// Say HELLO, and hand it with its reply to [`Link::take`].
    Greet,
    /// Send these together and hand them with their replies to [`Link::take`].
    Send(Vec<PeerRequest>),
    /// Nothing until a change is queued or this time has come.
    Wait {
        /// In milliseconds of the caller's monotonic clock.
        until_ms: u64,
    },
    /// A comparison of everything has finished with nothing refused. Ask again at once.
    Compared {
        /// When it began.
        began_ms: u64,
        /// What the peer held older values of: now, or in a comparison before it that broke or was
        /// about marks.
        revived: Revived,
    },
}

/// One run of a peer's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) node_id: u64,
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
    /// For the next [`LinkStep::Compared`].
    revived: Revived,
    is_introduced: bool,
    is_answering: bool,
    is_waiting_for_replies: bool,
    /// Changes taken from the queue so far.
    taken: u64,
    /// Those among them that the peer has answered, whether it took or refused them.
    answered: u64,
    /// Who answered our HELLO last.
    pub(super) peer: Option<Run>,
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
    pub fn next(&mut self, now_ms: u64, queue: &Queue, view: View, limits: &Limits) -> LinkStep {
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
            Phase::Down => return LinkStep::Wait { until_ms: u64::MAX },
            // Before each comparison that is due by itself: so names of new and forgotten members
            // travel.
            Phase::Open if is_scheduled && self.sync.is_none() => self.phase = Phase::Greeting,
            _ => {}
        }
        if self.phase == Phase::Greeting {
            self.is_waiting_for_replies = true;
            return LinkStep::Greet;
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
            return LinkStep::Wait {
                until_ms: others.chain([scheduled_ms]).min().unwrap_or(u64::MAX),
            };
        };
        let requests = running.sync.next(view, &allowed);
        if !requests.is_empty() {
            self.changes_go_next = true;
            return self.send(requests);
        }
        match self.sync.take() {
            Some(done) => self.finish_sync(done, now_ms),
            None => LinkStep::Wait { until_ms: now_ms },
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
                (PeerRequest::Hello(_), PeerReply::Introduction(introduction)) => {
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

    fn send(&mut self, requests: Vec<PeerRequest>) -> LinkStep {
        self.is_waiting_for_replies = true;
        if let [PeerRequest::Merge(batch)] = requests.as_slice() {
            self.pace.sent(self.now_ms, batch.len());
        }
        LinkStep::Send(requests)
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

    fn finish_sync(&mut self, done: Running, now_ms: u64) -> LinkStep {
        self.changes_go_next = false;
        self.revived.extend(done.sync.revived);
        self.answered = self.handled();
        if done.is_refused || done.sync.has_refused {
            // The clocks may come together by themselves: a probe will tell.
            self.refused();
            self.next_sync_ms = self.next_sync_ms.max(now_ms + SYNC_INTERVAL_MS);
            return LinkStep::Wait { until_ms: now_ms };
        }
        if !done.is_full {
            // While something is unsettled, an earlier mark may have been dealt with by a record
            // that was refused.
            if !self.is_unsettled {
                self.held.overflows = done.overflows;
                self.holds_all_sent();
            }
            return LinkStep::Wait { until_ms: now_ms };
        }
        self.held.overflows = done.overflows;
        // Batches that were sent meanwhile were acknowledged, or this would have been noted as
        // refused.
        (self.is_unsettled, self.is_refused) = (false, false);
        self.refusals.end();
        self.held.is_complete = true;
        self.holds_all_sent();
        LinkStep::Compared { began_ms: done.began_ms, revived: std::mem::take(&mut self.revived) }
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
mod tests;
