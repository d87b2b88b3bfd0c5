//! How a write becomes an entry: the leader evaluates it when it appends it.
//!
//! The result of an operation, such as the count of `DEL`, is known at once. It is released when
//! the entry is committed and applied. To evaluate, the leader looks at the records that are not
//! applied yet, and at the store behind them.
//!
//! The last entry is *being built* as long as nobody needs it: the writes of all connections join
//! it, in the order in which they are evaluated. It is sealed when a link wants to send it, when a
//! connection waits for it, or when it is long.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::entry::version_of;
use super::entry::{Entry, PAYLOAD_BYTES_MAX, Payload, RECORD_BITS, RECORDS_MAX, encode_flush};
use super::log::EntryId;
use super::replica::Replica;
use crate::store::record::{HEADER_BYTES, Record};
use crate::store::version::Version;

/// An entry of this length takes no further request.
const BUILDING_BYTES: usize = 1024 * 1024;
/// Bytes of changes that are not applied yet at which a leader begins nothing more.
const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a pending record costs besides its bytes.
const PENDING_OVERHEAD_BYTES: usize = 128;

/// What a client wants to change.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Give a key a value.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// Take a key's value.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Remove every key.
    Flush,
}

/// Why a request was not appended: it certainly did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAppended {
    /// This node does not lead, or not yet with everything applied.
    NotReady,
    /// Too much waits to be applied.
    Full,
    /// The request is longer than an entry may be.
    TooLong,
}

/// What became of the operations of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The entry that holds them.
    pub entry: EntryId,
    /// For each operation, whether its key had a value before.
    pub existed: Vec<bool>,
}

/// The entry that is being built: it follows the last.
#[derive(Debug, Default)]
pub struct Building {
    records: Vec<u8>,
    count: u64,
}

/// The records that are not applied yet, by key.
#[derive(Debug, Default)]
pub struct Pending {
    keys: HashMap<Arc<[u8]>, PendingRecord>,
    /// All of them in order, with what they cost.
    order: VecDeque<(u64, Arc<[u8]>, usize)>,
    /// The entry of the last `FLUSHALL` that is not applied.
    flushed_by: Option<u64>,
    bytes: usize,
}

#[derive(Debug)]
struct PendingRecord {
    index: u64,
    /// Where the value is in the records of its entry; `None`: deleted.
    value: Option<Range<usize>>,
}

impl Replica {
    /// Evaluates the operations of one request and appends what they change. `stored` is the
    /// version of a key's value in the store.
    pub fn propose(
        &mut self,
        operations: &[Operation],
        stored: impl Fn(&[u8]) -> Option<Version>,
    ) -> Result<Proposed, NotAppended> {
        self.may_append()?;
        check_length(operations)?;
        Ok(self.append(operations, stored))
    }

    /// Whether this node leads, and begins something more.
    pub(super) fn may_append(&self) -> Result<(), NotAppended> {
        if !self.is_ready() {
            return Err(NotAppended::NotReady);
        }
        if self.pending.bytes >= PENDING_BYTES_MAX {
            return Err(NotAppended::Full);
        }
        Ok(())
    }

    /// Appends a request whose length was checked.
    pub(super) fn append(
        &mut self,
        operations: &[Operation],
        stored: impl Fn(&[u8]) -> Option<Version>,
    ) -> Proposed {
        let (bytes, count) = length_of(operations);
        // The records of one request stay together.
        let is_full = |building: &Building| {
            building.records.len() + bytes > BUILDING_BYTES || building.count + count > RECORDS_MAX
        };
        if self.building.as_ref().is_some_and(is_full) {
            self.seal();
        }
        let existed =
            operations.iter().map(|operation| self.evaluate(operation, &stored)).collect();
        self.building.get_or_insert_default();
        let entry = EntryId { index: self.log.last().index + 1, term: self.term };
        Proposed { entry, existed }
    }

