//! # Remembering: the store
//!
//! **The problem.** Many threads read and write one map at the same time. Nodes that exchange their
//! writes must end up with the same map, in whatever order messages arrive. And nothing may block
//! the whole map for long: not a growing table, a listing or a snapshot.
//!
//! **The idea.** [`KeyValueStore`] has 1,024 *shards*, each a `Mutex` around a `HashMap`. The hash
//! of a key determines its shard. An entry is a key, a [`Version`], and a value or a *tombstone*,
//! which records that the key was deleted. All changes go through one function, *merge*, which
//! keeps the larger version. Merge is commutative, associative and idempotent. So records may
//! arrive in any order, any number of times, from clients, peers or a log, and stores that have
//! seen the same records hold the same map (Shapiro et al., "Conflict-free Replicated Data Types",
//! 2011, section 3: a last-writer-wins register per key).
//!
//! **Why so many shards.** The shards serve five needs:
//! - A lock is held for a microsecond, and two threads rarely contend for the same one.
//! - When a table grows, it is a thousandth of the whole.
//! - Each shard keeps digests of its content, so two nodes find what differs without listing what
//!   agrees.
//! - `SCAN` resumes at a shard, so the store keeps no state for it.
//! - A snapshot copies shard by shard.
//!
//! **The rules.** This module knows no socket, file or peer. No lock is held across I/O, and no
//! thread waits for a shard's lock while it holds another's. The caller's `journal` function runs
//! *under* the shard's lock, with the record that won. So the log has the records of a key in the
//! order in which the map got them, and a copy of a shard that is made after the log was rotated
//! misses no record of the older segments.
//!
//! **What is left out.** Types other than strings, and expiry: "the larger version wins" would lose
//! updates of such values.
//!
//! Files: [`version`] says when a write happened, [`record`] is its format in bytes, [`digest`]
//! maps a key to its shard and sums up what a shard holds, [`scan`] lists keys, [`tombstones`] says
//! how deletes are forgotten, and `restamping` gives records other versions. Read [`hasher`] and
//! [`prefetch`] last, or not at all: they make lookups faster and change no result.

pub mod digest;
pub mod hasher;
pub mod prefetch;
pub mod record;
mod restamping;
pub mod scan;
pub mod tombstones;
pub mod version;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use digest::{BUCKETS, SHARDS, bucket_of, entry_digest, key_hash, shard_of};
use hasher::Secrets;
use record::{Entry, Record};
use version::Version;

use crate::error::Result;
use crate::locks::lock;

/// The map: bytes to bytes, versioned, safe to share between threads.
///
/// Invariants:
/// - `merge_is_commutative_associative_and_idempotent`.
/// - `digests_equal_recomputed_digests` after any sequence of changes.
/// - `the_store_agrees_with_a_slow_obvious_twin` on any sequence of operations.
#[derive(Debug)]
pub struct KeyValueStore {
    shards: Box<[Aligned]>,
}

/// A shard's lock and the head of its map on one cache line: 1.03 times the throughput of a
/// pipeline of 64.
#[derive(Debug)]
#[repr(align(64))]
struct Aligned(Mutex<Shard>);

/// One shard. The map's key is the whole packed record, found by the key inside it.
#[derive(Debug)]
struct Shard {
    map: HashMap<Entry, (), Secrets>,
    /// Of the 64 buckets.
    digests: [u64; BUCKETS],
    /// XOR of the digests.
    digest: u64,
    live: usize,
    /// Bytes of all records, tombstones included.
    bytes: u64,
    /// Where the newest record of this shard ends in the log; 0 without a log.
    position: u64,
    /// Tombstones older than this time have aged and are not in the digests: see [`tombstones`].
    cutoff: u64,
    /// How many tombstones have aged.
    aged: usize,
    /// The buckets, as bits, whose tombstones must wait for the next round of questions.
    unasked: u64,
    /// No tombstone in the digests is older than this; `u64::MAX` before there was one.
    oldest_tombstone: u64,
}

/// What a write or a merge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether the record is now in the store; `false` if a newer one was there already.
    pub won: bool,
    /// Whether the key had a value before.
    pub existed: bool,
    /// The shard of the key.
    pub shard: usize,
    /// The shard's log position: a reply waits until the log is safe up to here.
    pub position: u64,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Keys with a value.
    pub keys: usize,
    /// Deleted keys still remembered.
    pub tombstones: usize,
    /// Bytes of all records.
    pub bytes: u64,
}

