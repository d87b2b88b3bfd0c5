//! A disk that is full, fails an fsync, or fails under load, and heals.

use super::*;

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

pub(super) fn disk_files(disk: &ModelDisk) -> Vec<(&'static str, &'static [u8])> {
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
    // The disk answers again, and a second fsync of the same file would succeed without having
    // written anything.
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

/// What is in the page cache after a failed fsync looks stored, and counts as clean.
fn is_lost_after_a_failed_fsync_and_a_crash(is_written_again: bool) -> bool {
    let (mut driver, _, _) = example_log(FsyncPolicy::Always);
    driver.disk.set_faults(Faults { fsync_fails: true, ..Faults::default() });
    driver.write("unknown", Some(vec![1]));
    driver.commit().expect_err("fsync failed");
    // The process is killed; the next one reads the page cache and shows what it read.
    driver
        .disk
        .set_faults(Faults { nothing_written_again: !is_written_again, ..Faults::default() });
    let (store, _log) = Driver::open(&driver.disk, FsyncPolicy::Always).expect("starts");
    let shown = live(&store);
    assert!(shown.contains_key("unknown"));
    (0..50).any(|seed| {
        let after = driver.disk.after_power_loss(&mut Random(seed));
        recovered_map(&after).map_or(true, |found| found != shown)
    })
}

#[test]
fn what_recovery_read_beyond_the_known_end_is_written_again() {
    assert!(!is_lost_after_a_failed_fsync_and_a_crash(true));
    assert!(is_lost_after_a_failed_fsync_and_a_crash(false), "the test can tell");
}

/// Writers, fsyncs, a disk that fails again and again, and healing, all at the same time; then the
/// power goes.
#[test]
fn a_disk_that_fails_under_load_loses_nothing_promised() {
    for (policy, round) in POLICIES.into_iter().zip(0u64..) {
        let disk = ModelDisk::default();
        let store = KeyValueStore::new();
        let (log, _, _) =
            open_files(Arc::new(disk.clone()), opening(policy), Target::Store(&store)).unwrap();
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
                        let written =
                            store.write(key.as_bytes(), Some(&value), false, stamp, journal);
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
                    let _ = log.fsync();
                }
            });
            for _ in 0..4 {
                let space = Some(random.below(2_000) as usize);
                let fsync_fails = random.one_in(2);
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

#[test]
fn a_log_that_could_not_be_started_calls_nothing_safe() {
    let disk = ModelDisk::default();
    let mut driver = Driver::start(disk.clone(), FsyncPolicy::Everysec, Mistake::None).unwrap();
    driver.write("key", Some(b"value".to_vec()));
    driver.commit().unwrap();
    disk.set_faults(Faults { fsync_fails: true, ..Faults::default() });
    let (_, log) = Driver::open(&disk, FsyncPolicy::Everysec).unwrap();
    assert!(log.read_only_reason().is_some());
    assert!(log.fsync().is_err(), "what was recovered may not be on the disk");
}
