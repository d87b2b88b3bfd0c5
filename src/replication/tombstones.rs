//! When a delete may be forgotten.
//!
//! A tombstone exists to beat older values of its key that are still about. It may go only when nobody can
//! bring one back; to drop it after some time, as many stores do, lets a node that was away longer
//! bring deleted data back to life (ScyllaDB 3560 and 8970 are such cases). So time alone decides nothing here:
//! when a tombstone has aged out of the digests, the node asks **every** member, through the comparisons that
//! its links make anyway. A bucket that agrees, or a list without the key, says that the peer has no older
//! value; if it has one, the tombstone is sent to it. Two rounds in succession without a find,
//! two minutes apart and with the same members, let the tombstone go.
//!
//! **Why that is enough.** Besides the members, an older value may be on its way to one. A sender that is still there
//! has that value, and is asked; or has learned of the delete since, and keeps the tombstone until its own
//! link has compared with the receiver: behind the value on the same connection, or on a new one, which ended the
//! old. Only what a sender sent that is gone, an in-memory node that crashed, could arrive later than all questions.
//! If it went during the rounds, the members are others now, and the rounds start again. If it went before, what
//! it sent has arrived before the second round, or never will: its connection is closed after a minute and a half of silence.
//!
//! A member that is away makes the round wait: its tombstones stay, everywhere, until it is back or forgotten.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::sync::{Revived, View};
use crate::store::version::Version;

/// Rounds without a find, in succession, after which a tombstone goes.
pub const CLEAN_ROUNDS: u32 = 2;

/// A tombstone: its key and when the key was deleted.
pub type Tombstone = (Box<[u8]>, Version);

/// The rounds of one node.
///
/// Invariants:
/// - `a_tombstone_goes_after_two_clean_rounds_with_every_link`.
/// - `rounds_start_again_when_a_member_goes_or_comes`.
#[derive(Debug)]
pub struct Rounds {
    interval_ms: u64,
    clean_rounds: u32,
    candidates_max: usize,
    last_ended_ms: Option<u64>,
    round: Option<Round>,
    candidates: HashMap<Box<[u8]>, Candidate>,
    /// Links and node ids of all who are asked.
    members: BTreeMap<u64, u64>,
}

/// A round under way.
#[derive(Debug)]
struct Round {
    began_ms: u64,
    /// Links whose peer was asked.
    asked: BTreeSet<u64>,
}

#[derive(Debug)]
struct Candidate {
    version: Version,
    /// Rounds in succession that found nothing.
    clean: u32,
    /// This round found an older value somewhere.
    is_found: bool,
}

impl Rounds {
    /// Rounds at least `interval_ms` apart, about at most `candidates_max` tombstones, which go
    /// after `clean_rounds` of them ([`CLEAN_ROUNDS`]; the simulation shows that one is not enough).
    pub fn new(interval_ms: u64, candidates_max: usize, clean_rounds: u32) -> Self {
        Rounds {
            interval_ms,
            clean_rounds,
            candidates_max,
            last_ended_ms: None,
            round: None,
            candidates: HashMap::new(),
            members: BTreeMap::new(),
        }
    }

    /// Begins a round if it is time and there are tombstones that have aged.
    pub fn begin(&mut self, now_ms: u64, view: View) {
        let is_early = |ended| now_ms < ended + self.interval_ms;
        if self.round.is_some() || self.last_ended_ms.is_some_and(is_early) {
            return;
        }
        let mut before = std::mem::take(&mut self.candidates);
        for (key, version) in view.aged_tombstones(self.candidates_max) {
            let fresh = Candidate { version, clean: 0, is_found: false };
            let known = before.remove(&key).filter(|candidate| candidate.version == version);
            self.candidates.insert(key, known.unwrap_or(fresh));
        }
        if !self.candidates.is_empty() {
            self.round = Some(Round { began_ms: now_ms, asked: BTreeSet::new() });
        }
    }

