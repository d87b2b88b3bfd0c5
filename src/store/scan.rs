//! `SCAN`: lists keys in steps, without state between the steps.
//!
//! Keys have a fixed order: by shard, then by 38 further bits of their hash. A cursor is a *place*
//! in that order. It has 48 bits, so every client's integers can hold it (a JavaScript number has
//! 53 bits). Each step returns the keys at the place and behind it, and never divides the keys of
//! one place.
//!
//! **The promise**, stronger than Redis's: a key that exists during the whole scan is returned
//! exactly once. A key that is created or deleted meanwhile is returned at most once. This holds
//! because a key never changes its place.
//!
//! A shard is locked only while the next keys are found and copied, never while a pattern is
//! matched. The work of one step is bounded, so a step may visit fewer keys than requested.

use super::KeyValueStore;
use super::digest::key_hash;
use crate::glob::Matcher;

const SHARD_SHIFT: u32 = 38;
const PLACES: u64 = 1 << 48;

/// The place of a key in scan order: shard first.
fn place(key: &[u8]) -> u64 {
    key_hash(key).rotate_right(10) >> 16
}

/// The limits of one step of a scan. It ends at the first of them that is reached, or at
/// [`STEP_WORK_MAX`], but visits at least one key, and all keys of a place.
#[derive(Clone, Copy, Debug)]
pub struct Step<'p> {
    /// Keys visited.
    pub visits: usize,
    /// Keys that match.
    pub found: usize,
    /// Bytes of the keys that match.
    pub found_bytes: usize,
    /// The pattern that a key must match.
    pub pattern: Option<&'p [u8]>,
}

impl Step<'_> {
    /// A step that visits this many keys, whatever they are.
    pub fn visiting(visits: usize) -> Self {
        Step { visits, found: usize::MAX, found_bytes: usize::MAX, pattern: None }
    }

    fn is_done(&self, scanned: &Scanned) -> bool {
        scanned.visited >= self.visits.max(1)
            || scanned.found >= self.found.max(1)
            || scanned.found_bytes >= self.found_bytes.max(1)
            || scanned.comparisons + scanned.walked >= STEP_WORK_MAX
    }
}

/// What one step of a scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// The cursor of the next step, or 0 at the end.
    pub next: u64,
    /// Keys visited.
    pub visited: usize,
    /// Comparisons of the pattern with bytes of keys.
    pub comparisons: u64,
    /// The highest log position of the shards that were visited.
    pub position: u64,
    found: usize,
    found_bytes: usize,
    /// Bytes of the keys passed to find the next ones, and [`WALK_OVERHEAD`] for each key.
    walked: u64,
}

/// Work of one step, in comparisons and bytes: 0.1 to 0.2 s. A step exceeds it by at most one piece
/// and the keys of one place. A pattern of 1 KiB and a key of 64 KiB take up to 67 million
/// comparisons.
pub const STEP_WORK_MAX: u64 = 20_000_000;
/// The work of skipping a key, besides hashing its bytes.
const WALK_OVERHEAD: u64 = 64;
/// Keys that are copied while a shard is locked.
const PIECE_KEYS: usize = 10_000;
/// Bytes of keys that are copied while a shard is locked, and one place more.
const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// Copies of keys in scan order, which are matched after the shard was unlocked.
#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    /// The place of each key, and where it ends in `bytes`.
    keys: Vec<(u64, usize)>,
}

impl Piece {
    fn fill<'k>(&mut self, keys: impl Iterator<Item = (u64, &'k [u8])>) {
        self.bytes.clear();
        self.keys.clear();
        for (place, key) in keys {
            let is_full = self.bytes.len() >= PIECE_BYTES;
            if is_full && self.keys.last().is_some_and(|(last, _)| *last != place) {
                return;
            }
            self.bytes.extend_from_slice(key);
            self.keys.push((place, self.bytes.len()));
        }
    }

    fn keys(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let starts = std::iter::once(0).chain(self.keys.iter().map(|(_, end)| *end));
        self.keys.iter().zip(starts).map(|((place, end), start)| (*place, &self.bytes[start..*end]))
    }
}

