//! Recovery: rebuilds the map from the files of a node that stopped, in whatever way it stopped.
//!
//! 1. Read every header ([`super::survey`]). If a file has another format or belongs to another
//!    directory, refuse to start and change nothing.
//! 2. Start at the highest snapshot. It has replaced all lower segments.
//! 3. Merge everything else, on all processors. Records may be merged in any order.
//! 4. Only now change files: remove what was replaced, cut torn tails, and fsync the rest, so that
//!    no client is shown what could still be lost.
//!
//! **Torn or damaged?** A power loss may leave the end of the log in any state. That must not keep
//! a node from starting. Damage to bytes that were once safely on the disk must, since acknowledged
//! writes are lost. A bad frame is a *torn write* if nothing shows that its place was ever fsynced:
//! it is in the last log that has frames, and no good frame behind it names a `synced` beyond it.
//! Then the log ends before it. Otherwise it is *damage*: the node refuses to start, and names the
//! place and the way out.
//!
//! **Readable is not safe.** After a failed fsync the system takes the pages of a file for written.
//! Reading returns them from memory, but they may not be on the disk. So all bytes behind the last
//! known `synced` are written again before they are fsynced.

use std::io::{self, Read};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::files::FileLayer;
use super::segment::{FRAME_HEADER_BYTES, FrameRead, FrameReader, Kind, SegmentName, find_frames};
use super::survey::{Directory, SegmentFile, Survey, survey};
use crate::error::{Error, Result};
use crate::locks::{lock, unpoisoned};
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
    fn add(&mut self, more: &Merged) {
        self.records += more.records;
        self.time_max = self.time_max.max(more.time_max);
    }
}

/// Where a segment ends.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// How many bytes were certainly on the disk.
    synced: u64,
    /// Where its good frames end, if not at its end.
    bad: Option<BadPlace>,
}

#[derive(Clone, Copy, Debug)]
struct BadPlace {
    offset: u64,
    reason: &'static str,
}

/// A segment that stays.
struct Kept {
    name: SegmentName,
    synced: u64,
    len: u64,
}

/// Merges all that is stored in `files` into `store`.
pub fn recover(
    files: &dyn FileLayer,
    store: &KeyValueStore,
    directory: &Directory,
) -> Result<Recovered> {
    let start = Instant::now();
    let mut survey = survey(files, directory)?;
    let directory = &Directory { id: survey.id, ..*directory };
    let mut merged = Merged::default();
    // Only the last log with frames may be torn: a log gets frames when all lower segments are on
    // the disk.
    let logs = survey.segments.iter().filter(|segment| segment.name.kind == Kind::Log);
    let last = logs.map(|segment| segment.name).max();
    let mut kept = Vec::new();
    for segment in &survey.segments {
        let name = segment.name;
        let is_last = Some(name) == last;
        let extent = read_segment(files, segment, store, &mut merged)?;
        let mut len = segment.len;
        if let Some(bad) = extent.bad {
            len = bad.offset;
            let rest = read_rest(files, segment, &bad)?;
            match verdict(segment, &bad, &rest, is_last) {
                Ok(()) => warn!(
                    "{name}: a torn write at offset {} ({}), as a power loss or a crash leaves \
                     it: {} bytes cut away",
                    bad.offset,
                    bad.reason,
                    segment.len - bad.offset
                ),
                Err(reason) => {
                    let damage = directory.damage(name, bad.offset, reason);
                    directory.damaged(damage, "what can be read behind it is kept")?;
                    salvage_rest(segment, &rest, store, &mut merged)?;
                    survey.damaged.push(name);
                    len = segment.len;
                }
            }
        }
        // All lower segments were on the disk before the last log got a frame.
        let synced = if is_last { extent.synced } else { len };
        kept.push(Kept { name, synced, len });
    }
    let snapshots = kept.iter().filter(|kept| kept.name.kind == Kind::Snapshot);
    Ok(Recovered {
        records: merged.records,
        time_max: merged.time_max,
        bytes: kept.iter().map(|kept| kept.len).sum(),
        snapshot_bytes: snapshots.map(|kept| kept.len).sum(),
        unsettled: settle(files, &kept, &survey.obsolete).err(),
        duration: start.elapsed(),
        survey,
    })
}

/// Merges the records of a segment, up to its end or the first bad frame. Several threads take
/// turns to read a batch, and merge their batches at the same time.
fn read_segment(
    files: &dyn FileLayer,
    segment: &SegmentFile,
    store: &KeyValueStore,
    merged: &mut Merged,
) -> Result<Extent> {
    let offset = segment.name.kind.header_bytes();
    let (input, _) = files.read(&segment.name.to_string(), offset)?;
    let reader = Mutex::new(SegmentReader {
        frames: FrameReader::new(input, segment.header.salt, offset, segment.len),
        segment,
        end: None,
        reported: Instant::now(),
    });
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // A small segment is read faster than a second thread starts.
    let threads = threads.min(1 + (segment.len / BATCH_BYTES as u64) as usize);
    let results: Vec<Result<Merged>> = thread::scope(|scope| {
        let workers: Vec<_> = (1..threads)
            .map(|_| {
                let builder = thread::Builder::new().name("recovery".into());
                builder.spawn_scoped(scope, || merge_batches(&reader, store, segment.name))
            })
            .collect();
        let own = merge_batches(&reader, store, segment.name);
        let others = workers.into_iter().map(|worker| {
            let lost = |_| Err(Error::Fatal("a thread of the recovery panicked".into()));
            worker?.join().unwrap_or_else(lost)
        });
        others.chain([own]).collect()
    });
    for result in results {
        merged.add(&result?);
    }
    let reader = unpoisoned(reader.into_inner());
    Ok(Extent { synced: reader.frames.synced, bad: reader.end.flatten() })
}

