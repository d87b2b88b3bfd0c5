//! # Surviving: the write-ahead log
//!
//! **The problem.** Memory is lost when a process is killed or the power fails. A store that says
//! `OK` makes a promise, and the promise must hold whatever stops the process, at any moment.
//!
//! **The idea.** Every change is appended to a file, the *log*, before it is acknowledged. A
//! starting node replays the log: it merges all records into an empty map. Merge takes records in
//! any order, any number of times ([`crate::store`]). So recovery may merge whatever it finds, and
//! a snapshot may be taken while clients write.
//!
//! **The promise.** No reply, to a write or a read, is sent before what it shows is safe:
//!
//! | `--fsync` | safe means | survives `kill -9` | survives a power loss |
//! |---|---|---|---|
//! | `always` | on the disk | yes | yes |
//! | `everysec` (default) | written; on the disk a second later | yes | all but the last second |
//! | `never` | written; on the disk when the system likes | yes | what was on the disk by then |
//!
//! *Written* means handed to the operating system. With `everysec` a power loss may take as much
//! more than a second as the fsync takes.
//!
//! **The rules.**
//! - Every shard remembers the log position of its last change. A reply waits for the shards that
//!   it touched, and for no others.
//! - Merge and append happen under one lock, the shard's. A snapshot rotates the log *before* it
//!   copies.
//! - No file is removed before its replacement is on the disk under its name.
//! - A power loss never keeps a node from starting, and damage is never served as data.
//!   [`reading`] tells the two apart.
//! - When the disk fails, no write is acknowledged: writes are refused, reads go on from memory. A
//!   failed fsync is never retried. The node heals by itself, but only by a snapshot of the whole
//!   map in new files.
//!
//! **Threads.** `log-sync` fsyncs every second with `everysec`; `compaction` takes snapshots. See
//! [`crate::node`].
//!
//! **What is left out.** Damage to the last frames before a crash cannot be told from a torn write.
//! A log file that somebody cuts exactly between two frames looks like a shorter log. Data is not
//! encrypted. All of it must fit into memory. To read: Gray and Reuter, "Transaction Processing",
//! 1993, chapter 9; Pillai et al., "All File Systems Are Not Created Equal", 2014.
//!
//! Files: [`write_ahead_log`] brings records to the disk, [`open_segment`] is the file that it
//! writes, [`snapshot`] keeps the log short, and [`compactor`] decides when. [`survey`] finds out
//! which files belong together, [`reading`] reads them, and [`recovery`] merges what they hold.
//! [`segment`] is the format of logs and snapshots, [`crc32`] its checksum. [`identity`] is the
//! file with the node's id and members, [`restamping`] repairs what a wrong clock left behind,
//! [`private`] keeps other users out of the directory, [`files`] is what we ask of a disk.

pub mod compactor;
pub mod crc32;
pub mod files;
pub mod identity;
pub mod open_segment;
pub mod private;
pub mod reading;
pub mod recovery;
pub mod restamping;
pub mod segment;
pub mod snapshot;
pub mod survey;
pub mod write_ahead_log;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use log::{error, info};

use crate::config::FsyncPolicy;
use crate::error::{Error, Result};
use crate::locks::{Latch, spawn};
use crate::random::random_id;
use crate::store::KeyValueStore;
use crate::store::version::wall_clock_ms;
use compactor::Compactor;
use files::{DiskFiles, FileLayer};
use identity::NodeFile;
use open_segment::Ground;
use recovery::{Recovered, TakeFunction};
use segment::{Kind, SegmentName};
use snapshot::HeadFunction;
use survey::{Directory, Survey};
use write_ahead_log::WriteAheadLog;

/// How a data directory is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    /// When written records are brought to the disk.
    pub policy: FsyncPolicy,
    /// Keep what is readable of damaged files instead of refusing to start.
    pub salvage: bool,
    /// Whether other nodes are named to this one.
    pub has_seeds: bool,
    /// How far a record may be ahead of this machine's clock.
    pub clock_skew_max: Duration,
    /// Give records that are further ahead a new version, with the time of this start.
    pub restamp: bool,
}

