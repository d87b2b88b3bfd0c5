//! The promises of the log, against a disk that loses power, a disk that fails, and files that were changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::disk_model::{Faults, ModelDisk, Random};
use super::recovery::recover;
use super::segment::SegmentName;
use super::segment::{Frame, Kind, start_of_segment};
use super::*;
use crate::store::digest::SHARDS;
use crate::store::record::{Entry, Record};
use crate::store::version::Version;

type Map = BTreeMap<String, Vec<u8>>;

fn live(store: &KeyValueStore) -> Map {
    let mut map = Map::new();
    for shard in 0..SHARDS {
        store.for_each_in_shard(shard, |entry| {
            if let Some(value) = entry.value() {
                let key = String::from_utf8_lossy(entry.key()).into_owned();
                map.insert(key, value.to_vec());
            }
        });
    }
    map
}

fn recovered_map(disk: &ModelDisk) -> Result<Map> {
    let store = KeyValueStore::new();
    recover(disk, &store, false).map(|_| live(&store))
}

/// A mistake made on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    None,
    ReplyBeforeCommit,
    FsyncSkipped,
    DirectoryFsyncSkipped,
    DeleteBeforeRename,
}

/// A node without threads, on a model of a disk, that remembers what it promised.
struct Driver {
    disk: ModelDisk,
    policy: FsyncPolicy,
    mistake: Mistake,
    store: KeyValueStore,
    log: WriteAheadLog,
    time: u64,
    /// Every write in order: key and value, `None` for a delete.
    history: Vec<(String, Option<Vec<u8>>)>,
    /// So many writes of the history were promised to survive a power loss.
    promised: usize,
}

impl Driver {
    fn start(disk: ModelDisk, policy: FsyncPolicy, mistake: Mistake) -> Result<Self> {
        let (store, log) = Driver::open(&disk, policy)?;
        Ok(Driver { disk, policy, mistake, store, log, time: 0, history: Vec::new(), promised: 0 })
    }

    fn open(disk: &ModelDisk, policy: FsyncPolicy) -> Result<(KeyValueStore, WriteAheadLog)> {
        let store = KeyValueStore::new();
        let files = Arc::new(disk.clone());
        let (log, _, _) = open_files(files, policy, false, &store)?;
        store.drop_all_tombstones();
        Ok((store, log))
    }

    fn write(&mut self, key: &str, value: Option<Vec<u8>>) {
        self.time += 1;
        let time = self.time;
        let stamp = |_| Version { time, origin: 1 };
        let journal = |record: &[u8]| self.log.append(record);
        self.store.write(key.as_bytes(), value.as_deref(), false, stamp, journal);
        self.history.push((key.into(), value));
    }

    fn commit(&mut self) -> Result<()> {
        let promises = self.policy == FsyncPolicy::Always;
        if promises && self.mistake == Mistake::ReplyBeforeCommit {
            self.promised = self.history.len();
        }
        self.log.commit(self.log.end())?;
        if promises {
            self.promised = self.history.len();
        }
        Ok(())
    }

    fn fsync(&mut self) -> Result<()> {
        self.log.sync()?;
        self.promised = self.history.len();
        Ok(())
    }

    fn compact(&mut self) -> Result<()> {
        if self.mistake != Mistake::DeleteBeforeRename {
            return snapshot::compact(&self.log, &self.store, &[]);
        }
        let cut = self.log.rotate()?;
        let number = cut.snapshot_number;
        let name = SegmentName { number, kind: Kind::Snapshot }.to_string();
        snapshot::write_temporary(&self.disk, "temporary", &self.store)?;
        snapshot::remove_below(&self.disk, number, &[])?;
        Ok(snapshot::publish(&self.disk, "temporary", &name)?)
    }

    /// `kill -9` and a new start, without a power loss: everything committed is there.
    fn restart(&mut self) -> Result<()> {
        let committed = live(&self.store);
        (self.store, self.log) = Driver::open(&self.disk, self.policy)?;
        assert_eq!(live(&self.store), committed, "kill -9 loses nothing");
        // What recovery shows is fsynced.
        self.promised = self.history.len();
        Ok(())
    }

