//! Recovery: from the files of a stopped node, however it stopped, back to its map.
//!
//! 1. Look at every header. A file of a newer format or one that is no segment: refuse, touch nothing.
//! 2. Start at the highest snapshot; what is lower was replaced by it.
//! 3. Merge everything else, on all processors: merging works in any order.
//! 4. Only now change files: cut torn tails, remove what is empty or replaced, fsync the rest, so that nothing a
//!    client will be shown can still be lost.
//!
//! **Torn or damaged?** A power loss may leave the end of the log in any state, and that must not keep a node from
//! starting; damage to what was once safely on the disk must, since acknowledged writes are gone. A
//! bad frame is a *torn write* if nothing says that its place was ever fsynced: it is in the last log
//! that has frames, and no good frame behind it names a `synced` beyond it. Then the log ends before it. Otherwise it is
//! *damage*: refuse, and name the place and the way out.

use std::io::{BufReader, Read};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::files::FileLayer;
use super::segment::{FRAME_HEADER_BYTES, FrameReader, Header, Kind, Next, SegmentName, find_frames, read_header};
use super::snapshot::TEMPORARY;
use crate::error::{Error, Result};
use crate::store::KeyValueStore;

/// What recovery found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Records merged.
    pub records: u64,
    /// The largest time of a record: the clock must exceed it.
    pub time_max: u64,
    /// Number for the next segment.
    pub next_number: u64,
    /// Bytes of the segments that stay, and of the snapshot among them.
    pub bytes: u64,
    /// Bytes of the snapshot among them.
    pub snapshot_bytes: u64,
    /// Segments that `--salvage` could not read whole.
    pub damaged: Vec<SegmentName>,
    /// How long it took.
    pub duration: Duration,
}

/// One segment that is to be read.
struct Segment {
    name: SegmentName,
    len: u64,
    /// `None`: there is nothing in it.
    salt: Option<u32>,
}

/// Where the good part of a segment ends, if not at its end.
struct BadPlace {
    offset: u64,
    reason: &'static str,
}

/// Merges all that is stored in `files` into `store`.
pub fn recover(files: &dyn FileLayer, store: &KeyValueStore, salvage: bool) -> Result<Recovered> {
    let start = Instant::now();
    let mut recovered = Recovered::default();
    let (segments, obsolete) = list(files, salvage, &mut recovered)?;
    // The last log with frames may be torn: frames enter a log only when all before it is on the disk.
    let has_frames = |segment: &&Segment| segment.name.kind == Kind::Log && segment.len > Kind::Log.start_bytes();
    let last = segments.iter().filter(has_frames).map(|s| s.name).max();
    let (mut kept, mut removed) = (Vec::new(), obsolete);
    for segment in &segments {
        let name = segment.name;
        let may_be_torn = name.kind == Kind::Log && last.is_none_or(|last| name >= last);
        let mut len = segment.len;
        if let Some(bad) = read_segment(files, segment, store, &mut recovered)? {
            len = bad.offset;
            let rest = read_rest(files, segment, &bad)?;
            match verdict(segment, &bad, &rest, may_be_torn) {
                Ok(()) => warn!(
                    "{name}: a torn write at offset {} ({}), as a power loss or a crash leaves it: {} bytes cut away",
                    bad.offset,
                    bad.reason,
                    segment.len - bad.offset
                ),
                Err(error) if !salvage => return Err(error),
                Err(error) => {
                    warn!("{error}");
                    salvage_rest(segment, &rest, store, &mut recovered)?;
                    len = segment.len;
                }
            }
        }
        if name.kind == Kind::Log && len <= Kind::Log.start_bytes() {
            removed.push(name.to_string());
        } else {
            kept.push((name, len));
        }
    }
    tidy(files, &kept, &removed)?;
    recovered.bytes = kept.iter().map(|(_, len)| len).sum();
    let snapshots = kept.iter().filter(|(name, _)| name.kind == Kind::Snapshot);
    recovered.snapshot_bytes = snapshots.map(|(_, len)| len).sum();
    recovered.duration = start.elapsed();
    Ok(recovered)
}

