//! Admission and settlement: what happens before a request touches the data, and before its reply
//! leaves.
//!
//! Every protocol goes the same way. A connection keeps one [`Batch`]. Each read and write of the
//! node passes [`Node::admit`], which may wait or refuse. Then the connection calls
//! [`Node::commit`] once for all requests of a read from its socket, which may wait too, and sends
//! their replies when it returns.

use std::fmt::Display;

use log::trace;

use super::Node;
use super::agreement::Agreement;
use crate::config::FsyncPolicy;
use crate::consensus::Unsettled;
use crate::durability::write_ahead_log::WriteAheadLog;
use crate::error::{Code, Error, Result};
use crate::metrics;
use crate::replication::KnownLinks;

/// What one connection did since its last replies left: what [`Node::commit`] must settle.
#[derive(Debug, Default)]
pub struct Batch {
    /// Requests executed.
    pub commands: u64,
    /// Bytes received.
    pub input_bytes: u64,
    /// Reads that found their key.
    pub(super) hits: u64,
    /// Reads that did not.
    pub(super) misses: u64,
    /// Whether this connection has ever written: then `WAIT` has something to wait for. Stays.
    pub(super) has_written: bool,
    /// Whether this connection reads what this node has, which may be old: `READONLY`. Stays.
    pub is_read_only: bool,
    /// Whether the node was found to serve clients. Stays.
    is_served: bool,
    /// The highest log position of all shards looked at: no reply may leave before the log is safe
    /// up to here.
    ///
    /// Every read for a reply notes the position of its shard, whether it found the key or not.
    /// Otherwise a crash could take back a value, or a delete by another connection, that a client
    /// has seen. Replies about the whole store (`DBSIZE`, `INFO`, `/status.json`, `/metrics`) note
    /// the end of the log.
    position: u64,
    /// The highest log position of all shards that a peer is shown: no reply may leave before the
    /// log is on the disk up to here, whatever the policy, since the peer takes it as a
    /// confirmation.
    pub(super) shown_to_peer: u64,
    changed: Changed,
    /// With consensus: what must be agreed on.
    pub(super) unsettled: Unsettled,
    /// Where to hand on what was written.
    pub(super) links: KnownLinks,
}

/// Whether a batch changed data, and whether a client or a peer sent the change. The sender gets an
/// error if the commit fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Changed {
    #[default]
    Nothing,
    ForPeer,
    ForClient,
}

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// To look at the data.
    Read,
    /// To change the data.
    Write,
}

impl Batch {
    /// Notes the log position of something that the reply shows.
    pub(super) fn touched(&mut self, position: u64) {
        self.position = self.position.max(position);
    }
}

impl Node {
    /// Admits a request, before it looks at anything or changes anything. The first one of a
    /// connection waits until the node serves clients. A write is refused while the node stops or
    /// the disk fails.
    pub(super) fn admit(&self, access: Access, batch: &mut Batch) -> Result<()> {
        self.wait_until_serving(batch);
        if access == Access::Write {
            self.stop.check("not stored")?;
            self.check_writable()?;
        }
        match &self.agreement {
            Agreement::Raft(consensus) if access == Access::Read => {
                consensus.read(batch.is_read_only, &mut batch.unsettled)
            }
            _ => Ok(()),
        }
    }

    /// Returns when the node serves clients: when it has links to all it knows of, and each of them
    /// has answered or failed, at most a second after its start. A delete that was served before
    /// would leave no tombstone.
    pub fn wait_until_serving(&self, batch: &mut Batch) {
        if !batch.is_served {
            self.serving.wait();
            batch.is_served = true;
        }
    }

    /// Admits a listing. With consensus it waits for the connection's own writes: it looks only at
    /// what is applied.
    pub(super) fn admit_listing(&self, batch: &mut Batch) -> Result<()> {
        if let Agreement::Raft(consensus) = &self.agreement
            && batch.unsettled.has_writes()
        {
            consensus.settle(&mut batch.unsettled)?;
        }
        self.admit(Access::Read, batch)
    }

    /// Refuses while the disk fails.
    pub(super) fn check_writable(&self) -> Result<()> {
        match self.log().and_then(WriteAheadLog::read_only_reason) {
            None => Ok(()),
            Some(reason) => Err(read_only(&reason, "not stored")),
        }
    }

    /// Settles a batch. Its replies may leave when this has returned. After an error all of them
    /// must become that error: what the batch changed is in the map, and nobody knows whether it is
    /// on the disk. A batch that only read gets no error, since reads go on while the disk fails.
    pub fn commit(&self, batch: &mut Batch) -> Result<()> {
        metrics::add(&self.metrics.commands, batch.commands);
        metrics::add(&self.metrics.hits, batch.hits);
        metrics::add(&self.metrics.misses, batch.misses);
        metrics::add(&self.metrics.input_bytes, batch.input_bytes);
        let Batch {
            position, changed, shown_to_peer, has_written, is_served, is_read_only, ..
        } = *batch;
        let mut unsettled = std::mem::take(&mut batch.unsettled);
        *batch = Batch { has_written, is_served, is_read_only, ..Batch::default() };
        if let Agreement::Raft(consensus) = &self.agreement {
            consensus.settle(&mut unsettled)?;
        }
        if shown_to_peer > 0 {
            self.sync_to(shown_to_peer)?;
        }
        let committed = self.log().map_or(Ok(()), |log| log.commit(position));
        if changed == Changed::Nothing {
            return Ok(());
        }
        committed.map_err(|reason| read_only(&reason, "outcome unknown"))?;
        trace!("committed up to position {position}: {}", self.promise());
        // What a majority has is safe, whoever stops.
        let may_be_missed = matches!(self.agreement, Agreement::Eventual(_));
        if changed == Changed::ForClient && may_be_missed {
            // Last: see `stopping`.
            self.stop.check("outcome unknown")?;
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

    /// Returns when the log is on the disk up to a position.
    fn sync_to(&self, position: u64) -> Result<()> {
        let Some(log) = self.log().filter(|log| !log.is_synced(position)) else {
            return Ok(());
        };
        log.fsync().map_err(|reason| read_only(&reason, "not shown to a peer"))
    }

    /// Notes a change that was appended to the replicated log.
    pub(super) fn wrote_with_consensus(&self, batch: &mut Batch) {
        batch.changed = Changed::ForClient;
        batch.has_written = true;
    }

    /// Notes a change for [`Node::commit`]. A request of many writes must not fill the memory, so
    /// they are written out between them.
    pub(super) fn wrote(&self, position: u64, changed: Changed, batch: &mut Batch) {
        batch.touched(position);
        batch.changed = batch.changed.max(changed);
        let max = self.configuration.limits.log_buffer_bytes_max;
        if let Some(log) = self.log().filter(|log| log.unwritten_bytes(position) > max) {
            // If it fails, so does the commit of this batch.
            let _ = log.commit(position);
        }
    }
}

fn read_only(reason: &impl Display, outcome: &str) -> Error {
    Error::refused_as(Code::ReadOnly, format!("read-only: {reason} ({outcome})"))
}
