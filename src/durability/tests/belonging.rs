//! Files that are missing, cut off, or of another directory: noticed before anything is changed.

use super::disk_failures::disk_files;
use super::*;

/// A directory whose log stands on a snapshot: its files, and the name of the snapshot.
fn compacted() -> (Vec<(&'static str, &'static [u8])>, String, Map) {
    let (mut driver, _, _) = example_log(FsyncPolicy::Always);
    driver.compact().unwrap();
    driver.write("after", Some(vec![1]));
    driver.commit().unwrap();
    let files = disk_files(&driver.disk);
    let snapshot = files.iter().find(|(name, _)| name.ends_with(".snapshot")).unwrap().0.into();
    (files, snapshot, live(&driver.store))
}

fn refusal(disk: &ModelDisk) -> String {
    let store = KeyValueStore::new();
    let error =
        open_files(Arc::new(disk.clone()), opening(FsyncPolicy::Always), Target::Store(&store))
            .expect_err("refused");
    assert_eq!(disk.operations(), 0, "nothing touched");
    error.to_string()
}

fn salvaged(disk: &ModelDisk) -> Map {
    let (store, options) =
        (KeyValueStore::new(), Opening { salvage: true, ..opening(FsyncPolicy::Always) });
    drop(open_files(Arc::new(disk.clone()), options, Target::Store(&store)).expect("salvaged"));
    store.drop_all_tombstones();
    assert_eq!(recovered_map(disk).expect("in order afterwards"), live(&store));
    live(&store)
}

#[test]
fn a_missing_snapshot_is_noticed() {
    let (files, snapshot, map) = compacted();
    assert_eq!(recovered_map(&ModelDisk::with(&files)).expect("whole"), map);
    let rest: Vec<_> = files.into_iter().filter(|(name, _)| *name != snapshot).collect();
    let disk = ModelDisk::with(&rest);
    let said = refusal(&disk);
    assert!(said.contains(&format!("{snapshot}, which it stands on, is missing")), "{said}");
    assert_eq!(salvaged(&disk), Map::from([("after".into(), vec![1])]));
}

#[test]
fn files_of_another_directory_are_noticed() {
    let (files, snapshot, _) = compacted();
    let (others, _, _) = compacted();
    for (name, foreign) in others
        .into_iter()
        .filter(|(name, bytes)| SegmentName::parse(name).is_some() && bytes.len() > 40)
    {
        let replaced =
            files.iter().map(|(own, bytes)| (*own, if *own == name { foreign } else { *bytes }));
        let disk = ModelDisk::with(&replaced.collect::<Vec<_>>());
        let said = refusal(&disk);
        assert!(
            said.contains(name) && said.contains("belongs to another data directory"),
            "{said}"
        );
        let kept = salvaged(&disk);
        assert_eq!(kept.contains_key("after"), name == snapshot, "{name}: {kept:?}");
        assert_eq!(disk.bytes(&format!("{name}.damaged")), foreign);
    }
}

#[test]
fn removing_any_file_or_emptying_it_is_noticed() {
    let (files, _, map) = compacted();
    for (gone, bytes) in &files {
        let is_last_log =
            *gone == files.iter().rev().find(|(name, _)| name.ends_with(".log")).unwrap().0;
        for emptied in [false, true] {
            let mut rest: Vec<_> = files.iter().filter(|(name, _)| name != gone).copied().collect();
            if emptied {
                rest.push((*gone, b""));
            }
            let disk = ModelDisk::with(&rest);
            let store = KeyValueStore::new();
            let opened = open_files(
                Arc::new(disk.clone()),
                opening(FsyncPolicy::Always),
                Target::Store(&store),
            );
            let has_frames = bytes.len() as u64 > Kind::Log.header_bytes();
            match opened {
                Ok(_) => {
                    store.drop_all_tombstones();
                    // A whole log that goes without a trace looks like a shorter one.
                    let is_excused = is_last_log || !has_frames;
                    assert!(is_excused || live(&store) == map, "{gone} {emptied}");
                }
                Err(error) => {
                    assert!(matches!(error, Error::Corrupt(_)), "{gone} {emptied}: {error}")
                }
            }
        }
    }
}

