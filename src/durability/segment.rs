//! The format of the log's and the snapshot's files, byte by byte.
//!
//! A data directory holds *segments*: `NNNNNNNNNN.log` and `NNNNNNNNNN.snapshot`, ten digits or
//! more. A higher number is younger, and a snapshot replaces everything with a lower number. A
//! segment is a header and then *frames*, one per commit, each with the records that became safe
//! together. All numbers are little-endian.
//!
//! ```text
//! header  offset  size  field
//!         0       7     "KVLOG1\n", or 8 bytes "KVSNAP1\n"
//!         7 or 8  4     format version, 2
//!         ...     4     salt, random
//!         ...     8     id of the directory
//!         ...     8     number of the snapshot that this segment stands on (0: none)
//!         ...     4     crc32 of all before it
//!
//! frame   offset  size  field
//!         0       4     crc32 of all that follows it, from the salt
//!         4       4     len, the bytes of the records
//!         8       8     synced, the bytes of this segment that were on the disk already
//!         16      len   records (see `store::record`)
//! ```
//!
//! - The **header** is fsynced before the first frame is written. So a bad header with bytes behind
//!   it is damage. A log that ends within its header was never used.
//! - The **id** is the node's. It reveals a file of another directory.
//! - A log **stands on** the newest snapshot that was on the disk when the log was created. Without
//!   that snapshot, or a later one, the log is only a part of the data. A snapshot stands on none.
//! - The CRC of a frame starts from the **salt** (`crc32(salt, bytes)` of zlib), so that bytes
//!   inside a value never look like a frame, except to somebody who knows the salt.
//! - A **snapshot** ends with an empty frame. Without it the snapshot is incomplete.
//!
//! The log of a node that has taken `PUT name Dylan` (the record of `store::record`), with the salt
//! `0x5A17_0001`, on top of snapshot 2 of the directory `0x00C0_FFEE`:
//!
//! ```text
//! 00  4b 56 4c 4f 47 31 0a | 02 00 00 00 | 01 00 17 5a   header
//! 0f  ee ff c0 00 00 00 00 00 | 02 00 00 00 00 00 00 00 | 53 59 5a d4
//! 23  cd 75 40 d2 | 21 00 00 00 | 23 00 00 00 00 00 00 00   33 bytes; the 35 before are on disk
//! 33  01 00 00 00 92 01 00 00 a1 00 00 00 00 00 00 00 04 00 00 00 05 00 00 00   record
//! 4b  6e 61 6d 65 44 79 6c 61 6e
//! ```
//!
//! A snapshot with the same record:
//!
//! ```text
//! 00  4b 56 53 4e 41 50 31 0a | 02 00 00 00 | 01 00 17 5a   header
//! 10  ee ff c0 00 00 00 00 00 | 00 00 00 00 00 00 00 00 | 64 76 75 9a
//! 24  5f b2 eb 84 | 21 00 00 00 | 00 00 00 00 00 00 00 00   33 bytes; nothing is on disk yet
//! 34  01 00 00 00 92 01 00 00 a1 00 00 00 00 00 00 00 04 00 00 00 05 00 00 00   record
//! 4c  6e 61 6d 65 44 79 6c 61 6e
//! 55  79 db 7e c2 | 00 00 00 00 | 00 00 00 00 00 00 00 00   the end
//! ```

use std::fmt;

use super::crc32::crc32;
use crate::config::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::store::record::{HEADER_BYTES, Layout, u32_at, u64_at};

/// The format version that is written, and the only one that is read.
pub const FORMAT_VERSION: u32 = 2;
/// Bytes of a frame before its records.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Most bytes of records in one frame; the longest record fits. A part of the format: a longer
/// frame is damage.
pub const FRAME_BYTES_MAX: usize = 128 * 1024 * 1024;
const _: () = assert!(HEADER_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX <= FRAME_BYTES_MAX);

/// What a segment is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Frames in the order of their commits.
    #[default]
    Log,
    /// The whole map at one time, and all that came before.
    Snapshot,
    /// A log of a node that agrees by consensus.
    RaftLog,
    /// The map of such a node, and what of its log is not in the map.
    RaftSnapshot,
}

