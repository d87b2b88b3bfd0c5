//! Anti-entropy: finding and sending what a peer does not have, as pure functions and one small machine.
//!
//! A Merkle tree of depth two (Merkle 1987; Dynamo, DeCandia et al. 2007, section 4.7): 1,024 shard digests, then
//! 64 bucket digests of each shard that differs, then the keys and versions of each bucket that
//! differs. What is newer here or missing there is sent. An empty shard or bucket over there needs no
//! list: all of it is sent. The other direction is the business of the peer's own link.
//!
//! It costs what differs, not what is stored, and it needs no memory of where it was: a sync that breaks starts
//! again, and what was sent before now agrees.
//!
//! Nothing here knows a socket, a thread or a clock; times are arguments.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::{Reply, Request};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::store::KeyValueStore;
use crate::store::digest::{BUCKETS, SHARDS, bucket_of, key_hash};
use crate::store::record::Entry;
use crate::store::version::{COUNTER_BITS, HybridClock, Version};

/// Shards or buckets asked about in one go: one round trip for all of them.
const ASKED_AT_ONCE: usize = 64;
/// Steps in which tombstones age: nodes whose clocks differ a little agree but for moments.
const AGING_STEPS: u64 = 8;

/// A store as comparisons see it: without the tombstones older than the cutoff.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The store.
    pub store: &'a KeyValueStore,
    /// Tombstones from before this hybrid time take no part.
    pub cutoff: u64,
}

/// The hybrid time before which tombstones take no part in comparisons. It moves in steps of an
/// eighth of the grace: every node that reads its own clock takes the same step, so two of them disagree
/// only while one clock has passed the step and the other has not. Then they compare a few buckets in vain.
pub fn cutoff(wall_ms: u64, grace: Duration) -> u64 {
    let step = (grace.as_millis() as u64 / AGING_STEPS).max(1);
    let aged = wall_ms.saturating_sub(grace.as_millis() as u64);
    (aged / step * step) << COUNTER_BITS
}

impl View<'_> {
    /// What `PEER DIGESTS` answers: 1,024 little-endian numbers.
    pub fn shard_digests(&self) -> Vec<u8> {
        (0..SHARDS).flat_map(|shard| self.shard_digest(shard).to_le_bytes()).collect()
    }

    /// What `PEER DIGESTS <shard>` answers: 64 little-endian numbers.
    pub fn bucket_digests(&self, shard: usize) -> Vec<u8> {
        self.digests(shard).into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// What `PEER VERSIONS <shard> <bucket>` answers: `key_len u32 | key | time u64 | origin u64` for each entry.
    pub fn versions(&self, shard: usize, bucket: usize) -> Vec<u8> {
        let mut list = Vec::new();
        self.store.for_each_in_shard(shard, |entry| {
            let key = entry.key();
            if bucket_of(key_hash(key)) == bucket && self.counts(entry) {
                let version = entry.version();
                list.extend_from_slice(&(key.len() as u32).to_le_bytes());
                list.extend_from_slice(key);
                list.extend_from_slice(&version.time.to_le_bytes());
                list.extend_from_slice(&version.origin.to_le_bytes());
            }
        });
        list
    }

    fn counts(&self, entry: &Entry) -> bool {
        !entry.is_tombstone() || entry.version().time >= self.cutoff
    }

    fn digests(&self, shard: usize) -> [u64; BUCKETS] {
        self.store.age_tombstones(shard, self.cutoff);
        self.store.bucket_digests(shard)
    }

    fn shard_digest(&self, shard: usize) -> u64 {
        self.store.age_tombstones(shard, self.cutoff);
        self.store.shard_digest(shard)
    }
}

/// Aged tombstones that were not forgotten everywhere: somebody held an older value. Keys and versions.
pub type Revived = BTreeMap<Box<[u8]>, Version>;

/// What a merged batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Records taken in, also those that were here already.
    pub merged: u64,
    /// Records too far in the future.
    pub refused: u64,
    /// The highest log position of the shards touched.
    pub position: u64,
}

