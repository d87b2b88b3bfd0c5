//! The log on the disk, against a disk that loses power and files that were changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::disk::{self, Recovery};
use super::entry::{Change, Entry, Payload};
use super::log::EntryId;
use super::members::Members;
use super::messages::VoteRequest;
use super::proposing::Operation;
use super::replica::{Ground, LogRecord, Replica, Timing};
use crate::config::FsyncPolicy;
use crate::durability::disk_model::ModelDisk;
use crate::durability::files::FileLayer;
use crate::durability::snapshot::{self, Source};
use crate::durability::write_ahead_log::WriteAheadLog;
use crate::durability::{Opening, Target, open_files};
use crate::error::Result;
use crate::random::Random;
use crate::store::KeyValueStore;
use crate::store::digest::SHARDS;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

const ID: u64 = 7;
const OTHER: u64 = 8;
const TIMING: Timing = Timing { election_timeout_ms: 100, heartbeat_ms: 10 };

fn live(store: &KeyValueStore) -> Map {
    let mut map = Map::new();
    for shard in 0..SHARDS {
        store.for_each_in_shard(shard, |entry| {
            let value = entry.value().expect("no tombstone is kept");
            map.insert(entry.key().to_vec(), value.to_vec());
        });
    }
    map
}

fn open(disk: &ModelDisk) -> Result<(KeyValueStore, WriteAheadLog, Ground)> {
    let store = KeyValueStore::new();
    let recovery = Recovery::into_store(&store);
    let take = |batch: &_| recovery.take(batch);
    let opening = Opening { policy: FsyncPolicy::Always, ..Opening::default() };
    let (log, _, _) = open_files(Arc::new(disk.clone()), opening, Target::ReplicatedLog(&take))?;
    let ground = recovery.finish()?;
    Ok((store, log, ground))
}

/// The map with all entries of the log, committed or not.
fn whole_map(store: &KeyValueStore, ground: &Ground) -> Map {
    for change in ground.entries.iter().flat_map(|entry| entry.changes()) {
        apply(store, change.expect("a whole entry"));
    }
    live(store)
}

fn apply(store: &KeyValueStore, change: Change) {
    match change {
        Change::Write(record) => store.apply(&record),
        Change::Flush(version) => store.remove_before(version),
    }
}

/// A node that leads alone, without threads, and remembers what it promised.
struct Driver {
    /// A mistake made on purpose: it acknowledges before it saves.
    is_hasty: bool,
    store: KeyValueStore,
    log: WriteAheadLog,
    replica: Mutex<Replica>,
    now_ms: u64,
    /// The map after each operation; the first is empty.
    maps: Vec<Map>,
    /// So many operations were acknowledged.
    promised: usize,
    /// The newest term and vote that others may have seen.
    shown: (u64, Option<u64>),
}

impl Driver {
    fn start(disk: ModelDisk) -> Result<Self> {
        let (store, log, ground) = open(&disk)?;
        assert!(ground.entries.is_empty() && ground.term == 0, "a new directory");
        let mut replica = Replica::new(ID, ground, TIMING, 1, 0);
        replica.found(Members::founded_by(1, ID, "localhost:1"), 0);
        let mut driver = Driver {
            is_hasty: false,
            store,
            log,
            replica: Mutex::new(replica),
            now_ms: 0,
            maps: vec![Map::new()],
            promised: 0,
            shown: (0, None),
        };
        driver.save()?;
        driver.lead()?;
        Ok(driver)
    }

    fn replica(&mut self) -> &mut Replica {
        self.replica.get_mut().unwrap()
    }

    /// Waits until this node leads, and may evaluate.
    fn lead(&mut self) -> Result<()> {
        while !self.replica().is_ready() {
            self.now_ms += 1_000;
            let now_ms = self.now_ms;
            self.replica().tick(now_ms);
            self.save()?;
        }
        Ok(())
    }

    fn write_out(&mut self) {
        let replica = self.replica.get_mut().unwrap();
        write_out(replica, &self.log);
    }

