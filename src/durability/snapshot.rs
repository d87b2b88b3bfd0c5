//! Snapshots: the whole map in one segment, so that the log does not grow for ever.
//!
//! **Compaction** rotates the log first. Then it copies the map, shard by shard, while clients go
//! on writing. A change from before the rotation is in the map when its shard is copied. A change
//! from after the rotation is in the new log, and perhaps in the copy too: merging it twice changes
//! nothing. This holds because one lock, the shard's, is held while a record is merged and
//! appended. With two locks a record could be in the old log and not yet in the map. Then 2 of the
//! 10 orders of "append, merge" and "rotate, copy, delete" would lose it (see the test
//! `two_of_ten_orders_lose_a_record_when_append_and_merge_are_two_steps`).
//!
//! **Room.** Between two compactions the log may fill the disk. Only a snapshot allows old logs to
//! be removed, and the snapshot would find no room. So the file `room` reserves space, and the next
//! snapshot is written over it. It is the last snapshot but one; [`super::compactor`] appends zeros
//! where it is too short. A disk of three times the live data is enough, with this file as without
//! it.
//!
//! A snapshot is renamed to its final name after its fsync, so the name stands for a complete file.
//! Old segments are removed only when that name is on the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::{info, warn};

use super::files::FileLayer;
use super::open_segment::OpenSegment;
use super::segment::{Frame, RAFT_HEADER_BYTES, RAFT_STATE, SegmentName};
use super::write_ahead_log::{Rotation, WriteAheadLog};
use crate::error::Result;
use crate::store::KeyValueStore;
use crate::store::digest::SHARDS;

/// The ending of the name of an unfinished file. Recovery removes such files.
pub const TEMPORARY: &str = ".tmp";
/// The file that reserves space for the next snapshot. Its content has no meaning.
pub const ROOM: &str = "room";
/// A frame is written when it has this many bytes.
const FRAME_BYTES: usize = 1024 * 1024;
/// Fsync after this many bytes, so that an fsync of the log never waits long for the snapshot's
/// bytes.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;

/// What a snapshot is made of.
#[derive(Clone, Copy)]
pub struct Source<'s> {
    /// The map.
    pub store: &'s KeyValueStore,
    /// Gives the records that stand before the map in the snapshot with this number, and appends a
    /// mark to the log: what stands before the mark is in the snapshot.
    pub head: Option<&'s HeadFunction<'s>>,
}

impl Source<'_> {
    fn head_of(&self, number: u64) -> Result<Vec<u8>> {
        self.head.map_or_else(|| Ok(Vec::new()), |head| head(number))
    }
}

/// See [`Source::head`].
pub type HeadFunction<'s> = dyn Fn(u64) -> Result<Vec<u8>> + Send + Sync + 's;

impl<'s> From<&'s KeyValueStore> for Source<'s> {
    fn from(store: &'s KeyValueStore) -> Self {
        Source { store, head: None }
    }
}

impl<'s> From<&'s Arc<KeyValueStore>> for Source<'s> {
    fn from(store: &'s Arc<KeyValueStore>) -> Self {
        Source { store, head: None }
    }
}

/// Replaces all segments by a snapshot and a new, empty log. The old segments in `kept` are
/// renamed, the others removed.
pub fn compact<'s>(
    log: &WriteAheadLog,
    source: impl Into<Source<'s>>,
    kept: &[SegmentName],
) -> Result<()> {
    let (rotation, source) = (log.rotate()?, source.into());
    let head = source.head_of(rotation.snapshot_number)?;
    if source.head.is_some() {
        // Without its mark, the new log would be read as younger than the snapshot as a whole. So
        // a log that has failed meanwhile must heal first.
        log.fsync()?;
    }
    let bytes = write(log, rotation.snapshot_number, source.store, &head)?;
    if let Err(error) = log.stand_on(rotation.snapshot_number) {
        // All that is lost is the check at a start that nobody removed the snapshot.
        warn!("cannot create a log that names its snapshot: {error}");
    }
    replaced(log, rotation, bytes, kept);
    Ok(())
}

/// Heals a log whose disk failed: writes the map to new files, then allows writes again.
pub fn heal<'s>(log: &WriteAheadLog, source: impl Into<Source<'s>>) -> Result<()> {
    let ((rotation, position), source) = (log.begin_healing(), source.into());
    // The mark waits in the buffer for the new log, in front of everything that follows it.
    let head = source.head_of(rotation.snapshot_number)?;
    let bytes = write(log, rotation.snapshot_number, source.store, &head)?;
    // Free the room first: the new log may need it.
    replaced(log, rotation, bytes, &[]);
    Ok(log.heal(rotation.snapshot_number, position)?)
}

