//! After a failed write or fsync: rule 10, and what a new log must hold before it goes on.

use super::*;
use crate::durability::files::FileLayer;

fn failing() -> Faults {
    Faults { fsync_fails: true, ..Faults::default() }
}

/// A follower with entries up to 3, of which 2 are committed.
fn example(disk: &ModelDisk) -> (Follower, Vec<Arc<Entry>>) {
    let follower = Follower::open(disk, FsyncPolicy::Always).expect("opens");
    let log =
        vec![first_entry(1), write_entry(2, 1, "a", Some("1")), write_entry(3, 1, "b", Some("2"))];
    follower.append(&append_of(1, EntryId::default(), 2, log.clone())).expect("taken");
    (follower, log)
}

#[test]
fn a_healed_log_holds_the_entries_and_the_term_that_the_failed_one_lost() {
    let disk = ModelDisk::default();
    let (follower, mut log) = example(&disk);
    disk.set_faults(failing());
    let next = write_entry(4, 2, "c", Some("3"));
    let request = append_of(2, id_of(&log[2]), 3, vec![Arc::clone(&next)]);
    follower.append(&request).expect_err("the disk fails");
    disk.set_faults(Faults::default());
    // The disk would take it now, but the log has not healed.
    follower.shared.check_disk();
    follower.append(&request).expect_err("rule 10");
    follower.vote(3, false).expect_err("rule 10");
    let durable = || follower.shared.with(|replica, _| replica.durable_index());
    assert_eq!(durable(), 3);
    follower.heal().expect("heals");
    assert_eq!(follower.append(&request).expect("taken"), Appended::Matches(4));
    assert_eq!(durable(), 4);
    log.push(next);
    let after = disk.after_power_loss(&mut Random(1));
    let again = Follower::open(&after, FsyncPolicy::Always).expect("starts");
    assert_eq!((again.ground.term, again.ground.base.index), (2, 2));
    assert_eq!(again.ground.entries, log[2..]);
    assert_eq!(again.map, map_of(&log[..2]));
}

#[test]
fn a_snapshot_is_not_published_when_the_log_fails_before_its_mark_is_on_the_disk() {
    let disk = ModelDisk::default();
    let (follower, log) = example(&disk);
    let head = |number| {
        // In the new log, before the mark: a longer end of the log, and its cut.
        let long: Vec<_> = (4..8).map(|index| write_entry(index, 1, "x", Some("y"))).collect();
        follower.append(&append_of(1, id_of(&log[2]), 2, long)).expect("taken");
        disk.set_faults(failing());
        let cut = vec![write_entry(3, 2, "b", Some("other"))];
        follower.append(&append_of(2, id_of(&log[1]), 2, cut)).expect_err("the disk fails");
        disk.set_faults(Faults::default());
        follower.shared.snapshot_head(number)
    };
    let source = Source { store: &follower.shared.store, head: Some(&head) };
    snapshot::compact(&follower.shared.log, source, &[]).expect_err("no mark, no snapshot");
    let names = disk.names().expect("names");
    assert!(!names.iter().any(|name| name.ends_with("raftsnapshot")), "{names:?}");
    Follower::open(&disk.after_power_loss(&mut Random(1)), FsyncPolicy::Always).expect("starts");
    follower.heal().expect("heals");
    let healed = follower.state();
    assert_eq!(recovered(&disk.after_power_loss(&mut Random(2))).expect("starts"), healed);
}

#[test]
fn a_node_whose_recovered_files_the_disk_does_not_take_answers_nothing() {
    let disk = ModelDisk::default();
    let (follower, log) = example(&disk);
    drop(follower);
    disk.set_faults(failing());
    let again = Follower::open(&disk, FsyncPolicy::Always).expect("starts, read-only");
    again.vote(2, true).expect_err("it may not have what it says");
    again.append(&append_of(1, id_of(&log[2]), 2, Vec::new())).expect_err("the same");
    disk.set_faults(Faults::default());
    again.heal().expect("heals");
    assert!(again.vote(2, true).expect("answers"));
}

#[test]
#[ignore = "full size: 400 MiB of memory"]
fn unapplied_entries_may_be_longer_than_one_frame_of_a_snapshot() {
    let disk = ModelDisk::default();
    let follower = Follower::open(&disk, FsyncPolicy::Always).expect("opens");
    let value = "v".repeat(50 << 20);
    let mut previous = EntryId::default();
    for index in 1..=3 {
        let entry = write_entry(index, 1, &format!("k{index}"), Some(&value));
        follower.append(&append_of(1, previous, 0, vec![Arc::clone(&entry)])).expect("taken");
        previous = id_of(&entry);
    }
    follower.compact().expect("compacts");
    let again = Follower::open(&disk, FsyncPolicy::Always).expect("starts");
    assert_eq!(again.ground.entries.len(), 3);
}