impl Default for KeyValueStore {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyValueStore {
    /// An empty store.
    pub fn new() -> Self {
        let secrets = Secrets::random();
        KeyValueStore {
            shards: (0..SHARDS).map(|_| Aligned(Mutex::new(Shard::new(secrets.clone())))).collect(),
        }
    }

    /// Reads a key: passes the value to `read` under the shard's lock, so that it is copied only
    /// once. Also returns the shard's log position.
    pub fn get<R>(&self, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> R) -> (R, u64) {
        let shard = self.lock(shard_of(key_hash(key)));
        let value = shard.map.get_key_value(key).and_then(|(entry, ())| entry.value());
        (read(value), shard.position)
    }

    /// A client's write: `value`, or `None` to delete.
    ///
    /// `stamp` gets the time to exceed (0 for a new key) and returns the version. `journal` gets
    /// the encoded record and returns its log position. With `keep_tombstone` false a delete leaves
    /// no tombstone: correct only if no other node can hold the key.
    pub fn write(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        keep_tombstone: bool,
        stamp: impl FnOnce(u64) -> Version,
        journal: impl FnOnce(&[u8]) -> u64,
    ) -> Written {
        let hash = key_hash(key);
        let index = shard_of(hash);
        let mut shard = self.lock(index);
        let old = shard.take(hash, key);
        let existed = old.as_ref().is_some_and(|entry| !entry.is_tombstone());
        let floor = old.as_ref().map_or(0, |entry| entry.version().time);
        let record = Record { version: stamp(floor), key, value };
        assert!(
            record.version.time > floor || floor == u64::MAX,
            "a stamp exceeds the time it replaces"
        );
        let new = old.map_or_else(|| Entry::new(&record), |entry| entry.rewrite(&record));
        let position = journal(new.bytes());
        if value.is_some() || keep_tombstone {
            shard.put(hash, new);
        }
        shard.position = position;
        Written { won: true, existed, shard: index, position }
    }

    /// Stores `record` unless the store has a version of the key that is as large. The only way in
    /// for records that were stamped before: a peer's, or a log's.
    pub fn merge(&self, record: &Record, journal: impl FnOnce(&[u8]) -> u64) -> Written {
        let hash = key_hash(record.key);
        let index = shard_of(hash);
        let mut shard = self.lock(index);
        let old = shard.take(hash, record.key);
        let existed = old.as_ref().is_some_and(|entry| !entry.is_tombstone());
        match old {
            Some(old) if old.version() >= record.version => {
                shard.put(hash, old);
                Written { won: false, existed, shard: index, position: shard.position }
            }
            old => {
                let new = old.map_or_else(|| Entry::new(record), |entry| entry.rewrite(record));
                shard.position = journal(new.bytes());
                shard.put(hash, new);
                Written { won: true, existed, shard: index, position: shard.position }
            }
        }
    }

    /// Stores a record of the replicated log, unless the store has a version of the key that is as
    /// large. A delete leaves nothing behind: the order of records is the log's business.
    pub fn apply(&self, record: &Record) {
        let hash = key_hash(record.key);
        let mut shard = self.lock(shard_of(hash));
        let old = shard.take(hash, record.key);
        match old {
            Some(old) if old.version() >= record.version => shard.put(hash, old),
            old if record.value.is_some() => {
                let new = old.map_or_else(|| Entry::new(record), |entry| entry.rewrite(record));
                shard.put(hash, new);
            }
            _ => {}
        }
    }

    /// Removes every key of a smaller version, and leaves nothing behind.
    pub fn remove_before(&self, version: Version) {
        for index in 0..SHARDS {
            let mut shard = self.lock(index);
            let older = shard.map.keys().filter(|entry| entry.version() < version);
            let keys: Vec<Box<[u8]>> = older.map(|entry| entry.key().into()).collect();
            for key in keys {
                shard.take(key_hash(&key), &key);
            }
        }
    }

