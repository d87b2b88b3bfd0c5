//! A store as comparisons of two nodes see it.

use crate::store::KeyValueStore;
use crate::store::digest::{BUCKETS, SHARDS};
use crate::store::record::Entry;

/// A store as comparisons see it: without the tombstones older than the cutoff.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The store.
    pub store: &'a KeyValueStore,
    /// Tombstones from before this hybrid time take no part.
    pub cutoff: u64,
}

impl View<'_> {
    /// What `PEER DIGESTS` answers: 1,024 little-endian numbers.
    pub fn shard_digests(&self) -> Vec<u8> {
        (0..SHARDS).flat_map(|shard| self.shard_digest(shard).to_le_bytes()).collect()
    }

    /// What `PEER DIGESTS <shard>` answers: 64 little-endian numbers.
    pub fn bucket_digests(&self, shard: usize) -> Vec<u8> {
        self.digests(shard).into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// Whether an entry takes part.
    pub fn counts(&self, entry: &Entry) -> bool {
        !entry.is_tombstone() || entry.version().time >= self.cutoff
    }

    /// The digests of a shard's buckets.
    pub fn digests(&self, shard: usize) -> [u64; BUCKETS] {
        self.store.age_tombstones(shard, self.cutoff);
        self.store.bucket_digests(shard)
    }

    /// The digest of a shard.
    pub fn shard_digest(&self, shard: usize) -> u64 {
        self.store.age_tombstones(shard, self.cutoff);
        self.store.shard_digest(shard)
    }
}
