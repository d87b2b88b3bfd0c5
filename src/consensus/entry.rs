//! Entries of the replicated log, and their bytes.
//!
//! An entry holds what a request *changed*, as records with their versions, not what was asked for.
//! So to apply an entry is to merge its records, and applying it again changes nothing (ZooKeeper
//! does the same: Hunt et al. 2010, section 4.1).
//!
//! ```text
//! offset  size  field
//! 0       8     index    u64: 1 for the first entry of a cluster
//! 8       8     term     u64: of the leader that appended it
//! 16      1     kind     0 nothing, 1 records, 2 members
//! 17      4     len      u32: bytes of the payload
//! 21      len   payload  records as in `store::record`, or the text of `members`
//! ```
//!
//! All numbers are little-endian. Record *n* of entry *i* has the version `time = i << 20 | n`,
//! `origin = term`. So the versions of a key grow in the order of the log.
//!
//! One record exists only here: the header of a tombstone without a key. It is `FLUSHALL`, and it
//! removes every key whose version is smaller.

use std::sync::Arc;

use super::members::Members;
use crate::error::{Error, Result};
use crate::store::record::{HEADER_BYTES, Record, u32_at, u64_at};
use crate::store::version::Version;

/// Bytes of an entry before its payload.
pub const ENTRY_HEADER_BYTES: usize = 21;
/// Bits of a version's time that count the records of an entry.
pub const RECORD_BITS: u32 = 20;
/// Most records in one entry: the largest numbers are for other uses of the same index.
pub const RECORDS_MAX: u64 = (1 << RECORD_BITS) - 2;
/// Longest payload: one record with the longest value fits.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024 + 64 * 1024 + 1024;

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub index: u64,
    /// The term of the leader that appended it.
    pub term: u64,
    /// What it does.
    pub payload: Payload,
}

/// What an entry does when it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: it begins a term, or orders an operation without effect.
    Nothing,
    /// Merges these records.
    Records(Vec<u8>),
    /// Changes who is in the cluster; in force as soon as it is appended.
    Members(Arc<Members>),
}

/// A change that an applied record makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// A key gets a value, or loses it.
    Write(Record<'a>),
    /// Every key of a smaller version goes.
    Flush(Version),
}

/// The version of record `number` of an entry.
pub fn version_of(index: u64, number: u64, term: u64) -> Version {
    Version { time: index << RECORD_BITS | number, origin: term }
}

impl Entry {
    /// Bytes of the encoded entry.
    pub fn encoded_len(&self) -> usize {
        ENTRY_HEADER_BYTES
            + match &self.payload {
                Payload::Nothing => 0,
                Payload::Records(records) => records.len(),
                Payload::Members(members) => members.encode().len(),
            }
    }

    /// Appends the encoded entry to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let text;
        let (kind, payload): (u8, &[u8]) = match &self.payload {
            Payload::Nothing => (0, &[]),
            Payload::Records(records) => (1, records),
            Payload::Members(members) => {
                text = members.encode();
                (2, text.as_bytes())
            }
        };
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.push(kind);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(payload);
    }

    /// Decodes the entry at the start of `bytes`; also says how many bytes it took. Lengths are
    /// checked before they are used, and all records are walked through.
    pub fn decode(bytes: &[u8]) -> Result<(Entry, usize)> {
        if bytes.len() < ENTRY_HEADER_BYTES {
            return Err(bad("shorter than its header"));
        }
        let len = u32_at(bytes, 17) as usize;
        if len > PAYLOAD_BYTES_MAX {
            return Err(bad("length out of range"));
        }
        let end = ENTRY_HEADER_BYTES + len;
        let payload = bytes.get(ENTRY_HEADER_BYTES..end).ok_or_else(|| bad("cut short"))?;
        let payload = match bytes[16] {
            0 if len == 0 => Payload::Nothing,
            1 => {
                changes(payload).try_for_each(|change| change.map(|_| ()))?;
                Payload::Records(payload.to_vec())
            }
            2 => Payload::Members(Arc::new(Members::decode(payload)?)),
            _ => return Err(bad("unknown kind")),
        };
        Ok((Entry { index: u64_at(bytes, 0), term: u64_at(bytes, 8), payload }, end))
    }

    /// Decodes entries that stand one behind the other.
    pub fn decode_all(mut bytes: &[u8]) -> Result<Vec<Arc<Entry>>> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            let (entry, len) = Entry::decode(bytes)?;
            entries.push(Arc::new(entry));
            bytes = &bytes[len..];
        }
        Ok(entries)
    }

    /// The changes that it makes to the store, in their order.
    pub fn changes(&self) -> impl Iterator<Item = Result<Change<'_>>> {
        changes(match &self.payload {
            Payload::Records(records) => records,
            Payload::Nothing | Payload::Members(_) => &[],
        })
    }
}

/// Appends the record that removes every key.
pub fn encode_flush(version: Version, out: &mut Vec<u8>) {
    Record { version, key: &[], value: None }.encode(out);
}

/// Reads records one behind the other; ends after the first error.
fn changes(mut bytes: &[u8]) -> impl Iterator<Item = Result<Change<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let is_flush = bytes.len() >= HEADER_BYTES && u32_at(bytes, 16) == 0;
        let (change, len) = if is_flush {
            let version = Version { time: u64_at(bytes, 0), origin: u64_at(bytes, 8) };
            (Ok(Change::Flush(version)), HEADER_BYTES)
        } else {
            match Record::decode(bytes) {
                Ok((record, len)) => (Ok(Change::Write(record)), len),
                Err(error) => (Err(error), bytes.len()),
            }
        };
        bytes = &bytes[len..];
        Some(change)
    })
}

fn bad(what: &str) -> Error {
    Error::Corrupt(format!("entry: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Entry {
        let mut records = Vec::new();
        let (key, value) = (b"name".as_slice(), b"Dylan".as_slice());
        Record { version: version_of(3, 0, 2), key, value: Some(value) }.encode(&mut records);
        encode_flush(version_of(3, 1, 2), &mut records);
        Entry { index: 3, term: 2, payload: Payload::Records(records) }
    }

    #[test]
    fn the_bytes_of_an_entry() {
        let mut bytes = Vec::new();
        example().encode(&mut bytes);
        assert_eq!(bytes.len(), example().encoded_len());
        let expected = [
            &[3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 57, 0, 0, 0][..],
            &[0, 0, 0x30, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0],
            b"nameDylan",
            &[1, 0, 0x30, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80],
        ]
        .concat();
        assert_eq!(bytes, expected);
        assert_eq!(Entry::decode(&bytes).expect("decodes"), (example(), bytes.len()));
        let changes: Vec<_> = example().changes().map(|change| change.is_ok()).collect();
        assert_eq!(changes, [true, true]);
    }

    #[test]
    fn no_bytes_cause_a_panic_and_none_that_are_cut_short_are_taken() {
        let mut bytes = Vec::new();
        example().encode(&mut bytes);
        for len in 0..bytes.len() {
            assert!(Entry::decode(&bytes[..len]).is_err(), "{len}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let _ = Entry::decode(&changed);
            }
        }
    }
}