    /// Everything reaches the disk, and is acknowledged and applied.
    fn save(&mut self) -> Result<()> {
        self.write_out();
        if self.is_hasty {
            self.acknowledge();
        }
        self.log.commit(self.log.end())?;
        let (safe, now_ms) = (self.log.safe(), self.now_ms);
        let replica = self.replica.get_mut().unwrap();
        replica.saved(safe, now_ms);
        for entry in replica.to_apply(usize::MAX) {
            entry.changes().for_each(|change| apply(&self.store, change.unwrap()));
            replica.applied(entry.index);
        }
        self.acknowledge();
        Ok(())
    }

    fn acknowledge(&mut self) {
        let ground = self.replica().ground();
        self.shown = (ground.term, ground.vote);
        self.promised = self.maps.len() - 1;
    }

    fn write(&mut self, random: &mut Random) {
        let key = format!("key{}", random.below(5)).into_bytes();
        let value = format!("value {}", self.maps.len()).into_bytes();
        let mut map = self.maps.last().unwrap().clone();
        let operation = match random.below(8) {
            0 => {
                map.clear();
                Operation::Flush
            }
            1 | 2 => {
                map.remove(&key);
                Operation::Delete { key: &key }
            }
            _ => {
                map.insert(key.clone(), value.clone());
                Operation::Put { key: &key, value: &value }
            }
        };
        let store = &self.store;
        let exists = |key: &[u8]| store.get(key, |value| value.is_some()).0;
        let replica = self.replica.get_mut().unwrap();
        replica.propose(&[operation], exists).expect("it leads");
        replica.seal();
        self.maps.push(map);
        self.write_out();
    }

    /// Another node stands for election: this one gets a new term, and votes.
    fn vote(&mut self) -> Result<()> {
        let now_ms = self.now_ms;
        let replica = self.replica();
        let last = EntryId { index: replica.last_begun() + 9, term: replica.term() + 1 };
        let request = VoteRequest { term: replica.term() + 1, is_trial: false, last };
        assert!(replica.handle_vote(OTHER, &request, now_ms).unwrap().is_granted);
        self.save()?;
        self.lead()
    }

    fn compact(&self) -> Result<()> {
        let Driver { log, store, replica, .. } = self;
        let head = |number| {
            let mut mark = Vec::new();
            disk::encode_mark(number, &mut mark);
            log.append(&mark);
            let ground = replica.lock().unwrap().ground();
            log.fsync()?;
            Ok(disk::encode_ground(&ground))
        };
        // The borrow of the closure ends with the call.
        let source = Source { store, head: Some(&head as _) };
        snapshot::compact(log, source, &[])
    }

    /// Does something, as `random` wills.
    fn step(&mut self, random: &mut Random) -> Result<()> {
        match random.below(12) {
            0 => self.compact(),
            1 => self.vote(),
            2..=5 => self.save(),
            _ => {
                self.write(random);
                Ok(())
            }
        }
    }
}

fn write_out(replica: &mut Replica, log: &WriteAheadLog) {
    let mut bytes = Vec::new();
    for record in replica.take_unwritten() {
        bytes.clear();
        disk::encode(&record, &mut bytes);
        let position = log.append(&bytes);
        if let LogRecord::Entry(entry) = record {
            replica.wrote(entry.index, position);
        }
    }
}

/// What a directory holds is what was acknowledged, and perhaps more of what was written after it;
/// and the vote of the newest term that others saw is kept.
fn check(disk: &ModelDisk, driver: &Driver) -> std::result::Result<(), String> {
    let (store, _, ground) = open(disk).map_err(|error| error.to_string())?;
    let (term, vote) = driver.shown;
    if ground.term < term {
        return Err(format!("term {} of {term}", ground.term));
    }
    if ground.term == term && vote.is_some() && ground.vote != vote {
        return Err(format!("vote {:?} of {vote:?}", ground.vote));
    }
    let map = whole_map(&store, &ground);
    let possible = &driver.maps[driver.promised..];
    if possible.contains(&map) { Ok(()) } else { Err(format!("{map:?} is none of {possible:?}")) }
}