    fn evaluate(
        &mut self,
        operation: &Operation,
        stored: impl Fn(&[u8]) -> Option<Version>,
    ) -> bool {
        let (index, term) = (self.log.last().index + 1, self.term);
        let Replica { building, pending, .. } = self;
        let building = building.get_or_insert_default();
        let version = version_of(index, building.count, term);
        let (key, value) = match *operation {
            Operation::Put { key, value } => (key, Some(value)),
            Operation::Delete { key } => (key, None),
            Operation::Flush => {
                encode_flush(version, &mut building.records);
                building.count += 1;
                pending.flush(index);
                return true;
            }
        };
        let existed = match pending.keys.get(key) {
            Some(record) => record.value.is_some(),
            None if pending.flushed_by.is_some() => false,
            None => stored(key).is_some_and(|stored| {
                assert!(stored < version, "a stamp exceeds what it replaces");
                true
            }),
        };
        // An operation without effect has no record, but is answered only when its entry is
        // committed.
        if value.is_some() || existed {
            Record { version, key, value }.encode(&mut building.records);
            building.count += 1;
            let end = building.records.len();
            pending.insert(index, key, value.map(|value| end - value.len()..end));
        }
        existed
    }

    /// Whether and how a record that is not applied yet changes a key: `Some(None)` if it has none
    /// then.
    pub fn pending_value(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let Some(record) = self.pending.keys.get(key) else {
            return self.pending.flushed_by.map(|_| None);
        };
        let records = match (&self.building, self.log.get(record.index).map(|it| &it.payload)) {
            (Some(building), None) => &building.records,
            (_, Some(Payload::Records(records))) => records,
            _ => return None,
        };
        Some(record.value.clone().map(|range| &records[range]))
    }

    /// The index of the last entry, the one that is being built included.
    pub fn last_begun(&self) -> u64 {
        self.log.last().index + u64::from(self.building.is_some())
    }

    /// Ends the entry that is being built.
    pub fn seal(&mut self) {
        if let Some(Building { records, .. }) = self.building.take() {
            let (index, term) = (self.log.last().index + 1, self.term);
            self.push(Arc::new(Entry { index, term, payload: Payload::Records(records) }));
        }
    }
}

/// Whether a request fits into an entry.
pub(super) fn check_length(operations: &[Operation]) -> Result<(), NotAppended> {
    let (bytes, count) = length_of(operations);
    let fits = bytes <= PAYLOAD_BYTES_MAX && count <= RECORDS_MAX;
    if fits { Ok(()) } else { Err(NotAppended::TooLong) }
}

pub(super) fn length_of(operations: &[Operation]) -> (usize, u64) {
    (operations.iter().map(bytes_of).sum(), operations.len() as u64)
}

fn bytes_of(operation: &Operation) -> usize {
    HEADER_BYTES
        + match operation {
            Operation::Put { key, value } => key.len() + value.len(),
            Operation::Delete { key } => key.len(),
            Operation::Flush => 0,
        }
}

impl Pending {
    fn insert(&mut self, index: u64, key: &[u8], value: Option<Range<usize>>) {
        let bytes = PENDING_OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Range::len);
        let key: Arc<[u8]> = key.into();
        self.bytes += bytes;
        self.order.push_back((index, Arc::clone(&key), bytes));
        self.keys.insert(key, PendingRecord { index, value });
    }

    /// `FLUSHALL`: it hides all records before it.
    fn flush(&mut self, index: u64) {
        self.keys.clear();
        self.flushed_by = Some(index);
        // No key is empty: this only counts.
        self.bytes += PENDING_OVERHEAD_BYTES;
        self.order.push_back((index, Arc::default(), PENDING_OVERHEAD_BYTES));
    }

    /// The store has everything up to this index.
    pub(super) fn applied(&mut self, applied: u64) {
        while self.order.front().is_some_and(|(index, ..)| *index <= applied)
            && let Some((index, key, bytes)) = self.order.pop_front()
        {
            self.bytes -= bytes;
            if self.keys.get(&key).is_some_and(|record| record.index == index) {
                self.keys.remove(&key);
            }
        }
        self.flushed_by = self.flushed_by.filter(|index| *index > applied);
    }

    /// Leadership has ended: its entries may never be applied.
    pub(super) fn clear(&mut self) {
        *self = Pending::default();
    }
}

