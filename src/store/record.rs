//! The one record format: in memory, in the log and between nodes.
//!
//! A record is one versioned write of one key. The same bytes are the entry in the map, the record
//! in the write-ahead log, and what peers send each other. So passing a write on is one copy, and
//! nothing is ever converted.
//!
//! ```text
//! offset  size       field
//! 0       8          time       u64, little-endian: hybrid logical time
//! 8       8          origin     u64, little-endian: run id of the node that took the write
//! 16      4          key_len    u32, little-endian: 1 to 65,536
//! 20      4          value_len  u32, little-endian: 0 to 67,108,864 in the low 30 bits;
//!                               bit 31: a tombstone, whose length is 0; bit 30: an end follows
//! 24      0 or 8     end        u64, little-endian: milliseconds since 1970 (only with bit 30)
//! ...     key_len    key
//! ...     value_len  value
//! ```
//!
//! `PUT name Dylan` at time `0x0000_0192_0000_0001` by run `0xA1`, byte by byte, and the `DELETE
//! name` after it:
//!
//! ```text
//! 01 00 00 00 92 01 00 00 | a1 00 00 00 00 00 00 00 | 04 00 00 00 | 05 00 00 00
//!     6e 61 6d 65 | 44 79 6c 61 6e
//! 02 00 00 00 92 01 00 00 | a1 00 00 00 00 00 00 00 | 04 00 00 00 | 00 00 00 80
//!     6e 61 6d 65
//! ```
//!
//! An *end* is the time at which a value expires. This version knows only its place in the layout,
//! so that it can compute the length of a record. It refuses a record with an end, because storing
//! the value without its end would keep it for ever.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

use super::version::Version;
use crate::config::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::error::{Error, Result};

/// Bytes before the key.
pub const HEADER_BYTES: usize = 24;
/// In the length of the value: the key was deleted, and there is no value.
const TOMBSTONE: u32 = 1 << 31;
/// In the length of the value: an end follows the header.
const END_FOLLOWS: u32 = 1 << 30;
const _: () = assert!(VALUE_BYTES_MAX < END_FOLLOWS as usize);
/// Bytes of an end.
const END_BYTES: usize = 8;

/// A record whose key and value are borrowed from somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When and where it was written.
    pub version: Version,
    /// 1 to [`KEY_BYTES_MAX`] bytes.
    pub key: &'a [u8],
    /// The value, at most [`VALUE_BYTES_MAX`] bytes; `None` is a tombstone: the key was deleted.
    pub value: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// Length of the encoded record, in bytes.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.value.map_or(0, <[u8]>::len)
    }

    /// Appends the encoded record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.time.to_le_bytes());
        out.extend_from_slice(&self.version.origin.to_le_bytes());
        out.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.value_len_field().to_le_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value.unwrap_or_default());
    }

    fn value_len_field(&self) -> u32 {
        self.value.map_or(TOMBSTONE, |value| value.len() as u32)
    }

    /// Decodes the record at the start of `bytes`; also says how many bytes it took.
    /// Lengths are checked against the limits and against `bytes` before they are used.
    pub fn decode(bytes: &'a [u8]) -> Result<(Record<'a>, usize)> {
        let layout = Layout::of(bytes)?;
        if layout.has_end {
            return Err(bad("carries an end (expiry), which this version does not know"));
        }
        let version = Version { time: u64_at(bytes, 0), origin: u64_at(bytes, 8) };
        let value = (!layout.is_tombstone).then(|| &bytes[layout.key_end..layout.len]);
        Ok((Record { version, key: &bytes[layout.key_start..layout.key_end], value }, layout.len))
    }
}

fn bad(what: &str) -> Error {
    Error::Corrupt(format!("record: {what}"))
}

/// Where the parts of an encoded record are, with or without an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    is_tombstone: bool,
    has_end: bool,
    key_start: usize,
    key_end: usize,
    /// Of the whole record, in bytes.
    pub len: usize,
}

