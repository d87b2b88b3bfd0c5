//! New versions for records whose time is too far ahead, when a node starts with `--restamp`.

use super::KeyValueStore;
use super::digest::{SHARDS, key_hash};
use super::record::{Entry, Record};
use super::version::Version;

impl KeyValueStore {
    /// Gives every record that is later than `limit` (a hybrid time) this version, tombstones
    /// included. Does not append them to a log.
    pub fn restamp_after(&self, limit: u64, version: Version) {
        for index in 0..SHARDS {
            let mut shard = self.lock(index);
            let later = shard.map.keys().filter(|entry| entry.version().time > limit);
            let keys: Vec<Box<[u8]>> = later.map(|entry| entry.key().into()).collect();
            for key in &keys {
                let hash = key_hash(key);
                if let Some(entry) = shard.take(hash, key) {
                    shard.put(hash, Entry::new(&Record { version, ..entry.record() }));
                }
            }
        }
    }
}
