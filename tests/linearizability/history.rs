//! What clients asked and what they saw, key by key.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use super::{search, zones};

/// A value is a number. Tests that write texts write numbers as text.
pub type Value = u64;

/// What a client asked of a key, and the result if there was a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Put(Value),
    /// The value that was read; `None` if the key was absent.
    Get(Option<Value>),
    /// Whether the key existed; `None` if the reply did not say it.
    Delete(Option<bool>),
}

/// How an operation ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply arrived at this moment.
    Ok(u64),
    /// It certainly did not happen.
    Dropped,
    /// It may happen at any moment after its start, or never. Results are without meaning.
    Unknown,
}

/// One operation of one client. Moments are of any clock that does not go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub client: usize,
    pub start: u64,
    pub operation: Operation,
    pub outcome: Outcome,
}

impl Event {
    /// When the reply arrived; `None` for an unknown outcome.
    pub fn end(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Ok(end) => Some(end),
            Outcome::Dropped | Outcome::Unknown => None,
        }
    }

    /// Whether the event can say anything about the history: it may have happened, and it changes
    /// the key or shows its value.
    pub fn counts(&self) -> bool {
        match self.outcome {
            Outcome::Ok(_) => true,
            Outcome::Dropped => false,
            Outcome::Unknown => !matches!(self.operation, Operation::Get(_)),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {:<3} {:>10} to ", self.client, self.start)?;
        match self.outcome {
            Outcome::Ok(end) => write!(f, "{end:<10}")?,
            Outcome::Dropped => write!(f, "(dropped) ")?,
            Outcome::Unknown => write!(f, "(unknown) ")?,
        }
        match self.operation {
            Operation::Put(value) => write!(f, " put {value}"),
            Operation::Get(Some(value)) => write!(f, " get = {value}"),
            Operation::Get(None) => write!(f, " get = absent"),
            Operation::Delete(Some(true)) => write!(f, " delete (it existed)"),
            Operation::Delete(Some(false)) => write!(f, " delete (it was absent)"),
            Operation::Delete(None) => write!(f, " delete"),
        }
    }
}

/// The events of each key, in any order. At first every key is absent.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub keys: BTreeMap<String, Vec<Event>>,
}

impl History {
    pub fn add(&mut self, key: &str, event: Event) {
        if let Some(end) = event.end() {
            assert!(event.start <= end, "{key}: ends before it starts: {event}");
        }
        self.keys.entry(key.to_string()).or_default().push(event);
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }

    /// Whether the history is linearizable; if not, the contradiction of the first key that has
    /// one.
    pub fn check(&self) -> Result<(), Violation> {
        for (key, events) in &self.keys {
            let result = if has_unique_values(events) { zones(events) } else { search(events) };
            result.map_err(|explanation| Violation { key: key.clone(), explanation })?;
        }
        Ok(())
    }
}

/// Whether [`zones`] can check these: puts of values that nobody else puts, and gets.
pub fn has_unique_values(events: &[Event]) -> bool {
    let mut values = HashSet::new();
    events.iter().filter(|event| event.counts()).all(|event| match event.operation {
        Operation::Put(value) => values.insert(value),
        Operation::Get(_) => true,
        Operation::Delete(_) => false,
    })
}

/// Why a history is not linearizable.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation {
    pub key: String,
    pub explanation: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?} is not linearizable: {}", self.key, self.explanation)
    }
}

/// As text, so that `unwrap` prints what a person can read.
impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
