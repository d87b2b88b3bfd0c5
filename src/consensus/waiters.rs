//! Threads that wait for something of the replica, and which change wakes which of them.
//!
//! A change that woke every client would make most of them look and find nothing. So a thread says
//! what it waits for, and is woken when that is there.
//!
//! **The rules.**
//! - A thread joins under the replica lock, after it has looked. Who changes the replica takes the
//!   threads that are due under the same lock. So no change is missed between look and sleep.
//! - They are woken after that lock was released, so that they do not block on it.
//! - A woken thread looks again. It leaves when it has found what it waited for, or gives up.
//! - A change of the leadership wakes everybody, because it can end every wait.
//!
//! Each thread has at most one place, so the number of connections limits them.

use std::collections::BTreeMap;
use std::mem;
use std::thread::{self, Thread};

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Everything up to this index is applied.
    Applied(u64),
    /// A majority has confirmed the read round with this number.
    Confirmed(u64),
    /// Anything else: every change wakes the thread.
    Changed,
}

/// Where a thread waits.
#[derive(Debug)]
pub(super) struct Place {
    until: Until,
    ticket: u64,
}

/// Threads by the number that they wait for, and by ticket.
type Queue = BTreeMap<(u64, u64), Thread>;

/// The threads that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    applied: Queue,
    confirmed: Queue,
    changed: Queue,
    tickets: u64,
}

impl Waiters {
    /// The calling thread waits from now on.
    pub(super) fn join(&mut self, until: Until) -> Place {
        self.tickets += 1;
        let place = Place { until, ticket: self.tickets };
        let (queue, key) = self.find(&place);
        queue.insert(key, thread::current());
        place
    }

    /// A thread waits no more, whether it was woken or not.
    pub(super) fn leave(&mut self, place: &Place) {
        let (queue, key) = self.find(place);
        queue.remove(&key);
    }

    /// The threads that are due after a change.
    pub(super) fn take_due(&mut self, applied: u64, confirmed: u64) -> Vec<Thread> {
        let mut due: Vec<Thread> = mem::take(&mut self.changed).into_values().collect();
        for (queue, reached) in [(&mut self.applied, applied), (&mut self.confirmed, confirmed)] {
            while let Some(first) = queue.first_entry().filter(|first| first.key().0 <= reached) {
                due.push(first.remove());
            }
        }
        due
    }

    /// All threads.
    pub(super) fn take_all(&mut self) -> Vec<Thread> {
        self.take_due(u64::MAX, u64::MAX)
    }

    /// How many threads wait.
    pub(super) fn len(&self) -> usize {
        self.applied.len() + self.confirmed.len() + self.changed.len()
    }

    fn find(&mut self, place: &Place) -> (&mut Queue, (u64, u64)) {
        match place.until {
            Until::Applied(index) => (&mut self.applied, (index, place.ticket)),
            Until::Confirmed(round) => (&mut self.confirmed, (round, place.ticket)),
            Until::Changed => (&mut self.changed, (0, place.ticket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_wakes_those_whose_number_is_reached() {
        let mut waiters = Waiters::default();
        for until in [Until::Applied(4), Until::Applied(5), Until::Confirmed(3), Until::Changed] {
            waiters.join(until);
        }
        assert_eq!(waiters.take_due(4, 2).len(), 2, "index 4, and who waits for any change");
        assert_eq!(waiters.len(), 2);
        assert_eq!(waiters.take_due(4, 3).len(), 1);
        assert_eq!(waiters.take_all().len(), 1);
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn who_leaves_is_not_woken() {
        let mut waiters = Waiters::default();
        let place = waiters.join(Until::Applied(4));
        waiters.join(Until::Applied(4));
        waiters.leave(&place);
        waiters.leave(&place);
        assert_eq!(waiters.take_due(4, 0).len(), 1);
    }
}
