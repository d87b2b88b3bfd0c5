//! New versions for records whose time is too far ahead, when a node starts with `--restamp`.

use super::digest::{SHARDS, key_hash};
use super::version::Version;
use super::{KeyValueStore, Shard};

impl KeyValueStore {
    /// Gives every record that is later than `limit` (a hybrid time) this version, tombstones
    /// included. Does not append them to a log. Returns how many there were.
    pub fn restamp_after(&self, limit: u64, version: Version) -> usize {
        (0..SHARDS).map(|index| self.lock(index).restamp_after(limit, version)).sum()
    }
}

impl Shard {
    fn restamp_after(&mut self, limit: u64, version: Version) -> usize {
        let later = self.map.keys().filter(|entry| entry.version().time > limit);
        let keys: Vec<Box<[u8]>> = later.map(|entry| entry.key().into()).collect();
        for key in &keys {
            let hash = key_hash(key);
            if let Some(entry) = self.take(hash, key) {
                self.put(hash, entry.restamped(version));
            }
        }
        keys.len()
    }
}