    /// A link has compared everything, from `began_ms` to `now_ms`, and met older values of `revived`.
    /// `members` are all who may hold data: links and node ids. Returns the tombstones that may be dropped now.
    pub fn compared(
        &mut self,
        link: u64,
        (began_ms, now_ms): (u64, u64),
        revived: &Revived,
        members: &BTreeMap<u64, u64>,
    ) -> Vec<Tombstone> {
        if self.members != *members {
            self.members.clone_from(members);
            self.candidates.clear();
            self.round = None;
        }
        for (key, version) in revived {
            if let Some(candidate) = self.candidates.get_mut(key) {
                candidate.is_found |= candidate.version == *version;
            }
        }
        let Some(round) = &mut self.round else {
            return Vec::new();
        };
        if began_ms >= round.began_ms {
            round.asked.insert(link);
        }
        if !members.keys().all(|link| round.asked.contains(link)) {
            return Vec::new();
        }
        self.round = None;
        self.last_ended_ms = Some(now_ms);
        for candidate in self.candidates.values_mut() {
            let is_clean = !std::mem::take(&mut candidate.is_found);
            candidate.clean = if is_clean { candidate.clean + 1 } else { 0 };
        }
        let needed = self.clean_rounds;
        self.candidates
            .extract_if(|_, candidate| candidate.clean >= needed)
            .map(|(key, candidate)| (key, candidate.version))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::KeyValueStore;
    use crate::store::record::Record;

    #[test]
    fn a_tombstone_goes_after_two_clean_rounds_with_every_link() {
        let store = KeyValueStore::new();
        let version = Version { time: 5, origin: 1 };
        let (key, value) = (&b"k"[..], None);
        store.merge(&Record { version, key, value }, |_| 0);
        let view = View { store: &store, cutoff: 6 };
        let tombstone: Tombstone = (b"k"[..].into(), version);
        let (links, none) = (BTreeMap::from([(1, 11), (2, 12)]), &Revived::new());
        let mut rounds = Rounds::new(60, 10, CLEAN_ROUNDS);
        assert_eq!(rounds.compared(1, (90, 90), none, &links), [], "no round yet");
        rounds.begin(100, view);
        assert_eq!(rounds.compared(1, (99, 99), none, &links), [], "it began before");
        assert_eq!(rounds.compared(2, (100, 100), none, &links), []);
        assert_eq!(rounds.compared(1, (101, 101), none, &links), [], "one round");
        rounds.begin(160, view);
        assert_eq!(rounds.compared(1, (160, 160), none, &links), [], "too early for a round");
        rounds.begin(161, view);
        let found = Revived::from([tombstone.clone()]);
        assert_eq!(rounds.compared(1, (161, 161), &found, &links), []);
        assert_eq!(rounds.compared(2, (161, 161), none, &links), [], "somebody had an older value");
        for (now_ms, expected) in [(221, vec![]), (281, vec![tombstone])] {
            rounds.begin(now_ms, view);
            assert_eq!(rounds.compared(1, (now_ms, now_ms), none, &links), []);
            assert_eq!(rounds.compared(2, (now_ms, now_ms), none, &links), expected);
        }
    }

    #[test]
    fn rounds_start_again_when_a_member_goes_or_comes() {
        let store = KeyValueStore::new();
        let version = Version { time: 5, origin: 1 };
        store.merge(&Record { version, key: b"k", value: None }, |_| 0);
        let view = View { store: &store, cutoff: 6 };
        let mut rounds = Rounds::new(60, 10, CLEAN_ROUNDS);
        // In memory, so it had another id after its crash; then one came, then one was forgotten.
        let members =
            [&[(1, 11)][..], &[(1, 12)], &[(1, 12), (2, 20)], &[(1, 12)]].map(|of| BTreeMap::from_iter(of.to_vec()));
        let mut now_ms = 0;
        let mut ask_all = |members: &BTreeMap<u64, u64>| {
            now_ms += 100;
            let ask = |link: &u64| rounds.compared(*link, (now_ms, now_ms), &Revived::new(), members);
            let dropped: Vec<Tombstone> = members.keys().flat_map(ask).collect();
            rounds.begin(now_ms, view);
            dropped.len()
        };
        for members in &members {
            assert_eq!([ask_all(members), ask_all(members)], [0, 0], "one round with the same members");
        }
        // Time for a round again, and the second one.
        assert_eq!([ask_all(&members[3]), ask_all(&members[3])], [0, 1]);
    }
}