    /// Decodes records for [`KeyValueStore::merge`], and prefetches their keys: see [`prefetch`].
    pub fn decode_for_merge<'r>(
        &self,
        records: &'r [u8],
    ) -> impl Iterator<Item = Result<Record<'r>>> {
        self.prefetching(record::decode_all(records), |record| {
            record.map_or(&[], |record| record.key)
        })
    }

    /// The version of a key, of its value or its tombstone.
    pub fn version(&self, key: &[u8]) -> Option<Version> {
        let shard = self.lock(shard_of(key_hash(key)));
        shard.map.get_key_value(key).map(|(entry, ())| entry.version())
    }

    /// Appends the whole record of a key, value or tombstone, to `out` if it is one that
    /// `is_wanted`.
    pub fn copy_record(
        &self,
        key: &[u8],
        out: &mut Vec<u8>,
        is_wanted: impl FnOnce(&Entry) -> bool,
    ) {
        let shard = self.lock(shard_of(key_hash(key)));
        if let Some((entry, ())) = shard.map.get_key_value(key)
            && is_wanted(entry)
        {
            out.extend_from_slice(entry.bytes());
        }
    }

    /// Where the newest record of a shard ends in the log.
    pub fn position(&self, index: usize) -> u64 {
        self.lock(index).position
    }

    /// How much is stored. Visits every shard; shards change meanwhile.
    pub fn size(&self) -> Size {
        (0..SHARDS).fold(Size::default(), |total, index| {
            let shard = self.lock(index);
            Size {
                keys: total.keys + shard.live,
                tombstones: total.tombstones + shard.map.len() - shard.live,
                bytes: total.bytes + shard.bytes,
            }
        })
    }

    /// The digest of a shard: the XOR of its buckets.
    pub fn shard_digest(&self, index: usize) -> u64 {
        self.lock(index).digest
    }

    /// The digests of a shard's 64 buckets.
    pub fn bucket_digests(&self, index: usize) -> [u64; BUCKETS] {
        self.lock(index).digests
    }

    /// Passes every record of a shard to `visit`, tombstones included, under the shard's lock.
    /// Returns the shard's log position: a reply that depends on what was found, or not found,
    /// waits for it.
    pub fn for_each_in_shard(&self, index: usize, visit: impl FnMut(&Entry)) -> u64 {
        let shard = self.lock(index);
        shard.map.keys().for_each(visit);
        shard.position
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Shard> {
        lock(&self.shards[index].0)
    }
}

impl Shard {
    fn new(secrets: Secrets) -> Self {
        Shard {
            map: HashMap::with_hasher(secrets),
            digests: [0; BUCKETS],
            digest: 0,
            live: 0,
            bytes: 0,
            position: 0,
            cutoff: 0,
            aged: 0,
            unasked: 0,
            oldest_tombstone: u64::MAX,
        }
    }

    /// Removes an entry, and its share of the digests and the counts.
    fn take(&mut self, hash: u64, key: &[u8]) -> Option<Entry> {
        let (entry, ()) = self.map.remove_entry(key)?;
        self.forget(hash, &entry);
        Some(entry)
    }

    /// Takes an entry that has left the map out of the digests and the counts.
    fn forget(&mut self, hash: u64, entry: &Entry) {
        self.toggle(hash, entry);
        self.aged -= usize::from(self.is_aged(entry));
        self.bytes -= entry.bytes().len() as u64;
        self.live -= usize::from(!entry.is_tombstone());
    }

    /// Inserts an entry whose key is not in the map.
    fn put(&mut self, hash: u64, entry: Entry) {
        self.toggle(hash, &entry);
        if self.is_aged(&entry) {
            self.aged += 1;
            self.unasked |= 1 << bucket_of(hash);
        }
        self.bytes += entry.bytes().len() as u64;
        self.live += usize::from(!entry.is_tombstone());
        let before = self.map.insert(entry, ());
        debug_assert!(before.is_none(), "take comes before put");
    }

    /// Adds an entry to the digests, or removes it: XOR does both.
    fn toggle(&mut self, hash: u64, entry: &Entry) {
        let version = entry.version();
        if self.is_aged(entry) {
            return;
        }
        if entry.is_tombstone() {
            self.oldest_tombstone = self.oldest_tombstone.min(version.time);
        }
        self.flip(hash, version);
    }

    /// Adds a version to the digests, or removes it.
    fn flip(&mut self, hash: u64, version: Version) {
        let digest = entry_digest(hash, version);
        self.digests[bucket_of(hash)] ^= digest;
        self.digest ^= digest;
    }
}

/// Writes or deletes a key one tick later than before, for tests.
#[cfg(test)]
fn write_one_later(store: &KeyValueStore, key: &str, value: Option<&[u8]>) {
    let stamp = |floor| Version { time: floor + 1, origin: 1 };
    store.write(key.as_bytes(), value, true, stamp, |_| 0);
}

#[cfg(test)]
mod tests;
