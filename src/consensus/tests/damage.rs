//! Files of a replicated log that were cut, changed or removed: a torn tail, or refused, and never
//! other data.

use super::*;
use crate::durability::files::FileLayer;

type Files = Vec<(String, Vec<u8>)>;

fn files_of(disk: &ModelDisk) -> Files {
    let names = disk.names().expect("names");
    names.into_iter().map(|name| (name.clone(), disk.bytes(&name))).collect()
}

fn disk_of(files: &Files) -> ModelDisk {
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    ModelDisk::with(&files)
}

/// The files with one changed, in every way that `change` knows.
fn with_changed(files: &Files, at: usize, bytes: Vec<u8>) -> ModelDisk {
    let mut changed = files.clone();
    changed[at].1 = bytes;
    disk_of(&changed)
}

/// A directory with one log, and what each length of the log holds.
fn one_log() -> (Files, Vec<(usize, String)>) {
    let disk = ModelDisk::default();
    let follower = Follower::open(&disk, FsyncPolicy::Always).expect("opens");
    let name = "0000000001.raftlog";
    let mut states = vec![(disk.bytes(name).len(), follower.state())];
    let log = [first_entry(1), write_entry(2, 1, "a", Some("1")), write_entry(3, 1, "b", None)];
    let other = write_entry(3, 3, "b", Some("2"));
    let steps: [&dyn Fn() -> Result<()>; 4] = [
        &|| follower.append(&append_of(1, EntryId::default(), 0, vec![log[0].clone()])).map(drop),
        &|| follower.append(&append_of(1, id_of(&log[0]), 0, log[1..].to_vec())).map(drop),
        &|| follower.vote(3, false).map(drop),
        &|| follower.append(&append_of(3, id_of(&log[1]), 0, vec![other.clone()])).map(drop),
    ];
    for step in steps {
        step().expect("taken");
        states.push((disk.bytes(name).len(), follower.state()));
    }
    (files_of(&disk), states)
}

/// The state after the last frame that ends within the first `len` bytes.
fn state_at(states: &[(usize, String)], len: usize) -> Option<&String> {
    states.iter().rev().find(|(end, _)| *end <= len).map(|(_, state)| state)
}

fn check_refusal(error: &Error) {
    let text = error.to_string();
    assert!(!text.contains("start with --salvage"), "a way out that does not go: {text}");
}

#[test]
fn a_log_cut_at_any_byte_is_a_torn_tail_or_refused() {
    let (files, states) = one_log();
    let at = files.iter().position(|(name, _)| name.ends_with("raftlog")).expect("a log");
    let bytes = &files[at].1;
    for len in 0..=bytes.len() {
        match recovered(&with_changed(&files, at, bytes[..len].to_vec())) {
            Ok(found) => assert_eq!(Some(&found), state_at(&states, len), "{len}"),
            Err(error) => {
                assert!(len < states[0].0, "{len}: {error}");
                check_refusal(&error);
            }
        }
    }
}

#[test]
fn a_log_changed_at_any_byte_is_a_torn_tail_or_refused() {
    let (files, states) = one_log();
    let at = files.iter().position(|(name, _)| name.ends_with("raftlog")).expect("a log");
    let last_frame = states[states.len() - 2].0;
    for byte in 0..files[at].1.len() {
        for bits in [0xFF, 1 << (byte % 8)] {
            let mut bytes = files[at].1.clone();
            bytes[byte] ^= bits;
            match recovered(&with_changed(&files, at, bytes)) {
                // Nothing says that the last frame was synced.
                Ok(found) => {
                    assert!(byte >= last_frame, "{byte}");
                    assert_eq!(Some(&found), state_at(&states, byte), "{byte}");
                }
                Err(error) => check_refusal(&error),
            }
        }
    }
}

