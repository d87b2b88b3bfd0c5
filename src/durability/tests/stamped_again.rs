//! Records from the future are stamped again at a start with `--restamp`, and at no other.

use std::time::Duration;

use super::disk_failures::disk_files;
use super::restamping::check_times;
use super::*;
use crate::store::version::COUNTER_BITS;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const SKEW_MAX: Duration = Duration::from_secs(60);

/// A record as recovery finds it: its version, and its value if it is no tombstone.
type Stored = BTreeMap<String, (Version, Option<Vec<u8>>)>;

fn stored(store: &KeyValueStore) -> Stored {
    let mut all = Stored::new();
    for shard in 0..SHARDS {
        store.for_each_in_shard(shard, |entry| {
            let key = String::from_utf8_lossy(entry.key()).into_owned();
            all.insert(key, (entry.version(), entry.value().map(<[u8]>::to_vec)));
        });
    }
    all
}

fn open(disk: &ModelDisk, restamp: bool) -> Result<(KeyValueStore, Recovered)> {
    let store = KeyValueStore::new();
    let options = Opening { clock_skew_max: SKEW_MAX, restamp, ..opening(FsyncPolicy::Always) };
    let (_, recovered, _) = open_files(Arc::new(disk.clone()), options, Target::Store(&store))?;
    Ok((store, recovered))
}

/// A directory with records of the past, within the limit and of tomorrow, as a wrong clock leaves
/// them.
fn poisoned() -> ModelDisk {
    let disk = ModelDisk::default();
    let (store, log) = Driver::open(&disk, FsyncPolicy::Always).unwrap();
    let now_ms = wall_clock_ms();
    for (key, value, ahead_ms) in [
        ("past", Some("1"), -HOUR_MS),
        ("past gone", None, -HOUR_MS),
        ("within", Some("2"), 50_000),
        ("changed", Some("before"), -HOUR_MS),
        ("changed", Some("in the future"), DAY_MS),
        ("future", Some(""), 366 * DAY_MS),
        ("future gone", Some("was there"), DAY_MS),
        ("future gone", None, DAY_MS + 1),
    ] {
        let version =
            Version { time: now_ms.saturating_add_signed(ahead_ms) << COUNTER_BITS, origin: 0xA1 };
        store.write(
            key.as_bytes(),
            value.map(str::as_bytes),
            true,
            |_| version,
            |record| log.append(record),
        );
        log.commit(log.end()).unwrap();
    }
    disk
}

#[test]
fn records_from_the_future_are_stamped_again_once_and_nothing_else_changes() {
    let disk = poisoned();
    let (before, recovered) = open(&disk, false).unwrap();
    let before = stored(&before);
    assert!(
        recovered.time_max > (wall_clock_ms() + 365 * DAY_MS as u64) << COUNTER_BITS,
        "a start changes nothing"
    );

    let began_ms = wall_clock_ms();
    let (store, recovered) = open(&disk, true).unwrap();
    let after = stored(&store);
    assert_eq!(after.len(), before.len(), "tombstones included");
    for (key, (version, value)) in &after {
        let (old_version, old_value) = &before[key];
        assert_eq!(value, old_value, "{key}");
        if key.contains("past") || key == "within" {
            assert_eq!(version, old_version, "{key}");
        } else {
            assert!(
                (began_ms..=wall_clock_ms()).contains(&version.wall_ms()),
                "{key}: {version:?}"
            );
            assert_ne!(version.origin, old_version.origin, "{key}");
        }
    }
    let max = after.values().map(|(version, _)| version.time).max().unwrap();
    assert_eq!(recovered.time_max, max, "the clock starts at what is there");

    // The next start finds the same, with the option or without, and its digests are those of the
    // records.
    for restamp in [true, false] {
        let (again, recovered) = open(&disk, restamp).unwrap();
        assert_eq!(stored(&again), after);
        assert_eq!(recovered.time_max, max);
        for shard in 0..SHARDS {
            assert_eq!(again.bucket_digests(shard), store.bucket_digests(shard));
        }
    }
}

#[test]
fn a_power_loss_while_stamping_leaves_all_records_as_they_were_or_all_stamped() {
    let files = poisoned();
    let files = disk_files(&files);
    let values =
        |all: Stored| -> Vec<_> { all.into_iter().map(|(key, (_, value))| (key, value)).collect() };
    let expected = values(stored(&open(&ModelDisk::with(&files), false).unwrap().0));
    let mut was_lost = false;
    for cut in 0.. {
        let disk = ModelDisk::with(&files);
        disk.cut_power_after(cut);
        let opened = open(&disk, true);
        was_lost |= opened.is_err();
        let limit = (wall_clock_ms() + 2 * SKEW_MAX.as_millis() as u64) << COUNTER_BITS;
        for seed in 0..5 {
            let after = disk.after_power_loss(&mut Random(seed));
            let found = stored(&open(&after, false).expect("starts").0);
            let future = found.values().filter(|(version, _)| version.time > limit).count();
            assert!(future == 3 || future == 0, "{future} after operation {cut}");
            assert!(
                opened.is_err() || future == 0,
                "stamped, and back after a power loss in operation {cut}"
            );
            assert_eq!(values(found), expected);
        }
        if opened.is_ok() && disk.operations() < cut {
            break;
        }
    }
    assert!(was_lost);
}

#[test]
fn a_start_that_cannot_store_the_stamped_records_fails() {
    let disk = ModelDisk::with(&disk_files(&poisoned()));
    disk.set_faults(Faults { space: Some(100), ..Faults::default() });
    open(&disk, true).map(drop).expect_err("no room for the snapshot");
    disk.set_faults(Faults::default());
    open(&disk, true).map(drop).expect("room");
}

#[test]
fn a_clock_that_cannot_be_right_stamps_nothing() {
    let (store, mut recovered) = open(&poisoned(), false).unwrap();
    let (before, max) = (stored(&store), recovered.time_max);
    let refused =
        check_times(&store, &mut recovered, (1_000, SKEW_MAX), true).expect_err("it is 1970");
    assert!(refused.to_string().contains("set the clock right"), "{refused}");
    assert_eq!((stored(&store), recovered.time_max), (before, max));
}