/// The kinds of records in the segments of a node that agrees by consensus.
const RAFT_RECORD_KINDS: std::ops::RangeInclusive<u8> = 1..=5;
/// The kind of such a record that holds a record of the store: only in a snapshot.
pub const RAFT_STATE: u8 = 5;
/// Bytes of such a record before its content: its kind, and the length of its content `u32`.
pub const RAFT_HEADER_BYTES: usize = 5;

impl Kind {
    fn magic(self) -> &'static [u8] {
        match self {
            Kind::Log => b"KVLOG1\n",
            Kind::Snapshot => b"KVSNAP1\n",
            Kind::RaftLog => b"KVRAFT1\n",
            Kind::RaftSnapshot => b"KVRSNAP1\n",
        }
    }

    /// Of a file name.
    fn ending(self) -> &'static str {
        match self {
            Kind::Log => "log",
            Kind::Snapshot => "snapshot",
            Kind::RaftLog => "raftlog",
            Kind::RaftSnapshot => "raftsnapshot",
        }
    }

    /// The length of the record at the start of `bytes`, if there is a whole one.
    pub fn record_len(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Kind::Log | Kind::Snapshot => Some(Layout::of(bytes).ok()?.len),
            Kind::RaftLog | Kind::RaftSnapshot => {
                let header = bytes.get(..RAFT_HEADER_BYTES)?;
                let len = RAFT_HEADER_BYTES + u32_at(header, 1) as usize;
                (RAFT_RECORD_KINDS.contains(&header[0]) && len <= bytes.len()).then_some(len)
            }
        }
    }

    /// Where the header names the snapshot that a log stands on: behind version, salt and id.
    pub fn stands_on_offset(self) -> u64 {
        (self.magic().len() + 4 + 4 + 8) as u64
    }

    /// Whether it is a log, of whatever node.
    pub fn is_log(self) -> bool {
        matches!(self, Kind::Log | Kind::RaftLog)
    }

    /// Whether a node that agrees by consensus writes it.
    pub fn is_raft(self) -> bool {
        matches!(self, Kind::RaftLog | Kind::RaftSnapshot)
    }

    /// The snapshot that goes with a log.
    pub fn snapshot(self) -> Kind {
        if self.is_raft() { Kind::RaftSnapshot } else { Kind::Snapshot }
    }

    /// Bytes before the first frame.
    pub fn header_bytes(self) -> u64 {
        (self.magic().len() + HEADER_NUMBERS_BYTES) as u64
    }
}

/// Version, salt, id of the directory, snapshot, CRC.
const HEADER_NUMBERS_BYTES: usize = 4 + 4 + 8 + 8 + 4;

/// A segment's place in the order, and its file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Younger is higher.
    pub number: u64,
    /// Log or snapshot.
    pub kind: Kind,
}

impl SegmentName {
    /// The segments among these files, in order.
    pub fn all(names: &[String]) -> Vec<SegmentName> {
        let mut all: Vec<_> = names.iter().filter_map(|name| SegmentName::parse(name)).collect();
        all.sort_unstable();
        all
    }

    /// Reads a file name; `None` for files that are no segments.
    pub fn parse(name: &str) -> Option<Self> {
        let (digits, ending) = name.split_once('.')?;
        let kinds = [Kind::Log, Kind::Snapshot, Kind::RaftLog, Kind::RaftSnapshot];
        let kind = kinds.into_iter().find(|kind| kind.ending() == ending)?;
        // Higher numbers were never used, and there must be free ones above it.
        let number = digits.parse().ok().filter(|number| *number < 1 << 60)?;
        let parsed = SegmentName { number, kind };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}.{}", self.number, self.kind.ending())
    }
}

/// What the header of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the checksums of its frames start.
    pub salt: u32,
    /// The id of the directory that it belongs to.
    pub directory: u64,
    /// The number of the snapshot without which a log is not the whole data; 0: none.
    pub stands_on: u64,
}

