//! A log or a snapshot that is cut or changed at any byte: it is noticed, or cut away where a crash
//! can have done it.

use super::*;

/// The map after the last frame that ends within the first `len` bytes.
fn map_at(ends: &[(usize, Map)], len: usize) -> Map {
    let whole = ends.iter().rev().find(|(end, _)| *end <= len);
    whole.map_or(Map::new(), |(_, map)| map.clone())
}

#[test]
fn a_log_cut_anywhere_recovers_a_prefix() {
    for policy in [FsyncPolicy::Always, FsyncPolicy::Never] {
        let (driver, ends, name) = example_log(policy);
        let (bytes, header) = (driver.disk.bytes(&name), Kind::Log.header_bytes() as usize);
        for len in 0..=bytes.len() {
            for zeros in [0, 1, 100] {
                let torn = [&bytes[..len], &vec![0; zeros]].concat();
                // The next byte may have been a zero anyway.
                if zeros > 0 && bytes[len..].starts_with(&[0]) {
                    continue;
                }
                let disk = ModelDisk::with(&[(&name, &torn)]);
                let found = recovered_map(&disk);
                if len >= header {
                    assert_eq!(found.expect("starts"), map_at(&ends, len), "{len} + {zeros}");
                    continue;
                }
                // The header was safe before there was a file `node`, and before the first frame.
                assert!(found.is_err(), "{len} + {zeros}");
                let fresh = recover(&disk, &KeyValueStore::new(), &Directory::default());
                assert_eq!(fresh.is_ok(), torn.len() <= header, "{len} + {zeros}");
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
                        *map == map_at(&ends, at)
                            && (at >= last_frame || policy == FsyncPolicy::Never),
                        "byte {at} ^ {bits}: {map:?}"
                    ),
                    Err(Error::Corrupt(message)) => {
                        assert!(
                            message.contains(&name) && message.contains("--salvage"),
                            "{message}"
                        )
                    }
                    Err(error) => panic!("{error}"),
                }
                if at < Kind::Log.header_bytes() as usize {
                    assert!(found.is_err(), "the header is always synced: byte {at}");
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
    frame.push(
        Entry::new(&Record { version: Version { time: 99, origin: 1 }, key: b"k", value: None })
            .bytes(),
    );
    let directory = directory_of(&driver.disk).id.unwrap();
    let mut next = Header { salt: 7, directory, stands_on: 0 }.encode(Kind::Log);
    let next_name = SegmentName { number: 3, kind: Kind::Log }.to_string();
    let torn = &bytes[..bytes.len() - 1];
    // An empty log may be there before the one below is on the disk; a frame in it may not.
    assert!(recovered_map(&ModelDisk::with(&[(&name, torn), (&next_name, &next)])).is_ok());
    next.extend_from_slice(frame.seal(7, 35));
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
    let disk = ModelDisk::with(&[(&name, &bytes), ("x.tmp", b"")]);
    let refused = recovered_map(&disk).expect_err("damaged").to_string();
    assert!(refused.contains(&format!("offset {}", ends[1].0)), "{refused}");
    assert_eq!(disk.operations(), 0, "nothing touched");

    let disk = ModelDisk::with(&[(&name, &bytes)]);
    let store = KeyValueStore::new();
    let options = Opening { salvage: true, ..opening(FsyncPolicy::Always) };
    let opened = open_files(Arc::new(disk.clone()), options, Target::Store(&store));
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
    newer[7..9].copy_from_slice(&[3, 0]);
    newer[30] ^= 1;
    let disk = ModelDisk::with(&[(&name, &newer), ("0000000002.snapshot.tmp", b"")]);
    for salvage in [false, true] {
        let error = recover(
            &disk,
            &KeyValueStore::new(),
            &Directory { salvage, ..directory_of(&driver.disk) },
        )
        .expect_err("newer");
        assert!(error.to_string().contains("format version 3"), "{error}");
        assert_eq!(disk.operations(), 0);
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
