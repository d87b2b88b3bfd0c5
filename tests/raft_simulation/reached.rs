//! What the schedules reached. A check of something that never happens shows nothing.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

/// Declares the kinds, and the list of all of them.
macro_rules! events {
    ($($name:ident),* $(,)?) => {
        /// Kinds of trouble, and of states that only trouble leads to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Event { $($name),* }

        impl Event {
            pub const ALL: &[Event] = &[$(Event::$name),*];
        }
    };
}

events! {
    ClusterFounded,
    MessageLost,
    MessageDelivered2Times,
    MessageLate,
    MessageCut,
    Partition,
    OneWay,
    Killed,
    PowerLost,
    PowerLossTookRecords,
    Paused,
    DiskSlow,
    DiskFailed,
    DiskHealed,
    Compacted,
    Transferred,
    LeaderElected,
    TwoLeaders,
    LeaderDeposed,
    EntriesCut,
    NodeReplaced,
    NodeJoined,
    LearnerPromoted,
    MemberRemoved,
    LeaderRemoved,
    WriteAnswered,
    WriteThatNeverHappened,
    WriteUnknown,
    ReadAnswered,
    ReadRefused,
    ReadBehindAWrite,
    DeleteWithoutEffect,
    Flushed,
    WriteForwarded,
    ReadForwarded,
    ForwardBroken,
    ForwardRefused,
    ForwardWithdrawn,
    GivenUpInQueue,
}

/// How often each kind occurred.
#[derive(Clone, Debug, Default)]
pub struct Reached(BTreeMap<Event, u64>);

impl Reached {
    pub fn add(&mut self, event: Event) {
        *self.0.entry(event).or_default() += 1;
    }

    pub fn add_all(&mut self, other: &Reached) {
        for (event, times) in &other.0 {
            *self.0.entry(*event).or_default() += times;
        }
    }

    pub fn missing(&self) -> Vec<Event> {
        Event::ALL.iter().copied().filter(|event| !self.0.contains_key(event)).collect()
    }
}

impl Display for Reached {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        Event::ALL.iter().try_for_each(|event| {
            let times = self.0.get(event).unwrap_or(&0);
            writeln!(f, "{times:>12}  {event:?}")
        })
    }
}