impl Header {
    /// The bytes at the start of a segment.
    pub fn encode(&self, kind: Kind) -> Vec<u8> {
        let mut bytes = kind.magic().to_vec();
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&self.directory.to_le_bytes());
        bytes.extend_from_slice(&self.stands_on.to_le_bytes());
        let crc = crc32(0, &bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the first [`Kind::header_bytes`] bytes of a segment, or all there are.
    /// [`Error::Fatal`]: another program wrote it; [`Error::Corrupt`]: it is no header.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Header> {
        let magic = kind.magic();
        let Some(numbers) = bytes.strip_prefix(magic).filter(|numbers| numbers.len() >= 4) else {
            return Err(Error::Corrupt("it does not start as a segment does".into()));
        };
        let header = (numbers.len() >= HEADER_NUMBERS_BYTES).then(|| Header {
            salt: u32_at(numbers, 4),
            directory: u64_at(numbers, 8),
            stands_on: u64_at(numbers, 16),
        });
        // If all but the version is what we would write, then the version is damaged.
        let is_written =
            header.is_some_and(|header| header.encode(kind)[magic.len() + 4..] == numbers[4..]);
        match (u32_at(numbers, 0), header) {
            (FORMAT_VERSION, Some(header)) if is_written => Ok(header),
            (version, _)
                if (1..OTHER_VERSIONS_MAX).contains(&version)
                    && version != FORMAT_VERSION
                    && !is_written =>
            {
                Err(other_version(version))
            }
            _ => Err(Error::Corrupt("the checksum of its header does not match".into())),
        }
    }
}

/// A higher version is damage.
const OTHER_VERSIONS_MAX: u32 = 1000;

fn other_version(version: u32) -> Error {
    Error::Fatal(if version < FORMAT_VERSION {
        format!(
            "has format version {version}, and this program knows only version {FORMAT_VERSION}. \
             Start the program that wrote it with this directory, and this program with an empty \
             one on another port. Then copy the data: kvstore export HOST OLD_PORT | redis-cli -h \
             HOST -p NEW_PORT --pipe"
        )
    } else {
        format!(
            "has format version {version}, and this program knows only version {FORMAT_VERSION}; \
             start the program that wrote it, or a newer one"
        )
    })
}

/// A frame that is being filled. Space for the header is kept in front of the records, so that one
/// `write` carries the whole frame.
#[derive(Debug)]
pub struct Frame(Vec<u8>);

impl Default for Frame {
    fn default() -> Self {
        Frame(vec![0; FRAME_HEADER_BYTES])
    }
}

