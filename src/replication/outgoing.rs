//! Changes on their way from the queue of a link into its batches.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::queue::{Change, Queue};
use crate::peers::large::{Large, Waiting};
use crate::peers::pace::{Allowed, Fate};
use crate::peers::view::View;
use crate::store::prefetch::PREFETCH_KEYS_MAX;

/// The changes that were taken from the queue.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// How many were taken so far.
    taken: u64,
    /// Taken and not yet looked at: at most [`PREFETCH_KEYS_MAX`], and what the driver received.
    ahead: VecDeque<Change>,
    /// Changes of large records that were not yet sent.
    large: Large,
    /// When the oldest change was made that the peer may not hold, but for those that wait above.
    oldest_ms: Option<u64>,
}

impl Outgoing {
    /// When the oldest change was made that the peer may not hold.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        let ahead = self.ahead.iter().map(|change| change.at_ms);
        ahead.chain(self.oldest_ms).chain(self.large.oldest_changed_ms()).min()
    }

    /// Takes the first queued change, to know its age.
    pub(super) fn peek(&mut self, queue: &Queue) {
        if self.ahead.is_empty() {
            self.ahead.extend(queue.take());
        }
    }

    /// Adds a change that was taken from the queue elsewhere.
    pub(super) fn received(&mut self, change: Change) {
        self.ahead.push_back(change);
    }

    /// How many were not yet sent.
    pub(super) fn waiting(&self) -> usize {
        self.ahead.len() + self.large.count()
    }

    /// Up to which change of the queue nothing waits here any more.
    pub(super) fn handled(&self) -> u64 {
        self.large.first_number().map_or(self.taken, |number| number - 1)
    }

    /// The peer holds all that was taken, but for the large records that still wait.
    pub(super) fn all_sent_is_held(&mut self) {
        self.oldest_ms = None;
    }

    /// Sends none of those that are queued now.
    pub(super) fn skip_all(&mut self, queue: &Queue) {
        for _ in 0..queue.len() + self.ahead.len() {
            self.take(queue);
        }
        self.large.clear();
    }

    /// Fills an empty batch with what the changed keys are now, as much as is allowed: small
    /// records, or large ones. Whether any must stay here because the peer would refuse it.
    pub(super) fn drain(
        &mut self,
        queue: &Queue,
        view: View,
        allowed: &Allowed,
        batch: &mut Vec<u8>,
    ) -> bool {
        let mut has_refused = self.large.is_due(allowed) && self.large.fill(view, allowed, batch);
        if batch.is_empty() {
            has_refused |= self.drain_small(queue, view, allowed, batch);
            self.large.small_went();
        }
        if batch.is_empty() {
            has_refused |= self.large.fill(view, allowed, batch);
        }
        has_refused
    }

    fn take(&mut self, queue: &Queue) -> Option<Change> {
        let change = self.ahead.pop_front().or_else(|| queue.take().ok())?;
        self.taken += 1;
        self.oldest_ms = Some(self.oldest_ms.map_or(change.at_ms, |at| at.min(change.at_ms)));
        Some(change)
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
            let Some(change) = self.take(queue) else {
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
