//! The node: owner of everything, and the only door for writes.
//!
//! A [`Node`] is one process of the cluster. It owns the store, the clock and the counters; the
//! server's threads share it. Every change a client makes goes through [`Node::put`],
//! [`Node::delete`] or [`Node::flush_all`], so there is one place where a write is stamped, merged
//! and handed on. (In the Java original the server wrote to the store itself, past the node: that
//! is why nothing in it ever replicated.)
//!
//! **Threads.** Each has the name given here, in the process list and in the logs.
//!
//! | name | owns | waits on | ends |
//! |---|---|---|---|
//! | `main` | the process, and the charts' samples | [`Node::wait_for_shutdown`], a second | ends the process |
//! | `accept` | the listening socket | `accept` | with the process |
//! | `start` | nothing | its channel of accepted sockets | with the process |
//! | `log-sync` | nothing | a second, with `--fsync everysec` | with the node |
//! | `compaction` | the snapshot that is written | a tenth of a second, then the disk | with the node |
//! | `recovery` | the records it merges, while a large log is read | its turn at reading | when all is read |
//! | `shutdown` | nothing | the last fsync | with the process |
//! | `tombstones` | the forgetting of deletes | a second | with the process |
//! | `link-N` | the connection to one peer and what it must be told | its channel, then the peer's reply | when the peer is forgotten |
//! | `client-N` | one socket, its buffers and its session | that socket | when the client leaves, errs or idles too long |
//!
//! **Locks.** A shard's; the log's `buffer`; the log's `file`; the log's `syncing`; its `turn`.
//! Orders: shard, then buffer; `syncing`, then file, then buffer; `turn` alone; never a shard and a
//! file, and nobody waits for a shard while holding one: only [`crate::store::prefetch`] holds
//! several, those that are free. A shard's lock is held for one lookup, there for eight, and the
//! buffer's for one copy. Only `syncing` and `file` are held across I/O, and none across a channel
//! send. The lock of a peer's connection is held while its batch is merged, so it comes before a
//! shard's; the other locks of [`crate::replication`] are never held together with one of these,
//! but for the one that orders changes of the file `node`. The lock of the charts' samples is held
//! alone.
//!
//! **Crash-only.** There is no clean-up that must run: `kill -9` is a normal way to stop (Candea
//! and Fox, "Crash-Only Software", 2003). A panic in any thread ends the process: half a node is
//! worse than none.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use log::trace;

use crate::config::{Configuration, FsyncPolicy, Limits};
use crate::durability::identity::NodeFile;
use crate::durability::write_ahead_log::WriteAheadLog;
use crate::durability::{Durability, Opening};
use crate::error::{Code, Error, Result};
use crate::guard::Guard;
use crate::locks::Latch;
use crate::metrics::{self, Metrics};
use crate::passwords::Passwords;
use crate::random::random_id;
use crate::replication::members::{KnownBy, Stored, StoredMember};
use crate::replication::receive::{self, Merged};
use crate::replication::{Greeted, KnownLinks, Memory, ReplicationManager};
use crate::stopping::GentleStop;
use crate::store::digest::SHARDS;
use crate::store::scan::{Scanned, Step};
use crate::store::version::{HybridClock, Version, wall_clock_ms};
use crate::store::{KeyValueStore, Size};

/// One process of the cluster.
#[derive(Debug)]
pub struct Node {
    /// What it was told at its start.
    pub configuration: Configuration,
    /// When it started.
    pub started: Instant,
    /// Counters.
    pub metrics: Metrics,
    /// What strangers and greedy clients may take.
    pub guard: Guard,
    /// The limits of connections without the password.
    pub limits_of_strangers: Limits,
    /// 64 random bits, new at every start: the origin of this run's writes.
    pub run_id: u64,
    /// Who this node is in its cluster, for as long as it has its data: stored with the data, or
    /// random at every start.
    pub node_id: u64,
    /// The other nodes and the links to them.
    pub replication: ReplicationManager,
    store: Arc<KeyValueStore>,
    /// The data directory, if there is one.
    durability: Option<Arc<Durability>>,
    clock: Arc<HybridClock>,
    /// Whether the process was asked to stop.
    pub stop: GentleStop,
    /// Opens when the node serves clients.
    serving: Latch,
}

