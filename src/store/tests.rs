//! The Java project's unit test, name by name; then the invariants of [`KeyValueStore`].

use super::scan::Step;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A store driven as the Java tests drive theirs: strings, and a clock that counts.
#[derive(Default)]
struct Fixture {
    store: KeyValueStore,
    time: std::sync::atomic::AtomicU64,
}

impl Fixture {
    fn write(&self, key: &[u8], value: Option<&[u8]>, keep_tombstone: bool) -> Written {
        let time = self.time.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let stamp = |floor: u64| Version { time: floor.max(time) + 1, origin: 7 };
        self.store.write(key, value, keep_tombstone, stamp, |_| time)
    }

    fn put(&self, key: &str, value: &str) {
        self.write(key.as_bytes(), Some(value.as_bytes()), true);
    }

    fn get(&self, key: &str) -> Option<String> {
        self.store
            .get(key.as_bytes(), |value| {
                value.map(|value| String::from_utf8_lossy(value).into_owned())
            })
            .0
    }

    fn delete(&self, key: &str) -> bool {
        self.write(key.as_bytes(), None, true).existed
    }

    fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn size(&self) -> usize {
        self.store.size().keys
    }
}

// ---- KeyValueStoreTest.java, test by test ----

#[test]
fn test_put_and_get() {
    let store = Fixture::default();
    store.put("key1", "value1");
    assert_eq!(store.get("key1").as_deref(), Some("value1"));
}

#[test]
fn test_get_non_existent_key() {
    assert_eq!(Fixture::default().get("nonexistent"), None);
}

#[test]
fn test_put_overwrite() {
    let store = Fixture::default();
    store.put("key1", "value1");
    store.put("key1", "value2");
    assert_eq!(store.get("key1").as_deref(), Some("value2"));
}

#[test]
fn test_delete() {
    let store = Fixture::default();
    store.put("key1", "value1");
    store.delete("key1");
    assert_eq!(store.get("key1"), None);
    assert!(!store.contains_key("key1"));
}

#[test]
fn test_delete_non_existent_key() {
    assert!(!Fixture::default().delete("nonexistent"));
}

#[test]
fn test_contains_key() {
    let store = Fixture::default();
    assert!(!store.contains_key("key1"));
    store.put("key1", "value1");
    assert!(store.contains_key("key1"));
}

#[test]
fn test_size() {
    let store = Fixture::default();
    assert_eq!(store.size(), 0);
    store.put("key1", "value1");
    assert_eq!(store.size(), 1);
    store.put("key2", "value2");
    assert_eq!(store.size(), 2);
    store.delete("key1");
    assert_eq!(store.size(), 1);
}

#[test]
fn test_multiple_keys() {
    let store = Fixture::default();
    for i in 1..=3 {
        store.put(&format!("key{i}"), &format!("value{i}"));
    }
    for i in 1..=3 {
        assert_eq!(store.get(&format!("key{i}")), Some(format!("value{i}")));
    }
}

#[test]
fn test_empty_value() {
    let store = Fixture::default();
    store.put("key1", "");
    assert_eq!(store.get("key1").as_deref(), Some(""));
}

// ---- The invariants of KeyValueStore ----

/// A record with few distinct keys, versions and values, so that they meet often.
#[derive(Clone, Debug)]
struct Owned {
    key: Vec<u8>,
    version: Version,
    value: Option<Vec<u8>>,
}

impl Owned {
    fn record(&self) -> Record<'_> {
        Record { version: self.version, key: &self.key, value: self.value.as_deref() }
    }
}

/// Records as nodes make them: the version decides the content, since no two writes share one.
fn any_owned() -> impl Strategy<Value = Owned> {
    (0u8..6, 1u64..5, 1u64..4).prop_map(|(key, time, origin)| {
        let content = u64::from(key) * 100 + time * 10 + origin;
        let value = (content % 3 != 0).then(|| vec![b'v'; content as usize % 7]);
        Owned { key: vec![key + b'a'], version: Version { time, origin }, value }
    })
}

/// Everything a store holds, in order of keys, and its digests.
fn content(store: &KeyValueStore) -> (Vec<Vec<u8>>, Vec<[u64; BUCKETS]>) {
    let mut records = Vec::new();
    for index in 0..SHARDS {
        store.for_each_in_shard(index, |entry| records.push(entry.bytes().to_vec()));
    }
    records.sort_unstable_by(|left, right| {
        left[record::HEADER_BYTES..].cmp(&right[record::HEADER_BYTES..])
    });
    (records, (0..SHARDS).map(|index| store.bucket_digests(index)).collect())
}

