//! The replicated log on the disk: records in the frames of [`crate::durability`]'s segments.
//!
//! ```text
//! offset  size  field
//! 0       1     kind
//! 1       4     len, u32, little-endian: bytes that follow
//! 5       len   content
//! ```
//!
//! | kind | content |
//! |---|---|
//! | 1 term | the term `u64`, and who got this node's vote in it `u64` (0: nobody) |
//! | 2 entry | see [`super::entry`]; it supersedes all from its index on, unless it is there already |
//! | 3 mark | number of a snapshot `u64`: what stands before it in this segment is in that snapshot |
//! | 4 base | only in a snapshot: index and term `u64` of the last entry that its map has, and the text of the members then |
//! | 5 state | only in a snapshot: a record of the store |
//!
//! **Compaction.** The log goes on in a new segment. Then, under the replica's lock, all that the
//! map does not hold is noted (term, vote, base, members, entries above it), and a mark is
//! appended. The snapshot carries what was noted, and the map, which may have newer committed
//! changes already: applying them again changes nothing.
//!
//! **Recovery** reads in order: the newest snapshot, then the segments above it. In the segment
//! that was written while the snapshot was made, what stands before the mark is left out.

use std::sync::{Arc, Mutex, PoisonError};

use super::entry::Entry;
use super::log::EntryId;
use super::members::Members;
use super::replica::{Ground, LogRecord};
use crate::durability::reading::Batch;
use crate::durability::segment::{RAFT_HEADER_BYTES, RAFT_STATE, SegmentName};
use crate::error::{Error, Result};
use crate::locks::lock;
use crate::store::KeyValueStore;
use crate::store::record::{Record, u32_at, u64_at};

const TERM: u8 = 1;
const ENTRY: u8 = 2;
const MARK: u8 = 3;
const BASE: u8 = 4;

/// Appends a record to `out`.
pub fn encode(record: &LogRecord, out: &mut Vec<u8>) {
    match record {
        LogRecord::Term { term, vote } => {
            header(TERM, 16, out);
            out.extend_from_slice(&term.to_le_bytes());
            out.extend_from_slice(&vote.unwrap_or(0).to_le_bytes());
        }
        LogRecord::Entry(entry) => {
            header(ENTRY, entry.encoded_len(), out);
            entry.encode(out);
        }
    }
}

/// Appends a mark for the snapshot with this number.
pub fn encode_mark(snapshot: u64, out: &mut Vec<u8>) {
    header(MARK, 8, out);
    out.extend_from_slice(&snapshot.to_le_bytes());
}

/// What stands before the map in a snapshot.
pub fn encode_ground(ground: &Ground) -> Vec<u8> {
    let mut out = Vec::new();
    let members = ground.members.encode();
    header(BASE, 16 + members.len(), &mut out);
    out.extend_from_slice(&ground.base.index.to_le_bytes());
    out.extend_from_slice(&ground.base.term.to_le_bytes());
    out.extend_from_slice(members.as_bytes());
    encode(&LogRecord::Term { term: ground.term, vote: ground.vote }, &mut out);
    for entry in &ground.entries {
        encode(&LogRecord::Entry(Arc::clone(entry)), &mut out);
    }
    out
}

fn header(kind: u8, len: usize, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

/// Puts together what a directory holds.
#[derive(Debug)]
pub struct Recovery<'s> {
    store: &'s KeyValueStore,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    ground: Ground,
    /// The number of the snapshot that was read; 0: none.
    snapshot: u64,
    /// Records of the segment behind it, as long as its mark was not seen.
    before_mark: Vec<LogRecord>,
    is_marked: bool,
}

impl<'s> Recovery<'s> {
    /// Into an empty store.
    pub fn into_store(store: &'s KeyValueStore) -> Self {
        Recovery { store, found: Mutex::default() }
    }