/// What one connection did since its last replies left: what [`Node::commit`] must settle.
#[derive(Debug, Default)]
pub struct Batch {
    /// Requests executed.
    pub commands: u64,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Bytes received.
    pub input_bytes: u64,
    /// Whether this connection has ever written: then `WAIT` has something to wait for. Stays.
    pub has_written: bool,
    /// The highest log position of all shards looked at: no reply may leave before the log is safe
    /// up to here.
    ///
    /// The rule: whatever looks into the store for a reply notes the position of what it looked at,
    /// found or not. A value that a client has seen must not vanish, and a key that it has seen to
    /// be gone must not come back: the delete may be another connection's, appended and not yet
    /// committed. Replies about the whole store (`DBSIZE`, `INFO`, `/status.json`, `/metrics`) note
    /// the end of the log.
    position: u64,
    /// The highest log position of all shards that a peer is shown: no reply may leave before the
    /// log is on the disk up to here, whatever the policy, since the peer takes it as a
    /// confirmation.
    shown_to_peer: u64,
    /// Whose changes a failed commit must be told.
    changed: Changed,
    /// Where to hand on what was written.
    links: KnownLinks,
}

/// Whether a batch changed anything, and for whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    #[default]
    Nothing,
    ForPeer,
    ForClient,
}

impl Batch {
    fn touched(&mut self, position: u64) {
        self.position = self.position.max(position);
    }
}

/// Longest wait for `SHUTDOWN` to settle what is under way. Then the process ends all the same.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two samples of the counters for the page's charts: fine enough to see a stall, and
/// idle it costs one short look a second.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Samples kept: five minutes. More: the oldest goes.
const SAMPLES_MAX: usize = 300;

impl Node {
    /// A node as configured: with a data directory it starts with all that is stored there.
    pub fn open(configuration: Configuration) -> Result<Self> {
        let Some(directory) = &configuration.data_dir else {
            return Ok(Node::new(configuration));
        };
        let store = Arc::new(KeyValueStore::new());
        let is_alone = configuration.replication.seeds.is_empty();
        let opening = Opening {
            policy: configuration.fsync,
            salvage: configuration.salvage,
            has_seeds: !is_alone,
            clock_skew_max: configuration.replication.clock_skew_max,
            restamp: configuration.restamp,
        };
        let durability = Durability::open(directory, opening, &store)?;
        if is_alone && durability.node_file.members.is_empty() {
            // They were needed while records came in any order. Nobody else can bring an older
            // value back.
            store.drop_all_tombstones();
        }
        Ok(Node::with(configuration, store, Some(Arc::new(durability))))
    }

    /// A node in memory, with an empty store, wherever the configuration keeps data.
    pub fn new(configuration: Configuration) -> Self {
        Node::with(configuration, Arc::default(), None)
    }

    fn with(
        configuration: Configuration,
        store: Arc<KeyValueStore>,
        durability: Option<Arc<Durability>>,
    ) -> Self {
        let (clock, run_id) = (Arc::new(HybridClock::default()), random_id());
        let (mut node_id, mut memory) = (random_id(), None);
        if let Some(durability) = &durability {
            clock.observe(durability.recovered.time_max);
            node_id = durability.node_file.node_id;
            memory = Some(memory_of(durability));
        }
        let ids = (node_id, run_id);
        let replication =
            ReplicationManager::new(&configuration, ids, store.clone(), clock.clone(), memory);
        let guard = Guard::new(configuration.connections_max, configuration.reply_memory_bytes);
        let limits_of_strangers = configuration.limits.of_strangers();
        Node {
            guard,
            limits_of_strangers,
            configuration,
            started: Instant::now(),
            metrics: Metrics::default(),
            run_id,
            node_id,
            replication,
            store,
            durability,
            clock,
            stop: GentleStop::default(),
            serving: Latch::default(),
        }
    }

    /// Reads a key; `read` gets the value under the shard's lock and must only copy it.
    pub fn get<R>(
        &self,
        key: &[u8],
        batch: &mut Batch,
        read: impl FnOnce(Option<&[u8]>) -> R,
    ) -> R {
        let mut hit = false;
        let (result, position) = self.store.get(key, |value| {
            hit = value.is_some();
            read(value)
        });
        batch.hits += u64::from(hit);
        batch.misses += u64::from(!hit);
        batch.touched(position);
        result
    }

