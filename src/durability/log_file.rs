//! The segment that a log is writing: creating it, and appending frames to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::files::{AppendFile, FileLayer};
use super::segment::{Frame, Header, Kind, SegmentName};
use crate::random::random_id;

/// A segment of the log, open for writing.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) name: SegmentName,
    pub(super) file: Arc<dyn AppendFile>,
    salt: u32,
    /// Bytes handed to the operating system.
    pub(super) len: u64,
    /// Bytes that are on the disk.
    pub(super) synced: u64,
}

impl LogFile {
    /// Creates a segment without frames that stands on the snapshot `stands_on`. Its header and its
    /// name are on the disk when this returns, so before its first frame.
    pub(super) fn create(
        files: &dyn FileLayer,
        number: u64,
        directory: u64,
        stands_on: u64,
    ) -> io::Result<Self> {
        let (kind, salt) = (Kind::Log, random_id() as u32);
        let name = SegmentName { number, kind };
        let create = || {
            let file = files.create(&name.to_string())?;
            let header = Header { salt, directory, stands_on }.encode(kind);
            file.append(&header)?;
            file.fsync()?;
            files.fsync_directory()?;
            Ok(LogFile { name, file, salt, len: header.len() as u64, synced: header.len() as u64 })
        };
        // An unfinished segment below a log with frames would look like damage.
        create().inspect_err(|_: &io::Error| drop(files.remove(&name.to_string())))
    }

    /// Writes a frame.
    pub(super) fn append(&mut self, frame: &mut Frame, counts: &Counts) -> io::Result<()> {
        assert!(self.synced <= self.len, "synced is within the segment");
        let bytes = frame.seal(self.salt, self.synced);
        self.file.append(bytes)?;
        let len = bytes.len() as u64;
        self.len += len;
        counts.frames.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }
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