    /// Takes records of a segment, in order, and `None` behind the last: see
    /// [`crate::durability::Target::ReplicatedLog`].
    pub fn take(&self, batch: Option<&Batch>) -> Result<()> {
        let mut found = lock(&self.found);
        let Some(batch) = batch else {
            return found.take_unmarked();
        };
        let (name, mut bytes) = (batch.name, batch.records.as_slice());
        while !bytes.is_empty() {
            let content = bytes.get(RAFT_HEADER_BYTES..).unwrap_or_default();
            let len = if content.is_empty() { usize::MAX } else { u32_at(bytes, 1) as usize };
            let content = content.get(..len).ok_or_else(|| bad("cut short"))?;
            found.take(self.store, name, bytes[0], content)?;
            bytes = &bytes[RAFT_HEADER_BYTES + len..];
        }
        Ok(())
    }

    /// What the directory holds, once all was taken.
    pub fn finish(self) -> Ground {
        self.found.into_inner().unwrap_or_else(PoisonError::into_inner).ground
    }
}

impl Found {
    fn take(
        &mut self,
        store: &KeyValueStore,
        name: SegmentName,
        kind: u8,
        content: &[u8],
    ) -> Result<()> {
        let is_log = name.kind.is_log();
        if !is_log {
            self.snapshot = name.number;
        }
        let is_behind_snapshot = self.snapshot > 0 && name.number == self.snapshot + 1;
        if !is_behind_snapshot && is_log {
            self.take_unmarked()?;
        }
        let record = match (kind, is_log, content.len()) {
            (TERM, _, 16) => {
                let (term, vote) = (u64_at(content, 0), u64_at(content, 8));
                LogRecord::Term { term, vote: (vote > 0).then_some(vote) }
            }
            (ENTRY, ..) => {
                let (entry, len) = Entry::decode(content)?;
                if len != content.len() {
                    return Err(bad("an entry that is longer than it says"));
                }
                LogRecord::Entry(Arc::new(entry))
            }
            (MARK, true, 8) => {
                if u64_at(content, 0) == self.snapshot {
                    self.before_mark.clear();
                    self.is_marked = true;
                }
                return Ok(());
            }
            (BASE, false, 16..) => {
                let base = EntryId { index: u64_at(content, 0), term: u64_at(content, 8) };
                let members = Arc::new(Members::decode(&content[16..])?);
                self.ground = Ground { base, members, ..Ground::default() };
                return Ok(());
            }
            (RAFT_STATE, false, _) => {
                store.apply(&Record::decode(content)?.0);
                return Ok(());
            }
            // The checksum is right, so a newer program wrote it.
            _ => return Err(Error::Fatal(format!("a record of the kind {kind}"))),
        };
        if is_behind_snapshot && !self.is_marked {
            self.before_mark.push(record);
            return Ok(());
        }
        self.add(record)
    }

    /// There is no mark: the segment does not belong to the making of the snapshot.
    fn take_unmarked(&mut self) -> Result<()> {
        std::mem::take(&mut self.before_mark).into_iter().try_for_each(|record| self.add(record))
    }

    fn add(&mut self, record: LogRecord) -> Result<()> {
        let ground = &mut self.ground;
        match record {
            LogRecord::Term { term, vote } => {
                // The highest term counts, and within it a vote never becomes none.
                if term > ground.term {
                    (ground.term, ground.vote) = (term, vote);
                } else if term == ground.term {
                    ground.vote = ground.vote.or(vote);
                }
            }
            LogRecord::Entry(entry) if entry.index <= ground.base.index => {}
            LogRecord::Entry(entry) => {
                let at = (entry.index - ground.base.index - 1) as usize;
                let before = at.checked_sub(1).and_then(|at| ground.entries.get(at));
                let term_before = before.map_or(ground.base.term, |entry| entry.term);
                if entry.term < term_before || entry.term > ground.term {
                    return Err(bad("an entry of a term that does not fit"));
                }
                match ground.entries.get(at) {
                    Some(known) if known.term == entry.term => {}
                    Some(_) => {
                        ground.entries.truncate(at);
                        ground.entries.push(entry);
                    }
                    None if at == ground.entries.len() => ground.entries.push(entry),
                    None => return Err(bad("an entry is missing before another")),
                }
            }
        }
        Ok(())
    }
}

fn bad(what: &str) -> Error {
    Error::Corrupt(format!("replicated log: {what}"))
}