#[test]
fn a_log_cut_within_its_header_below_a_younger_one_is_noticed() {
    let (driver, _, name) = example_log(FsyncPolicy::Always);
    driver.log.rotate().expect("a second log");
    let mut driver = driver;
    driver.write("after", Some(vec![1]));
    driver.commit().unwrap();
    let mut files = disk_files(&driver.disk);
    files.iter_mut().filter(|(file, _)| *file == name).for_each(|(_, bytes)| *bytes = &bytes[..20]);
    let said = refusal(&ModelDisk::with(&files));
    assert!(said.contains(&name) && said.contains("cut short"), "{said}");
}

#[test]
fn a_log_of_zeros_is_damage_and_not_an_empty_log() {
    let (driver, _, name) = example_log(FsyncPolicy::Always);
    let len = driver.disk.bytes(&name).len();
    for zeros in [len, len - 1, 36, 35, 20, 0] {
        let mut files = disk_files(&driver.disk);
        let bytes: &'static [u8] = vec![0; zeros].leak();
        files
            .iter_mut()
            .filter(|(file, _)| *file == name)
            .for_each(|(_, content)| *content = bytes);
        let said = refusal(&ModelDisk::with(&files));
        assert!(said.contains("--salvage"), "{zeros}: {said}");
    }
}

#[test]
fn a_missing_file_node_is_noticed_and_the_id_comes_back_with_salvage() {
    let (files, _, map) = compacted();
    let id = directory_of(&ModelDisk::with(&files)).id;
    let rest: Vec<_> = files.into_iter().filter(|(name, _)| *name != "node").collect();
    let disk = ModelDisk::with(&rest);
    let said = refusal(&disk);
    assert!(
        said.contains("file node") && said.contains("an empty one") && said.contains("--salvage"),
        "{said}"
    );
    assert_eq!(salvaged(&disk), map);
    assert_eq!(directory_of(&disk).id, id);
}

#[test]
fn in_a_cluster_nothing_is_salvaged() {
    let (driver, ends, name) = example_log(FsyncPolicy::Always);
    let mut node = NodeFile::load(&driver.disk).unwrap().unwrap();
    node.members.push((7, "192.0.2.7:8080".into()));
    node.save(&driver.disk).unwrap();
    let mut files = disk_files(&driver.disk);
    let mut bytes = driver.disk.bytes(&name);
    bytes[ends[1].0 + 20] ^= 1;
    let bytes: &'static [u8] = bytes.leak();
    files.iter_mut().filter(|(file, _)| *file == name).for_each(|(_, content)| *content = bytes);
    for salvage in [false, true] {
        let disk = ModelDisk::with(&files);
        let options = Opening { salvage, ..opening(FsyncPolicy::Always) };
        let error =
            open_files(Arc::new(disk.clone()), options, Target::Store(&KeyValueStore::new()))
                .expect_err("refused");
        assert_eq!(disk.operations(), 0, "nothing touched");
        let said = error.to_string();
        assert!(said.contains(&format!("PEER FORGET {:016x}", node.node_id)), "{said}");
        assert!(
            said.contains("start with an empty one") && !said.contains("from a copy,"),
            "{said}"
        );
    }
    // Without the file `node` nobody knows: with seeds there may be a cluster.
    let rest: Vec<_> = files.into_iter().filter(|(file, _)| *file != "node").collect();
    let disk = ModelDisk::with(&rest);
    let options = Opening { salvage: true, has_seeds: true, ..opening(FsyncPolicy::Always) };
    open_files(Arc::new(disk), options, Target::Store(&KeyValueStore::new())).expect_err("refused");
}

#[test]
fn a_record_that_this_version_does_not_know_is_no_damage_and_is_not_cut_away() {
    let (driver, _, name) = example_log(FsyncPolicy::Never);
    let mut record = Vec::new();
    Record { version: Version { time: 99, origin: 1 }, key: b"k", value: Some(b"v") }
        .encode(&mut record);
    record[23] |= 0x40;
    record.splice(24..24, [0; 8]);
    let header =
        Header::decode(Kind::Log, &header_bytes(&driver.disk, SegmentName::parse(&name).unwrap()))
            .unwrap();
    let mut frame = Frame::default();
    frame.push(&record);
    let bytes = [&driver.disk.bytes(&name), frame.seal(header.salt, 35)].concat();
    let mut files = disk_files(&driver.disk);
    let bytes: &'static [u8] = bytes.leak();
    files.iter_mut().filter(|(file, _)| *file == name).for_each(|(_, content)| *content = bytes);
    let said = refusal(&ModelDisk::with(&files));
    assert!(said.contains("carries an end (expiry), which this version does not know"), "{said}");
    assert!(said.contains("or a newer one") && !said.contains("damaged"), "{said}");
}
