//! The bytes of each kind of record.

use super::super::disk::{encode, encode_ground, encode_mark};
use super::super::replica::LogRecord;
use super::*;

fn number(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

#[test]
fn the_bytes_of_each_kind_of_record() {
    let mut bytes = Vec::new();
    encode(&LogRecord::Term { term: 7, vote: Some(2) }, &mut bytes);
    assert_eq!(bytes, [&[1, 16, 0, 0, 0][..], &number(7), &number(2)].concat());
    bytes.clear();
    encode(&LogRecord::Term { term: 7, vote: None }, &mut bytes);
    assert_eq!(bytes, [&[1, 16, 0, 0, 0][..], &number(7), &number(0)].concat());
    bytes.clear();
    let entry = Arc::new(Entry { index: 3, term: 2, payload: Payload::Nothing });
    encode(&LogRecord::Entry(Arc::clone(&entry)), &mut bytes);
    let entry_bytes = [&[2, 21, 0, 0, 0][..], &number(3), &number(2), &[0, 0, 0, 0, 0]].concat();
    assert_eq!(bytes, entry_bytes);
    bytes.clear();
    encode_mark(5, &mut bytes);
    assert_eq!(bytes, [&[3, 8, 0, 0, 0][..], &number(5)].concat());

    let members = Arc::new(Members::founded_by(0x5EED, 2, "localhost:2"));
    let text = "cluster 0000000000005eed\nvoter 0000000000000002 localhost:2\n";
    let base = EntryId { index: 2, term: 1 };
    let ground = Ground { term: 7, vote: Some(2), base, members, entries: vec![entry] };
    let expected = [
        &[4, 16 + text.len() as u8, 0, 0, 0][..],
        &number(2),
        &number(1),
        text.as_bytes(),
        &[1, 16, 0, 0, 0],
        &number(7),
        &number(2),
        &entry_bytes,
    ];
    assert_eq!(encode_ground(&ground), expected.concat());
}

#[test]
fn a_record_of_the_store_stands_in_a_snapshot_with_a_header_of_its_own() {
    let disk = ModelDisk::default();
    let follower = Follower::open(&disk, FsyncPolicy::Always).expect("opens");
    let entry = write_entry(1, 1, "name", Some("Dylan"));
    let Payload::Records(record) = &entry.payload else { panic!("records") };
    let record = record.clone();
    follower.append(&append_of(1, EntryId::default(), 1, vec![entry])).expect("taken");
    follower.compact().expect("compacts");
    let bytes = disk.bytes("0000000002.raftsnapshot");
    let expected = [&[5, record.len() as u8, 0, 0, 0][..], &record].concat();
    assert!(bytes.windows(expected.len()).any(|window| window == expected), "{bytes:?}");
}
