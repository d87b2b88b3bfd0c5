//! How tombstones age and are dropped.
//!
//! A tombstone older than a cutoff has *aged*: it leaves the digests. It is dropped when every
//! other node has been asked and none holds an older value of the key. The caller asks; this file
//! remembers which tombstones the answers cover.
//!
//! Millions of tombstones may wait, so the store keeps nothing for each of them. All that have aged
//! when a round of questions starts are dropped together at its end, except those in buckets that
//! are marked. A bucket is marked when another tombstone ages or is stored in it (the round did not
//! ask about that one), or when a node does hold an older value. The marks are one bit for each
//! bucket, 65,536 in the whole store.

use super::digest::{SHARDS, bucket_of, key_hash, shard_of};
use super::record::Entry;
use super::{KeyValueStore, Shard};

impl KeyValueStore {
    /// Takes tombstones that are older than `cutoff` (a hybrid time) out of a shard's digests, for
    /// good: the cutoff of a shard never goes back. They stay in the map until they are dropped.
    ///
    /// Visits the whole shard only if one of its tombstones has aged since the last call.
    pub fn age_tombstones(&self, index: usize, cutoff: u64) {
        self.lock(index).age(cutoff);
    }

    /// Starts a round of questions about the tombstones that are older than `cutoff` now. Returns
    /// how many have aged.
    pub fn start_asking(&self, cutoff: u64) -> usize {
        let start = |index| {
            let mut shard = self.lock(index);
            shard.age(cutoff);
            shard.unasked = 0;
            shard.aged
        };
        (0..SHARDS).map(start).sum()
    }

    /// Marks the bucket of this key, because a node holds an older value. The tombstone stays at
    /// least until the next round.
    pub fn keep_tombstone(&self, key: &[u8]) {
        let hash = key_hash(key);
        self.lock(shard_of(hash)).unasked |= 1 << bucket_of(hash);
    }

    /// Drops the tombstones older than `cutoff` that the round of questions covered. Returns their
    /// number.
    pub fn drop_asked_tombstones(&self, cutoff: u64) -> usize {
        self.drop_tombstones(|entry, unasked| {
            entry.version().time < cutoff && unasked >> bucket_of(key_hash(entry.key())) & 1 == 0
        })
    }

    /// Drops every tombstone older than `cutoff`: correct only if no node can hold an older value.
    pub fn drop_tombstones_before(&self, cutoff: u64) -> usize {
        self.drop_tombstones(|entry, _| entry.version().time < cutoff)
    }

    /// Drops every tombstone: correct only if no node can hold an older value.
    pub fn drop_all_tombstones(&self) {
        self.drop_tombstones(|_, _| true);
    }

    /// Drops the tombstones that `is_meant` selects; it also gets the marked buckets of the shard.
    fn drop_tombstones(&self, is_meant: impl Fn(&Entry, u64) -> bool) -> usize {
        // Their memory is freed when the lock was released again.
        (0..SHARDS).map(|index| self.take_tombstones(index, &is_meant).len()).sum()
    }

    fn take_tombstones(&self, index: usize, is_meant: impl Fn(&Entry, u64) -> bool) -> Vec<Entry> {
        let shard = &mut *self.lock(index);
        if shard.map.len() == shard.live {
            return Vec::new();
        }
        let unasked = shard.unasked;
        let is_dropped = |entry: &Entry| entry.is_tombstone() && is_meant(entry, unasked);
        let dropped = shard.map.extract_if(|entry, ()| is_dropped(entry));
        let dropped: Vec<Entry> = dropped.map(|(entry, ())| entry).collect();
        dropped.iter().for_each(|entry| shard.forget(key_hash(entry.key()), entry));
        dropped
    }
}

impl Shard {
    /// Whether this is a tombstone that is not in the digests.
    pub(super) fn is_aged(&self, entry: &Entry) -> bool {
        entry.is_tombstone() && entry.version().time < self.cutoff
    }

    /// Takes tombstones older than `cutoff` out of the digests; a cutoff never goes back.
    fn age(&mut self, cutoff: u64) {
        if cutoff <= self.cutoff {
            return;
        }
        let before = std::mem::replace(&mut self.cutoff, cutoff);
        if self.oldest_tombstone >= cutoff {
            return;
        }
        let (mut oldest, mut aged) = (u64::MAX, Vec::new());
        for entry in self.map.keys().filter(|entry| entry.is_tombstone()) {
            let version = entry.version();
            if version.time >= cutoff {
                oldest = oldest.min(version.time);
            } else if version.time >= before {
                aged.push((key_hash(entry.key()), version));
            }
        }
        self.aged += aged.len();
        for (hash, version) in aged {
            self.flip(hash, version);
        }
        self.oldest_tombstone = oldest;
    }
}
