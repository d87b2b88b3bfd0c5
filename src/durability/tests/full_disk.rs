//! A disk without room: at the start, and when the log fills it.

use super::disk_failures::disk_files;
use super::*;

#[test]
fn a_start_on_a_full_disk_is_read_only_and_heals() {
    let (driver, ends, _) = example_log(FsyncPolicy::Everysec);
    let disk = ModelDisk::with(&disk_files(&driver.disk));
    disk.set_faults(Faults { space: Some(10), ..Faults::default() });
    let store = KeyValueStore::new();
    let (log, _, _) =
        open_files(Arc::new(disk.clone()), opening(FsyncPolicy::Everysec), Target::Store(&store))
            .expect("starts");
    store.drop_all_tombstones();
    assert_eq!(live(&store), ends.last().unwrap().1, "all of it can be read");
    assert!(
        log.read_only_reason().is_some_and(|reason| reason.contains("cannot write at the start"))
    );
    snapshot::heal(&log, &store).expect_err("no room");
    drop(log);
    // A second start finds the same, whatever the first one tried.
    let again = KeyValueStore::new();
    let (log, _, _) =
        open_files(Arc::new(disk.clone()), opening(FsyncPolicy::Everysec), Target::Store(&again))
            .expect("starts");
    again.drop_all_tombstones();
    assert_eq!(live(&again), live(&store));
    disk.set_faults(Faults::default());
    snapshot::heal(&log, &again).expect("heals");
    assert_eq!(log.read_only_reason(), None);
    for seed in 0..20 {
        let after = disk.after_power_loss(&mut Random(seed));
        assert_eq!(recovered_map(&after).expect("starts"), live(&store));
    }
}

#[test]
fn a_new_directory_on_a_full_disk_is_refused() {
    let disk = ModelDisk::default();
    disk.set_faults(Faults { space: Some(10), ..Faults::default() });
    open_files(Arc::new(disk), opening(FsyncPolicy::Always), Target::Store(&KeyValueStore::new()))
        .expect_err("nothing to read");
}

#[test]
fn a_disk_that_the_log_has_filled_has_room_for_the_next_snapshot() {
    let (mut driver, _, _) = example_log(FsyncPolicy::Always);
    driver.compact().unwrap();
    driver.write("key", Some(vec![3; 50]));
    driver.commit().unwrap();
    driver.compact().unwrap();
    // The first snapshot is the room for the third now.
    let held = driver.disk.bytes(snapshot::ROOM).len();
    driver.disk.reserve(snapshot::ROOM, 100).unwrap();
    assert!(held > 100 && driver.disk.bytes(snapshot::ROOM).len() == held + 100);
    driver.disk.set_faults(Faults { space: Some(100), ..Faults::default() });
    while driver.log.read_only_reason().is_none() {
        driver.write("key", Some(vec![4; 50]));
        let _ = driver.commit();
    }
    snapshot::heal(&driver.log, &driver.store).expect("there is room");
    assert_eq!(driver.log.read_only_reason(), None);
    driver.write("after", Some(vec![5]));
    driver.commit().expect("writable");
    for seed in 0..20 {
        let after = driver.disk.after_power_loss(&mut Random(seed));
        assert_eq!(recovered_map(&after).expect("starts"), live(&driver.store));
    }
}