    /// Says which keys will be asked for next: see [`crate::store::prefetch`].
    pub fn prefetch<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        self.store.prefetch(keys);
    }

    /// Keys to be asked for one after the other, fetched ahead.
    pub fn prefetching<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
    ) -> impl Iterator<Item = &'k [u8]> {
        self.store.prefetching(keys, |key| key)
    }

    /// The data directory, if there is one.
    pub fn durability(&self) -> Option<&Durability> {
        self.durability.as_deref()
    }

    fn log(&self) -> Option<&WriteAheadLog> {
        let durability = self.durability.as_ref();
        durability.map(|durability| durability.log.as_ref())
    }

    /// Refuses a client's write while the node stops or the disk fails. Asked once before a request
    /// changes anything; what it changes then is settled by [`Node::commit`], as a whole.
    fn check_takes_writes(&self) -> Result<()> {
        self.stop.check_not_stored()?;
        self.check_writable()
    }

    /// Refuses while the disk fails.
    pub fn check_writable(&self) -> Result<()> {
        match self.log().and_then(WriteAheadLog::read_only_reason) {
            None => Ok(()),
            Some(reason) => Err(read_only(&reason, "not stored")),
        }
    }

    /// Stores a value.
    pub fn put(&self, key: &[u8], value: &[u8], batch: &mut Batch) -> Result<()> {
        self.put_all([(key, value)], batch)
    }

    /// Stores several values, each with a version of its own.
    pub fn put_all<'a>(
        &self,
        pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        batch: &mut Batch,
    ) -> Result<()> {
        self.check_takes_writes()?;
        for (key, value) in pairs {
            self.write(key, Some(value), batch);
        }
        Ok(())
    }

    /// Deletes a key; whether it was there. A key that is not here is deleted all the same: its
    /// value may be on its way.
    pub fn delete(&self, key: &[u8], batch: &mut Batch) -> Result<bool> {
        Ok(self.delete_all([key], batch)? == 1)
    }

    /// Deletes several keys; how many were there.
    pub fn delete_all<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a [u8]>,
        batch: &mut Batch,
    ) -> Result<usize> {
        self.check_takes_writes()?;
        let existed = keys.into_iter().map(|key| self.write(key, None, batch));
        Ok(existed.filter(|existed| *existed).count())
    }

    /// Deletes every key this node holds, each with a version of its own. Keys that are written
    /// meanwhile may stay.
    pub fn flush_all(&self, batch: &mut Batch) -> Result<()> {
        self.check_takes_writes()?;
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        for shard in 0..SHARDS {
            let position = self.store.for_each_in_shard(shard, |entry| {
                if !entry.is_tombstone() {
                    keys.push(entry.key().into());
                }
            });
            // Also where there is nothing to delete: the reply says that the keys there are gone.
            batch.touched(position);
            keys.drain(..).for_each(|key| {
                self.write(&key, None, batch);
            });
        }
        Ok(())
    }

    /// One step of a listing, as [`KeyValueStore::scan`].
    pub fn scan(
        &self,
        cursor: u64,
        step: Step,
        batch: &mut Batch,
        found: impl FnMut(&[u8]),
    ) -> Scanned {
        let scanned = self.store.scan(cursor, step, found);
        batch.touched(scanned.position);
        scanned
    }

    /// How much is stored, for a reply that shows it.
    pub fn shown_size(&self, batch: &mut Batch) -> Size {
        let size = self.store.size();
        self.shows_everything(batch);
        size
    }

    /// The reply of this batch shows something of the whole store as it was until now.
    pub fn shows_everything(&self, batch: &mut Batch) {
        batch.touched(self.log().map_or(0, WriteAheadLog::end));
    }

    /// How much is stored.
    pub fn size(&self) -> Size {
        self.store.size()
    }

    /// Settles a batch. Its replies may leave when this has returned. After an error all of them
    /// must become that error: what the batch changed is in the map, and nobody knows whether it is
    /// on the disk. What it only read may be told, safe or not, since reads go on while the disk
    /// fails.
    pub fn commit(&self, batch: &mut Batch) -> Result<()> {
        metrics::add(&self.metrics.commands, batch.commands);
        metrics::add(&self.metrics.hits, batch.hits);
        metrics::add(&self.metrics.misses, batch.misses);
        metrics::add(&self.metrics.input_bytes, batch.input_bytes);
        let Batch { position, changed, shown_to_peer, .. } = *batch;
        *batch = Batch { has_written: batch.has_written, ..Batch::default() };
        if shown_to_peer > 0 {
            self.sync_to(shown_to_peer)?;
        }
        match self.log().map(|log| log.commit(position)) {
            Some(Err(reason)) if changed > Changed::Nothing => {
                return Err(read_only(&reason, "outcome unknown"));
            }
            _ if changed > Changed::Nothing => {
                trace!("committed up to position {position}: {}", self.promise())
            }
            _ => {}
        }
        if changed == Changed::ForClient {
            // Last: see `stopping`.
            self.stop.check_outcome()?;
        }
        Ok(())
    }

    /// What a committed write survives.
    fn promise(&self) -> &'static str {
        match (&self.durability, self.configuration.fsync) {
            (None, _) => "in memory only",
            (Some(_), FsyncPolicy::Always) => "on the disk",
            (Some(_), _) => "handed to the operating system",
        }
    }

    /// Returns when everything this node shows is on the disk, whatever the policy.
    pub fn sync(&self) -> Result<()> {
        self.log().map_or(Ok(()), WriteAheadLog::sync)
    }

    /// [`Node::sync`] for a gentle stop: waits at most [`SHUTDOWN_TIMEOUT`].
    pub fn close(self: &Arc<Self>) -> Result<()> {
        let (node, (done, result)) = (Arc::clone(self), bounded(1));
        // In a thread, because an fsync on a dying disk may take for ever.
        thread::Builder::new().name("shutdown".into()).spawn(move || {
            let _ = done.send(node.sync());
        })?;
        result.recv_timeout(SHUTDOWN_TIMEOUT).unwrap_or_else(|_| {
            let message =
                format!("the disk took longer than {SHUTDOWN_TIMEOUT:?} for the last fsync");
            Err(Error::Fatal(message))
        })
    }

    /// Takes in a batch of records from a peer: merged, but not handed on.
    pub fn merge_from_peer(
        &self,
        records: &[u8],
        from: &Greeted,
        batch: &mut Batch,
    ) -> Result<Merged> {
        self.check_writable()?;
        let skew_max = self.configuration.replication.clock_skew_max;
        let limits = (wall_clock_ms(), skew_max);
        let done = receive::merge(&self.store, &self.clock, records, limits, |record| {
            self.log().map_or(0, |log| log.append(record))
        })?;
        trace!("merged {} records from a peer, refused {}", done.merged, done.refused);
        self.wrote(done.position, Changed::ForPeer, batch);
        self.replication.merged(from, done);
        Ok(done)
    }

    /// A peer is to see what these shards held until now: [`Node::commit`] brings it to the disk
    /// first, once for all that an exchange asks about.
    pub fn shown_to_peer(&self, shards: Range<usize>, batch: &mut Batch) -> Result<()> {
        self.check_writable()?;
        if self.log().is_some() {
            let newest = shards.map(|shard| self.store.position(shard)).max();
            batch.shown_to_peer = batch.shown_to_peer.max(newest.unwrap_or(0));
        }
        Ok(())
    }

    /// Returns when the log is on the disk up to a position.
    fn sync_to(&self, position: u64) -> Result<()> {
        let Some(log) = self.log().filter(|log| !log.is_synced(position)) else {
            return Ok(());
        };
        log.sync().map_err(|reason| read_only(&reason, "not shown to a peer"))
    }

    /// From now on the node serves clients.
    pub fn start_serving(&self) {
        self.serving.open();
    }

    /// Whether the node serves clients.
    pub fn is_serving(&self) -> bool {
        self.serving.is_open()
    }

    /// Returns when the node serves clients: when it has links to all it knows of, and each of them
    /// has answered or failed, at most a second after its start. A delete that was served before
    /// would leave no tombstone.
    pub fn wait_until_serving(&self) {
        self.serving.wait();
    }

    /// Whether `password` is a valid one; without a configured password nothing is.
    pub fn is_password(&self, password: &[u8]) -> bool {
        let Passwords { first, second } = &self.configuration.passwords;
        let is_it = |expected: &Option<Vec<u8>>| {
            expected.as_ref().is_some_and(|expected| same_in_constant_time(expected, password))
        };
        // Both are compared, whatever comes of the first.
        is_it(first) | is_it(second)
    }

    /// How far the times of this node's writes are ahead of the machine's clock.
    pub fn clock_ahead(&self) -> Duration {
        self.clock.ahead_of(wall_clock_ms())
    }

    /// Returns when somebody asked for a gentle stop. Until then it samples the counters for the
    /// page's charts.
    pub fn wait_for_shutdown(&self) {
        while !self.stop.wait(SAMPLE_INTERVAL) {
            self.metrics.take_sample(self.started.elapsed(), SAMPLES_MAX);
        }
    }

    /// The one way of a client's write: stamp, merge, and only then hand on.
    fn write(&self, key: &[u8], value: Option<&[u8]>, batch: &mut Batch) -> bool {
        let (wall_ms, mut version) = (wall_clock_ms(), Version::default());
        let stamp = |floor| {
            let time = self.clock.stamp(wall_ms, floor);
            let origin = self.run_id;
            version = Version { time, origin };
            version
        };
        // A node on its own needs no tombstones: nobody can bring an older value back.
        let keep_tombstone = self.replication.keeps_tombstones();
        let written = self.store.write(key, value, keep_tombstone, stamp, self.journal());
        trace!(
            "key \"{}\", {}: merged with version {:016x}.{:016x}, in the log's buffer up to position {}",
            key[..key.len().min(KEY_BYTES_SHOWN)].escape_ascii(),
            value.map_or("deleted".into(), |value| format!("{} bytes", value.len())),
            version.time,
            version.origin,
            written.position
        );
        self.wrote(written.position, Changed::ForClient, batch);
        batch.has_written = true;
        self.replication.changed(key, written.shard, wall_ms, &mut batch.links);
        written.existed
    }

    /// What every change is handed to under its shard's lock.
    fn journal(&self) -> impl FnOnce(&[u8]) -> u64 {
        let log = self.log();
        move |record| log.map_or(0, |log| log.append(record))
    }

    /// Notes a change for [`Node::commit`]. A request of many writes must not fill the memory, so
    /// they are written out between them.
    fn wrote(&self, position: u64, changed: Changed, batch: &mut Batch) {
        batch.touched(position);
        batch.changed = batch.changed.max(changed);
        let max = self.configuration.limits.log_buffer_bytes_max;
        if let Some(log) = self.log().filter(|log| log.unwritten_bytes(position) > max) {
            // If it fails, so does the commit of this batch.
            let _ = log.commit(position);
        }
    }
}