/// Lets the power go at some operation, and checks three of the disks that may be left.
fn lose_power(seed: u64, is_hasty: bool) -> std::result::Result<(), String> {
    let (disk, mut random) = (ModelDisk::default(), Random(seed));
    let mut driver = Driver::start(disk.clone()).map_err(|error| error.to_string())?;
    driver.is_hasty = is_hasty;
    disk.cut_power_after(disk.operations() + random.below(120));
    while driver.step(&mut random).is_ok() && driver.maps.len() < 60 {}
    (0..3).try_for_each(|_| check(&disk.after_power_loss(&mut random), &driver))
}

#[test]
fn a_power_loss_at_any_operation_loses_nothing_acknowledged_and_no_vote() {
    for seed in 0..300 {
        lose_power(seed, false).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
    }
    let noticed = (0..300).filter(|seed| lose_power(*seed, true).is_err()).count();
    assert!(noticed > 30, "to acknowledge before it is saved was noticed {noticed} times");
}

#[test]
fn a_log_that_is_cut_or_changed_anywhere_is_a_part_of_itself_or_refused() {
    let (disk, mut random) = (ModelDisk::default(), Random(1));
    let mut driver = Driver::start(disk.clone()).unwrap();
    for _ in 0..12 {
        driver.write(&mut random);
        driver.save().unwrap();
    }
    driver.vote().unwrap();
    let name = disk.names().unwrap().into_iter().find(|name| name.ends_with(".raftlog")).unwrap();
    let (bytes, node) = (disk.bytes(&name), disk.bytes("node"));
    let is_earlier = |bytes: &[u8]| {
        let changed = ModelDisk::with(&[(&name, bytes), ("node", &node)]);
        let Ok((store, _, ground)) = open(&changed) else {
            return true;
        };
        driver.maps.contains(&whole_map(&store, &ground))
    };
    for len in 0..bytes.len() {
        assert!(is_earlier(&bytes[..len]), "cut at {len}");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << random.below(8);
        assert!(is_earlier(&changed), "changed at {at}");
    }
}

#[test]
fn a_compacted_directory_holds_what_it_held_with_entries_that_are_not_applied() {
    let (disk, mut random) = (ModelDisk::default(), Random(2));
    let mut driver = Driver::start(disk.clone()).unwrap();
    for _ in 0..20 {
        driver.write(&mut random);
    }
    driver.save().unwrap();
    // In the log, and neither saved nor applied when the snapshot is made.
    for _ in 0..5 {
        driver.write(&mut random);
    }
    driver.compact().unwrap();
    let (store, _, ground) = open(&disk).unwrap();
    assert_eq!(ground.entries.len(), 5);
    assert_eq!(ground.members.encode(), driver.replica().members().encode());
    assert_eq!(&whole_map(&store, &ground), driver.maps.last().unwrap());
    driver.save().unwrap();
    check(&disk, &driver).expect("after it was saved, too");
}

#[test]
fn the_bytes_of_each_record() {
    let mut bytes = Vec::new();
    disk::encode(&LogRecord::Term { term: 2, vote: Some(7) }, &mut bytes);
    disk::encode(&LogRecord::Term { term: 3, vote: None }, &mut bytes);
    let entry = Arc::new(Entry { index: 4, term: 3, payload: Payload::Nothing });
    disk::encode(&LogRecord::Entry(entry), &mut bytes);
    disk::encode_mark(9, &mut bytes);
    let expected = [
        &[1, 16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0][..],
        &[1, 16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[2, 21, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(bytes, expected);
    let members = Arc::new(Members::founded_by(1, ID, "localhost:1"));
    let base = EntryId { index: 2, term: 1 };
    let ground = Ground { term: 2, vote: None, base, members, entries: Vec::new() };
    let text = b"cluster 0000000000000001\nvoter 0000000000000007 localhost:1\n";
    let expected = [
        &[4, 16 + text.len() as u8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..],
        text,
        &[1, 16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(disk::encode_ground(&ground), expected);
}
