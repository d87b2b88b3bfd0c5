//! The promises of the log, against a disk that loses power, a disk that fails, and files that were
//! changed.
//!
//! Here is what the tests share: a node without threads that remembers what it promised, and an
//! example of a log.

mod belonging;
mod disk_failures;
mod every_byte;
mod full_disk;
mod many_threads;
mod power_loss;
mod stamped_again;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::disk_model::{Faults, ModelDisk};
use super::recovery::recover;
use super::segment::SegmentName;
use super::segment::{Frame, Header, Kind};
use super::*;
use crate::random::Random;
use crate::store::digest::SHARDS;
use crate::store::record::{Entry, Record};
use crate::store::version::Version;

const POLICIES: [FsyncPolicy; 3] = [FsyncPolicy::Always, FsyncPolicy::Everysec, FsyncPolicy::Never];

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
    recover(disk, &store, &directory_of(disk)).map(|_| live(&store))
}

/// What the file `node` says; where a test put segments alone, it is as if there were one that
/// fits.
fn directory_of(disk: &ModelDisk) -> Directory {
    let segments = SegmentName::all(&disk.names().unwrap());
    let headers = segments.iter().map(|name| Header::decode(name.kind, &header_bytes(disk, *name)));
    let stored = NodeFile::load(disk).ok().flatten().map(|file| file.node_id);
    let id = stored.or(headers.flatten().map(|header| header.directory).next()).or(Some(DIRECTORY));
    let id = id.filter(|_| stored.is_some() || !segments.is_empty());
    Directory { id, ..Directory::default() }
}

fn header_bytes(disk: &ModelDisk, name: SegmentName) -> Vec<u8> {
    let mut bytes = disk.bytes(&name.to_string());
    bytes.truncate(name.kind.header_bytes() as usize);
    bytes
}

/// The id of a directory that a test makes by hand.
const DIRECTORY: u64 = 0xD1;

fn opening(policy: FsyncPolicy) -> Opening {
    Opening { policy, ..Opening::default() }
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
        let (log, _, _) = open_files(files, opening(policy), Target::Store(&store))?;
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
        self.log.fsync()?;
        self.promised = self.history.len();
        Ok(())
    }

    fn compact(&mut self) -> Result<()> {
        if self.mistake != Mistake::DeleteBeforeRename {
            return snapshot::compact(&self.log, &self.store, &[]);
        }
        let cut = self.log.rotate()?;
        let number = cut.snapshot_number;
        let name = SegmentName { number, kind: Kind::Snapshot };
        snapshot::write_temporary(&self.disk, name, self.log.directory, &self.store, &[])?;
        snapshot::remove_below(&self.disk, number, &[])?;
        Ok(snapshot::publish(&self.disk, &name.to_string())?)
    }

    /// `kill -9` and a new start, without a power loss: everything committed is there.
    fn restart(&mut self) -> Result<()> {
        let committed = live(&self.store);
        (self.store, self.log) = Driver::open(&self.disk, self.policy)?;
        assert_eq!(live(&self.store), committed, "kill -9 loses nothing");
        // What recovery shows is fsynced, unless the disk does not take it.
        if self.log.read_only_reason().is_none() {
            self.promised = self.history.len();
        }
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
                    value.resize(value.len() + random.below(100) as usize, b'.');
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

/// A log of several frames with every kind of record, the map after each frame, and where each
/// frame ends.
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
    // A value that holds the whole log so far, salt and all: frames that are valid where they
    // stood.
    let copy = driver.disk.bytes(&name);
    driver.write("frames", Some(copy));
    end_frame(&mut driver);
    driver.write("last", Some(b"value".to_vec()));
    end_frame(&mut driver);
    (driver, ends, name)
}
