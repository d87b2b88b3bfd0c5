//! The log in memory: the newest entries, and where they are on the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use super::entry::Entry;

/// Index and term of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// Its place in the log; 0: before the first.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The entries above a base.
///
/// Invariants:
/// - The indexes are contiguous: the first entry follows the base.
/// - Terms never fall from one entry to the next.
#[derive(Debug, Default)]
pub struct Log {
    /// The last entry that is not here any more: it was applied.
    base: EntryId,
    entries: VecDeque<Held>,
    /// Bytes of all entries.
    bytes: usize,
    /// Where terms begin among the entries up to the base, as far as this run knows: for answers
    /// that arrive late. It grows with each change of the leader only.
    forgotten: Vec<EntryId>,
}

#[derive(Debug)]
struct Held {
    entry: Arc<Entry>,
    /// The position of the log on the disk behind it; `None`: not appended there yet.
    position: Option<u64>,
}

impl Log {
    /// A log whose entries up to `base` were applied, and with these above it, which are on the
    /// disk.
    pub fn recovered(base: EntryId, entries: Vec<Arc<Entry>>) -> Self {
        let mut log = Log { base, forgotten: vec![base], ..Log::default() };
        for entry in entries {
            log.push(entry);
        }
        log.entries.iter_mut().for_each(|held| held.position = Some(0));
        log
    }

    /// The last entry that is not in memory any more.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// The last entry.
    pub fn last(&self) -> EntryId {
        self.entries.back().map_or(self.base, |held| id_of(&held.entry))
    }

    /// Bytes of the entries in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The term of the entry at an index; `None` if it is not known: too old, or not there.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// The term of the entry at an index, also if it is not in memory any more.
    pub fn term_ever_at(&self, index: u64) -> Option<u64> {
        if index > self.base.index {
            return self.term_at(index);
        }
        let known = self.forgotten.partition_point(|first| first.index <= index);
        self.forgotten[..known].last().map(|first| first.term)
    }

    /// The entry at an index, if it is in memory.
    pub fn get(&self, index: u64) -> Option<&Arc<Entry>> {
        self.held(index).map(|held| &held.entry)
    }

    /// The entries from an index on, up to about so many bytes, and at least one if there is one.
    pub fn from(&self, index: u64, bytes_max: usize) -> Vec<Arc<Entry>> {
        let mut bytes = 0;
        let first = index.saturating_sub(self.base.index + 1) as usize;
        let entries = self.entries.iter().skip(first).map(|held| &held.entry);
        let fitting = entries.take_while(|entry| {
            let is_first = bytes == 0;
            bytes += entry.encoded_len();
            is_first || bytes <= bytes_max
        });
        fitting.cloned().collect()
    }

    /// Appends an entry, which follows the last.
    pub fn push(&mut self, entry: Arc<Entry>) {
        let last = self.last();
        assert!(entry.index == last.index + 1, "entries are contiguous");
        assert!(entry.term >= last.term, "terms never fall");
        self.bytes += entry.encoded_len();
        self.entries.push_back(Held { entry, position: None });
    }

    /// Removes the entries from an index on.
    pub fn truncate(&mut self, index: u64) {
        assert!(index > self.base.index, "what was applied stays");
        while self.last().index >= index {
            if let Some(held) = self.entries.pop_back() {
                self.bytes -= held.entry.encoded_len();
            }
        }
    }

    /// Notes where an entry ends in the log on the disk.
    pub fn set_position(&mut self, index: u64, position: u64) {
        let first = self.base.index + 1;
        let at = index.checked_sub(first).and_then(|at| self.entries.get_mut(at as usize));
        if let Some(held) = at {
            held.position = Some(position);
        }
    }

    /// Whether an entry is on the disk, when the disk has everything up to `safe`. Entries that are
    /// not in memory any more were.
    pub fn is_safe(&self, index: u64, safe: u64) -> bool {
        match self.held(index) {
            None => index <= self.base.index,
            Some(held) => held.position.is_some_and(|position| position <= safe),
        }
    }

    /// The last entry up to which all are on the disk, when the disk has everything up to `safe`.
    /// All up to `from` are known to be.
    pub fn last_safe(&self, from: u64, safe: u64) -> u64 {
        let mut index = from.max(self.base.index);
        while index < self.last().index && self.is_safe(index + 1, safe) {
            index += 1;
        }
        index.min(self.last().index)
    }

    /// Forgets the oldest entries up to `applied` until at most `bytes_max` bytes are left.
    pub fn forget(&mut self, applied: u64, bytes_max: usize) {
        while self.bytes > bytes_max
            && self.entries.front().is_some_and(|held| held.entry.index <= applied)
            && let Some(held) = self.entries.pop_front()
        {
            self.bytes -= held.entry.encoded_len();
            if held.entry.term > self.base.term {
                self.forgotten.push(id_of(&held.entry));
            }
            self.base = id_of(&held.entry);
        }
    }

    fn held(&self, index: u64) -> Option<&Held> {
        let first = self.base.index + 1;
        index.checked_sub(first).and_then(|at| self.entries.get(at as usize))
    }
}

fn id_of(entry: &Entry) -> EntryId {
    EntryId { index: entry.index, term: entry.term }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Payload;
    use super::*;

    fn entry(index: u64, term: u64) -> Arc<Entry> {
        Arc::new(Entry { index, term, payload: Payload::Nothing })
    }

    #[test]
    fn entries_are_found_cut_and_forgotten() {
        let base = EntryId { index: 4, term: 1 };
        let mut log = Log::recovered(base, vec![entry(5, 1), entry(6, 2)]);
        log.push(entry(7, 3));
        assert_eq!(log.last(), EntryId { index: 7, term: 3 });
        assert_eq!(
            [3, 4, 5, 7, 8].map(|at| log.term_at(at)),
            [None, Some(1), Some(1), Some(3), None]
        );
        assert_eq!(log.from(6, 0), [entry(6, 2)], "one, however large");
        assert_eq!(log.from(5, 1_000).len(), 3);
        assert!(log.from(8, 1_000).is_empty());
        assert_eq!(log.last_safe(4, 0), 6, "the recovered ones");
        log.set_position(7, 90);
        assert_eq!((log.last_safe(6, 89), log.last_safe(6, 90)), (6, 7));
        log.truncate(7);
        assert_eq!(log.last().index, 6);
        log.forget(5, 0);
        assert_eq!((log.base().index, log.last().index), (5, 6));
        assert!(log.get(5).is_none() && log.is_safe(5, 0));
        log.forget(6, 0);
        assert_eq!(
            [3, 4, 5, 6, 7].map(|at| log.term_ever_at(at)),
            [None, Some(1), Some(1), Some(2), None]
        );
    }
}
