//! A replica and what its threads drive it with: a disk that forgets what was not synced, and a
//! store. The traces and the simulation use it.
#![allow(dead_code)] // Each test target uses its part.

use std::collections::BTreeMap;

use kvstore::consensus::entry::{Change, Entry};
use kvstore::consensus::replica::{Ground, LogRecord, Replica, Timing};
use kvstore::store::version::Version;

pub const TIMING: Timing = Timing { election_timeout_ms: 1_000, heartbeat_ms: 100 };

/// Keys with the version and the value that they have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store(pub BTreeMap<Vec<u8>, (Version, Vec<u8>)>);

impl Store {
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(|(_, value)| value.as_slice())
    }

    pub fn version(&self, key: &[u8]) -> Option<Version> {
        self.0.get(key).map(|(version, _)| *version)
    }

    pub fn apply(&mut self, entry: &Entry) {
        for change in entry.changes() {
            match change.expect("an entry is well-formed") {
                Change::Flush(version) => self.0.retain(|_, (stored, _)| *stored > version),
                Change::Write(record) => {
                    let stored = self.version(record.key);
                    if stored.is_some_and(|version| version >= record.version) {
                        continue;
                    }
                    match record.value {
                        Some(value) => {
                            self.0.insert(record.key.to_vec(), (record.version, value.to_vec()))
                        }
                        None => self.0.remove(record.key),
                    };
                }
            }
        }
    }
}

/// The newest snapshot, and the log records behind it in order. A position counts the records that
/// were ever appended.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    ground: Ground,
    store: Store,
    records: Vec<LogRecord>,
    /// The position of the first of them.
    start: u64,
    /// What is in front of it survives a power loss.
    pub synced: u64,
    /// The position behind the last term and vote.
    term_end: u64,
}

impl Disk {
    pub fn new(ground: Ground, store: Store) -> Self {
        Disk { ground, store, ..Disk::default() }
    }

    pub fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }

    /// Whether what the replica shows of its term and vote is safe. Rule 1.
    pub fn is_term_synced(&self) -> bool {
        self.synced >= self.term_end
    }

    pub fn append(&mut self, record: LogRecord) -> u64 {
        let is_term = matches!(record, LogRecord::Term { .. });
        self.records.push(record);
        if is_term {
            self.term_end = self.end();
        }
        self.end()
    }

    /// Compaction: a snapshot takes the place of all that was there.
    pub fn publish(&mut self, ground: Ground, store: Store) {
        self.start = self.end();
        self.synced = self.start;
        self.records.clear();
        (self.ground, self.store) = (ground, store);
    }

    /// What stopped in the middle of a write: only this many records are there.
    pub fn cut(&mut self, end: u64) {
        assert!(self.synced <= end && end <= self.end(), "what is synced stays");
        self.records.truncate((end - self.start) as usize);
        (self.synced, self.term_end) = (end, end);
    }

    /// What a node finds at its start: the snapshot, then the records in order.
    pub fn recover(&self) -> (Ground, Store) {
        let mut ground = self.ground.clone();
        for record in &self.records {
            match record {
                LogRecord::Term { term, vote } if *term > ground.term => {
                    (ground.term, ground.vote) = (*term, *vote);
                }
                LogRecord::Term { vote, .. } => ground.vote = ground.vote.or(*vote),
                LogRecord::Entry(entry) if entry.index > ground.base.index => {
                    let at = (entry.index - ground.base.index - 1) as usize;
                    assert!(at <= ground.entries.len(), "a gap is damage");
                    if ground.entries.get(at).is_none_or(|there| there.term != entry.term) {
                        ground.entries.truncate(at);
                        ground.entries.push(entry.clone());
                    }
                }
                LogRecord::Entry(_) => {}
            }
        }
        (ground, self.store.clone())
    }
}

/// A node: what its threads do is done here by hand.
#[derive(Debug)]
pub struct Machine {
    pub replica: Replica,
    pub disk: Disk,
    pub store: Store,
}

impl Machine {
    /// A node with this disk.
    pub fn start(id: u64, disk: Disk, seed: u64, now_ms: u64) -> Self {
        let (ground, store) = disk.recover();
        Machine { replica: Replica::new(id, ground, TIMING, seed, now_ms), disk, store }
    }

    /// What is done before the mutex is released: what the replica hands out goes to the log.
    pub fn write(&mut self) -> Vec<LogRecord> {
        let records = self.replica.take_unwritten();
        for record in &records {
            let position = self.disk.append(record.clone());
            if let LogRecord::Entry(entry) = record {
                self.replica.wrote(entry.index, position);
            }
        }
        records
    }

    /// The disk has everything up to a position.
    pub fn sync(&mut self, position: u64, now_ms: u64) {
        self.disk.synced = self.disk.synced.max(position);
        self.replica.saved(position, now_ms);
    }

    /// Applies what is committed; says what.
    pub fn apply(&mut self) -> Vec<std::sync::Arc<Entry>> {
        let entries = self.replica.to_apply(usize::MAX);
        for entry in &entries {
            self.store.apply(entry);
            self.replica.applied(entry.index);
        }
        entries
    }

    /// Compaction into new files, which also heals a disk that failed.
    pub fn compact(&mut self, now_ms: u64) {
        self.replica.take_unwritten();
        let (ground, store) = (self.replica.ground(), self.store.clone());
        let indexes: Vec<u64> = ground.entries.iter().map(|entry| entry.index).collect();
        self.disk.publish(ground, store);
        indexes.into_iter().for_each(|index| self.replica.wrote(index, self.disk.synced));
        self.replica.saved(self.disk.synced, now_ms);
    }
}