/// A data directory in use: its lock, its log, and the threads that fsync and compact it.
#[derive(Debug)]
pub struct Durability {
    /// The log.
    pub log: Arc<WriteAheadLog>,
    /// What recovery found at the start.
    pub recovered: Recovered,
    /// Who this node was at the start; a directory without a `node` file got a new id.
    pub node_file: NodeFile,
    files: Arc<dyn FileLayer>,
    /// Opens when this is dropped: the threads end.
    stop: Latch,
    _lock: File,
}

impl Durability {
    /// Takes a data directory, passes what it holds to `target` and starts to log.
    pub fn open(directory: &Path, options: Opening, target: Target) -> Result<Self> {
        let lock = identity::take_directory(directory)?;
        let files = Arc::new(DiskFiles { directory: directory.into() });
        let opened = open_files(files.clone(), options, target);
        let (log, recovered, node_file) = opened.map_err(|error| in_directory(directory, error))?;
        let (log, stop) = (Arc::new(log), Latch::default());
        if options.policy == FsyncPolicy::Everysec {
            let (log, stop) = (log.clone(), stop.clone());
            spawn("log-sync", move || fsync_regularly(&log, &stop))?;
        }
        Ok(Durability { log, recovered, node_file, files, stop, _lock: lock })
    }

    /// Starts to keep the log short: snapshots are made of this map, and of what `head` gives.
    pub fn start_compaction(
        &self,
        store: &Arc<KeyValueStore>,
        head: Option<Box<HeadFunction<'static>>>,
    ) -> Result<()> {
        let (log, store, stop) = (self.log.clone(), store.clone(), self.stop.clone());
        let compactor = Compactor { log, store, head };
        spawn("compaction", move || compactor.run(&stop))?;
        Ok(())
    }

    /// Stores the ids of this node and of its cluster's members. They are on the disk when this
    /// returns.
    pub fn save_node_file(&self, file: &NodeFile) -> io::Result<()> {
        file.save(self.files.as_ref())
    }
}

impl Drop for Durability {
    fn drop(&mut self) {
        self.stop.open();
    }
}

/// Recovery and the start of a new log.
pub fn open_files(
    files: Arc<dyn FileLayer>,
    options: Opening,
    target: Target,
) -> Result<(WriteAheadLog, Recovered, NodeFile)> {
    let stored = NodeFile::load(files.as_ref())?;
    let directory = Directory {
        id: stored.as_ref().map(|file| file.node_id),
        // A node that never met its seeds has left nothing with them. The members of a node that
        // agrees by consensus are in its log.
        is_in_cluster: target.log_kind().is_raft()
            || stored.as_ref().map_or(options.has_seeds, |file| !file.members.is_empty()),
        salvage: options.salvage,
        log_kind: target.log_kind(),
    };
    check_names(files.as_ref(), directory.log_kind)?;
    let mut recovered = match target {
        Target::Store(store) => recovery::recover(files.as_ref(), store, &directory)?,
        Target::ReplicatedLog(take) => {
            recovery::recover_in_order(files.as_ref(), &directory, take)?
        }
    };
    let node_id = recovered.survey.id.unwrap_or_else(random_id);
    let is_old = stored.is_some();
    let (policy, kind) = (options.policy, directory.log_kind);
    let log = start_log(&files, policy, kind, node_id, is_old, &mut recovered)?;
    let node_file = match stored {
        Some(file) => file,
        None => {
            // After the first log was created. So a `node` file without any log shows a loss.
            let file = NodeFile { node_id, ..NodeFile::default() };
            file.save(files.as_ref())?;
            file
        }
    };
    // The records of a replicated log have no times, and what is damaged of them is not used.
    if let Target::Store(store) = target {
        let now = (wall_clock_ms(), options.clock_skew_max);
        let is_restamped = restamping::check_times(store, &mut recovered, now, options.restamp)?;
        let Survey { damaged, is_incomplete, .. } = &recovered.survey;
        if !damaged.is_empty() || *is_incomplete || is_restamped {
            // Writes what was readable to new files. The damaged files are renamed and kept, so
            // that somebody can examine them.
            snapshot::compact(&log, store, damaged)?;
        }
    }
    info!(
        "recovered {} records from {} bytes in {:.1?}",
        recovered.records, recovered.bytes, recovered.duration
    );
    Ok((log, recovered, node_file))
}

