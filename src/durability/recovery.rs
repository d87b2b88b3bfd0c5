//! Recovery: rebuilds the map from the files of a node that stopped, in whatever way it stopped.
//!
//! 1. Read every header ([`super::survey`]). If a file has another format or belongs to another
//!    directory, refuse to start and change nothing.
//! 2. Start at the highest snapshot. It has replaced all lower segments.
//! 3. Merge everything else, on all processors. Records may be merged in any order.
//! 4. Only now change files: remove what was replaced, cut torn tails, and fsync the rest, so that
//!    no client is shown what could still be lost.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::files::FileLayer;
use super::reading::{BATCH_BYTES, Batch, Kept, read_segments, settle};
use super::survey::{Directory, Survey, survey};
use crate::error::{Error, Result};
use crate::store::KeyValueStore;

/// What recovery found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Which files there were.
    pub survey: Survey,
    /// Records merged.
    pub records: u64,
    /// The largest time of a record: the clock must exceed it.
    pub time_max: u64,
    /// Bytes of the segments that stay.
    pub bytes: u64,
    /// Bytes of the snapshot among them.
    pub snapshot_bytes: u64,
    /// Why the files could not be cut and fsynced, if so: the records may not be on the disk.
    pub unsettled: Option<io::Error>,
    /// How long it took.
    pub duration: Duration,
}

/// Records that were merged.
#[derive(Clone, Copy, Debug, Default)]
struct Merged {
    records: u64,
    /// The largest time of one of them.
    time_max: u64,
}

impl Merged {
    fn add(&mut self, more: Merged) {
        self.records += more.records;
        self.time_max = self.time_max.max(more.time_max);
    }
}

/// Merges all that is stored in `files` into `store`.
pub fn recover(
    files: &dyn FileLayer,
    store: &KeyValueStore,
    directory: &Directory,
) -> Result<Recovered> {
    let start = Instant::now();
    let mut survey = survey(files, directory)?;
    let bytes: u64 = survey.segments.iter().map(|segment| segment.len).sum();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // A little is merged faster than a second thread starts.
    let threads = threads.min(1 + bytes as usize / BATCH_BYTES);
    let (kept, merged) = thread::scope(|scope| {
        // Holds no batch, so that each thread has one and the reader one.
        let (sender, receiver) = bounded(0);
        let mut workers = Vec::new();
        for _ in 0..threads {
            let (builder, receiver) = (thread::Builder::new(), receiver.clone());
            let merge = move || merge_batches(&receiver, store);
            workers.push(builder.name("recovery".into()).spawn_scoped(scope, merge)?);
        }
        drop(receiver);
        let kept = read_segments(files, directory, &mut survey, |batch| {
            sender
                .send(batch)
                .map_err(|_| Error::Fatal("all threads of the recovery failed".into()))
        });
        drop(sender);
        let mut merged = Merged::default();
        for worker in workers {
            let lost = |_| Err(Error::Fatal("a thread of the recovery panicked".into()));
            merged.add(worker.join().unwrap_or_else(lost)?);
        }
        Ok::<_, Error>((kept?, merged))
    })?;
    Ok(Recovered::new(files, survey, &kept, merged, start))
}

/// Reads all that is stored in `files` in order, on this thread: the records of a replicated log.
/// No file is changed before `take` has accepted all of it.
pub fn recover_in_order(
    files: &dyn FileLayer,
    directory: &Directory,
    take: &TakeFunction,
) -> Result<Recovered> {
    let start = Instant::now();
    let (mut survey, mut taken) = (survey(files, directory)?, Merged::default());
    let kept = read_segments(files, directory, &mut survey, |batch| {
        taken.records += batch.count();
        take(Some(&batch)).map_err(|error| match error {
            Error::Corrupt(reason) => directory.damage(batch.name, batch.offset, &reason),
            error => unknown_record(&batch, &error),
        })
    })?;
    take(None)?;
    Ok(Recovered::new(files, survey, &kept, taken, start))
}

/// See [`recover_in_order`]. `None`: that was all.
pub type TakeFunction<'t> = dyn Fn(Option<&Batch>) -> Result<()> + 't;

impl Recovered {
    fn new(
        files: &dyn FileLayer,
        survey: Survey,
        kept: &[Kept],
        merged: Merged,
        start: Instant,
    ) -> Self {
        let snapshots = kept.iter().filter(|kept| !kept.name.kind.is_log());
        Recovered {
            records: merged.records,
            time_max: merged.time_max,
            bytes: kept.iter().map(|kept| kept.len).sum(),
            snapshot_bytes: snapshots.map(|kept| kept.len).sum(),
            unsettled: settle(files, kept, &survey.obsolete).err(),
            duration: start.elapsed(),
            survey,
        }
    }
}

/// Merges batches until there are no more.
fn merge_batches(batches: &Receiver<Batch>, store: &KeyValueStore) -> Result<Merged> {
    let mut merged = Merged::default();
    for batch in batches {
        for record in store.decode_for_merge(&batch.records) {
            let record = record.map_err(|error| unknown_record(&batch, &error))?;
            // A record from the log is not appended to it again.
            store.merge(&record, |_| 0);
            merged.add(Merged { records: 1, time_max: record.version.time });
        }
    }
    Ok(merged)
}

/// The checksum is right, so another version of this program wrote it.
fn unknown_record(batch: &Batch, error: &Error) -> Error {
    let Batch { name, offset, .. } = batch;
    Error::Fatal(format!(
        "{name} holds behind offset {offset} what this program does not know: {error}; start the \
         program that wrote it, or a newer one"
    ))
}