/// Merges a batch of records from a peer. A record more than `skew_max` ahead of `wall_ms` is left
/// out and does not move the clock; the rest merges. Nothing here hands records on: a record that was
/// received is never forwarded, so it cannot go round in circles.
pub fn merge(
    store: &KeyValueStore,
    clock: &HybridClock,
    records: &[u8],
    (wall_ms, skew_max): (u64, Duration),
    mut journal: impl FnMut(&[u8]) -> u64,
) -> Result<Merged> {
    let mut done = Merged::default();
    for record in store.decode_for_merge(records) {
        let record = record?;
        if !is_plausible(record.version.time, wall_ms, skew_max) {
            done.refused += 1;
            continue;
        }
        clock.observe(record.version.time);
        let written = store.merge(&record, &mut journal);
        done.position = done.position.max(written.position);
        done.merged += 1;
    }
    Ok(done)
}

/// Whether a hybrid time is at most `skew_max` ahead of the wall clock.
pub fn is_plausible(time: u64, wall_ms: u64, skew_max: Duration) -> bool {
    (time >> COUNTER_BITS) <= wall_ms.saturating_add(skew_max.as_millis() as u64)
}

/// A set of shards, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSet(pub [u64; SHARDS / 64]);

impl ShardSet {
    /// Every shard.
    pub const ALL: ShardSet = ShardSet([u64::MAX; SHARDS / 64]);
    /// No shard.
    pub const NONE: ShardSet = ShardSet([0; SHARDS / 64]);

    /// Whether a shard is in the set.
    pub fn contains(&self, shard: usize) -> bool {
        self.0[shard / 64] >> (shard % 64) & 1 == 1
    }
}

/// One comparison with one peer, from the question for its digests to the last record sent.
#[derive(Debug)]
pub struct Sync {
    wanted: ShardSet,
    asked: bool,
    /// Parts of shards to be sent as they are: shard and a bit for each bucket.
    whole: VecDeque<(usize, u64)>,
    /// Shards that differ, whose buckets are to be compared.
    shards: VecDeque<usize>,
    /// Buckets that differ, whose lists are to be compared.
    buckets: VecDeque<(usize, usize)>,
    /// Keys to be sent that did not fit into a batch.
    keys: VecDeque<Box<[u8]>>,
    batch: Vec<u8>,
    /// What the peer still holds older values of. It was sent.
    pub revived: Revived,
}

impl Sync {
    /// A comparison of these shards.
    pub fn new(wanted: ShardSet) -> Self {
        Sync {
            wanted,
            asked: false,
            whole: VecDeque::new(),
            shards: VecDeque::new(),
            buckets: VecDeque::new(),
            keys: VecDeque::new(),
            batch: Vec::new(),
            revived: Revived::new(),
        }
    }

    /// The next requests, to be sent together; none when all is done. Their replies go to
    /// [`Sync::take`] in order.
    pub fn next(&mut self, view: View, limits: &Limits) -> Vec<Request> {
        if !std::mem::replace(&mut self.asked, true) {
            return vec![Request::ShardDigests];
        }
        let is_full = self.fill_batch(view, limits);
        let mut ask = Vec::new();
        if !is_full {
            let count = self.buckets.len().min(ASKED_AT_ONCE);
            let versions = |(shard, bucket)| Request::Versions(shard, bucket);
            ask.extend(self.buckets.drain(..count).map(versions));
            if ask.is_empty() {
                let count = self.shards.len().min(ASKED_AT_ONCE);
                ask.extend(self.shards.drain(..count).map(Request::BucketDigests));
            }
        }
        if ask.is_empty() && !self.batch.is_empty() {
            ask.push(Request::Merge(std::mem::take(&mut self.batch)));
        }
        ask
    }