impl KeyValueStore {
    /// One step of a scan: visits keys from `cursor` on, up to the limits of `step`, and passes
    /// those that match to `found`. The first cursor is 0, the next is the one that the last step
    /// returned. A number behind all places is the end.
    pub fn scan(&self, mut cursor: u64, step: Step, mut found: impl FnMut(&[u8])) -> Scanned {
        let mut matcher = step.pattern.map(Matcher::new);
        let (mut piece, mut scanned) = (Piece::default(), Scanned::default());
        while cursor < PLACES && !step.is_done(&scanned) {
            let behind = self.take_piece(cursor, step.visits, &mut piece, &mut scanned);
            let mut last_place = None;
            for (place, key) in piece.keys() {
                let is_new_place = last_place.is_some_and(|last| last != place);
                if is_new_place && step.is_done(&scanned) {
                    return Scanned { next: place, ..scanned };
                }
                last_place = Some(place);
                scanned.visited += 1;
                let is_match = matcher.as_mut().is_none_or(|matcher| matcher.matches(key));
                scanned.comparisons = matcher.as_ref().map_or(0, |matcher| matcher.comparisons);
                if is_match {
                    scanned.found += 1;
                    scanned.found_bytes += key.len();
                    found(key);
                }
            }
            cursor = behind;
        }
        Scanned { next: if cursor < PLACES { cursor } else { 0 }, ..scanned }
    }

