//! The log: every change is written here before it is acknowledged.
//!
//! **Group commit.** A thread appends while it executes requests: that copies a record into a
//! buffer. It calls [`WriteAheadLog::commit`] once, before it sends its replies. The first thread
//! to call it becomes the *leader*: it writes everything in the buffer as one frame, for all
//! threads. The others wait until the leader has written up to their position. While one `fsync`
//! runs, the next frame grows. So the more clients there are, the more writes share one `fsync`
//! (Gray and Reuter, "Transaction Processing", 1993, section 9.4.2). The log has no thread of its
//! own that writes, so a write by a single client costs no switch of threads.
//!
//! A **position** is the number of bytes appended since the start of the process.
//!
//! **Failure.** After a failed write or fsync the log is *read-only*: it writes nothing until a
//! snapshot of the whole map has succeeded in new files ([`WriteAheadLog::heal`]).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use log::{error, info};

use super::files::FileLayer;
use super::open_segment::{Ground, OpenSegment};
use super::segment::{Frame, Kind, SegmentName};
use crate::config::FsyncPolicy;
use crate::error::{Error, Result};
use crate::locks::{lock, unpoisoned};

/// The log of a node. Safe to share between threads.
///
/// Locks, in the order in which they may be taken: `fsyncing`, `file`, `buffer`; `has_leader`
/// alone. Only `fsyncing` and `file` are held across I/O.
///
/// Invariants:
/// - `a_record_is_in_the_buffer_or_in_a_frame` until a snapshot holds it: records leave the buffer
///   only when there is a segment to write them to.
/// - A segment gets its first frame only when all lower segments are on the disk as a whole.
/// - After a failed write or fsync a segment is never written to or fsynced again.
/// - Only a holder of `fsyncing` replaces the current segment.
/// - `written` and `synced` only grow, and `synced <= written`.
#[derive(Debug)]
pub struct WriteAheadLog {
    /// Where the segments are.
    pub(super) files: Arc<dyn FileLayer>,
    /// What they are for.
    pub(super) kind: Kind,
    /// The id of their directory.
    pub(super) directory: u64,
    policy: FsyncPolicy,
    buffer: Mutex<Buffer>,
    /// Whether a thread writes for all that wait.
    has_leader: Mutex<bool>,
    /// Wakes the waiting threads when the leader is done.
    leader_done: Condvar,
    file: Mutex<Current>,
    /// Held during an fsync. The system reports a failure to one caller only, so a second fsync
    /// that runs at the same time could succeed without reason.
    fsyncing: Mutex<()>,
    written: AtomicU64,
    synced: AtomicU64,
    /// Whether `file` has no segment: read for every write, without its lock.
    is_read_only: AtomicBool,
    /// What happened so far.
    pub counts: Counts,
}

#[derive(Debug, Default)]
struct Buffer {
    frame: Frame,
    /// The frames before it, which are full.
    full: Vec<Frame>,
    /// The position behind the last record.
    end: u64,
}

/// What the log writes to now.
#[derive(Debug)]
struct Current {
    /// The youngest segment; or, after a failure, why nothing can be written.
    segment: std::result::Result<OpenSegment, String>,
    next_number: u64,
    /// The number of the newest snapshot that is on the disk; 0: none.
    snapshot: u64,
    /// Swapped with the buffer's frame, so that neither is allocated anew.
    spare: Frame,
}

/// What a log did so far, for `INFO` and the page.
#[derive(Debug, Default)]
#[allow(missing_docs)] // The names say it.
pub struct Counts {
    /// Bytes of all segments that recovery would read.
    pub bytes: AtomicU64,
    pub snapshot_bytes: AtomicU64,
    pub frames: AtomicU64,
    pub fsyncs: AtomicU64,
    pub compactions: AtomicU64,
    pub is_compacting: AtomicBool,
    pub last_compaction_failed: AtomicBool,
}

/// Where the log goes on in a new segment, so that a snapshot can replace the older ones.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// The number of the snapshot, which replaces all lower segments. The segment that is written
    /// meanwhile has the next number; the segment that stands on the snapshot, the one after.
    pub snapshot_number: u64,
    /// Bytes of the segments that the snapshot replaces.
    pub replaced_bytes: u64,
}

/// A frame that was written keeps at most this much memory, in bytes.
const FRAME_BYTES_KEPT: usize = 1024 * 1024;

/// How often the leader yields before it writes. More gained nothing.
const YIELDS_MAX: u32 = 5;

impl WriteAheadLog {
    /// Starts to write to the first segment; or, where there is a reason why it could not be
    /// created, read-only until it has healed.
    pub fn start(
        files: Arc<dyn FileLayer>,
        policy: FsyncPolicy,
        ground: Ground,
        segment: std::result::Result<OpenSegment, String>,
    ) -> Self {
        let is_read_only = segment.is_err().into();
        let bytes = ground.bytes + segment.as_ref().map_or(0, |segment| segment.len);
        let current = Current {
            segment,
            next_number: ground.next_number + 1,
            snapshot: ground.snapshot,
            spare: Frame::default(),
        };
        WriteAheadLog {
            files,
            kind: ground.kind,
            directory: ground.directory,
            policy,
            buffer: Mutex::default(),
            has_leader: Mutex::default(),
            leader_done: Condvar::new(),
            file: Mutex::new(current),
            fsyncing: Mutex::default(),
            written: AtomicU64::default(),
            synced: AtomicU64::default(),
            is_read_only,
            counts: Counts {
                bytes: bytes.into(),
                snapshot_bytes: ground.snapshot_bytes.into(),
                ..Counts::default()
            },
        }
    }