    /// Takes the reply to one of the requests. An error means that it makes no sense.
    pub fn take(&mut self, request: &Request, reply: &Reply, view: View) -> Result<()> {
        match (request, reply) {
            (Request::ShardDigests, Reply::Bytes(bytes)) => {
                for (shard, theirs) in numbers(bytes, SHARDS)?.enumerate() {
                    if self.wanted.contains(shard) && theirs != view.shard_digest(shard) {
                        match theirs {
                            0 => self.whole.push_back((shard, u64::MAX)),
                            _ => self.shards.push_back(shard),
                        }
                    }
                }
            }
            (Request::BucketDigests(shard), Reply::Bytes(bytes)) => {
                let (ours, mut empty) = (view.digests(*shard), 0);
                for (bucket, theirs) in numbers(bytes, BUCKETS)?.enumerate() {
                    match theirs {
                        _ if theirs == ours[bucket] => {}
                        0 => empty |= 1 << bucket,
                        _ => self.buckets.push_back((*shard, bucket)),
                    }
                }
                if empty != 0 {
                    self.whole.push_back((*shard, empty));
                }
            }
            (Request::Versions(shard, bucket), Reply::Bytes(bytes)) => {
                self.compare(*shard, *bucket, &versions(bytes)?, view);
            }
            (Request::Merge(_), Reply::Merged { .. }) => {}
            _ => return Err(Error::Corrupt("a reply of another kind".into())),
        }
        Ok(())
    }

    /// Notes the keys of a bucket that are newer here or missing there.
    fn compare(&mut self, shard: usize, bucket: usize, theirs: &HashMap<&[u8], Version>, view: View) {
        view.store.for_each_in_shard(shard, |entry| {
            let key = entry.key();
            if bucket_of(key_hash(key)) != bucket {
                return;
            }
            let (counts, version) = (view.counts(entry), entry.version());
            let is_wanted = match theirs.get(key) {
                Some(held) => *held < version,
                None => counts,
            };
            if is_wanted {
                self.keys.push_back(key.into());
                if !counts {
                    self.revived.insert(key.into(), version);
                }
            }
        });
    }

    /// Whether the batch is full.
    fn fill_batch(&mut self, view: View, limits: &Limits) -> bool {
        while self.batch.len() < limits.batch_bytes {
            if let Some(key) = self.keys.pop_front() {
                let before = self.batch.len();
                // A key that has gone meanwhile was a dropped tombstone.
                view.store.copy_record(&key, &mut self.batch);
                if self.batch.len() > limits.merge_bytes_max {
                    // In a batch of its own it fits.
                    self.batch.truncate(before);
                    self.keys.push_front(key);
                    return true;
                }
            } else if let Some((shard, buckets)) = self.whole.pop_front() {
                self.collect(shard, buckets, view, limits);
            } else {
                return false;
            }
        }
        true
    }

    /// Copies what is in these buckets of a shard into the batch; what does not fit is noted by its key.
    fn collect(&mut self, shard: usize, buckets: u64, view: View, limits: &Limits) {
        view.store.for_each_in_shard(shard, |entry| {
            let bucket = bucket_of(key_hash(entry.key()));
            if buckets >> bucket & 1 == 0 || !view.counts(entry) {
                return;
            }
            if self.batch.len() < limits.batch_bytes && self.batch.len() + entry.bytes().len() <= limits.merge_bytes_max
            {
                self.batch.extend_from_slice(entry.bytes());
            } else {
                self.keys.push_back(entry.key().into());
            }
        });
    }
}

fn numbers(bytes: &[u8], count: usize) -> Result<impl Iterator<Item = u64>> {
    if bytes.len() != count * 8 {
        return Err(Error::Corrupt(format!("{} bytes of digests instead of {}", bytes.len(), count * 8)));
    }
    Ok(bytes.as_chunks::<8>().0.iter().copied().map(u64::from_le_bytes))
}

fn versions(mut bytes: &[u8]) -> Result<HashMap<&[u8], Version>> {
    let mut list = HashMap::new();
    while !bytes.is_empty() {
        let (key, version, rest) =
            one_version(bytes).ok_or_else(|| Error::Corrupt("a list of versions cut short".into()))?;
        list.insert(key, version);
        bytes = rest;
    }
    Ok(list)
}

fn one_version(bytes: &[u8]) -> Option<(&[u8], Version, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let (time, rest) = rest.split_first_chunk()?;
    let (origin, rest) = rest.split_first_chunk()?;
    let version = Version { time: u64::from_le_bytes(*time), origin: u64::from_le_bytes(*origin) };
    Some((key, version, rest))
}