/// Removes the segments that a snapshot of `bytes` has replaced, but renames those in `kept`.
fn replaced(log: &WriteAheadLog, rotation: Rotation, bytes: u64, kept: &[SegmentName]) {
    let counts = &log.counts;
    counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    counts.bytes.fetch_sub(rotation.replaced_bytes, Ordering::Relaxed);
    counts.snapshot_bytes.store(bytes, Ordering::Relaxed);
    counts.compactions.fetch_add(1, Ordering::Relaxed);
    info!("a snapshot of {bytes} bytes replaces {} bytes of log", rotation.replaced_bytes);
    if let Err(error) = remove_below(log.files.as_ref(), rotation.snapshot_number, kept) {
        // The next start tries again.
        warn!("cannot remove replaced segments: {error}");
    }
}

/// Removes all segments with a lower number, but renames those in `kept` to `….damaged`. The newest
/// snapshot among them becomes the room for the next one.
pub fn remove_below(files: &dyn FileLayer, number: u64, kept: &[SegmentName]) -> io::Result<()> {
    let mut segments = SegmentName::all(&files.names()?);
    segments.retain(|segment| segment.number < number);
    let snapshots =
        segments.iter().filter(|segment| !segment.kind.is_log() && !kept.contains(segment));
    let room = snapshots.max().copied();
    for segment in segments {
        let name = segment.to_string();
        if kept.contains(&segment) {
            files.rename(&name, &format!("{name}.damaged"))?;
        } else if Some(segment) == room {
            files.rename(&name, ROOM)?;
        } else {
            files.remove(&name)?;
        }
    }
    files.fsync_directory()
}

/// Writes a snapshot of `head` and of the map as it is now or a little later; returns its size in
/// bytes. It is complete and safe, or not there.
pub fn write(log: &WriteAheadLog, number: u64, store: &KeyValueStore, head: &[u8]) -> Result<u64> {
    let (files, name) = (log.files.as_ref(), SegmentName { number, kind: log.kind.snapshot() });
    let written = write_temporary(files, name, log.directory, store, head);
    let published = written.and_then(|bytes| publish(files, &name.to_string()).map(|()| bytes));
    // It may fill the disk. If removing it fails, the next start does it.
    let removed = |_: &io::Error| drop(files.remove(&temporary(&name.to_string())));
    Ok(published.inspect_err(removed)?)
}

/// What the unfinished file of this name is called.
pub fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// Gives a finished file its name.
pub fn publish(files: &dyn FileLayer, name: &str) -> io::Result<()> {
    files.rename(&temporary(name), name)?;
    files.fsync_directory()
}

/// Writes and fsyncs a snapshot under a temporary name.
pub fn write_temporary(
    files: &dyn FileLayer,
    name: SegmentName,
    directory: u64,
    store: &KeyValueStore,
    head: &[u8],
) -> io::Result<u64> {
    let file = files.create_over(ROOM, &temporary(&name.to_string()))?;
    let mut output = OpenSegment::begin(file, name, directory, 0)?;
    let (mut frame, mut full) = (Frame::default(), Vec::new());
    let mut rest = head;
    // Entries that are not applied may be longer than one frame.
    while let Some(len) = name.kind.record_len(rest) {
        if frame.is_full_for(len) {
            full.push(std::mem::take(&mut frame));
        }
        frame.push(&rest[..len]);
        rest = &rest[len..];
    }
    for shard in 0..SHARDS {
        // Copied under the shard's lock, written without it.
        store.for_each_in_shard(shard, |entry| {
            let len = entry.bytes().len();
            if frame.is_full_for(RAFT_HEADER_BYTES + len) {
                full.push(std::mem::take(&mut frame));
            }
            if name.kind.is_raft() {
                frame.push(&[RAFT_STATE]);
                frame.push(&(len as u32).to_le_bytes());
            }
            frame.push(entry.bytes());
        });
        for mut frame in full.drain(..) {
            write_frame(&mut output, &mut frame)?;
        }
        if frame.records_len() >= FRAME_BYTES || (shard == SHARDS - 1 && !frame.is_empty()) {
            write_frame(&mut output, &mut frame)?;
            frame.clear(2 * FRAME_BYTES);
        }
    }
    // An empty frame marks the snapshot as complete.
    write_frame(&mut output, &mut Frame::default())?;
    output.file.finish(output.len)?;
    Ok(output.len)
}

fn write_frame(output: &mut OpenSegment, frame: &mut Frame) -> io::Result<()> {
    output.append(frame)?;
    if output.len - output.synced >= SYNC_BYTES { output.fsync() } else { Ok(()) }
}