/// The segments to read, in order, and the names of files that mean nothing any more. Reads all headers.
fn list(files: &dyn FileLayer, salvage: bool, recovered: &mut Recovered) -> Result<(Vec<Segment>, Vec<String>)> {
    let all = files.names()?;
    let mut names: Vec<SegmentName> = all.iter().filter_map(|name| SegmentName::parse(name)).collect();
    names.sort_unstable();
    let snapshots = names.iter().filter(|name| name.kind == Kind::Snapshot);
    let newest = snapshots.map(|name| name.number).max().unwrap_or(0);
    recovered.next_number = names.last().map_or(1, |name| name.number + 1);
    let mut obsolete: Vec<String> = all.into_iter().filter(|name| name.ends_with(TEMPORARY)).collect();
    let mut segments = Vec::new();
    for name in names {
        let (input, len) = files.read(&name.to_string(), 0)?;
        let mut start = Vec::new();
        input.take(name.kind.start_bytes()).read_to_end(&mut start)?;
        let salt = match read_header(name.kind, &start) {
            Ok(Header::Salt(salt)) => Some(salt),
            // Only a log is there before it is complete, and then there is nothing in it.
            Ok(Header::Unfinished)
                if name.kind == Kind::Log
                    && (len <= Kind::Log.start_bytes() || is_zero(files, name, Kind::Log.header_bytes())?) =>
            {
                None
            }
            Err(Error::Fatal(message)) => return Err(Error::Fatal(format!("{name} {message}"))),
            _ if name.number < newest => None,
            bad => {
                let reason = bad.err().map_or("header is missing".into(), |e| e.to_string());
                let error = damage(name, 0, &reason);
                if !salvage {
                    return Err(error);
                }
                warn!("{error}; salvage: all of it is lost");
                recovered.damaged.push(name);
                continue;
            }
        };
        if name.number < newest {
            obsolete.push(name.to_string());
        } else {
            segments.push(Segment { name, len, salt });
        }
    }
    Ok((segments, obsolete))
}

/// Whether a file has only zeros from `offset` on.
fn is_zero(files: &dyn FileLayer, name: SegmentName, offset: u64) -> Result<bool> {
    let (input, _) = files.read(&name.to_string(), offset)?;
    for byte in BufReader::new(input).bytes() {
        if byte? != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn damage(name: SegmentName, offset: u64, reason: &str) -> Error {
    Error::Corrupt(format!(
        "{name} is damaged at offset {offset}: {reason}. This was safely stored once, so the disk or somebody changed it. \
         Bring the files back from a copy, or start with --salvage to keep what is readable"
    ))
}

/// Merges the records of a segment, up to its end or the first bad frame. Several threads take turns at reading
/// and merge at the same time.
fn read_segment(
    files: &dyn FileLayer,
    segment: &Segment,
    store: &KeyValueStore,
    recovered: &mut Recovered,
) -> Result<Option<BadPlace>> {
    let Some(salt) = segment.salt else {
        return Ok(None);
    };
    let offset = segment.name.kind.header_bytes();
    let (input, _) = files.read(&segment.name.to_string(), offset)?;
    let reader = Mutex::new(SegmentReader {
        frames: FrameReader::new(input, salt, offset, segment.len),
        segment,
        end: None,
        is_first: true,
        reported: Instant::now(),
    });
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // A small segment is read before a second thread has started.
    let threads = threads.min(1 + (segment.len / BATCH_BYTES as u64) as usize);
    let results: Vec<Result<(u64, u64)>> = thread::scope(|scope| {
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
        let (records, time_max) = result?;
        recovered.records += records;
        recovered.time_max = recovered.time_max.max(time_max);
    }
    let reader = reader.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(reader.end.flatten())
}

/// Records are merged in batches of so many bytes, or one frame.
const BATCH_BYTES: usize = 256 * 1024;

struct SegmentReader<'s> {
    frames: FrameReader,
    segment: &'s Segment,
    is_first: bool,
    /// When somebody was last told how far it is.
    reported: Instant,
    /// Set when there is no more to read: whether the segment ended as it should.
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
            let is_first = std::mem::take(&mut self.is_first);
            let bad = |reason| Some(Some(BadPlace { offset, reason }));
            self.end = match (self.frames.next(batch)?, self.segment.name.kind) {
                (Next::Records, _) => None,
                (Next::Empty, _) if is_first => None,
                (Next::Empty, Kind::Snapshot) if self.frames.is_at_end() => Some(None),
                (Next::Empty, Kind::Snapshot) => bad("goes on behind its end"),
                (Next::Empty, Kind::Log) => bad("an empty frame"),
                (Next::End, Kind::Log) => Some(None),
                (Next::End, Kind::Snapshot) => bad("cut short"),
                (Next::Bad(reason), _) => bad(reason),
            };
        }
        Ok(())
    }
}