    fn step(&mut self, random: &mut Random) -> Result<()> {
        match random.below(20) {
            0 | 1 => self.fsync(),
            2 => self.compact(),
            3 => self.restart(),
            _ => {
                for _ in 0..=random.below(3) {
                    let key = format!("key{}", random.below(6));
                    let mut value = format!("value {} ", self.time).into_bytes();
                    value.resize(value.len() + random.below(100), b'.');
                    self.write(&key, (random.below(4) > 0).then_some(value));
                }
                self.commit()
            }
        }
    }

    /// The map after the first `len` writes.
    fn map_after(&self, len: usize) -> Map {
        let mut map = Map::new();
        for (key, value) in &self.history[..len] {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
        map
    }

    /// What is wrong with a recovered map, if anything: it must be the map after some number of
    /// writes, no fewer than promised.
    fn check(&self, found: &Result<Map>) -> std::result::Result<(), String> {
        let found = found.as_ref().map_err(|error| format!("does not start: {error}"))?;
        let possible = self.promised..=self.history.len();
        if possible.clone().any(|len| self.map_after(len) == *found) {
            return Ok(());
        }
        Err(format!("{found:?} was never there after {possible:?} writes"))
    }
}

/// Runs the same steps again and again and cuts the power during every single operation on the disk.
fn power_loss(policy: FsyncPolicy, mistake: Mistake, seeds: std::ops::Range<u64>) -> Option<String> {
    for seed in seeds {
        for cut in 0.. {
            let disk = ModelDisk::default();
            disk.set_faults(Faults {
                fsync_skipped: mistake == Mistake::FsyncSkipped,
                directory_fsync_skipped: mistake == Mistake::DirectoryFsyncSkipped,
                ..Faults::default()
            });
            disk.cut_power_after(cut);
            let Ok(mut driver) = Driver::start(disk.clone(), policy, mistake) else {
                continue;
            };
            let mut random = Random(seed);
            let mut steps = 0;
            while steps < 30 && driver.step(&mut random).is_ok() {
                steps += 1;
            }
            if steps == 30 {
                break;
            }
            let mut random = Random(seed << 32 | cut);
            for _ in 0..3 {
                let after = disk.after_power_loss(&mut random);
                // Perhaps the power goes again, while recovery is at work.
                let cut_again = random.below(12) as u64;
                after.cut_power_after(cut_again);
                let _ = Driver::open(&after, policy);
                let after = after.after_power_loss(&mut random);
                let first = recovered_map(&after);
                if let Err(problem) = driver.check(&first) {
                    return Some(format!("seed {seed}, power lost in operation {cut}: {problem}"));
                }
                assert_eq!(first.ok(), recovered_map(&after).ok(), "recovery is repeatable");
            }
        }
    }
    None
}

const POLICIES: [FsyncPolicy; 3] = [FsyncPolicy::Always, FsyncPolicy::Everysec, FsyncPolicy::Never];

#[test]
fn a_power_loss_takes_nothing_that_was_promised() {
    for policy in POLICIES {
        assert_eq!(power_loss(policy, Mistake::None, 0..2), None, "{policy:?}");
    }
}

#[test]
#[ignore = "full size: a minute"]
fn a_power_loss_takes_nothing_that_was_promised_full_size() {
    for policy in POLICIES {
        assert_eq!(power_loss(policy, Mistake::None, 100..160), None, "{policy:?}");
    }
}

#[test]
fn planted_mistakes_are_noticed_by_the_power_loss_test() {
    for mistake in
        [Mistake::ReplyBeforeCommit, Mistake::FsyncSkipped, Mistake::DirectoryFsyncSkipped, Mistake::DeleteBeforeRename]
    {
        let noticed = power_loss(FsyncPolicy::Always, mistake, 0..20);
        assert!(noticed.is_some(), "{mistake:?} was not noticed");
    }
}

// ---- Every byte ----

/// A log of several frames with every kind of record, the map after each frame, and where each frame ends.
fn example_log(policy: FsyncPolicy) -> (Driver, Vec<(usize, Map)>, String) {
    let disk = ModelDisk::default();
    let mut driver = Driver::start(disk, policy, Mistake::None).unwrap();
    let name = SegmentName { number: 1, kind: Kind::Log }.to_string();
    let mut ends = Vec::new();
    let mut end_frame = |driver: &mut Driver| {
        driver.commit().unwrap();
        ends.push((driver.disk.bytes(&name).len(), live(&driver.store)));
    };
    end_frame(&mut driver);
    for i in 0..3u8 {
        driver.write("key", Some(vec![i; 5]));
        driver.write(&format!("other{i}"), Some(Vec::new()));
        end_frame(&mut driver);
    }
    driver.write("key", None);
    end_frame(&mut driver);
    // A value that holds the whole log so far, salt and all: frames that are valid where they stood.
    let copy = driver.disk.bytes(&name);
    driver.write("frames", Some(copy));
    end_frame(&mut driver);
    driver.write("last", Some(b"value".to_vec()));
    end_frame(&mut driver);
    (driver, ends, name)
}

/// The map after the last frame that ends within the first `len` bytes.
fn map_at(ends: &[(usize, Map)], len: usize) -> Map {
    let whole = ends.iter().rev().find(|(end, _)| *end <= len);
    whole.map_or(Map::new(), |(_, map)| map.clone())
}

#[test]
fn a_log_cut_anywhere_recovers_a_prefix() {
    for policy in [FsyncPolicy::Always, FsyncPolicy::Never] {
        let (driver, ends, name) = example_log(policy);
        let bytes = driver.disk.bytes(&name);
        for len in 0..=bytes.len() {
            for zeros in [0, 1, 100] {
                let torn = [&bytes[..len], &vec![0; zeros]].concat();
                // The next byte may have been a zero anyway.
                if zeros > 0 && bytes[len..].starts_with(&[0]) {
                    continue;
                }
                let found = recovered_map(&ModelDisk::with(&[(&name, &torn)]));
                assert_eq!(found.expect("starts"), map_at(&ends, len), "{len} + {zeros}");
            }
        }
    }
}

#[test]
fn a_flipped_byte_is_noticed_or_cut_away() {
    for policy in [FsyncPolicy::Always, FsyncPolicy::Never] {
        let (driver, ends, name) = example_log(policy);
        let bytes = driver.disk.bytes(&name);
        let last_frame = ends[ends.len() - 2].0;
        for at in 0..bytes.len() {
            for bits in [0xFF, 1 << (at % 8)] {
                let mut changed = bytes.clone();
                changed[at] ^= bits;
                let found = recovered_map(&ModelDisk::with(&[(&name, &changed)]));
                match &found {
                    // Nothing says that the last frame was synced; with `never` nothing was.
                    Ok(map) => assert!(
                        *map == map_at(&ends, at) && (at >= last_frame || policy == FsyncPolicy::Never),
                        "byte {at} ^ {bits}: {map:?}"
                    ),
                    Err(Error::Corrupt(message)) => {
                        assert!(message.contains(&name) && message.contains("--salvage"), "{message}")
                    }
                    // The version.
                    Err(error) => assert!(error.to_string().contains("newer"), "{error}"),
                }
                let is_start = at < Kind::Log.start_bytes() as usize;
                if is_start {
                    assert!(found.is_err(), "the start is always synced: byte {at}");
                }
            }
        }
    }
}

#[test]
fn the_checks_above_notice_when_checksums_are_not_checked() {
    // As if nobody looked at checksums: the byte is changed and the checksum made to fit.
    let (driver, ends, name) = example_log(FsyncPolicy::Always);
    let mut bytes = driver.disk.bytes(&name);
    let salt = u32::from_le_bytes(bytes[11..15].try_into().unwrap());
    let (start, end) = (ends[ends.len() - 2].0, bytes.len());
    bytes[end - 1] ^= 1;
    let crc = crc32::crc32(salt, &bytes[start + 4..end]);
    bytes[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    let found = recovered_map(&ModelDisk::with(&[(&name, &bytes)])).expect("looks good");
    assert!(ends.iter().all(|(_, map)| *map != found), "a map that never was: {found:?}");
}

#[test]
fn a_log_that_is_not_the_last_must_be_whole() {
    let (driver, _, name) = example_log(FsyncPolicy::Never);
    let bytes = driver.disk.bytes(&name);
    let mut frame = Frame::default();
    frame.push(Entry::new(&Record { version: Version { time: 99, origin: 1 }, key: b"k", value: None }).bytes());
    let mut next = start_of_segment(Kind::Log, 7);
    let next_name = SegmentName { number: 3, kind: Kind::Log }.to_string();
    let torn = &bytes[..bytes.len() - 1];
    // An empty log may be there before the one below is on the disk; a frame in it may not.
    assert!(recovered_map(&ModelDisk::with(&[(&name, torn), (&next_name, &next)])).is_ok());
    next.extend_from_slice(frame.seal(7, 31));
    let found = recovered_map(&ModelDisk::with(&[(&name, torn), (&next_name, &next)]));
    assert!(matches!(found, Err(Error::Corrupt(_))), "{found:?}");
}

#[test]
fn a_changed_or_cut_snapshot_is_noticed() {
    let (mut driver, ends, _) = example_log(FsyncPolicy::Always);
    driver.compact().unwrap();
    let name = SegmentName { number: 2, kind: Kind::Snapshot }.to_string();
    let bytes = driver.disk.bytes(&name);
    let whole = recovered_map(&ModelDisk::with(&[(&name, &bytes)])).expect("whole");
    assert_eq!(whole, ends.last().unwrap().1);
    for at in 0..bytes.len() {
        let cut = recovered_map(&ModelDisk::with(&[(&name, &bytes[..at])]));
        assert!(cut.is_err(), "cut at {at}");
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        let found = recovered_map(&ModelDisk::with(&[(&name, &changed)]));
        assert!(found.is_err(), "byte {at}");
    }
}

#[test]
fn refusing_to_start_touches_nothing_and_salvage_keeps_what_is_readable() {
    let (driver, ends, name) = example_log(FsyncPolicy::Always);
    let mut bytes = driver.disk.bytes(&name);
    // In the value of `other1`'s frame.
    let damaged_at = ends[1].0 + 20;
    bytes[damaged_at] ^= 1;
    let disk = ModelDisk::with(&[(&name, &bytes), ("0000000000.log", b"old"), ("x.tmp", b"")]);
    let refused = recovered_map(&disk).expect_err("damaged").to_string();
    assert!(refused.contains(&format!("offset {}", ends[1].0)), "{refused}");
    assert_eq!(disk.operations(), 0, "nothing touched");

    let disk = ModelDisk::with(&[(&name, &bytes)]);
    let store = KeyValueStore::new();
    let opened = open_files(Arc::new(disk.clone()), FsyncPolicy::Always, true, &store);
    drop(opened.expect("salvaged"));
    store.drop_all_tombstones();
    let mut expected = ends.last().unwrap().1.clone();
    expected.remove("other1");
    assert_eq!(live(&store), expected, "all but the damaged frame");
    // Afterwards everything is in order, and the damaged file is kept under another name.
    assert_eq!(recovered_map(&disk).expect("starts"), expected);
    assert_eq!(disk.bytes(&format!("{name}.damaged")), bytes);
}

#[test]
fn a_newer_format_is_refused_and_nothing_touched() {
    let (driver, _, name) = example_log(FsyncPolicy::Always);
    let mut newer = driver.disk.bytes(&name);
    newer[7] = 2;
    let disk = ModelDisk::with(&[(&name, &newer), ("0000000002.snapshot.tmp", b"")]);
    for salvage in [false, true] {
        let error = recover(&disk, &KeyValueStore::new(), salvage).expect_err("newer");
        assert!(error.to_string().contains("format version 2"), "{error}");
        assert_eq!(disk.operations(), 0);
    }
}

// ---- A disk that fails ----

#[test]
fn a_full_disk_makes_read_only_until_a_snapshot_succeeds() {
    let (mut driver, _, _) = example_log(FsyncPolicy::Everysec);
    let promised = live(&driver.store);
    driver.disk.set_faults(Faults { space: Some(10), ..Faults::default() });
    driver.write("unknown", Some(vec![1; 50]));
    driver.commit().expect_err("full");
    assert!(driver.log.read_only_reason().is_some());
    driver.commit().expect_err("still full");
    snapshot::heal(&driver.log, &driver.store).expect_err("no space for a snapshot");
    // Stopped now, it has all that was promised; the write nobody heard of may be there or not.
    let found = recovered_map(&ModelDisk::with(&disk_files(&driver.disk))).expect("starts");
    assert_eq!(found, promised);

    driver.disk.set_faults(Faults::default());
    snapshot::heal(&driver.log, &driver.store).expect("healed");
    assert_eq!(driver.log.read_only_reason(), None);
    driver.write("after", Some(vec![2]));
    driver.commit().expect("writable again");
    let found = recovered_map(&driver.disk).expect("starts");
    assert_eq!(found, live(&driver.store), "also what was shown while read-only");
}

fn disk_files(disk: &ModelDisk) -> Vec<(&'static str, &'static [u8])> {
    let names = disk.names().unwrap();
    let leak = |name: String| -> (&'static str, &'static [u8]) {
        let bytes = disk.bytes(&name);
        (name.leak(), bytes.leak())
    };
    names.into_iter().map(leak).collect()
}

#[test]
fn a_failed_fsync_is_never_trusted_again() {
    let (mut driver, ends, _) = example_log(FsyncPolicy::Always);
    driver.disk.set_faults(Faults { fsync_fails: true, ..Faults::default() });
    driver.write("unknown", Some(vec![1]));
    driver.commit().expect_err("fsync failed");
    // The disk answers again, and a second fsync of the same file would succeed without having written anything.
    driver.disk.set_faults(Faults::default());
    driver.commit().expect_err("not before a snapshot");
    driver.fsync().expect_err("not before a snapshot");
    snapshot::heal(&driver.log, &driver.store).expect("healed");
    driver.write("after", Some(vec![2]));
    driver.commit().expect("writable again");
    let mut expected = ends.last().unwrap().1.clone();
    expected.extend([("unknown".into(), vec![1]), ("after".into(), vec![2])]);
    for seed in 0..50 {
        let after = driver.disk.after_power_loss(&mut Random(seed));
        assert_eq!(recovered_map(&after).expect("starts"), expected);
    }
}

#[test]
#[ignore = "full size: 300 MB of memory"]
fn a_frame_is_never_longer_than_its_limit() {
    let disk = ModelDisk::default();
    let mut driver = Driver::start(disk, FsyncPolicy::Everysec, Mistake::None).unwrap();
    for key in ["a", "b", "c"] {
        driver.write(key, Some(vec![7; 50 << 20]));
    }
    driver.commit().unwrap();
    assert_eq!(driver.log.counts.frames.load(Ordering::Relaxed), 2);
    assert_eq!(recovered_map(&driver.disk).unwrap(), live(&driver.store));
}

// ---- Many threads ----

#[test]
fn a_record_is_in_the_buffer_or_in_a_frame() {
    // Writers, commits, fsyncs and compactions at the same time; then everything is there.
    for policy in POLICIES {
        let disk = ModelDisk::default();
        let store = KeyValueStore::new();
        let opened = open_files(Arc::new(disk.clone()), policy, false, &store);
        let (log, _, _) = opened.expect("empty");
        thread::scope(|scope| {
            for writer in 0..4u64 {
                let (log, store) = (&log, &store);
                scope.spawn(move || {
                    for i in 0..500u64 {
                        let key = format!("{writer}:{}", i % 50);
                        let stamp = |floor| Version { time: floor + 1, origin: writer };
                        let value = i.to_le_bytes();
                        let journal = |record: &[u8]| log.append(record);
                        let written = store.write(key.as_bytes(), Some(&value), false, stamp, journal);
                        if i % 7 == 0 {
                            log.commit(written.position).expect("commits");
                        }
                    }
                    log.commit(log.end()).expect("commits");
                });
            }
            for _ in 0..4 {
                snapshot::compact(&log, &store, &[]).expect("compacts");
                log.sync().expect("syncs");
            }
        });
        assert_eq!(recovered_map(&disk).expect("starts"), live(&store));
        assert_eq!(live(&store).len(), 200);
    }
}

/// Writers, fsyncs, a disk that fails again and again, and healing, all at the same time; then the power goes.
#[test]
fn a_disk_that_fails_under_load_loses_nothing_promised() {
    for (policy, round) in POLICIES.into_iter().zip(0u64..) {
        let disk = ModelDisk::default();
        let store = KeyValueStore::new();
        let (log, _, _) = open_files(Arc::new(disk.clone()), policy, false, &store).unwrap();
        let done = AtomicBool::new(false);
        let mut random = Random(round);
        let promised: Vec<u64> = thread::scope(|scope| {
            let (log, store, done) = (&log, &store, &done);
            let writer = |writer: u64| {
                move || {
                    let (mut promised, mut number) = (0, 0u64);
                    while !done.load(Ordering::Relaxed) {
                        number += 1;
                        let stamp = |floor| Version { time: floor + 1, origin: writer };
                        let (key, value) = (writer.to_string(), number.to_le_bytes());
                        let journal = |record: &[u8]| log.append(record);
                        let written = store.write(key.as_bytes(), Some(&value), false, stamp, journal);
                        if log.commit(written.position).is_ok() {
                            promised = number;
                        }
                    }
                    promised
                }
            };
            let writers: Vec<_> = (0..3).map(|id| scope.spawn(writer(id))).collect();
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let _ = log.sync();
                }
            });
            for _ in 0..4 {
                let space = Some(random.below(2_000));
                let fsync_fails = random.coin();
                let fsync_slow = !fsync_fails;
                disk.set_faults(Faults { space, fsync_fails, fsync_slow, ..Faults::default() });
                while log.read_only_reason().is_none() {
                    thread::yield_now();
                }
                disk.set_faults(Faults::default());
                snapshot::heal(log, store).expect("heals");
                for seed in 0..3 {
                    thread::sleep(Duration::from_millis(2));
                    let after = disk.after_power_loss(&mut Random(seed));
                    recovered_map(&after).expect("a power loss never keeps it from starting");
                }
            }
            done.store(true, Ordering::Relaxed);
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        for seed in 0..10 {
            let after = disk.after_power_loss(&mut Random(seed));
            let found = recovered_map(&after).expect("a power loss never keeps it from starting");
            for (writer, promised) in (0..).zip(&promised) {
                let value: u64 = found
                    .get(&format!("{writer}"))
                    .map_or(0, |value| u64::from_le_bytes(value.as_slice().try_into().unwrap()));
                assert!(policy != FsyncPolicy::Always || value >= *promised);
            }
        }
    }
}

/// All ways to put two sequences of steps in one order.
fn orders(first: &[char], second: &[char]) -> Vec<String> {
    match (first, second) {
        ([], rest) | (rest, []) => vec![rest.iter().collect()],
        ([a, first_rest @ ..], [b, second_rest @ ..]) => {
            let with_a = orders(first_rest, second).into_iter().map(|rest| format!("{a}{rest}"));
            let with_b = orders(first, second_rest).into_iter().map(|rest| format!("{b}{rest}"));
            with_a.chain(with_b).collect()
        }
    }
}

/// Carries out steps by hand: `a`ppend, `m`erge, `r`otate, `c`opy, `d`elete; whether the record is lost.
fn is_lost(order: &str) -> bool {
    let (mut in_map, mut in_copy) = (false, false);
    // Of the old log and of the new one.
    let (mut logs, mut current) = ([false, false], 0);
    for step in order.chars() {
        match step {
            'a' => logs[current] = true,
            'm' => in_map = true,
            'r' => current = 1,
            'c' => in_copy = in_map,
            _ => logs[0] = false,
        }
    }
    !in_copy && logs == [false, false]
}

#[test]
fn two_of_ten_orders_lose_a_record_when_append_and_merge_are_two_steps() {
    let all = orders(&['a', 'm'], &['r', 'c', 'd']);
    let lost: Vec<&String> = all.iter().filter(|order| is_lost(order)).collect();
    assert_eq!((all.len(), lost), (10, vec![&"arcmd".into(), &"arcdm".into()]));
    // Under one lock they are one step, and a copy rotates first: no order loses.
    let locked = orders(&['w'], &['r', 'c', 'd']);
    assert!(locked.iter().all(|order| !is_lost(&order.replace('w', "am"))));
    // Copying before rotating would.
    let wrong = orders(&['w'], &['c', 'r', 'd']);
    assert!(wrong.iter().any(|order| is_lost(&order.replace('w', "am"))));
}

#[test]
fn what_a_node_alone_deleted_is_gone_after_every_start() {
    let disk = ModelDisk::default();
    let mut driver = Driver::start(disk, FsyncPolicy::Always, Mistake::None).unwrap();
    driver.write("key", Some(b"old".to_vec()));
    driver.write("key", None);
    driver.commit().unwrap();
    driver.restart().unwrap();
    assert_eq!(driver.store.size(), crate::store::Size::default(), "no tombstone is left");
    driver.compact().unwrap();
    driver.restart().unwrap();
    assert_eq!(live(&driver.store), Map::new());
}