const _: () = assert!(RECORDS_MAX < 1 << RECORD_BITS);

#[cfg(test)]
mod tests {
    use super::super::members::Members;
    use super::super::replica::{Ground, LogRecord, Timing};
    use super::*;

    const PUT_1: Operation = Operation::Put { key: b"a", value: b"1" };
    const PUT_2: Operation = Operation::Put { key: b"a", value: b"2" };
    const DELETE: Operation = Operation::Delete { key: b"a" };

    /// A cluster of one that leads.
    fn leader() -> Replica {
        let timing = Timing { election_timeout_ms: 1_000, heartbeat_ms: 100 };
        let mut replica = Replica::new(1, Ground::default(), timing, 1, 0);
        replica.found(Members::founded_by(1, 1, "h:1"), 0);
        replica.tick(3_000);
        commit(&mut replica);
        replica.applied(replica.commit_index());
        replica
    }

    /// The disk has everything.
    fn commit(replica: &mut Replica) {
        replica.seal();
        for record in replica.take_unwritten() {
            if let LogRecord::Entry(entry) = record {
                replica.wrote(entry.index, entry.index);
            }
        }
        replica.saved(u64::MAX, 3_000);
    }

    fn existed(replica: &mut Replica, operations: &[Operation], in_store: bool) -> Vec<bool> {
        let stored = in_store.then(Version::default);
        replica.propose(operations, |_| stored).expect("it leads").existed
    }

    #[test]
    fn an_operation_sees_those_before_it_that_are_not_applied() {
        let mut replica = leader();
        assert_eq!(replica.pending_value(b"a"), None);
        let operations = [PUT_1, DELETE, DELETE, PUT_2];
        assert_eq!(existed(&mut replica, &operations, false), [false, true, false, false]);
        assert_eq!(replica.pending_value(b"a"), Some(Some(&b"2"[..])));
        // The same in an entry that is sealed.
        replica.seal();
        assert_eq!(replica.pending_value(b"a"), Some(Some(&b"2"[..])));
        assert_eq!(existed(&mut replica, &[DELETE], false), [true]);
        assert_eq!(replica.pending_value(b"a"), Some(None));
    }

    #[test]
    fn flushall_hides_what_is_in_the_store() {
        let mut replica = leader();
        assert_eq!(existed(&mut replica, &[Operation::Flush, DELETE], true), [true, false]);
        assert_eq!(replica.pending_value(b"a"), Some(None));
        commit(&mut replica);
        replica.applied(replica.commit_index());
        assert_eq!(replica.pending_value(b"a"), None);
    }

    #[test]
    fn a_record_leaves_when_it_is_applied_and_not_before() {
        let mut replica = leader();
        let first = replica.propose(&[PUT_1], |_| None).expect("it leads").entry;
        commit(&mut replica);
        replica.propose(&[PUT_2], |_| None).expect("it leads");
        commit(&mut replica);
        replica.applied(first.index);
        assert_eq!(replica.pending_value(b"a"), Some(Some(&b"2"[..])), "that of the second");
        replica.applied(replica.commit_index());
        assert_eq!(replica.pending_value(b"a"), None);
        assert_eq!(replica.pending.bytes, 0);
    }

    #[test]
    fn what_was_pending_goes_when_leadership_ends() {
        let mut replica = leader();
        existed(&mut replica, &[PUT_1], false);
        replica.set_disk_failure(Some("no space left".into()), 3_000);
        assert_eq!(replica.pending_value(b"a"), None);
    }

    #[test]
    fn an_operation_without_effect_is_in_an_entry_too() {
        let mut replica = leader();
        let proposed = replica.propose(&[DELETE], |_| None).expect("it leads");
        replica.seal();
        let entry = replica.log().get(proposed.entry.index).expect("it is there");
        assert_eq!(entry.payload, Payload::Records(Vec::new()));
    }
}
