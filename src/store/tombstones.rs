//! How the traces of deletes age and go.
//!
//! A tombstone older than a cutoff has *aged*: it is not in the digests any more, and waits until
//! [`crate::replication::tombstones`] says that nobody holds an older value. Millions may wait at a
//! time, so nothing is kept for each of them: all that have aged when the asking starts go
//! together, but for those in buckets where something happened meanwhile. A bucket is such a place
//! when an aged tombstone came into it since (nobody was asked about that one), or was touched, or
//! when somebody did hold an older value. 65,536 bits for the whole store tell which.

use super::digest::{SHARDS, bucket_of, key_hash, shard_of};
use super::record::Entry;
use super::{KeyValueStore, Shard};

impl KeyValueStore {
    /// Takes tombstones that are older than `cutoff` (a hybrid time) out of a shard's digests, for
    /// good: the cutoff of a shard never goes back. They stay in the map until they are dropped.
    ///
    /// Costs a look at the whole shard only when one of its tombstones has aged since the last
    /// call.
    pub fn age_tombstones(&self, index: usize, cutoff: u64) {
        let mut shard = self.lock(index);
        if cutoff > shard.cutoff {
            shard.age(cutoff);
        }
    }

    /// From now on everybody is asked about the tombstones older than `cutoff` that are here now.
    /// How many have aged.
    pub fn start_asking(&self, cutoff: u64) -> usize {
        let start = |index| {
            let mut shard = self.lock(index);
            if cutoff > shard.cutoff {
                shard.age(cutoff);
            }
            shard.unasked = 0;
            shard.aged
        };
        (0..SHARDS).map(start).sum()
    }

    /// Somebody holds an older value of this key: its tombstone stays until the asking has started
    /// again.
    pub fn keep_tombstone(&self, key: &[u8]) {
        let hash = key_hash(key);
        self.lock(shard_of(hash)).unasked |= 1 << bucket_of(hash);
    }

    /// Forgets the tombstones older than `cutoff` that were here when the asking started, and about
    /// which nothing was found since. How many went.
    pub fn drop_asked_tombstones(&self, cutoff: u64) -> usize {
        self.drop_tombstones(|entry, unasked| {
            entry.version().time < cutoff && unasked >> bucket_of(key_hash(entry.key())) & 1 == 0
        })
    }

    /// Forgets every tombstone older than `cutoff`: right only where nobody can bring an older
    /// value back.
    pub fn drop_tombstones_before(&self, cutoff: u64) -> usize {
        self.drop_tombstones(|entry, _| entry.version().time < cutoff)
    }

    /// Forgets every tombstone: right only where nobody can bring an older value back.
    pub fn drop_all_tombstones(&self) {
        self.drop_tombstones(|_, _| true);
    }

    /// Forgets the tombstones that `is_meant`, which also gets the shard's buckets with tombstones
    /// nobody was asked about.
    fn drop_tombstones(&self, is_meant: impl Fn(&Entry, u64) -> bool) -> usize {
        let drop_in = |index| {
            let mut shard = self.lock(index);
            let dropped = shard.drop_tombstones(&is_meant);
            drop(shard);
            // Their memory is freed here, when nobody waits for it.
            dropped.len()
        };
        (0..SHARDS).map(drop_in).sum()
    }
}

impl Shard {
    /// Whether this is a tombstone that is not in the digests.
    pub(super) fn is_aged(&self, entry: &Entry) -> bool {
        entry.is_tombstone() && entry.version().time < self.cutoff
    }

    fn age(&mut self, cutoff: u64) {
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

    fn drop_tombstones(&mut self, is_meant: impl Fn(&Entry, u64) -> bool) -> Vec<Entry> {
        if self.map.len() == self.live {
            return Vec::new();
        }
        let unasked = self.unasked;
        let is_dropped = |entry: &Entry| entry.is_tombstone() && is_meant(entry, unasked);
        let dropped: Vec<Entry> =
            self.map.extract_if(|entry, ()| is_dropped(entry)).map(|(entry, ())| entry).collect();
        for entry in &dropped {
            self.toggle(key_hash(entry.key()), entry);
            self.aged -= usize::from(self.is_aged(entry));
            self.bytes -= entry.bytes().len() as u64;
        }
        dropped
    }
}
