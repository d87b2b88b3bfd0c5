//! When a delete may be forgotten.
//!
//! A tombstone exists to beat older values of its key that are still about. It may go only when
//! nobody can bring one back; to drop it after some time, as many stores do, lets a node that was
//! away longer bring deleted data back to life (ScyllaDB 3560 and 8970 are such cases). So time
//! alone decides nothing here: when a tombstone has aged out of the digests, the node asks
//! **every** member, through the comparisons that its links make anyway. A bucket that agrees, or a
//! list without the key, says that the peer has no older value; if it has one, the tombstone is
//! sent to it. Two rounds in succession without a find, two minutes apart and with the same
//! members, let the tombstone go.
//!
//! **Why that is enough.** Besides the members, an older value may be on its way to one. A sender
//! that is still there has that value, and is asked; or has learned of the delete since, and keeps
//! the tombstone until its own link has compared with the receiver: behind the value on the same
//! connection, or on a new one, which ended the old. Only what a sender sent that is gone, an
//! in-memory node that crashed, could arrive later than all questions. If it went during the
//! rounds, the members are others now, and the rounds start again. If it went before, what it sent
//! has arrived before the second round, or never will: its connection is closed after a minute and
//! a half of silence.
//!
//! A member that is away makes the round wait: its tombstones stay, everywhere, until it is back or
//! forgotten.
//!
//! **How many.** All tombstones that have aged when the first round begins are asked about
//! together, however many: the rounds keep only the time before which they were written, and the
//! store a bit for each of its 65,536 buckets, set when something was found in it
//! ([`crate::store::tombstones`]). A bucket with a find waits for the next rounds as a whole.
//!
//! **With nobody to ask**, tombstones go when they have aged. A seed that was never met is nobody:
//! this node cannot know what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::PEER_IDLE_TIMEOUT;
use crate::peers::comparison::Revived;
use crate::peers::view::View;
use crate::store::KeyValueStore;
use crate::store::version::COUNTER_BITS;

/// Shortest time between two rounds of asking every member about old tombstones. Longer than a
/// peer's connection may be silent, so that what is under way in one round has arrived, or never
/// will, before the next.
pub const ROUND_MS: u64 = 120_000;
const _: () = assert!(ROUND_MS > PEER_IDLE_TIMEOUT.as_millis() as u64);

/// Rounds without a find, in succession, after which a tombstone goes.
pub const CLEAN_ROUNDS: u32 = 2;

/// Steps in which tombstones age: nodes whose clocks differ a little agree but for moments.
const AGING_STEPS: u64 = 8;

/// The hybrid time before which tombstones take no part in comparisons. It moves in steps of an
/// eighth of the grace: every node that reads its own clock takes the same step, so two of them
/// disagree only while one clock has passed the step and the other has not. Then they compare a few
/// buckets in vain.
pub fn cutoff(wall_ms: u64, grace: Duration) -> u64 {
    let step = (grace.as_millis() as u64 / AGING_STEPS).max(1);
    let aged = wall_ms.saturating_sub(grace.as_millis() as u64);
    (aged / step * step) << COUNTER_BITS
}

/// The rounds of one node.
///
/// Invariants:
/// - `a_tombstone_goes_after_two_clean_rounds_with_every_link`.
/// - `rounds_start_again_when_a_member_goes_or_comes`.
/// - `a_tombstone_that_came_between_the_rounds_waits_for_the_next_ones`.
#[derive(Debug)]
pub struct Rounds {
    interval_ms: u64,
    clean_rounds: u32,
    last_ended_ms: Option<u64>,
    asking: Option<Asking>,
    /// Links and node ids of all who are asked.
    members: BTreeMap<u64, u64>,
}

/// Rounds in succession about the same tombstones.
#[derive(Debug)]
struct Asking {
    /// Those written before this hybrid time.
    cutoff: u64,
    rounds_left: u32,
    round: Option<Round>,
}

/// A round under way.
#[derive(Debug)]
struct Round {
    began_ms: u64,
    /// Links whose peer was asked.
    asked: BTreeSet<u64>,
}

impl Rounds {
    /// Rounds at least `interval_ms` apart. Tombstones go after `clean_rounds` of them
    /// ([`CLEAN_ROUNDS`]; the simulation shows that one is not enough).
    pub fn new(interval_ms: u64, clean_rounds: u32) -> Self {
        Rounds {
            interval_ms,
            clean_rounds,
            last_ended_ms: None,
            asking: None,
            members: BTreeMap::new(),
        }
    }