/// Bytes of a key that a trace shows.
const KEY_BYTES_SHOWN: usize = 60;

/// Who is in the cluster, as a data directory remembers it. Behind the address of a node stand
/// `memory` if its own data does not survive a restart, and how it is known if not by a link.
fn memory_of(durability: &Arc<Durability>) -> Memory {
    let (file, durability) = (&durability.node_file, Arc::clone(durability));
    let members = file.members.iter().map(|(id, text)| {
        let mut words = text.split(' ');
        let address = words.next().unwrap_or_default().to_string();
        let has = |word| words.clone().any(|other| other == word);
        let known_by = match (has(BY_MEMBER), has(BY_ITS_WORD)) {
            (true, _) => KnownBy::Member,
            (false, true) => KnownBy::ItsWord,
            (false, false) => KnownBy::Link,
        };
        StoredMember { id: *id, address, is_durable: !has(MEMORY), known_by }
    });
    let stored = Stored { members: members.collect(), bans: file.bans.clone() };
    let node_id = file.node_id;
    let save = move |stored: &Stored| {
        let member = |member: &StoredMember| {
            let memory = if member.is_durable { "" } else { MEMORY };
            let known_by = match member.known_by {
                KnownBy::Link => "",
                KnownBy::Member => BY_MEMBER,
                KnownBy::ItsWord => BY_ITS_WORD,
            };
            let words =
                [&member.address, memory, known_by].into_iter().filter(|word| !word.is_empty());
            (member.id, words.collect::<Vec<_>>().join(" "))
        };
        let file = NodeFile {
            node_id,
            members: stored.members.iter().map(member).collect(),
            bans: stored.bans.clone(),
        };
        Ok(durability.save_node_file(&file)?)
    };
    Memory { stored, save: Box::new(save) }
}

