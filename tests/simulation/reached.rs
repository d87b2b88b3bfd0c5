//! What the schedules reached. A check of something that never happens shows nothing.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

/// Kinds of trouble, and of states that only trouble leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    MessageLost,
    MessageDelivered2Times,
    MessageLate,
    Cut,
    OneWay,
    RestartWithData,
    RestartEmpty,
    PowerLossTookWrites,
    OldCopyBrought,
    DirectoryCopied,
    NodeReplaced,
    NodeForgotten,
    NodeWithoutSeeds,
    DeletesWereForgottenAlone,
    DeletesWereForgotten,
    ClockForward,
    ClockBack,
    QuietWithWrongClocks,
    RecordsRefused,
    ConnectionSuperseded,
    LinkRefused,
    QueueOverflowed,
    BatchFull,
    LargeRecordSent,
    ListInParts,
    WaitConfirmed,
}

impl Event {
    pub const ALL: [Event; 26] = [
        Event::MessageLost,
        Event::MessageDelivered2Times,
        Event::MessageLate,
        Event::Cut,
        Event::OneWay,
        Event::RestartWithData,
        Event::RestartEmpty,
        Event::PowerLossTookWrites,
        Event::OldCopyBrought,
        Event::DirectoryCopied,
        Event::NodeReplaced,
        Event::NodeForgotten,
        Event::NodeWithoutSeeds,
        Event::DeletesWereForgottenAlone,
        Event::DeletesWereForgotten,
        Event::ClockForward,
        Event::ClockBack,
        Event::QuietWithWrongClocks,
        Event::RecordsRefused,
        Event::ConnectionSuperseded,
        Event::LinkRefused,
        Event::QueueOverflowed,
        Event::BatchFull,
        Event::LargeRecordSent,
        Event::ListInParts,
        Event::WaitConfirmed,
    ];
}

/// How often each kind occurred.
#[derive(Clone, Debug, Default)]
pub struct Reached(BTreeMap<Event, u64>);

impl Reached {
    pub fn add(&mut self, event: Event) {
        self.add_times(event, 1);
    }

    pub fn add_times(&mut self, event: Event, times: u64) {
        *self.0.entry(event).or_default() += times;
    }

    pub fn add_all(&mut self, other: &Reached) {
        other.0.iter().for_each(|(event, times)| self.add_times(*event, *times));
    }

    pub fn missing(&self) -> Vec<Event> {
        Event::ALL.into_iter().filter(|event| !self.0.contains_key(event)).collect()
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