impl Layout {
    /// The layout of the record at the start of `bytes`; an error if it is cut short.
    #[inline]
    pub fn of(bytes: &[u8]) -> Result<Layout> {
        if bytes.len() < HEADER_BYTES {
            return Err(bad("shorter than its header"));
        }
        let (key_len, field) = (u32_at(bytes, 16) as usize, u32_at(bytes, 20));
        if key_len == 0 || key_len > KEY_BYTES_MAX {
            return Err(bad("key length out of range"));
        }
        let (is_tombstone, has_end) = (field & TOMBSTONE != 0, field & END_FOLLOWS != 0);
        let value_len = (field & !(TOMBSTONE | END_FOLLOWS)) as usize;
        if value_len > VALUE_BYTES_MAX || (is_tombstone && value_len > 0) {
            return Err(bad("value length out of range"));
        }
        let key_start = HEADER_BYTES + if has_end { END_BYTES } else { 0 };
        let key_end = key_start + key_len;
        let len = key_end + value_len;
        if bytes.len() < len {
            return Err(bad("cut short"));
        }
        Ok(Layout { is_tombstone, has_end, key_start, key_end, len })
    }
}

/// Decodes a run of records, one after the other.
pub fn decode_all(mut bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>>> + Clone {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let decoded = Record::decode(bytes);
        bytes = decoded.as_ref().map_or(&[], |(_, len)| &bytes[*len..]);
        Some(decoded.map(|(record, _)| record))
    })
}

/// An encoded record that owns its bytes: what the map holds.
///
/// One allocation holds version, key and value, and the key is borrowed from it: about 150 bytes
/// for a 16-byte key and a 64-byte value, where separate keys and values take about 215.
///
/// Invariants:
/// - The bytes are one well-formed record; they are only ever written by [`Record::encode`].
/// - `an_entry_hashes_and_compares_as_its_key`, which `HashMap` lookups by `&[u8]` rely on.
#[derive(Clone, Debug)]
pub struct Entry(Box<[u8]>);

impl Entry {
    /// Packs a record.
    pub fn new(record: &Record) -> Self {
        let mut bytes = Vec::with_capacity(record.encoded_len());
        record.encode(&mut bytes);
        Entry(bytes.into_boxed_slice())
    }

    /// Packs a record of the same key. Reuses this entry's memory if the length is the same.
    pub fn rewrite(mut self, record: &Record) -> Self {
        debug_assert_eq!(self.key(), record.key);
        if self.0.len() != record.encoded_len() {
            return Entry::new(record);
        }
        self.0[0..8].copy_from_slice(&record.version.time.to_le_bytes());
        self.0[8..16].copy_from_slice(&record.version.origin.to_le_bytes());
        self.0[20..24].copy_from_slice(&record.value_len_field().to_le_bytes());
        let value_start = HEADER_BYTES + record.key.len();
        self.0[value_start..].copy_from_slice(record.value.unwrap_or_default());
        self
    }

    /// The encoded record.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// When and where it was written.
    pub fn version(&self) -> Version {
        Version { time: u64_at(&self.0, 0), origin: u64_at(&self.0, 8) }
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.0[HEADER_BYTES..self.value_start()]
    }

    /// The value, or `None` for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        (!self.is_tombstone()).then(|| &self.0[self.value_start()..])
    }

    /// Whether the key was deleted.
    pub fn is_tombstone(&self) -> bool {
        u32_at(&self.0, 20) & TOMBSTONE != 0
    }

    /// The record, borrowed.
    pub fn record(&self) -> Record<'_> {
        Record { version: self.version(), key: self.key(), value: self.value() }
    }

    fn value_start(&self) -> usize {
        HEADER_BYTES + u32_at(&self.0, 16) as usize
    }
}

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

/// The little-endian number at an offset that is within `bytes`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(array)
}

