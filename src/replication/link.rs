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

use super::outgoing::Outgoing;
use super::queue::{Held, Overflows, Queue};
use super::refusals::Refusals;
use super::schedule::Schedule;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::peers::comparison::{Comparison, Revived, ShardSet};
use crate::peers::introduction::Introduction;
use crate::peers::pace::{Allowed, Pace};
use crate::peers::requests::{PeerReply, PeerRequest};
use crate::peers::view::View;

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
#[derive(Debug, Default)]
pub struct Link {
    phase: Phase,
    comparing: Option<Running>,
    /// For the next [`LinkStep::Compared`].
    revived: Revived,
    heard: Heard,
    is_waiting_for_replies: bool,
    /// Changes of the queue that the peer has answered, whether it took or refused them.
    answered: u64,
    /// Who answered our HELLO last.
    pub(super) peer: Option<Run>,
    /// Of that run of the peer.
    held: Held,
    /// Nothing may have been lost, or was refused, since the last finished comparison of
    /// everything. Without this, an acknowledged batch does not say that the peer holds all before
    /// it.
    is_settled: bool,
    /// The peer refused records because they are too far ahead of its clock.
    is_refused: bool,
    /// Which.
    refusals: Refusals,
    /// The batch under way is a probe, to see whether the peer still does.
    is_probing: bool,
    /// How large batches are.
    pace: Pace,
    /// The time of the last step.
    now_ms: u64,
    /// Changes that were taken from the queue.
    pub(super) outgoing: Outgoing,
    schedule: Schedule,
    /// Changes go next, so that they do not wait for the end of a comparison.
    changes_go_next: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Down,
    /// HELLO comes next.
    Greeting,
    /// HELLO was answered just now: a comparison of everything comes next.
    Greeted,
    Open,
}

/// What the peer has answered on this connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    #[default]
    Nothing,
    /// HELLO.
    WhoItIs,
    /// Also what only a peer in working order answers.
    More,
}

#[derive(Debug)]
struct Running {
    comparison: Comparison,
    is_full: bool,
    began_ms: u64,
    /// Marks dealt with when this has finished.
    overflows: Overflows,
    is_refused: bool,
}

impl Link {
    /// There is a new connection.
    pub fn connected(&mut self) {
        (self.phase, self.heard) = (Phase::Greeting, Heard::Nothing);
    }

    /// The connection is gone. What was under way may or may not have arrived; the next
    /// connection starts with a comparison of everything.
    pub fn broken(&mut self) {
        (self.phase, self.heard) = (Phase::Down, Heard::Nothing);
        (self.is_refused, self.is_probing) = (false, false);
        self.pace.broken();
        if let Some(running) = self.comparing.take() {
            self.revived.extend(running.comparison.revived);
        }
        self.is_waiting_for_replies = false;
        self.is_settled = false;
    }

    /// Somebody answered our HELLO. What another run acknowledged may not be there any more.
    fn introduced(&mut self, by: &Introduction) {
        let run = Run { node_id: by.node_id, run_id: by.run_id, is_durable: by.is_durable };
        if self.peer.replace(run) != Some(run) {
            self.held = Held::default();
            self.refusals.end();
            // It may be the same connection: what comes after must not count for what came before.
            self.is_settled = false;
        }
        self.heard = self.heard.max(Heard::WhoItIs);
    }

    /// Whether the peer has said who it is on this connection.
    pub fn is_introduced(&self) -> bool {
        self.heard >= Heard::WhoItIs
    }

    /// Whether the peer has answered on this connection what only one in working order answers.
    pub fn is_answering(&self) -> bool {
        self.heard == Heard::More
    }

    /// Whether changes are sent as they come, with nothing to catch up.
    pub fn is_live(&self) -> bool {
        self.phase != Phase::Down && self.is_settled
    }

    /// Whether the peer refused records because they are too far ahead of its clock.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// What the peer holds now, as far as this link can know.
    pub fn held(&self) -> Held {
        let is_safe = self.peer.is_some_and(|peer| peer.is_durable);
        if self.is_introduced() || is_safe { self.held } else { Held::default() }
    }

