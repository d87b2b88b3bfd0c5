//! What must hold after every step (dissertation, figure 3.2).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kvstore::consensus::entry::Entry;
use kvstore::consensus::replica::Replica;

use crate::machine::Store;

/// What is known of all nodes together.
#[derive(Default)]
pub struct Truth {
    /// By term.
    leaders: BTreeMap<u64, u64>,
    /// By index and term, with the term of the entry before.
    entries: HashMap<(u64, u64), (Arc<Entry>, u64)>,
    /// By index: the term of the entry, and that in which it was committed.
    committed: BTreeMap<u64, (u64, u64)>,
    /// What the store holds when everything up to an index is applied.
    states: BTreeMap<u64, Store>,
}

impl Truth {
    /// Log matching: if two logs have an entry of the same index and term, it is the same, and so
    /// are all before it.
    pub fn appended(&mut self, replica: &Replica, entry: &Arc<Entry>) {
        if replica.log().term_at(entry.index) != Some(entry.term) {
            return; // Cut again already.
        }
        let Some(before) = replica.log().term_at(entry.index - 1) else {
            return;
        };
        let known = self.entries.entry((entry.index, entry.term));
        let (known, known_before) = known.or_insert((Arc::clone(entry), before));
        let is_same = *known == *entry && *known_before == before;
        assert!(
            is_same,
            "log matching: {known:?} behind {known_before}, {entry:?} behind {before}"
        );
    }

    /// Looks at a node after a step; `seen` is its commit index before. Says whether it has begun
    /// to lead.
    pub fn observe(&mut self, replica: &Replica, seen: &mut u64) -> bool {
        let (id, term, commit) = (replica.id(), replica.term(), replica.commit_index());
        assert!(*seen <= commit, "the commit index never falls");
        for index in *seen + 1..=commit {
            if let Some(of) = replica.log().term_at(index) {
                self.commit(index, of, term, id);
            }
        }
        *seen = commit;
        if !replica.is_leader() {
            return false;
        }
        let is_new = !self.leaders.contains_key(&term);
        let leader = *self.leaders.entry(term).or_insert(id);
        assert!(leader == id, "election safety: {leader} and {id} lead term {term}");
        // What is before the last such entry is there too, by log matching.
        let mut committed = self.committed.iter().rev();
        if let Some((index, (of, _))) = committed.find(|(_, (_, in_term))| *in_term < term)
            && *index >= replica.log().base().index
        {
            let there = replica.log().term_at(*index);
            assert!(
                there == Some(*of),
                "leader completeness: {id} leads term {term} with {there:?} at {index}, not {of}"
            );
        }
        is_new
    }

    /// Committed entries stay what they are.
    pub fn commit(&mut self, index: u64, of: u64, in_term: u64, id: u64) {
        let (known, _) = *self.committed.entry(index).or_insert((of, in_term));
        assert!(known == of, "{id} has committed {index} of term {of}, another one of {known}");
    }

    /// State-machine safety: all stores that have applied the same are the same.
    pub fn applied(&mut self, index: u64, store: &Store) {
        let known = self.states.entry(index).or_insert_with(|| store.clone());
        assert!(known == store, "state-machine safety at {index}: {known:?} and {store:?}");
    }

    /// The last committed entry.
    pub fn last_committed(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }
}