/// Where the records of a directory go.
#[derive(Clone, Copy)]
pub enum Target<'t> {
    /// They are records of the store: the node agrees with others eventually.
    Store(&'t KeyValueStore),
    /// They are records of a replicated log, in order: the node agrees by consensus.
    ReplicatedLog(&'t TakeFunction<'t>),
}

impl Target<'_> {
    fn log_kind(self) -> Kind {
        match self {
            Target::Store(_) => Kind::Log,
            Target::ReplicatedLog(_) => Kind::RaftLog,
        }
    }
}

/// Refuses a directory of a node that was started the other way.
fn check_names(files: &dyn FileLayer, log_kind: Kind) -> Result<()> {
    let names = SegmentName::all(&files.names()?);
    let Some(other) = names.iter().find(|name| name.kind.is_raft() != log_kind.is_raft()) else {
        return Ok(());
    };
    let (before, now) = match log_kind.is_raft() {
        true => ("without", "with"),
        false => ("with", "without"),
    };
    Err(Error::Fatal(format!(
        "{other} was written by a node that was started {before} --raft, and this one was started \
         {now} it; choose another directory with --data-dir. To bring the data over: kvstore \
         export HOST OLD_PORT | redis-cli -h HOST -p NEW_PORT --pipe"
    )))
}

/// Starts a new log; a read-only one where the disk can be read and not written.
fn start_log(
    files: &Arc<dyn FileLayer>,
    policy: FsyncPolicy,
    kind: Kind,
    directory: u64,
    is_old: bool,
    recovered: &mut Recovered,
) -> Result<WriteAheadLog> {
    let Recovered { bytes, snapshot_bytes, survey, unsettled, .. } = recovered;
    let Survey { next_number, snapshot, .. } = *survey;
    let ground = Ground {
        kind,
        directory,
        next_number,
        snapshot,
        bytes: *bytes,
        snapshot_bytes: *snapshot_bytes,
    };
    let created = unsettled.take().map_or_else(|| ground.create_segment(files.as_ref()), Err);
    let segment = match created {
        Ok(segment) => {
            survey.empty.drain(..).try_for_each(|name| files.remove(&name))?;
            Ok(segment)
        }
        // A wrong owner is a mistake in how the server was started. A new directory has no data
        // that could be served.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied || !is_old => {
            return Err(error.into());
        }
        Err(error) => {
            let reason = format!("cannot write at the start: {error}");
            error!("{reason}; read-only until a snapshot into new files succeeds");
            Err(reason)
        }
    };
    Ok(WriteAheadLog::start(Arc::clone(files), policy, ground, segment))
}

fn in_directory(directory: &Path, error: Error) -> Error {
    let what = if matches!(error, Error::Io(_)) { "cannot read or write: " } else { "" };
    Error::Fatal(format!("{}: {what}{error}", directory.display()))
}

/// The thread `log-sync`.
fn fsync_regularly(log: &WriteAheadLog, stop: &Latch) {
    while !stop.wait_timeout(FSYNC_INTERVAL) {
        if log.read_only_reason().is_none() {
            // A failure has been logged and has made the log read-only.
            let _ = log.fsync();
        }
    }
}

/// Pause between two fsyncs with `everysec`.
const FSYNC_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
pub mod disk_model;
#[cfg(test)]
mod tests;
