//! `SCAN`: listing keys in steps, without remembering anything between the steps.
//!
//! Keys have a fixed order: by shard, then by 38 further bits of their hash. A cursor is a *place*
//! in that order, 48 bits, so it fits into every client's integer (a JavaScript number has 53).
//! Each step returns the next keys at or behind the place, all keys of one place together.
//!
//! **The promise**, stronger than Redis's: a key that is there during the whole scan is returned
//! exactly once; a key that comes or goes meanwhile at most once. Nothing is ever rehashed into
//! another place.

use super::KeyValueStore;
use super::digest::{SHARDS, key_hash};
use super::glob;

const SHARD_SHIFT: u32 = 38;
const PLACES: u64 = 1 << 48;

/// The place of a key in scan order: shard first.
fn place(key: &[u8]) -> u64 {
    key_hash(key).rotate_right(10) >> 16
}

impl KeyValueStore {
    /// One step of a scan: visits the next `count` keys (a few more where places coincide) from
    /// `cursor`, hands those that match `pattern` to `found`, and returns the cursor of the next
    /// step, or 0 at the end. A cursor is 0 or one that an earlier step returned; a number beyond
    /// all places is at the end. The second result is the highest log position met.
    pub fn scan(&self, cursor: u64, count: usize, pattern: Option<&[u8]>, mut found: impl FnMut(&[u8])) -> (u64, u64) {
        let (mut left, mut position) = (count.max(1), 0);
        if cursor >= PLACES {
            return (0, position);
        }
        for index in (cursor >> SHARD_SHIFT) as usize..SHARDS {
            let shard = self.lock(index);
            position = position.max(shard.position);
            let mut keys: Vec<(u64, &[u8])> = shard
                .map
                .keys()
                .filter(|entry| !entry.is_tombstone())
                .map(|entry| (place(entry.key()), entry.key()))
                .filter(|(place, _)| *place >= cursor)
                .collect();
            let last_place = last_of_step(&mut keys, left);
            let taken = keys.iter().filter(|(place, _)| *place <= last_place);
            let mut visited = 0;
            for (_, key) in taken {
                visited += 1;
                if pattern.is_none_or(|pattern| glob::matches(pattern, key)) {
                    found(key);
                }
            }
            left = left.saturating_sub(visited);
            if left == 0 {
                let next = if visited < keys.len() { last_place + 1 } else { ((index + 1) as u64) << SHARD_SHIFT };
                return (if next < PLACES { next } else { 0 }, position);
            }
        }
        (0, position)
    }
}

/// The place of the `count`-th key of a shard in order, or the last place of all.
fn last_of_step(keys: &mut [(u64, &[u8])], count: usize) -> u64 {
    if keys.len() <= count {
        return PLACES;
    }
    keys.select_nth_unstable_by_key(count - 1, |(place, _)| *place).1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest::shard_of;
    use crate::store::version::Version;
    use std::collections::HashSet;

    fn put(store: &KeyValueStore, key: &str) {
        store.write(key.as_bytes(), Some(b"v"), true, |floor| Version { time: floor + 1, origin: 1 }, |_| 0);
    }

    fn scan_all(store: &KeyValueStore, count: usize, mut between: impl FnMut()) -> Vec<String> {
        let (mut cursor, mut keys) = (0, Vec::new());
        loop {
            cursor = store.scan(cursor, count, None, |key| keys.push(String::from_utf8_lossy(key).into_owned())).0;
            if cursor == 0 {
                return keys;
            }
            between();
        }
    }

    #[test]
    fn places_are_ordered_by_shard() {
        for i in 0..1_000 {
            let key = format!("key{i}");
            assert_eq!((place(key.as_bytes()) >> SHARD_SHIFT) as usize, shard_of(key_hash(key.as_bytes())));
        }
    }

    #[test]
    fn a_scan_returns_every_key_exactly_once_while_others_come_and_go() {
        for count in [1, 7, 10, 1_000, 100_000] {
            let store = KeyValueStore::new();
            (0..5_000).for_each(|i| put(&store, &format!("stays:{i}")));
            let mut round = 0;
            let keys = scan_all(&store, count, || {
                put(&store, &format!("comes:{round}"));
                let gone = format!("comes:{}", round / 2);
                store.write(gone.as_bytes(), None, true, |floor| Version { time: floor + 1, origin: 1 }, |_| 0);
                round += 1;
            });
            let distinct: HashSet<&String> = keys.iter().collect();
            assert_eq!(distinct.len(), keys.len(), "no key comes twice, count {count}");
            assert_eq!(distinct.iter().filter(|key| key.starts_with("stays:")).count(), 5_000, "count {count}");
        }
    }

    #[test]
    fn a_step_visits_about_as_many_keys_as_asked() {
        let store = KeyValueStore::new();
        (0..5_000).for_each(|i| put(&store, &format!("key:{i}")));
        let mut found = 0;
        store.scan(0, 100, None, |_| found += 1);
        assert_eq!(found, 100);
    }

    #[test]
    fn a_cursor_beyond_the_end_ends_the_scan() {
        let store = KeyValueStore::new();
        put(&store, "key");
        assert_eq!(store.scan(u64::MAX, 10, None, |_| panic!("nothing is there")), (0, 0));
    }
}
