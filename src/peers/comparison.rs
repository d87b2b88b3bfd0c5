//! Anti-entropy: finding and sending what a peer does not have, as pure functions and one small
//! machine.
//!
//! A Merkle tree of depth two (Merkle 1987; Dynamo, DeCandia et al. 2007, section 4.7): 1,024 shard
//! digests, then 64 bucket digests of each shard that differs, then the keys and versions of each
//! bucket that differs. What is newer here or missing there is sent. An empty shard or bucket over
//! there needs no list: all of it is sent. The other direction is the business of the peer's own
//! link.
//!
//! It costs what differs, not what is stored, and it needs no memory of where it was: a sync that
//! breaks starts again, and what was sent before now agrees.
//!
//! Nothing here knows a socket, a thread or a clock; times are arguments.

use std::collections::{BTreeMap, VecDeque};

use super::large::{Large, Waiting};
use super::pace::{Allowed, Fate};
use super::requests::{PeerReply, PeerRequest};
use super::versions::{self, Listed, Place};
use super::view::View;
use crate::error::{Error, Result};
use crate::store::digest::{BUCKETS, SHARDS, bucket_of, key_hash};
use crate::store::version::Version;

/// Shards or buckets asked about in one go: one round trip for all of them.
const ASKED_AT_ONCE: usize = 64;

/// Aged tombstones that were not forgotten everywhere: somebody held an older value. Keys and
/// versions.
pub type Revived = BTreeMap<Box<[u8]>, Version>;

/// A set of shards, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSet(pub [u64; SHARDS / 64]);

impl ShardSet {
    /// Every shard.
    pub const ALL: ShardSet = ShardSet([u64::MAX; SHARDS / 64]);

    /// Whether a shard is in the set.
    pub fn contains(&self, shard: usize) -> bool {
        self.0[shard / 64] >> (shard % 64) & 1 == 1
    }
}

/// One comparison with one peer, from the question for its digests to the last record sent.
#[derive(Debug)]
pub struct Comparison {
    wanted: ShardSet,
    asked: bool,
    /// Parts of shards to be sent as they are: shard and a bit for each bucket.
    whole: VecDeque<(usize, u64)>,
    /// Shards that differ, whose buckets are to be compared.
    shards: VecDeque<usize>,
    /// Buckets that differ, whose lists are to be compared.
    buckets: VecDeque<Place>,
    /// Keys to be sent that did not fit into a batch.
    keys: VecDeque<Box<[u8]>>,
    /// Keys to be sent last.
    large: Large,
    batch: Vec<u8>,
    /// What the peer still holds older values of. It was sent.
    pub revived: Revived,
    /// Whether records stayed here because the peer would refuse them.
    pub has_refused: bool,
}

impl Comparison {
    /// A comparison of these shards.
    pub fn new(wanted: ShardSet) -> Self {
        Comparison {
            wanted,
            asked: false,
            whole: VecDeque::new(),
            shards: VecDeque::new(),
            buckets: VecDeque::new(),
            keys: VecDeque::new(),
            large: Large::default(),
            batch: Vec::new(),
            revived: Revived::new(),
            has_refused: false,
        }
    }

    /// The next requests, to be sent together; none when all is done. Their replies go to
    /// [`Comparison::take`] in order. A batch comes alone.
    pub fn next(&mut self, view: View, allowed: &Allowed) -> Vec<PeerRequest> {
        if !std::mem::replace(&mut self.asked, true) {
            return vec![PeerRequest::ShardDigests];
        }
        loop {
            if self.batch.is_empty() && self.large.is_due(allowed) {
                self.has_refused |= self.large.fill(view, allowed, &mut self.batch);
            } else if !self.large.is_due(allowed) && !self.fill_batch(view, allowed) {
                let questions = self.questions();
                if !questions.is_empty() {
                    return questions;
                }
                if self.batch.is_empty() {
                    self.has_refused |= self.large.fill(view, allowed, &mut self.batch);
                    return self.take_batch();
                }
            } else {
                self.large.small_went();
            }
            if !self.batch.is_empty() {
                return self.take_batch();
            }
            // What was to be sent has gone meanwhile.
        }
    }