fn merged(records: &[Owned]) -> (Vec<Vec<u8>>, Vec<[u64; BUCKETS]>) {
    let store = KeyValueStore::new();
    records.iter().for_each(|owned| {
        store.merge(&owned.record(), |_| 0);
    });
    content(&store)
}

fn recomputed_digests(store: &KeyValueStore) -> Vec<[u64; BUCKETS]> {
    let recompute = |index| {
        let mut digests = [0; BUCKETS];
        store.for_each_in_shard(index, |entry| {
            let hash = key_hash(entry.key());
            assert_eq!(shard_of(hash), index);
            digests[bucket_of(hash)] ^= entry_digest(hash, entry.version());
        });
        digests
    };
    (0..SHARDS).map(recompute).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merge_is_commutative_associative_and_idempotent(
        (records, shuffled) in prop::collection::vec(any_owned(), 0..20)
            .prop_flat_map(|records| (Just(records.clone()), Just(records).prop_shuffle())),
        split in 0usize..20,
    ) {
        let expected = merged(&records);
        prop_assert_eq!(&merged(&shuffled), &expected, "any order gives the same map");
        let twice: Vec<Owned> = records.iter().chain(&shuffled).cloned().collect();
        prop_assert_eq!(&merged(&twice), &expected, "a record that comes again changes nothing");
        // Associative: two stores merge halves, then one merges the other's content.
        let (first, second) = records.split_at(split.min(records.len()));
        let (left, right) = (KeyValueStore::new(), KeyValueStore::new());
        first.iter().for_each(|owned| { left.merge(&owned.record(), |_| 0); });
        second.iter().for_each(|owned| { right.merge(&owned.record(), |_| 0); });
        for index in 0..SHARDS {
            right.for_each_in_shard(index, |entry| { left.merge(&entry.record(), |_| 0); });
        }
        prop_assert_eq!(&content(&left), &expected, "grouping does not matter");
    }

    #[test]
    fn digests_equal_recomputed_digests(records in prop::collection::vec(any_owned(), 0..60)) {
        let fixture = Fixture::default();
        for (turn, owned) in records.iter().enumerate() {
            match turn % 3 {
                0 => { fixture.store.merge(&owned.record(), |_| 0); }
                1 => { fixture.write(&owned.key, owned.value.as_deref(), turn % 2 == 0); }
                _ => {
                    let cutoff = fixture.store.version(&owned.key).unwrap_or_default().time + 1;
                    fixture.store.drop_tombstones_before(cutoff);
                }
            }
        }
        prop_assert_eq!(content(&fixture.store).1, recomputed_digests(&fixture.store));
    }

    #[test]
    fn digests_leave_out_exactly_the_tombstones_that_aged(
        steps in prop::collection::vec((any_owned(), 0u64..6), 0..60)
    ) {
        let store = KeyValueStore::new();
        for (owned, next) in steps {
            store.merge(&owned.record(), |_| 0);
            let index = shard_of(key_hash(&owned.key));
            store.age_tombstones(index, next);
            let mut expected = [0; BUCKETS];
            // Shards are aged only when they are looked at, so each has its own cutoff.
            let cutoff = store.lock(index).cutoff;
            store.for_each_in_shard(index, |entry| {
                let hash = key_hash(entry.key());
                if !entry.is_tombstone() || entry.version().time >= cutoff {
                    expected[bucket_of(hash)] ^= entry_digest(hash, entry.version());
                }
            });
            prop_assert_eq!(store.bucket_digests(index), expected);
        }
    }

    #[test]
    fn the_store_agrees_with_a_slow_obvious_twin(
        operations in prop::collection::vec(
            (0u8..8, 0u16..30, prop::collection::vec(any::<u8>(), 0..12)),
            0..300,
        )
    ) {
        let (fixture, mut twin) = (Fixture::default(), BTreeMap::<Vec<u8>, Vec<u8>>::new());
        for (operation, key, value) in operations {
            let key = format!("key{key}").into_bytes();
            match operation {
                0..4 => {
                    let written = fixture.write(&key, Some(&value), true);
                    prop_assert_eq!(written.existed, twin.insert(key, value).is_some());
                }
                4 | 5 => {
                    let written = fixture.write(&key, None, operation == 4);
                    prop_assert_eq!(written.existed, twin.remove(&key).is_some());
                }
                6 => prop_assert_eq!(
                    fixture.store.get(&key, |v| v.map(<[u8]>::to_vec)).0,
                    twin.get(&key).cloned()
                ),
                _ => {
                    let mut found = Vec::new();
                    let all = Step::visiting(usize::MAX);
                    let scanned = fixture.store.scan(0, all, |key| found.push(key.to_vec()));
                    prop_assert_eq!(scanned.next, 0);
                    found.sort_unstable();
                    prop_assert_eq!(found, twin.keys().cloned().collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(fixture.size(), twin.len());
        }
        let bytes_of =
            |(key, value): (&Vec<u8>, &Vec<u8>)| record::HEADER_BYTES + key.len() + value.len();
        let bytes: usize = twin.iter().map(bytes_of).sum();
        let mut tombstones = 0;
        for index in 0..SHARDS {
            fixture.store.for_each_in_shard(index, |entry| {
                if entry.is_tombstone() { tombstones += entry.bytes().len() }
            });
        }
        prop_assert_eq!(fixture.store.size().bytes, (bytes + tombstones) as u64);
    }
}

#[test]
fn an_older_record_changes_nothing_and_is_not_logged() {
    let store = KeyValueStore::new();
    let newer = Record { version: Version { time: 5, origin: 1 }, key: b"k", value: Some(b"new") };
    let older = Record { version: Version { time: 4, origin: 9 }, key: b"k", value: None };
    assert!(store.merge(&newer, |_| 17).won);
    let merged = store.merge(&older, |_| panic!("a record that lost is not logged"));
    assert_eq!(
        merged,
        Written { won: false, existed: true, shard: shard_of(key_hash(b"k")), position: 17 }
    );
    assert_eq!(store.get(b"k", |value| value.map(<[u8]>::to_vec)), (Some(b"new".to_vec()), 17));
}

#[test]
fn a_tombstone_goes_only_if_it_was_here_at_the_first_question_and_its_bucket_was_left_alone() {
    let store = KeyValueStore::new();
    let delete = |key: &str, time| {
        let version = Version { time, origin: 1 };
        store.merge(&Record { version, key: key.as_bytes(), value: None }, |_| 0);
    };
    let keys: Vec<String> = (0..1_000).map(|i| format!("key{i}")).collect();
    keys.iter().for_each(|key| delete(key, 5));
    delete("young", 7);
    assert_eq!(store.start_asking(6), 1_000);
    delete("late", 5);
    store.keep_tombstone(b"key0");
    delete("key1", 8);
    // An older value came for one: others may hold it as well.
    store.merge(
        &Record { version: Version { time: 4, origin: 1 }, key: b"key2", value: Some(b"v") },
        |_| 0,
    );
    let gone = store.drop_asked_tombstones(6);
    let stay = ["young", "late", "key0", "key1", "key2"]
        .map(|key| store.version(key.as_bytes()).map(|of| of.time));
    assert_eq!(stay, [Some(7), Some(5), Some(5), Some(8), Some(5)]);
    assert!((990..=997).contains(&gone), "{gone}");
    assert_eq!(store.size().tombstones, 1_002 - gone);
    assert_eq!(content(&store).1.len(), SHARDS);
    // Asked again, all that are old enough go.
    assert_eq!(store.start_asking(8), store.size().tombstones - 1);
    assert_eq!(store.drop_asked_tombstones(8), 1_002 - gone - 1);
    assert_eq!(store.drop_tombstones_before(9), 1);
    assert_eq!(store.size(), Size::default());
    assert!((0..SHARDS).all(|shard| store.shard_digest(shard) == 0));
}

#[test]
fn concurrent_writers_lose_nothing() {
    let fixture = Fixture::default();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let fixture = &fixture;
            scope.spawn(move || {
                (0..2_000).for_each(|i| fixture.put(&format!("{writer}:{i}"), &i.to_string()))
            });
        }
    });
    assert_eq!(fixture.size(), 8_000);
    assert_eq!(content(&fixture.store).1, recomputed_digests(&fixture.store));
}
