//! # The node: owner of everything, and the only door
//!
//! A [`Node`] is one process of the cluster. It owns the store, the clock, the log, the links to
//! its peers and the counters; the threads of the server share it.
//!
//! **The rule.** [`crate::server`] and [`crate::web`] know the node and nothing behind it. Every
//! read and write of a client goes through a method here. So there is one place where a request is
//! admitted ([`Node::admit`]), one where a write is stamped, merged and handed to the peers, and
//! one where its reply is released ([`Node::commit`]). (In the Java original the server wrote to
//! the store itself, past the node: that is why nothing in it ever replicated.)
//!
//! Files: [`mod@batch`] is admission and settlement, `data` reads and writes keys, [`listing`]
//! lists them, [`peers`] is what other nodes ask, `health` says whether all is well, [`figures`] is
//! the table of everything that is shown, `opening` how a node starts.
//!
//! **Threads.** Each has the name given here, in the process list and in the logs.
//!
//! | name | owns | waits on | ends |
//! |---|---|---|---|
//! | `main` | the process, and the charts' samples | the gentle stop, a second | ends the process |
//! | `accept` | the listening socket | `accept` | with the process |
//! | `start` | nothing | its channel of accepted sockets | with the process |
//! | `log-sync` | nothing | a second, with `--fsync everysec` | with the node |
//! | `compaction` | the snapshot that is written | a tenth of a second, the disk | with the node |
//! | `recovery` | the records it merges at a start | its turn at reading | when all is read |
//! | `shutdown` | nothing | the last fsync | with the process |
//! | `tombstones` | the forgetting of deletes | a second | with the process |
//! | `raft` | elections and learners, with `--raft` | its waker, a tenth of a second | with the process |
//! | `raft-log` | nothing | its waker, the disk | with the process |
//! | `link-N` | the connection to one peer | its channel, the peer's reply | with the peer's place |
//! | `client-N` | one socket, its buffers, its session | that socket | when the client leaves |
//!
//! **Locks.** A thread takes locks in this order: a shard, then the log's `buffer`; or the log's
//! `fsyncing`, then `file`, then `buffer`. It takes `has_leader` alone, and never a shard together
//! with `file`. Only [`crate::store::prefetch`] holds several shards, and it never waits for one. A
//! shard's lock is held for one lookup, in `prefetch` for eight, and `buffer` for one copy. Only
//! `fsyncing` and `file` are held across I/O, and none across a channel send. The lock of a peer's
//! connection is held while its batch is merged, so it comes before a shard's; the other locks of
//! [`crate::replication`] are never held together with one of these, but for the one that orders
//! changes of the file `node`. The lock of the charts' samples is held alone. With `--raft`: its
//! `applying`, then its `replica`, then a shard or `buffer`.
//!
//! **Crash-only.** There is no clean-up that must run: `kill -9` is a normal way to stop (Candea
//! and Fox, "Crash-Only Software", 2003). A panic in any thread ends the process: half a node is
//! worse than none.

mod agreement;
pub mod batch;
mod data;
pub mod figures;
mod figures_of_consensus;
mod health;
pub mod listing;
mod opening;
pub mod peers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use log::warn;

use crate::config::{Configuration, Limits};
use crate::durability::Durability;
use crate::durability::write_ahead_log::WriteAheadLog;
use crate::error::{Error, Result};
use crate::guard::{Guard, same_in_constant_time};
use crate::locks::{Latch, spawn};
use crate::metrics::Metrics;
use crate::passwords::Passwords;
pub use crate::peers::status::{PeerStatus, RaftPeer};
use crate::stopping::GentleStop;
pub use crate::store::prefetch::PREFETCH_KEYS_MAX;
use crate::store::version::{HybridClock, wall_clock_ms};
use crate::store::{KeyValueStore, Size};
use agreement::Agreement;
pub use agreement::Greeted;
pub use batch::Batch;

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
    /// Whether the process was asked to stop.
    pub stop: GentleStop,
    store: Arc<KeyValueStore>,
    /// The data directory, if there is one.
    durability: Option<Arc<Durability>>,
    clock: Arc<HybridClock>,
    /// The other nodes, and how this one agrees with them.
    agreement: Agreement,
    /// Opens when the node serves clients.
    serving: Latch,
}

/// Longest wait for `SHUTDOWN` to settle what is under way. Then the process ends all the same.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two samples of the counters for the page's charts: fine enough to see a stall, and
/// idle it costs one short look a second.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Samples kept: five minutes. More: the oldest goes.
const SAMPLES_MAX: usize = 300;

impl Node {
    fn log(&self) -> Option<&WriteAheadLog> {
        self.durability.as_ref().map(|durability| durability.log.as_ref())
    }

    /// Appends a record to the log, if there is one. The position behind it.
    fn journal(&self, record: &[u8]) -> u64 {
        self.log().map_or(0, |log| log.append(record))
    }

    /// How much is stored.
    pub fn size(&self) -> Size {
        self.store.size()
    }

    /// How much is stored, for a reply that shows it.
    pub fn shown_size(&self, batch: &mut Batch) -> Result<Size> {
        self.admit_listing(batch)?;
        let size = self.store.size();
        self.shows_everything(batch);
        Ok(size)
    }

    /// The reply of this batch shows something of the whole store as it was until now.
    pub fn shows_everything(&self, batch: &mut Batch) {
        batch.touched(self.log().map_or(0, WriteAheadLog::end));
    }

    /// Whether the data survives the end of the process.
    pub fn is_durable(&self) -> bool {
        self.durability.is_some()
    }

    /// Bytes of changes that wait in the log's buffer for their commit.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.log().map_or(0, |log| log.unwritten_bytes(log.end()))
    }

    /// The end of a gentle stop: brings to the peers and to the disk what they lack, and waits at
    /// most `SHUTDOWN_TIMEOUT` for each.
    pub fn close(self: &Arc<Self>) -> Result<()> {
        let lacking = match &self.agreement {
            Agreement::Eventual(replication) => replication.drain(SHUTDOWN_TIMEOUT),
            Agreement::Raft(consensus) => consensus.drain(SHUTDOWN_TIMEOUT),
        };
        if !lacking.is_empty() {
            warn!(
                "stopping, but what was written last may be missing at {}: no confirmation within \
                 {SHUTDOWN_TIMEOUT:?}",
                lacking.join(", ")
            );
        }
        let (node, (done, result)) = (Arc::clone(self), bounded(1));
        // In a thread, because an fsync on a dying disk may take for ever.
        spawn("shutdown", move || {
            let _ = done.send(node.log().map_or(Ok(()), WriteAheadLog::fsync));
        })?;
        result.recv_timeout(SHUTDOWN_TIMEOUT).unwrap_or_else(|_| {
            let message =
                format!("the disk took longer than {SHUTDOWN_TIMEOUT:?} for the last fsync");
            Err(Error::Fatal(message))
        })
    }

    /// From now on the node serves clients.
    pub fn start_serving(&self) {
        self.serving.open();
    }

    /// Whether the node serves clients.
    pub fn is_serving(&self) -> bool {
        self.serving.is_open()
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
    fn clock_ahead(&self) -> Duration {
        self.clock.ahead_of(wall_clock_ms())
    }

    /// Returns when somebody asked for a gentle stop. Until then it samples the counters for the
    /// page's charts.
    pub fn wait_for_shutdown(&self) {
        while !self.stop.wait(SAMPLE_INTERVAL) {
            self.metrics.take_sample(self.started.elapsed(), SAMPLES_MAX);
        }
    }
}
