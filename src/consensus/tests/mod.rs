//! What a node keeps of the replicated log, against a disk that loses power, a disk that fails, and
//! files that were changed.
//!
//! Here is what the tests share: a follower without threads, and what it promised.

mod damage;
mod healing;
mod power_loss;
mod reading;
mod records;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::Recovery;
use super::entry::{Change, Entry, Payload, encode_flush, version_of};
use super::log::EntryId;
use super::members::{Member, Members};
use super::messages::{AppendRequest, Appended, VoteRequest};
use super::replica::{Ground, Replica, Timing};
use super::shared::{Options, Shared};
use crate::config::FsyncPolicy;
use crate::durability::disk_model::{Faults, ModelDisk};
use crate::durability::snapshot::{self, Source};
use crate::durability::{Opening, Target, open_files};
use crate::error::{Error, Result};
use crate::peers::identity::Identity;
use crate::random::Random;
use crate::store::KeyValueStore;
use crate::store::digest::SHARDS;
use crate::store::record::Record;

type Map = BTreeMap<String, Vec<u8>>;

/// The id of the node under test.
const ID: u64 = 1;

fn live(store: &KeyValueStore) -> Map {
    let mut map = Map::new();
    for shard in 0..SHARDS {
        store.for_each_in_shard(shard, |entry| {
            if let Some(value) = entry.value() {
                map.insert(String::from_utf8_lossy(entry.key()).into(), value.to_vec());
            }
        });
    }
    map
}

/// A follower without threads, on a model of a disk.
struct Follower {
    shared: Shared,
    /// What it started from.
    ground: Ground,
    /// The map that it started with.
    map: Map,
}

impl Follower {
    fn open(disk: &ModelDisk, policy: FsyncPolicy) -> Result<Follower> {
        let store = Arc::new(KeyValueStore::new());
        let recovery = Recovery::into_store(&store);
        let opening = Opening { policy, has_seeds: true, ..Opening::default() };
        let take = |batch: Option<&_>| recovery.take(batch);
        let target = Target::ReplicatedLog(&take);
        let (log, ..) = open_files(Arc::new(disk.clone()), opening, target)?;
        let (ground, map) = (recovery.finish(), live(&store));
        let timing = Timing { election_timeout_ms: 1_000, heartbeat_ms: 100 };
        let replica = Replica::new(ID, ground.clone(), timing, 7, 0);
        let identity = Identity {
            node_id: ID,
            run_id: 1,
            cluster: "kvstore".into(),
            is_durable: true,
            address: Ok("localhost:1".into()),
        };
        let options = Options {
            seeds: Vec::new(),
            advertise: None,
            dials: crate::config::Dials::Everybody,
            request_timeout: Duration::from_secs(3),
            reply_timeout: Duration::from_secs(5),
            password: None,
        };
        let shared = Shared::new(identity, store, Arc::new(log), replica, options, Instant::now());
        Ok(Follower { shared, ground, map })
    }

    /// As `PEER APPEND`: what is matched when this returns is promised.
    fn append(&self, request: &AppendRequest) -> Result<Appended> {
        let from = leader_of(request.term);
        let outcome =
            self.shared.with(|replica, now_ms| replica.handle_append(from, request, now_ms))?;
        self.shared.save_term()?;
        self.shared.save()?;
        let reply = self.shared.with(|replica, _| replica.append_reply(request, outcome));
        self.shared.apply();
        Ok(reply.expect("all of it is on the disk").outcome)
    }

    /// As `PEER VOTE`: what is granted when this returns is promised.
    fn vote(&self, term: u64, is_trial: bool) -> Result<bool> {
        let last = EntryId { index: u64::MAX, term: u64::MAX };
        let request = VoteRequest { term, is_trial, last };
        let from = leader_of(term);
        let reply =
            self.shared.with(|replica, now_ms| replica.handle_vote(from, &request, now_ms))?;
        self.shared.save_term()?;
        Ok(reply.is_granted)
    }

    fn compact(&self) -> Result<()> {
        let head = |number| self.shared.snapshot_head(number);
        let source = Source { store: &self.shared.store, head: Some(&head) };
        snapshot::compact(&self.shared.log, source, &[])
    }

    fn heal(&self) -> Result<()> {
        let head = |number| self.shared.snapshot_head(number);
        let source = Source { store: &self.shared.store, head: Some(&head) };
        snapshot::heal(&self.shared.log, source)?;
        self.shared.check_disk();
        Ok(())
    }

    /// All that a restart must bring back.
    fn state(&self) -> String {
        let ground = self.shared.with(|replica, _| replica.ground());
        format!("{ground:?} {:?}", live(&self.shared.store))
    }
}

/// What a recovered node starts from and serves, before it applies anything.
fn recovered(disk: &ModelDisk) -> Result<String> {
    let follower = Follower::open(disk, FsyncPolicy::Always)?;
    Ok(format!("{:?} {:?}", follower.ground, follower.map))
}

/// Who leads a term.
fn leader_of(term: u64) -> u64 {
    2 + term % 2
}

fn members() -> Arc<Members> {
    let mut members = Members::founded_by(0x5EED, 2, "localhost:2");
    for id in [ID, 3] {
        let member = Member { address: format!("localhost:{id}"), is_voter: true };
        members.nodes.insert(id, member);
    }
    Arc::new(members)
}

/// Entry 1 says who is in the cluster.
fn first_entry(term: u64) -> Arc<Entry> {
    Arc::new(Entry { index: 1, term, payload: Payload::Members(members()) })
}

/// An entry that sets a key, or deletes it.
fn write_entry(index: u64, term: u64, key: &str, value: Option<&str>) -> Arc<Entry> {
    let (version, mut records) = (version_of(index, 0, term), Vec::new());
    let value = value.map(str::as_bytes);
    Record { version, key: key.as_bytes(), value }.encode(&mut records);
    Arc::new(Entry { index, term, payload: Payload::Records(records) })
}

/// An entry that removes every key.
fn flush_entry(index: u64, term: u64) -> Arc<Entry> {
    let mut records = Vec::new();
    encode_flush(version_of(index, 0, term), &mut records);
    Arc::new(Entry { index, term, payload: Payload::Records(records) })
}

fn append_of(term: u64, previous: EntryId, commit: u64, entries: Vec<Arc<Entry>>) -> AppendRequest {
    AppendRequest { term, previous, commit, round: 1, confirmed: 0, entries }
}

fn id_of(entry: &Entry) -> EntryId {
    EntryId { index: entry.index, term: entry.term }
}

/// What these entries make of an empty map.
fn map_of<'e>(entries: impl IntoIterator<Item = &'e Arc<Entry>>) -> Map {
    let mut map = Map::new();
    for entry in entries {
        for change in entry.changes() {
            match change.expect("readable") {
                Change::Flush(_) => map.clear(),
                Change::Write(Record { key, value, .. }) => {
                    let key = String::from_utf8_lossy(key).into_owned();
                    match value {
                        Some(value) => map.insert(key, value.to_vec()),
                        None => map.remove(&key),
                    };
                }
            }
        }
    }
    map
}
