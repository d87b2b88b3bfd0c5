//! Histories that are linearizable because of how they are made.

use kvstore::random::Random;

use crate::linearizability::{Event, History, Operation, Outcome};

/// What a history is like.
#[derive(Clone, Copy)]
pub struct Shape {
    pub operations: usize,
    pub clients: usize,
    pub keys: usize,
    /// Longest time of an operation, and between two of a client.
    pub longest: u64,
    /// One put or delete in so many has an unknown outcome.
    pub unknown_one_in: u64,
    pub deletes: bool,
    /// Values begin again at 1 after so many.
    pub distinct_values: u64,
}

/// Gives each operation a moment between its start and its end, carries all out in the order of
/// these moments, and gives them their results.
pub fn generate(shape: &Shape, random: &mut Random) -> History {
    let mut free_at = vec![0; shape.clients];
    let mut made = Vec::new();
    for number in 0..shape.operations {
        let client = number % shape.clients;
        let start = free_at[client] + random.below(shape.longest);
        let end = start + random.below(shape.longest);
        free_at[client] = end + random.below(2);
        let value = 1 + number as u64 % shape.distinct_values;
        let operation = match random.below(if shape.deletes { 5 } else { 4 }) {
            0 | 1 => Operation::Get(None),
            2 | 3 => Operation::Put(value),
            _ => Operation::Delete(None),
        };
        let is_get = operation == Operation::Get(None);
        let mut moment = Some(start + random.below(end - start + 1));
        let mut outcome = Outcome::Ok(end);
        if !is_get && random.one_in(shape.unknown_one_in) {
            outcome = Outcome::Unknown;
            let delay = random.below(3 * shape.longest);
            moment = random.one_in(2).then_some(start + delay);
        }
        let key = random.below(shape.keys as u64) as usize;
        made.push((moment, key, Event { client, start, operation, outcome }));
    }
    made.sort_by_key(|(moment, ..)| *moment);
    let mut states = vec![None; shape.keys];
    let mut history = History::default();
    for (moment, key, mut event) in made {
        if moment.is_some() {
            let state = &mut states[key];
            match &mut event.operation {
                Operation::Get(value) => *value = *state,
                Operation::Put(value) => *state = Some(*value),
                Operation::Delete(existed) => *existed = Some(state.take().is_some()),
            }
        }
        history.add(&format!("key{key}"), event);
    }
    history
}