#[test]
fn a_compacted_directory_that_is_changed_at_any_byte_or_lacks_a_file_is_never_other_data() {
    let disk = ModelDisk::default();
    let follower = Follower::open(&disk, FsyncPolicy::Always).expect("opens");
    let log = [first_entry(1), write_entry(2, 1, "a", Some("1")), write_entry(3, 1, "b", None)];
    follower.append(&append_of(1, EntryId::default(), 2, log.to_vec())).expect("taken");
    follower.compact().expect("compacts");
    let compacted = follower.state();
    let more = write_entry(4, 1, "c", Some("3"));
    follower.append(&append_of(1, id_of(&log[2]), 2, vec![more])).expect("taken");
    let files = files_of(&disk);
    let whole = recovered(&disk_of(&files)).expect("starts");
    assert_eq!(whole, follower.state());
    for (at, (name, bytes)) in files.iter().enumerate() {
        for byte in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[byte] ^= 1 << (byte % 8);
            for bytes in [changed, bytes[..byte].to_vec()] {
                match recovered(&with_changed(&files, at, bytes)) {
                    Ok(found) => {
                        // The last frames of the last log may be torn; what is in the snapshot not.
                        assert!(name.ends_with("raftlog"), "{name} at {byte}");
                        assert!(found == compacted || found == whole, "{name} at {byte}: {found}");
                    }
                    Err(error) => assert!(
                        name == "node" || !error.to_string().contains("start with --salvage"),
                        "{name} at {byte}: {error}"
                    ),
                }
            }
        }
        if name == "node" || name.ends_with("raftsnapshot") {
            let mut without = files.clone();
            without.remove(at);
            let error = recovered(&disk_of(&without)).expect_err("a file is missing");
            assert!(error.to_string().contains("move this directory away"), "{name}: {error}");
        }
    }
}

#[test]
fn a_log_that_is_missing_between_others_is_refused_and_nothing_is_changed() {
    let disk = ModelDisk::default();
    let mut previous = EntryId::default();
    for index in 1..=3 {
        // Each start begins a log.
        let follower = Follower::open(&disk, FsyncPolicy::Always).expect("starts");
        let entry = write_entry(index, 1, "k", Some("v"));
        follower.append(&append_of(1, previous, 0, vec![Arc::clone(&entry)])).expect("taken");
        previous = id_of(&entry);
    }
    disk.remove("0000000002.raftlog").expect("removed");
    let before = files_of(&disk);
    let error = recovered(&disk).expect_err("a gap");
    let text = error.to_string();
    assert!(text.contains("0000000003.raftlog is damaged"), "{text}");
    assert!(text.contains("PEER FORGET") && !text.contains("--salvage"), "{text}");
    assert_eq!(files_of(&disk), before);
}

#[test]
fn a_gap_behind_a_snapshot_without_a_mark_is_refused_before_any_file_is_changed() {
    let disk = ModelDisk::default();
    let follower = Follower::open(&disk, FsyncPolicy::Always).expect("opens");
    let log = [first_entry(1), write_entry(2, 1, "a", Some("1"))];
    follower.append(&append_of(1, EntryId::default(), 2, log.to_vec())).expect("taken");
    follower.compact().expect("compacts");
    drop(follower);
    // Only the snapshot is left: the next log has the number behind it, and no mark.
    for name in disk.names().expect("names").iter().filter(|name| name.ends_with("raftlog")) {
        disk.remove(name).expect("removed");
    }
    let follower = Follower::open(&disk, FsyncPolicy::Always).expect("starts");
    follower.shared.with(|_, _| {
        let mut bytes = Vec::new();
        let entry = write_entry(9, 1, "z", Some("gap"));
        super::super::disk::encode(&super::super::replica::LogRecord::Entry(entry), &mut bytes);
        follower.shared.log.append(&bytes);
    });
    follower.shared.save().expect("saved");
    let torn = files_of(&disk).into_iter().map(|(name, bytes)| match name.ends_with("raftlog") {
        true => (name, [bytes, vec![1; 5]].concat()),
        false => (name, bytes),
    });
    let disk = disk_of(&torn.collect());
    let before = files_of(&disk);
    recovered(&disk).expect_err("a gap");
    assert_eq!(files_of(&disk), before, "the torn tail is cut only by a start that succeeds");
}

#[test]
fn a_directory_of_the_other_way_is_refused() {
    let (files, _) = one_log();
    let (disk, store) = (disk_of(&files), KeyValueStore::new());
    let opening = Opening::default();
    let error = open_files(Arc::new(disk), opening, Target::Store(&store)).map(drop);
    let text = error.expect_err("refused").to_string();
    assert!(text.contains("was started with --raft") && text.contains("kvstore export"), "{text}");
}