    /// Copies a record into the buffer and returns its position. It is called under a shard's
    /// lock, so it never waits for the disk.
    pub fn append(&self, record: &[u8]) -> u64 {
        let mut buffer = lock(&self.buffer);
        if buffer.frame.is_full_for(record.len()) {
            let full = std::mem::take(&mut buffer.frame);
            buffer.full.push(full);
        }
        buffer.frame.push(record);
        buffer.end += record.len() as u64;
        buffer.end
    }

    /// Returns when everything up to `position` is as safe as the policy promises, or an error when
    /// it may not be.
    pub fn commit(&self, position: u64) -> Result<()> {
        if position <= self.safe() {
            return Ok(());
        }
        let must_wait = |has_leader: &mut bool| *has_leader && position > self.safe();
        let woken = self.leader_done.wait_while(lock(&self.has_leader), must_wait);
        let mut has_leader = unpoisoned(woken);
        if position <= self.safe() {
            return Ok(());
        }
        *has_leader = true;
        drop(has_leader);
        let result = match self.policy {
            FsyncPolicy::Always => {
                self.let_others_append();
                self.fsync()
            }
            FsyncPolicy::Everysec | FsyncPolicy::Never => {
                self.write_out(&mut lock(&self.file)).map(|_| ())
            }
        };
        *lock(&self.has_leader) = false;
        self.leader_done.notify_all();
        result
    }

    /// Lets threads that are ready to run append first, so that this frame carries their records
    /// too. With `always`, 50 clients and no pipelines, it gives 64,000 writes a second instead of
    /// 57,000. On an idle machine it costs less than a microsecond.
    fn let_others_append(&self) {
        let mut end = self.end();
        for _ in 0..YIELDS_MAX {
            thread::yield_now();
            let before = std::mem::replace(&mut end, self.end());
            if end == before {
                return;
            }
        }
    }

    /// How many bytes up to `position` were not yet handed to the operating system.
    pub fn unwritten_bytes(&self, position: u64) -> u64 {
        position.saturating_sub(self.written.load(Ordering::Acquire))
    }

    /// The position behind the last record.
    pub fn end(&self) -> u64 {
        lock(&self.buffer).end
    }

    /// Writes the buffer and returns when everything appended is on the disk, whatever the policy.
    /// An error while the log is read-only.
    pub fn fsync(&self) -> Result<()> {
        if self.is_synced(self.end()) {
            // A log that could not be started has no appended bytes, yet what was recovered may
            // not be safe.
            return self.read_only_reason().map_or(Ok(()), |reason| Err(Error::Fatal(reason)));
        }
        let _one_at_a_time = lock(&self.fsyncing);
        let mut current = lock(&self.file);
        let segment = self.write_out(&mut current)?;
        let (file, len) = (Arc::clone(&segment.file), segment.len);
        let position = self.written.load(Ordering::Acquire);
        // Other threads may write from here on. This fsync does not cover what they write.
        drop(current);
        self.counts.fsyncs.fetch_add(1, Ordering::Relaxed);
        let result = file.fsync();
        let mut current = lock(&self.file);
        if let Err(error) = result {
            return Err(self.fail(&mut current, "fsync", &error));
        }
        // The same segment as before, or none: replacing it takes `fsyncing`.
        if let Ok(segment) = &mut current.segment {
            segment.synced = len;
        }
        self.synced.fetch_max(position, Ordering::AcqRel);
        Ok(())
    }

    /// Whether everything up to `position` is on the disk.
    pub fn is_synced(&self, position: u64) -> bool {
        position <= self.synced.load(Ordering::Acquire)
    }

    /// Goes on in a new segment. Everything in the older segments is on the disk.
    pub fn rotate(&self) -> Result<Rotation> {
        let (snapshot_number, snapshot) = self.reserve_numbers();
        let replaced_bytes = self.go_on_in(snapshot_number + 1, snapshot)?;
        Ok(Rotation { snapshot_number, replaced_bytes })
    }

    /// Goes on in a segment that stands on this snapshot, so that this node does not start without
    /// the snapshot.
    pub fn stand_on(&self, snapshot_number: u64) -> Result<()> {
        lock(&self.file).snapshot = snapshot_number;
        self.go_on_in(snapshot_number + 2, snapshot_number)?;
        Ok(())
    }