    /// Copies the next keys of the shard at `cursor`: at most as many as `visits` leaves, and those
    /// that share a place with the last of them. Returns the place behind them.
    fn take_piece(
        &self,
        cursor: u64,
        visits: usize,
        piece: &mut Piece,
        scanned: &mut Scanned,
    ) -> u64 {
        let index = (cursor >> SHARD_SHIFT) as usize;
        let shard = self.lock(index);
        scanned.position = scanned.position.max(shard.position);
        let mut walked = 0;
        let mut keys: Vec<(u64, &[u8])> = shard
            .map
            .keys()
            .inspect(|entry| walked += WALK_OVERHEAD + entry.key().len() as u64)
            .filter(|entry| !entry.is_tombstone())
            .map(|entry| (place(entry.key()), entry.key()))
            .filter(|(place, _)| *place >= cursor)
            .collect();
        scanned.walked += walked;
        let all = keys.len();
        let left = visits.saturating_sub(scanned.visited).clamp(1, PIECE_KEYS);
        let last_place = last_of_step(&mut keys, left);
        keys.retain(|(place, _)| *place <= last_place);
        keys.sort_unstable_by_key(|(place, _)| *place);
        piece.fill(keys.into_iter());
        match piece.keys.last() {
            Some((last_place, _)) if piece.keys.len() < all => last_place + 1,
            _ => ((index + 1) as u64) << SHARD_SHIFT,
        }
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
    use crate::store::write_one_later;
    use std::collections::HashSet;

    fn put(store: &KeyValueStore, key: &str) {
        write_one_later(store, key, Some(b"v"));
    }

    fn scan_all(store: &KeyValueStore, count: usize, mut between: impl FnMut()) -> Vec<String> {
        let (mut cursor, mut keys) = (0, Vec::new());
        loop {
            let step = Step::visiting(count);
            cursor = store
                .scan(cursor, step, |key| keys.push(String::from_utf8_lossy(key).into_owned()))
                .next;
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
            assert_eq!(
                (place(key.as_bytes()) >> SHARD_SHIFT) as usize,
                shard_of(key_hash(key.as_bytes()))
            );
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
                write_one_later(&store, &gone, None);
                round += 1;
            });
            let distinct: HashSet<&String> = keys.iter().collect();
            assert_eq!(distinct.len(), keys.len(), "no key comes twice, count {count}");
            assert_eq!(
                distinct.iter().filter(|key| key.starts_with("stays:")).count(),
                5_000,
                "count {count}"
            );
        }
    }

    #[test]
    fn a_step_visits_about_as_many_keys_as_asked() {
        let store = KeyValueStore::new();
        (0..5_000).for_each(|i| put(&store, &format!("key:{i}")));
        let mut found = 0;
        store.scan(0, Step::visiting(100), |_| found += 1);
        assert_eq!(found, 100);
    }

    #[test]
    fn a_cursor_beyond_the_end_ends_the_scan() {
        let store = KeyValueStore::new();
        put(&store, "key");
        let scanned = store.scan(u64::MAX, Step::visiting(10), |_| panic!("nothing is there"));
        assert_eq!(scanned, Scanned::default());
    }

    #[test]
    fn a_step_ends_at_any_of_its_limits_and_the_next_goes_on_there() {
        let store = KeyValueStore::new();
        // More than a piece in bytes, in one shard or not.
        (0..3_000).for_each(|i| put(&store, &format!("{}:{i}", "long".repeat(200))));
        (0..3_000).for_each(|i| put(&store, &format!("short:{i}")));
        for step in [
            Step { found: 7, ..Step::visiting(usize::MAX) },
            Step { found_bytes: 5_000, ..Step::visiting(usize::MAX) },
            Step { visits: 0, ..Step::visiting(0) },
            Step::visiting(usize::MAX),
        ] {
            for pattern in [None, Some(&b"short:*"[..])] {
                let (mut cursor, mut keys) = (0, Vec::new());
                loop {
                    let (before, mut bytes) = (keys.len(), 0);
                    let scanned = store.scan(cursor, Step { pattern, ..step }, |key| {
                        bytes += key.len();
                        keys.push(key.to_vec());
                    });
                    assert!(keys.len() - before <= step.found.saturating_add(2), "found");
                    assert!(bytes <= step.found_bytes.saturating_add(2_000), "bytes");
                    cursor = scanned.next;
                    if cursor == 0 {
                        break;
                    }
                }
                let distinct: HashSet<&Vec<u8>> = keys.iter().collect();
                let expected = if pattern.is_some() { 3_000 } else { 6_000 };
                assert_eq!((distinct.len(), keys.len()), (expected, expected), "{step:?}");
            }
        }
    }

    #[test]
    fn a_pattern_that_takes_long_ends_the_step_and_the_scan_still_visits_every_key() {
        let store = KeyValueStore::new();
        (0..40).for_each(|i| put(&store, &format!("{}{i}", "a".repeat(8_000))));
        put(&store, &format!("{}b", "a".repeat(600)));
        // Compared with 500 bytes of a key from each of its bytes on.
        let pattern = format!("*{}b*", "a".repeat(500));
        let step = Step { pattern: Some(pattern.as_bytes()), ..Step::visiting(usize::MAX) };
        let (mut cursor, mut visited, mut found, mut steps) = (0, 0, 0, 0);
        loop {
            let scanned = store.scan(cursor, step, |_| found += 1);
            assert!(scanned.comparisons < STEP_WORK_MAX + 2 * 500 * 8_000, "{scanned:?}");
            (cursor, visited, steps) = (scanned.next, visited + scanned.visited, steps + 1);
            if cursor == 0 {
                break;
            }
        }
        assert_eq!((visited, found), (41, 1));
        assert!(steps > 4, "{steps}");
    }

    #[test]
    fn no_shard_is_locked_while_a_key_is_matched_and_handed_over() {
        let store = KeyValueStore::new();
        (0..3_000).for_each(|i| put(&store, &format!("key:{i}")));
        let mut found = 0;
        let step = Step { pattern: Some(b"key:*"), ..Step::visiting(usize::MAX) };
        store.scan(0, step, |key| {
            let index = shard_of(key_hash(key));
            assert!(store.shards[index].0.try_lock().is_ok(), "shard {index} is locked");
            found += 1;
        });
        assert_eq!(found, 3_000);
    }

    #[test]
    fn keys_passed_on_the_way_count_as_work() {
        let store = KeyValueStore::new();
        let in_one_shard =
            (0..).map(|i| format!("key:{i}")).filter(|key| shard_of(key_hash(key.as_bytes())) == 5);
        in_one_shard.take(20).for_each(|key| put(&store, &key));
        assert!(store.scan(0, Step::visiting(1), |_| ()).walked >= 20 * WALK_OVERHEAD);
    }
}