/// Reads and merges until the segment ends: number of records and largest time.
fn merge_batches(reader: &Mutex<SegmentReader<'_>>, store: &KeyValueStore, name: SegmentName) -> Result<(u64, u64)> {
    let (mut batch, mut records, mut time_max) = (Vec::new(), 0, 0);
    loop {
        let offset = {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            let offset = reader.frames.offset;
            reader.fill(&mut batch)?;
            offset
        };
        if batch.is_empty() {
            return Ok((records, time_max));
        }
        let merged = merge_records(&batch, store).map_err(|error| damage(name, offset, &error.to_string()))?;
        records += merged.0;
        time_max = time_max.max(merged.1);
    }
}

fn merge_records(bytes: &[u8], store: &KeyValueStore) -> Result<(u64, u64)> {
    let (mut records, mut time_max) = (0, 0);
    for record in store.decode_for_merge(bytes) {
        let record = record?;
        // What was read from the log needs no place in it.
        store.merge(&record, |_| 0);
        records += 1;
        time_max = time_max.max(record.version.time);
    }
    Ok((records, time_max))
}

/// All of a segment from a bad place on.
fn read_rest(files: &dyn FileLayer, segment: &Segment, bad: &BadPlace) -> Result<Vec<u8>> {
    let mut rest = Vec::new();
    let (mut input, _) = files.read(&segment.name.to_string(), bad.offset)?;
    input.read_to_end(&mut rest)?;
    Ok(rest)
}

/// Whether a bad place is a torn write; otherwise the damage that it is.
fn verdict(segment: &Segment, bad: &BadPlace, rest: &[u8], may_be_torn: bool) -> Result<()> {
    let damage = |reason: &str| Err(damage(segment.name, bad.offset, reason));
    if !may_be_torn {
        return damage(bad.reason);
    }
    // The first frame is empty and was fsynced before the others; a bad one means a bad salt, which would make
    // all others look torn.
    let first_frame_len = rest.get(4..8);
    if bad.offset == segment.name.kind.header_bytes()
        && rest.iter().skip(FRAME_HEADER_BYTES).any(|byte| *byte != 0)
        && first_frame_len == Some(&[0; 4])
    {
        return damage("the checksum of its start does not match");
    }
    match find_frames(rest, segment.salt.unwrap_or(0)) {
        None => damage("too much of what follows looks like frames to tell what happened"),
        Some(later) if later.iter().any(|frame| frame.synced > bad.offset) => damage(bad.reason),
        Some(_) => Ok(()),
    }
}

/// Merges the good frames behind a bad place and says what is lost.
fn salvage_rest(segment: &Segment, rest: &[u8], store: &KeyValueStore, recovered: &mut Recovered) -> Result<()> {
    let (mut lost, mut records) = (rest.len(), 0);
    for frame in find_frames(rest, segment.salt.unwrap_or(0)).unwrap_or_default() {
        let merged = merge_records(frame.records, store)?;
        records += merged.0;
        recovered.time_max = recovered.time_max.max(merged.1);
        lost -= FRAME_HEADER_BYTES + frame.records.len();
    }
    warn!("{}: salvage: {lost} bytes are lost; {records} records behind the damage are kept", segment.name);
    recovered.records += records;
    recovered.damaged.push(segment.name);
    Ok(())
}

/// Makes the files what was recovered from them, and all of it safe.
fn tidy(files: &dyn FileLayer, kept: &[(SegmentName, u64)], removed: &[String]) -> Result<()> {
    for (name, len) in kept {
        files.trim(&name.to_string(), *len)?;
    }
    for name in removed {
        files.remove(name)?;
    }
    Ok(files.sync_directory()?)
}