    fn take_batch(&mut self) -> Vec<PeerRequest> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Vec::new() } else { vec![PeerRequest::Merge(batch)] }
    }

    /// What the peer must still be asked, as much as goes together.
    fn questions(&mut self) -> Vec<PeerRequest> {
        // What follows in a list is long, and asked for alone.
        let is_short = |place: &&Place| place.after.is_none();
        let count = match self.buckets.front() {
            Some(first) if !is_short(&first) => 1,
            _ => self.buckets.iter().take(ASKED_AT_ONCE).take_while(is_short).count(),
        };
        if count > 0 {
            return self.buckets.drain(..count).map(PeerRequest::Versions).collect();
        }
        let count = self.shards.len().min(ASKED_AT_ONCE);
        self.shards.drain(..count).map(PeerRequest::BucketDigests).collect()
    }

    /// Takes the reply to one of the requests. An error means that it makes no sense.
    pub fn take(&mut self, request: &PeerRequest, reply: &PeerReply, view: View) -> Result<()> {
        match (request, reply) {
            (PeerRequest::ShardDigests, PeerReply::Bytes(bytes)) => {
                for (shard, theirs) in numbers(bytes, SHARDS)?.enumerate() {
                    if self.wanted.contains(shard) && theirs != view.shard_digest(shard) {
                        match theirs {
                            0 => self.whole.push_back((shard, u64::MAX)),
                            _ => self.shards.push_back(shard),
                        }
                    }
                }
            }
            (PeerRequest::BucketDigests(shard), PeerReply::Bytes(bytes)) => {
                let (ours, mut empty) = (view.digests(*shard), 0);
                for (bucket, theirs) in numbers(bytes, BUCKETS)?.enumerate() {
                    match theirs {
                        _ if theirs == ours[bucket] => {}
                        0 => empty |= 1 << bucket,
                        _ => self.buckets.push_back(Place::start(*shard, bucket)),
                    }
                }
                if empty != 0 {
                    self.whole.push_back((*shard, empty));
                }
            }
            (PeerRequest::Versions(place), PeerReply::Listed(listed)) => {
                self.compare(place, listed, view)?
            }
            (PeerRequest::Merge(_), PeerReply::Merged { .. }) => {}
            _ => return Err(Error::Corrupt("a reply of another kind".into())),
        }
        Ok(())
    }

    /// Notes the keys of a bucket that are newer here or missing there.
    fn compare(&mut self, place: &Place, listed: &Listed, view: View) -> Result<()> {
        let (theirs, last) = (versions::parse(&listed.bytes)?, listed.last.as_deref());
        if let Some(last) = last {
            if !place.covers(last, None) {
                return Err(Error::Corrupt("a list of versions that does not go on".into()));
            }
            self.buckets.push_front(Place { after: Some(last.into()), ..place.clone() });
        }
        view.store.for_each_in_shard(place.shard, |entry| {
            let key = entry.key();
            if !place.covers(key, last) || bucket_of(key_hash(key)) != place.bucket {
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
        Ok(())
    }

    /// Whether the batch is full.
    fn fill_batch(&mut self, view: View, allowed: &Allowed) -> bool {
        while self.batch.len() < allowed.bytes {
            if let Some(key) = self.keys.pop_front() {
                let mut fate = Fate::Small;
                // A key that has gone meanwhile was a dropped tombstone.
                view.store.copy_record(&key, &mut self.batch, |entry| {
                    fate = allowed.fate(entry);
                    fate == Fate::Small
                });
                match fate {
                    Fate::Small => {}
                    Fate::Large => self.large.add(waiting(&key, allowed.now_ms)),
                    Fate::Refused => self.has_refused = true,
                }
            } else if let Some((shard, buckets)) = self.whole.pop_front() {
                self.collect(shard, buckets, view, allowed);
            } else {
                return false;
            }
            if self.large.is_full() {
                break;
            }
        }
        true
    }

    /// Copies what is in these buckets of a shard into the batch; what does not fit is noted by its
    /// key.
    fn collect(&mut self, shard: usize, buckets: u64, view: View, allowed: &Allowed) {
        view.store.for_each_in_shard(shard, |entry| {
            let bucket = bucket_of(key_hash(entry.key()));
            if buckets >> bucket & 1 == 0 || !view.counts(entry) {
                return;
            }
            match allowed.fate(entry) {
                Fate::Refused => self.has_refused = true,
                Fate::Small if self.batch.len() < allowed.bytes => {
                    self.batch.extend_from_slice(entry.bytes())
                }
                Fate::Small | Fate::Large => self.keys.push_back(entry.key().into()),
            }
        });
    }
}

fn waiting(key: &[u8], now_ms: u64) -> Waiting {
    Waiting { key: key.into(), number: 0, changed_ms: 0, since_ms: now_ms }
}

fn numbers(bytes: &[u8], count: usize) -> Result<impl Iterator<Item = u64>> {
    if bytes.len() != count * 8 {
        return Err(Error::Corrupt(format!(
            "{} bytes of digests instead of {}",
            bytes.len(),
            count * 8
        )));
    }
    Ok(bytes.as_chunks::<8>().0.iter().copied().map(u64::from_le_bytes))
}