/// The little-endian number at an offset that is within `bytes`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const GOLDEN: &[u8] = b"\x01\0\0\0\x92\x01\0\0\xa1\0\0\0\0\0\0\0\x04\0\0\0\x05\0\0\0nameDylan";

    fn golden() -> Record<'static> {
        Record {
            version: Version { time: 0x0192_0000_0001, origin: 0xA1 },
            key: b"name",
            value: Some(b"Dylan"),
        }
    }

    #[test]
    fn the_worked_example_is_true() {
        assert_eq!(Entry::new(&golden()).bytes(), GOLDEN);
        assert_eq!(Record::decode(GOLDEN).expect("golden bytes decode"), (golden(), GOLDEN.len()));
        let deleted = Record {
            version: Version { time: 0x0192_0000_0002, origin: 0xA1 },
            key: b"name",
            value: None,
        };
        let tombstone = b"\x02\0\0\0\x92\x01\0\0\xa1\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\x80name";
        assert_eq!(Entry::new(&deleted).bytes(), tombstone);
        assert_eq!(
            Record::decode(tombstone).expect("golden bytes decode"),
            (deleted, tombstone.len())
        );
    }

    #[test]
    fn a_record_with_an_end_has_a_length_and_is_refused() {
        let value = b"\x01\0\0\0\x92\x01\0\0\xa1\0\0\0\0\0\0\0\x04\0\0\0\
                      \x05\0\0\x40\x15\xcd\x5b\x07\0\0\0\0nameDylan";
        let tombstone = b"\x02\0\0\0\x92\x01\0\0\xa1\0\0\0\0\0\0\0\x04\0\0\0\
                          \0\0\0\xc0\x15\xcd\x5b\x07\0\0\0\0name";
        for bytes in [&value[..], tombstone] {
            assert_eq!(Layout::of(bytes).expect("its layout is known").len, bytes.len());
            assert!(Layout::of(&bytes[..bytes.len() - 1]).is_err());
            let error = Record::decode(bytes).expect_err("refused").to_string();
            assert!(
                error.contains("carries an end (expiry), which this version does not know"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_tombstone_differs_from_an_empty_value() {
        let tombstone = Entry::new(&Record { value: None, ..golden() });
        let empty = Entry::new(&Record { value: Some(b""), ..golden() });
        assert_eq!((tombstone.value(), empty.value()), (None, Some(&b""[..])));
        assert_eq!(tombstone.bytes().len(), empty.bytes().len());
        // Same length, so the memory is used again: the mark must change with it.
        assert_eq!(empty.rewrite(&Record { value: None, ..golden() }).value(), None);
        assert_eq!(
            tombstone.rewrite(&Record { value: Some(b""), ..golden() }).value(),
            Some(&b""[..])
        );
    }

    #[test]
    fn lengths_beyond_the_limits_are_refused_before_they_are_used() {
        let too_long = VALUE_BYTES_MAX as u32 + 1;
        let bad_keys = [(16, 0), (16, KEY_BYTES_MAX as u32 + 1), (16, u32::MAX)];
        let bad_values =
            [(20, too_long), (20, TOMBSTONE | 1), (20, END_FOLLOWS | too_long), (20, u32::MAX)];
        for (at, len) in bad_keys.into_iter().chain(bad_values) {
            let mut bytes = GOLDEN.to_vec();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(len));
            assert!(Record::decode(&bytes).is_err(), "length {len} at {at}");
        }
    }

    fn any_record() -> impl Strategy<Value = (u64, u64, Vec<u8>, Option<Vec<u8>>)> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        (
            any::<u64>(),
            any::<u64>(),
            prop::collection::vec(any::<u8>(), 1..40),
            prop::option::of(bytes()),
        )
    }

    proptest! {
        #[test]
        fn records_survive_the_round_trip(records in prop::collection::vec(any_record(), 0..5)) {
            let records: Vec<Record> = records.iter().map(|(time, origin, key, value)| {
                let version = Version { time: *time, origin: *origin };
                Record { version, key, value: value.as_deref() }
            }).collect();
            let mut bytes = Vec::new();
            records.iter().for_each(|record| record.encode(&mut bytes));
            let decoded: Result<Vec<Record>> = decode_all(&bytes).collect();
            prop_assert_eq!(decoded.expect("decodes"), records);
        }

        #[test]
        fn a_record_cut_anywhere_is_refused(record in any_record(), cut in 0.0..1.0f64) {
            let (time, origin, key, value) = &record;
            let version = Version { time: *time, origin: *origin };
            let record = Record { version, key, value: value.as_deref() };
            let entry = Entry::new(&record);
            let cut = (entry.bytes().len() as f64 * cut) as usize;
            prop_assert!(Record::decode(&entry.bytes()[..cut]).is_err());
        }

        #[test]
        fn an_entry_hashes_and_compares_as_its_key(first in any_record(), second in any_record()) {
            let entry = |(time, origin, key, value): &(u64, u64, Vec<u8>, Option<Vec<u8>>)| {
                let version = Version { time: *time, origin: *origin };
                Entry::new(&Record { version, key, value: value.as_deref() })
            };
            prop_assert_eq!(entry(&first) == entry(&second), first.2 == second.2);
            let map = HashMap::from([(entry(&first), ())]);
            prop_assert!(map.contains_key(first.2.as_slice()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let decoded = decode_all(&bytes).flatten();
            let total: usize = decoded.map(|record| record.encoded_len()).sum();
            prop_assert!(total <= bytes.len());
        }
    }
}