    /// Replaces the current segment by a new one and returns the bytes of all older ones.
    fn go_on_in(&self, number: u64, stands_on: u64) -> Result<u64> {
        // Most of the fsync happens here, while other threads write. So the pause below is short.
        self.fsync()?;
        let next = self.create_segment(number, stands_on)?;
        let _one_at_a_time = lock(&self.fsyncing);
        let mut current = lock(&self.file);
        let segment = self.write_out(&mut current)?;
        self.counts.fsyncs.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = segment.fsync() {
            return Err(self.fail(&mut current, "fsync", &error));
        }
        self.synced.fetch_max(self.written.load(Ordering::Acquire), Ordering::AcqRel);
        let replaced_bytes = self.counts.bytes.fetch_add(next.len, Ordering::Relaxed);
        current.segment = Ok(next);
        Ok(replaced_bytes)
    }

    /// Why the log is read-only; `None` if it is not.
    pub fn read_only_reason(&self) -> Option<String> {
        let is_read_only = self.is_read_only.load(Ordering::Acquire);
        // While the log is read-only, nobody holds this lock across I/O.
        if is_read_only { lock(&self.file).segment.as_ref().err().cloned() } else { None }
    }

    /// Begins to heal: drops the buffer, whose records are in the map. Also returns the position up
    /// to which everything is in the map.
    pub fn begin_healing(&self) -> (Rotation, u64) {
        let (snapshot_number, _) = self.reserve_numbers();
        let replaced_bytes = self.counts.bytes.load(Ordering::Relaxed);
        let mut buffer = lock(&self.buffer);
        buffer.full.clear();
        buffer.frame.clear(FRAME_BYTES_KEPT);
        (Rotation { snapshot_number, replaced_bytes }, buffer.end)
    }

    /// Heals: the map is safe in this snapshot up to `position`, and the log goes on in a new
    /// segment.
    pub fn heal(&self, snapshot_number: u64, position: u64) -> io::Result<()> {
        let segment = self.create_segment(snapshot_number + 1, snapshot_number)?;
        let _one_at_a_time = lock(&self.fsyncing);
        let mut current = lock(&self.file);
        self.counts.bytes.fetch_add(segment.len, Ordering::Relaxed);
        current.segment = Ok(segment);
        current.snapshot = snapshot_number;
        self.written.fetch_max(position, Ordering::AcqRel);
        self.synced.fetch_max(position, Ordering::AcqRel);
        self.is_read_only.store(false, Ordering::Release);
        info!("the disk takes writes again: read-only no more");
        Ok(())
    }

    /// The position up to which everything is as safe as the policy promises.
    pub fn safe(&self) -> u64 {
        let safe = match self.policy {
            FsyncPolicy::Always => &self.synced,
            FsyncPolicy::Everysec | FsyncPolicy::Never => &self.written,
        };
        safe.load(Ordering::Acquire)
    }

    /// Writes the buffer to the current segment, and returns the segment.
    fn write_out<'c>(&self, current: &'c mut Current) -> Result<&'c mut OpenSegment> {
        // Checked before the buffer is taken: records that cannot be written stay in it.
        if let Err(reason) = &current.segment {
            return Err(Error::Fatal(reason.clone()));
        }
        let mut buffer = lock(&self.buffer);
        let mut frames = std::mem::take(&mut buffer.full);
        std::mem::swap(&mut buffer.frame, &mut current.spare);
        let end = buffer.end;
        drop(buffer);
        let mut result = Ok(());
        if let Ok(segment) = &mut current.segment {
            let frames = frames.iter_mut().chain([&mut current.spare]);
            result = frames.filter(|frame| !frame.is_empty()).try_for_each(|frame| {
                let len = segment.append(frame)?;
                self.counts.frames.fetch_add(1, Ordering::Relaxed);
                self.counts.bytes.fetch_add(len, Ordering::Relaxed);
                Ok(())
            });
        }
        current.spare.clear(FRAME_BYTES_KEPT);
        if let Err(error) = result {
            return Err(self.fail(current, "write", &error));
        }
        self.written.fetch_max(end, Ordering::AcqRel);
        current.segment.as_mut().map_err(|reason| Error::Fatal(reason.clone()))
    }

    fn create_segment(&self, number: u64, stands_on: u64) -> io::Result<OpenSegment> {
        let name = SegmentName { number, kind: self.kind };
        OpenSegment::create_log(self.files.as_ref(), name, self.directory, stands_on)
    }

    /// Makes the log read-only; returns the reason, or the earlier one if it was read-only.
    fn fail(&self, current: &mut Current, what: &str, error: &io::Error) -> Error {
        let reason = match &current.segment {
            Err(earlier) => earlier.clone(),
            Ok(segment) => {
                let reason = format!("cannot {what} {}: {error}", segment.name);
                error!("{reason}; read-only until a snapshot into new files succeeds");
                current.segment = Err(reason.clone());
                self.is_read_only.store(true, Ordering::Release);
                reason
            }
        };
        Error::Fatal(reason)
    }

    /// Reserves three new numbers, for a snapshot and two segments of the log: the first of them,
    /// and the number of the newest snapshot.
    fn reserve_numbers(&self) -> (u64, u64) {
        let mut current = lock(&self.file);
        let number = current.next_number;
        current.next_number += 3;
        (number, current.snapshot)
    }
}
