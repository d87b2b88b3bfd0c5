//! Keys whose records are large: they wait, so that on a slow connection small changes go first.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::pace::{Allowed, Fate};
use super::view::View;

/// Keys that wait at one time. When there are more, they are sent as if their time had come.
const KEYS_MAX: usize = 1_024;
/// Bytes of these keys. When there are more: as above.
const KEY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A key that waits.
#[derive(Debug)]
pub struct Waiting {
    /// The key.
    pub key: Arc<[u8]>,
    /// Which change of the queue it was, counted from 1; 0 if it comes from a comparison.
    pub number: u64,
    /// When it changed, in milliseconds since 1970.
    pub changed_ms: u64,
    /// Since when it waits, on the link's clock.
    pub since_ms: u64,
}

/// Keys of large records, in the order in which they came; each once.
#[derive(Debug, Default)]
pub struct Large {
    waiting: VecDeque<Waiting>,
    keys: HashSet<Arc<[u8]>>,
    key_bytes: usize,
    /// Small records go next, if there are any.
    went_last: bool,
}

impl Large {
    /// A key waits, if it does not already: then what it is when it is sent is what matters.
    pub fn add(&mut self, waiting: Waiting) {
        if self.keys.insert(Arc::clone(&waiting.key)) {
            self.key_bytes += waiting.key.len();
            self.waiting.push_back(waiting);
        }
    }

    /// Whether no more should wait.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= KEYS_MAX || self.key_bytes >= KEY_BYTES_MAX
    }

    /// Whether one must go now, though small ones wait. Between two of them go small ones.
    pub fn is_due(&self, allowed: &Allowed) -> bool {
        let first = self.waiting.front();
        let has_waited = |first: &Waiting| allowed.now_ms >= first.since_ms + allowed.large_wait_ms;
        !self.went_last && first.is_some_and(|first| self.is_full() || has_waited(first))
    }

    /// A batch of small ones goes.
    pub fn small_went(&mut self) {
        self.went_last = false;
    }

    /// Copies records into an empty batch: at least one, and more while they fit. Whether any must
    /// stay here because the peer would refuse it.
    pub fn fill(&mut self, view: View, allowed: &Allowed, batch: &mut Vec<u8>) -> bool {
        let (mut is_refused, mut is_full) = (false, false);
        while let Some(first) = self.waiting.front() {
            let len = batch.len();
            // A key that has gone meanwhile was a dropped tombstone.
            view.store.copy_record(&first.key, batch, |entry| {
                let stays = allowed.fate(entry) == Fate::Refused;
                is_refused |= stays;
                is_full = !stays && len > 0 && len + entry.bytes().len() > allowed.bytes;
                !stays && !is_full
            });
            if is_full {
                break;
            }
            self.pop();
            self.went_last = true;
        }
        is_refused
    }

    /// How many keys wait.
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Number of the first change that waits.
    pub fn first_number(&self) -> Option<u64> {
        self.waiting.front().map(|first| first.number)
    }

    /// When the oldest change was made that waits.
    pub fn oldest_changed_ms(&self) -> Option<u64> {
        self.waiting.front().map(|first| first.changed_ms)
    }

    /// Nothing waits any more.
    pub fn clear(&mut self) {
        *self = Large::default();
    }

    fn pop(&mut self) {
        if let Some(first) = self.waiting.pop_front() {
            self.key_bytes -= first.key.len();
            self.keys.remove(&first.key);
        }
    }
}