/// Records are merged in batches of so many bytes, or one frame.
const BATCH_BYTES: usize = 256 * 1024;

struct SegmentReader<'s> {
    frames: FrameReader,
    segment: &'s SegmentFile,
    /// When the progress was last logged.
    reported: Instant,
    /// Set at the end of the segment: the bad place, if that ended it.
    end: Option<Option<BadPlace>>,
}

impl SegmentReader<'_> {
    /// Reads a batch; it is empty at the end.
    fn fill(&mut self, batch: &mut Vec<u8>) -> Result<()> {
        batch.clear();
        if self.reported.elapsed() >= Duration::from_secs(1) {
            let (name, len) = (self.segment.name, self.segment.len);
            let percent = self.frames.offset * 100 / len;
            info!("loading {name}: {percent} % of {} MiB", len >> 20);
            self.reported = Instant::now();
        }
        while batch.len() < BATCH_BYTES && self.end.is_none() {
            let offset = self.frames.offset;
            let bad = |reason| Some(Some(BadPlace { offset, reason }));
            self.end = match (self.frames.next(batch)?, self.segment.name.kind) {
                (FrameRead::Records, _) => None,
                (FrameRead::Empty, Kind::Snapshot) if self.frames.is_at_end() => Some(None),
                (FrameRead::Empty, Kind::Snapshot) => bad("goes on behind its end"),
                (FrameRead::Empty, Kind::Log) => bad("an empty frame"),
                (FrameRead::End, Kind::Log) => Some(None),
                (FrameRead::End, Kind::Snapshot) => bad("cut short"),
                (FrameRead::Bad(reason), _) => bad(reason),
            };
        }
        Ok(())
    }
}

/// Reads and merges until the segment ends.
fn merge_batches(
    reader: &Mutex<SegmentReader<'_>>,
    store: &KeyValueStore,
    name: SegmentName,
) -> Result<Merged> {
    let (mut batch, mut merged) = (Vec::new(), Merged::default());
    loop {
        let offset = {
            let mut reader = lock(reader);
            let offset = reader.frames.offset;
            reader.fill(&mut batch)?;
            offset
        };
        if batch.is_empty() {
            return Ok(merged);
        }
        let batch = merge_records(&batch, store);
        merged.add(&batch.map_err(|error| unknown_record(name, offset, &error))?);
    }
}

/// The checksum is right, so another version of this program wrote it.
fn unknown_record(name: SegmentName, offset: u64, error: &Error) -> Error {
    Error::Fatal(format!(
        "{name} holds behind offset {offset} what this program does not know: {error}; start the \
         program that wrote it, or a newer one"
    ))
}

fn merge_records(bytes: &[u8], store: &KeyValueStore) -> Result<Merged> {
    let mut merged = Merged::default();
    for record in store.decode_for_merge(bytes) {
        let record = record?;
        // A record from the log is not appended to it again.
        store.merge(&record, |_| 0);
        merged.add(&Merged { records: 1, time_max: record.version.time });
    }
    Ok(merged)
}

/// All of a segment from a bad place on.
fn read_rest(files: &dyn FileLayer, segment: &SegmentFile, bad: &BadPlace) -> Result<Vec<u8>> {
    let mut rest = Vec::new();
    let (mut input, _) = files.read(&segment.name.to_string(), bad.offset)?;
    input.read_to_end(&mut rest)?;
    Ok(rest)
}

/// `Ok` if a bad place is a torn write, otherwise why it is damage.
fn verdict(
    segment: &SegmentFile,
    bad: &BadPlace,
    rest: &[u8],
    is_last: bool,
) -> std::result::Result<(), &'static str> {
    if !is_last {
        return Err(bad.reason);
    }
    match find_frames(rest, segment.header.salt) {
        None => Err("too much of what follows looks like frames to tell what happened"),
        Some(later) if later.iter().any(|frame| frame.synced > bad.offset) => Err(bad.reason),
        Some(_) => Ok(()),
    }
}

/// Merges the good frames behind a bad place and logs how much is lost.
fn salvage_rest(
    segment: &SegmentFile,
    rest: &[u8],
    store: &KeyValueStore,
    merged: &mut Merged,
) -> Result<()> {
    let (mut lost, mut kept) = (rest.len(), Merged::default());
    for frame in find_frames(rest, segment.header.salt).unwrap_or_default() {
        kept.add(&merge_records(frame.records, store)?);
        lost -= FRAME_HEADER_BYTES + frame.records.len();
    }
    warn!(
        "{}: salvage: {lost} bytes are lost; {} records behind the damage are kept",
        segment.name, kept.records
    );
    merged.add(&kept);
    Ok(())
}

/// Cuts the files to what was recovered from them and fsyncs them. Removes replaced files first,
/// since the disk may be full.
fn settle(files: &dyn FileLayer, kept: &[Kept], obsolete: &[String]) -> io::Result<()> {
    for name in obsolete {
        files.remove(name)?;
    }
    for kept in kept {
        files.settle(&kept.name.to_string(), kept.synced, kept.len)?;
    }
    files.fsync_directory()
}