impl Frame {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.len() == FRAME_HEADER_BYTES
    }

    /// Bytes of the records so far.
    pub fn records_len(&self) -> usize {
        self.0.len() - FRAME_HEADER_BYTES
    }

    /// Whether a record of this many bytes does not fit any more.
    pub fn is_full_for(&self, record_len: usize) -> bool {
        self.records_len() + record_len > FRAME_BYTES_MAX
    }

    /// Adds an encoded record.
    pub fn push(&mut self, record: &[u8]) {
        self.0.extend_from_slice(record);
    }

    /// Fills the header in and returns the whole frame.
    pub fn seal(&mut self, salt: u32, synced: u64) -> &[u8] {
        let len = self.records_len();
        assert!(len <= FRAME_BYTES_MAX, "a frame's length is in its range");
        self.0[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        self.0[8..16].copy_from_slice(&synced.to_le_bytes());
        let crc = crc32(salt, &self.0[4..]);
        self.0[0..4].copy_from_slice(&crc.to_le_bytes());
        &self.0
    }

    /// Makes it empty and frees memory beyond `bytes_kept`.
    pub fn clear(&mut self, bytes_kept: usize) {
        self.0.truncate(FRAME_HEADER_BYTES);
        self.0.shrink_to(bytes_kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::{Entry, Record};
    use crate::store::version::Version;

    const SALT: u32 = 0x5A17_0001;

    fn example_entry() -> Entry {
        Entry::new(&Record {
            version: Version { time: 0x0192_0000_0001, origin: 0xA1 },
            key: b"name",
            value: Some(b"Dylan"),
        })
    }

    fn bytes_of(text: &str) -> Vec<u8> {
        let words = text.split_whitespace().filter(|word| word.len() == 2);
        words.map(|word| u8::from_str_radix(word, 16).unwrap()).collect()
    }

    #[test]
    fn the_worked_examples_are_true() {
        let header = Header { salt: SALT, directory: 0x00C0_FFEE, stands_on: 2 };
        let mut written = header.encode(Kind::Log);
        assert_eq!(Header::decode(Kind::Log, &written).expect("good"), header);
        let mut frame = Frame::default();
        frame.push(example_entry().bytes());
        written.extend_from_slice(frame.seal(SALT, 35));
        assert_eq!(hex(&written), hex(&bytes_of(LOG)));

        let header = Header { stands_on: 0, ..header };
        let mut written = header.encode(Kind::Snapshot);
        assert_eq!(Header::decode(Kind::Snapshot, &written).expect("good"), header);
        written.extend_from_slice(frame.seal(SALT, 0));
        written.extend_from_slice(Frame::default().seal(SALT, 0));
        assert_eq!(hex(&written), hex(&bytes_of(SNAPSHOT)));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
    }

    /// As in the documentation above, without the offsets.
    const LOG: &str = "
        4b 56 4c 4f 47 31 0a | 02 00 00 00 | 01 00 17 5a
        ee ff c0 00 00 00 00 00 | 02 00 00 00 00 00 00 00 | 53 59 5a d4
        cd 75 40 d2 | 21 00 00 00 | 23 00 00 00 00 00 00 00
        01 00 00 00 92 01 00 00 a1 00 00 00 00 00 00 00 04 00 00 00 05 00 00 00
        6e 61 6d 65 44 79 6c 61 6e";

    /// As in the documentation above, without the offsets.
    const SNAPSHOT: &str = "
        4b 56 53 4e 41 50 31 0a | 02 00 00 00 | 01 00 17 5a
        ee ff c0 00 00 00 00 00 | 00 00 00 00 00 00 00 00 | 64 76 75 9a
        5f b2 eb 84 | 21 00 00 00 | 00 00 00 00 00 00 00 00
        01 00 00 00 92 01 00 00 a1 00 00 00 00 00 00 00 04 00 00 00 05 00 00 00
        6e 61 6d 65 44 79 6c 61 6e
        79 db 7e c2 | 00 00 00 00 | 00 00 00 00 00 00 00 00";

    #[test]
    fn another_format_version_is_told_from_damage() {
        let old = b"KVLOG1\n\x01\0\0\0\x01\0\x17\x5a\x79\xdb\x7e\xc2\0\0\0\0\0\0\0\0\0\0\0\0";
        let error = Header::decode(Kind::Log, old).expect_err("old");
        assert!(
            matches!(&error, Error::Fatal(message) if message.contains("kvstore export")),
            "{error}"
        );
        let mut newer = old.to_vec();
        newer[7] = 3;
        let error = Header::decode(Kind::Log, &newer).expect_err("newer");
        assert!(
            matches!(&error, Error::Fatal(message) if message.contains("or a newer one")),
            "{error}"
        );
        // Only the version was changed: the checksum of the whole shows it.
        for version in [0, 1, 3, 0xFF] {
            let mut damaged = Header { salt: SALT, directory: 1, stands_on: 0 }.encode(Kind::Log);
            damaged[7] = version;
            let error = Header::decode(Kind::Log, &damaged).expect_err("damaged");
            assert!(matches!(error, Error::Corrupt(_)), "{error}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for number in [0, 1, 9_999_999_999, 10_000_000_000, 1 << 59] {
            for kind in [Kind::Log, Kind::Snapshot] {
                let name = SegmentName { number, kind };
                assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
            }
        }
        for other in [
            "1.log",
            "0000000001.log.damaged",
            "0000000001.snapshot.tmp",
            "x.log",
            "node",
            ".log",
            "18446744073709551615.log",
            "+000000001.log",
        ] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }
}