    /// Changes of the queue that the peer has answered, whether it took or refused them.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// What to do next. `now_ms` is a monotonic clock; no exchange may be under way.
    pub fn next(&mut self, now_ms: u64, queue: &Queue, view: View, limits: &Limits) -> LinkStep {
        debug_assert!(!self.is_waiting_for_replies, "one exchange at a time");
        self.now_ms = now_ms;
        self.pace.acknowledged(now_ms, limits.batch_bytes);
        self.schedule.note(queue, now_ms);
        let scheduled_ms = self.schedule.due_ms(queue.is_apart());
        let is_scheduled = self.phase == Phase::Greeted || now_ms >= scheduled_ms;
        match self.phase {
            Phase::Down => return LinkStep::Wait { until_ms: u64::MAX },
            // Before each comparison that is due by itself: so names of new and forgotten members
            // travel.
            Phase::Open if is_scheduled && self.comparing.is_none() => self.phase = Phase::Greeting,
            _ => {}
        }
        if self.phase == Phase::Greeting {
            self.is_waiting_for_replies = true;
            return LinkStep::Greet;
        }
        if self.comparing.is_none()
            && let Some(record) = self.probe(view)
        {
            self.is_probing = true;
            return self.send(vec![PeerRequest::Merge(record)]);
        }
        let is_due = is_scheduled || self.schedule.nudged_ms().is_some_and(|at| now_ms >= at);
        if self.comparing.is_none() && (is_due || queue.has_marks()) {
            self.start_comparison(is_due, now_ms, queue);
        }
        let allowed = self.pace.allowed(now_ms, limits.batch_bytes, self.refusals.from_ms());
        if self.comparing.is_none() || std::mem::take(&mut self.changes_go_next) {
            let batch = self.drain(queue, view, &allowed);
            if !batch.is_empty() {
                self.schedule.changed(now_ms);
                return self.send(vec![PeerRequest::Merge(batch)]);
            }
        }
        let Some(running) = &mut self.comparing else {
            let others = [self.schedule.nudged_ms(), self.refusals.probe_ms()];
            let until_ms = others.into_iter().flatten().fold(scheduled_ms, u64::min);
            return LinkStep::Wait { until_ms };
        };
        let requests = running.comparison.next(view, &allowed);
        if !requests.is_empty() {
            self.changes_go_next = true;
            return self.send(requests);
        }
        match self.comparing.take() {
            Some(done) => self.finish_comparison(done, now_ms),
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
            if self.comparing.is_none() {
                self.answered = self.outgoing.handled();
            }
            if *refused > 0 {
                self.refusals.note(batch, *refused, self.now_ms);
                self.refused();
            } else if is_probe {
                self.refusals.lift();
                self.schedule.hurry(self.now_ms);
            } else if self.is_settled {
                self.holds_all_sent();
            }
            return Ok(());
        }
        self.heard = Heard::More;
        match &mut self.comparing {
            Some(running) => running.comparison.take(request, reply, view),
            None => Err(Error::Corrupt("a reply of another kind".into())),
        }
    }

    /// The peer refused a record, or would.
    fn refused(&mut self) {
        (self.is_refused, self.is_settled) = (true, false);
        if let Some(running) = &mut self.comparing {
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
            self.schedule.hurry(self.now_ms);
            return None;
        }
        Some(record)
    }

    fn send(&mut self, requests: Vec<PeerRequest>) -> LinkStep {
        self.is_waiting_for_replies = true;
        if let [PeerRequest::Merge(batch)] = requests.as_slice() {
            self.pace.sent(self.now_ms, batch.len());
        }
        LinkStep::Send(requests)
    }

    /// Begins a comparison: of everything, or of the marked shards.
    fn start_comparison(&mut self, is_full: bool, now_ms: u64, queue: &Queue) {
        // First the count, then the marks, and only then, in `Comparison::next`, the digests: what
        // changes later is in the queue or marks its shard again.
        let overflows = queue.overflows();
        let marks = queue.take_marks();
        if is_full {
            self.phase = Phase::Open;
            self.schedule.began(now_ms, !self.is_settled && !self.is_refused);
            if !self.is_settled {
                // What is queued now was merged before: this comparison will find it.
                self.outgoing.skip_all(queue);
            }
        }
        self.comparing = Some(Running {
            comparison: Comparison::new(if is_full { ShardSet::ALL } else { marks }),
            is_full,
            began_ms: now_ms,
            overflows,
            is_refused: false,
        });
    }

    fn finish_comparison(&mut self, done: Running, now_ms: u64) -> LinkStep {
        self.changes_go_next = false;
        self.revived.extend(done.comparison.revived);
        self.answered = self.outgoing.handled();
        if done.is_refused || done.comparison.has_refused {
            // The clocks may come together by themselves: a probe will tell.
            self.refused();
            self.schedule.refused(now_ms);
            return LinkStep::Wait { until_ms: now_ms };
        }
        if !done.is_full {
            // While nothing is settled, an earlier mark may have been dealt with by a record
            // that was refused.
            if self.is_settled {
                self.held.overflows = done.overflows;
                self.holds_all_sent();
            }
            return LinkStep::Wait { until_ms: now_ms };
        }
        self.held.overflows = done.overflows;
        // Batches that were sent meanwhile were acknowledged, or this would have been noted as
        // refused.
        (self.is_settled, self.is_refused) = (true, false);
        self.refusals.end();
        self.held.is_complete = true;
        self.holds_all_sent();
        LinkStep::Compared { began_ms: done.began_ms, revived: std::mem::take(&mut self.revived) }
    }

    /// The peer holds what was taken from the queue, but for the large records that still wait.
    fn holds_all_sent(&mut self) {
        self.held.sent = self.outgoing.handled();
        self.outgoing.all_sent_is_held();
    }

    /// Collects what the changed keys are now, as much as is allowed: small records, or large ones.
    fn drain(&mut self, queue: &Queue, view: View, allowed: &Allowed) -> Vec<u8> {
        let mut batch = Vec::new();
        if self.outgoing.drain(queue, view, allowed, &mut batch) {
            self.refused();
        }
        if batch.is_empty() {
            self.answered = self.outgoing.handled();
            if self.is_settled {
                // Keys that are gone, if any: dropped tombstones. The peer needs nothing of them.
                self.holds_all_sent();
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests;
