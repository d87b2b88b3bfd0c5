//! A segment that is being written, of a log or a snapshot, and what a log starts on top of.

use std::io;
use std::sync::Arc;

use super::files::{AppendFile, FileLayer};
use super::segment::{Frame, Header, Kind, SegmentName};
use crate::random::random_id;

/// A segment open for writing.
#[derive(Debug)]
pub struct OpenSegment {
    /// Its name, in the end.
    pub name: SegmentName,
    /// The file.
    pub file: Arc<dyn AppendFile>,
    salt: u32,
    /// Bytes handed to the operating system.
    pub len: u64,
    /// Bytes that are on the disk.
    pub synced: u64,
}

impl OpenSegment {
    /// Writes the header of a segment that stands on the snapshot `stands_on` to an empty file.
    pub fn begin(
        file: Arc<dyn AppendFile>,
        name: SegmentName,
        directory: u64,
        stands_on: u64,
    ) -> io::Result<Self> {
        let salt = random_id() as u32;
        let header = Header { salt, directory, stands_on }.encode(name.kind);
        file.append(&header)?;
        Ok(OpenSegment { name, file, salt, len: header.len() as u64, synced: 0 })
    }

    /// Creates a segment of a log. Its header and its name are on the disk when this returns, so
    /// before its first frame.
    pub fn create_log(
        files: &dyn FileLayer,
        name: SegmentName,
        directory: u64,
        stands_on: u64,
    ) -> io::Result<Self> {
        let create = || {
            let file = files.create(&name.to_string())?;
            let mut segment = OpenSegment::begin(file, name, directory, stands_on)?;
            segment.fsync()?;
            files.fsync_directory()?;
            Ok(segment)
        };
        // An unfinished segment below a log with frames would look like damage.
        create().inspect_err(|_: &io::Error| drop(files.remove(&name.to_string())))
    }

    /// Writes a frame; returns its length in bytes.
    pub fn append(&mut self, frame: &mut Frame) -> io::Result<u64> {
        assert!(self.synced <= self.len, "synced is within the segment");
        let bytes = frame.seal(self.salt, self.synced);
        self.file.append(bytes)?;
        self.len += bytes.len() as u64;
        Ok(bytes.len() as u64)
    }

    /// Returns when all of it is on the disk.
    pub fn fsync(&mut self) -> io::Result<()> {
        self.file.fsync()?;
        self.synced = self.len;
        Ok(())
    }
}

/// What a log starts on top of.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// What the new segments are for.
    pub kind: Kind,
    /// The id of the directory.
    pub directory: u64,
    /// The number for the next segment.
    pub next_number: u64,
    /// The number of the newest snapshot; 0: none.
    pub snapshot: u64,
    /// Bytes of the older segments.
    pub bytes: u64,
    /// Bytes of the snapshot among them.
    pub snapshot_bytes: u64,
}

impl Ground {
    /// Creates the first segment.
    pub fn create_segment(&self, files: &dyn FileLayer) -> io::Result<OpenSegment> {
        let name = SegmentName { number: self.next_number, kind: self.kind };
        OpenSegment::create_log(files, name, self.directory, self.snapshot)
    }
}