    /// Begins a round if it is time and there are tombstones that have aged.
    pub fn begin(&mut self, now_ms: u64, view: View) {
        let is_early = |ended| now_ms < ended + self.interval_ms;
        if self.last_ended_ms.is_some_and(is_early) {
            return;
        }
        let round = Some(Round { began_ms: now_ms, asked: BTreeSet::new() });
        match &mut self.asking {
            Some(asking) if asking.round.is_none() && asking.rounds_left > 0 => {
                asking.round = round
            }
            Some(_) => {}
            None if view.store.start_asking(view.cutoff) > 0 => {
                self.asking =
                    Some(Asking { cutoff: view.cutoff, rounds_left: self.clean_rounds, round });
            }
            None => {}
        }
    }

    /// A link has compared everything, from `began_ms` to `now_ms`, and met older values of
    /// `revived`. `members` are all who may hold data: links and node ids.
    pub fn compared(
        &mut self,
        link: u64,
        (began_ms, now_ms): (u64, u64),
        revived: &Revived,
        members: &BTreeMap<u64, u64>,
        store: &KeyValueStore,
    ) {
        self.check(members);
        revived.keys().for_each(|key| store.keep_tombstone(key));
        let Some(asking) = &mut self.asking else {
            return;
        };
        let Some(round) = &mut asking.round else {
            return;
        };
        if began_ms >= round.began_ms {
            round.asked.insert(link);
        }
        if members.keys().all(|link| round.asked.contains(link)) {
            asking.round = None;
            asking.rounds_left -= 1;
            self.last_ended_ms = Some(now_ms);
        }
    }

    /// What may be forgotten now: the tombstones that all `members` were asked about, or, with
    /// nobody to ask, all that have aged. No round begins before [`Rounds::forgotten`].
    pub fn due(&mut self, members: &BTreeMap<u64, u64>, view: View) -> Option<Due> {
        self.check(members);
        if members.is_empty() {
            return (view.store.start_asking(view.cutoff) > 0).then_some(Due::Aged(view.cutoff));
        }
        let asking = self.asking.as_ref().filter(|asking| asking.rounds_left == 0)?;
        Some(Due::Asked(asking.cutoff))
    }

    /// What was due has been forgotten.
    pub fn forgotten(&mut self) {
        self.asking = None;
    }

    /// Rounds that others took part in are about nothing, unless they have ended.
    fn check(&mut self, members: &BTreeMap<u64, u64>) {
        if self.members != *members {
            self.members.clone_from(members);
            self.asking.take_if(|asking| asking.rounds_left > 0);
        }
    }
}

/// Tombstones that may be forgotten: those written before a hybrid time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Whoever was asked about them or not.
    Aged(u64),
    /// But for those that somebody held an older value of, or that nobody was asked about.
    Asked(u64),
}