/// The node keeps its data in memory.
const MEMORY: &str = "memory";
/// A member introduced the node.
const BY_MEMBER: &str = "introduced";
/// The node introduced itself, and was never reached.
const BY_ITS_WORD: &str = "unmet";

fn read_only(reason: &impl Display, outcome: &str) -> Error {
    Error::refused_as(Code::ReadOnly, format!("read-only: {reason} ({outcome})"))
}

/// Compares without stopping at the first difference, so that the time taken says nothing about
/// how much of a guess is right.
fn same_in_constant_time(expected: &[u8], given: &[u8]) -> bool {
    let mut difference = expected.len() ^ given.len();
    for (index, byte) in given.iter().enumerate() {
        let expected = expected.get(index % expected.len().max(1)).copied().unwrap_or_default();
        difference |= usize::from(std::hint::black_box(expected ^ byte));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_compared_as_a_whole() {
        assert!(same_in_constant_time(b"secret", b"secret"));
        for wrong in [&b""[..], b"secre", b"secrets", b"secretsecret", b"Secret", b"xxxxxx"] {
            assert!(!same_in_constant_time(b"secret", wrong));
        }
        assert!(!same_in_constant_time(b"", b"x"));
    }

    #[test]
    fn flush_all_leaves_nothing() {
        let (node, mut batch) = (Node::new(Configuration::default()), Batch::default());
        (0..5_000).for_each(|i| node.put(format!("key{i}").as_bytes(), b"v", &mut batch).unwrap());
        assert_eq!(node.size().keys, 5_000);
        node.flush_all(&mut batch).unwrap();
        assert_eq!(node.size(), Size::default());
    }
}