impl Due {
    /// Forgets them. How many.
    pub fn forget(self, store: &KeyValueStore) -> usize {
        match self {
            Due::Aged(cutoff) => store.drop_tombstones_before(cutoff),
            Due::Asked(cutoff) => store.drop_asked_tombstones(cutoff),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::Record;
    use crate::store::version::Version;

    const VERSION: Version = Version { time: 5, origin: 1 };

    impl Rounds {
        fn forget(&mut self, members: &BTreeMap<u64, u64>, view: View) -> usize {
            let Some(due) = self.due(members, view) else {
                return 0;
            };
            let gone = due.forget(view.store);
            self.forgotten();
            gone
        }
    }

    fn delete(store: &KeyValueStore, key: &[u8]) {
        store.merge(&Record { version: VERSION, key, value: None }, |_| 0);
    }

    #[test]
    fn a_tombstone_goes_after_two_clean_rounds_with_every_link() {
        let store = KeyValueStore::new();
        delete(&store, b"k");
        let view = View { store: &store, cutoff: 6 };
        let (links, none) = (BTreeMap::from([(1, 11), (2, 12)]), &Revived::new());
        let found = &Revived::from([(b"k"[..].into(), VERSION)]);
        let mut rounds = Rounds::new(60, CLEAN_ROUNDS);
        // Time, whether a round may begin, which link, what it found, how many go then.
        let steps = [
            (90, false, 1, none, 0),
            (100, true, 2, none, 0),
            // One round.
            (101, false, 1, none, 0),
            // Too early for another one.
            (160, true, 1, none, 0),
            (160, false, 2, none, 0),
            (161, true, 1, found, 0),
            // The second round, but somebody had an older value.
            (161, false, 2, none, 0),
            (221, true, 1, none, 0),
            (221, false, 2, none, 0),
            (281, true, 1, none, 0),
            (281, false, 2, none, 1),
        ];
        for (now_ms, may_begin, link, revived, gone) in steps {
            if may_begin {
                rounds.begin(now_ms, view);
            }
            rounds.compared(link, (now_ms, now_ms), revived, &links, &store);
            assert_eq!(rounds.forget(&links, view), gone, "at {now_ms}");
        }
    }

    #[test]
    fn a_comparison_that_began_before_the_round_does_not_count() {
        let store = KeyValueStore::new();
        delete(&store, b"k");
        let view = View { store: &store, cutoff: 6 };
        let links = BTreeMap::from([(1, 11)]);
        let mut rounds = Rounds::new(60, 1);
        rounds.compared(1, (0, 0), &Revived::new(), &links, &store);
        rounds.begin(100, view);
        rounds.compared(1, (99, 101), &Revived::new(), &links, &store);
        assert_eq!(rounds.forget(&links, view), 0);
        rounds.compared(1, (100, 102), &Revived::new(), &links, &store);
        assert_eq!(rounds.forget(&links, view), 1);
    }

    #[test]
    fn rounds_start_again_when_a_member_goes_or_comes() {
        let store = KeyValueStore::new();
        delete(&store, b"k");
        let view = View { store: &store, cutoff: 6 };
        let mut rounds = Rounds::new(60, CLEAN_ROUNDS);
        // In memory, so it had another id after its crash; then one came, then one was forgotten.
        let members = [&[(1, 11)][..], &[(1, 12)], &[(1, 12), (2, 20)], &[(1, 12)]]
            .map(|of| BTreeMap::from_iter(of.to_vec()));
        let mut now_ms = 0;
        let mut ask_all = |members: &BTreeMap<u64, u64>| {
            now_ms += 100;
            for link in members.keys() {
                rounds.compared(*link, (now_ms, now_ms), &Revived::new(), members, &store);
            }
            let gone = rounds.forget(members, view);
            rounds.begin(now_ms, view);
            gone
        };
        for members in &members {
            assert_eq!(
                [ask_all(members), ask_all(members)],
                [0, 0],
                "one round with the same members"
            );
        }
        // Time for a round again, and the second one.
        assert_eq!([ask_all(&members[3]), ask_all(&members[3])], [0, 1]);
    }

    #[test]
    fn a_tombstone_that_came_between_the_rounds_waits_for_the_next_ones() {
        let store = KeyValueStore::new();
        delete(&store, b"early");
        let view = View { store: &store, cutoff: 6 };
        let links = BTreeMap::from([(1, 11)]);
        let mut rounds = Rounds::new(60, CLEAN_ROUNDS);
        rounds.compared(1, (0, 0), &Revived::new(), &links, &store);
        let mut gone = Vec::new();
        for now_ms in (100..=400).step_by(100) {
            rounds.begin(now_ms, view);
            if now_ms == 100 {
                delete(&store, b"late");
            }
            rounds.compared(1, (now_ms, now_ms), &Revived::new(), &links, &store);
            gone.push(rounds.forget(&links, view));
        }
        assert_eq!(gone, [0, 1, 0, 1]);
    }

    #[test]
    fn with_nobody_to_ask_what_has_aged_goes() {
        let store = KeyValueStore::new();
        delete(&store, b"k");
        let mut rounds = Rounds::new(60, CLEAN_ROUNDS);
        assert_eq!(
            rounds.forget(&BTreeMap::new(), View { store: &store, cutoff: 5 }),
            0,
            "it is younger"
        );
        assert_eq!(rounds.forget(&BTreeMap::new(), View { store: &store, cutoff: 6 }), 1);
    }

    #[test]
    fn millions_go_at_a_time() {
        let store = KeyValueStore::new();
        let count = if cfg!(debug_assertions) { 100_000 } else { 3_000_000 };
        (0..count).for_each(|i: u32| delete(&store, &i.to_le_bytes()));
        let view = View { store: &store, cutoff: 6 };
        let links = BTreeMap::from([(1, 11)]);
        let mut rounds = Rounds::new(60, CLEAN_ROUNDS);
        rounds.compared(1, (0, 0), &Revived::new(), &links, &store);
        let found = Revived::from([(7u32.to_le_bytes()[..].into(), VERSION)]);
        rounds.begin(100, view);
        rounds.compared(1, (100, 100), &found, &links, &store);
        rounds.begin(200, view);
        rounds.compared(1, (200, 200), &Revived::new(), &links, &store);
        let gone = rounds.forget(&links, view);
        assert!(gone < count as usize, "the bucket with a find stays");
        assert!(gone > count as usize * 999 / 1000, "only {gone} of {count} went");
        assert_eq!(store.size().tombstones, count as usize - gone);
        assert!(store.version(&7u32.to_le_bytes()).is_some());
    }
}
