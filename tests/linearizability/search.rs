//! Histories of any operations on one key: a search over the frontier of unfinished operations; the
//! method is described at the module above.
//!
//! What keeps the frontier small:
//!
//! - An operation gets its moment only when some operation must end. A delay until then loses
//!   nothing: the operations between are in the same order.
//! - An unfinished operation that changes nothing, and whose result is right now, happens now. It
//!   must happen some time, and now it is in nobody's way.
//! - Of several unfinished operations that are equal, the one that ends first happens first. If a
//!   linearization has them the other way round, they can change places.
//! - Values that no read returned are the same value, [`UNREAD`]: no operation tells them apart.
//!   (An operation that compares values counts as a read.)
//! - An operation with unknown outcome is left out when every operation that could show its effect
//!   has ended. A put, for example, can be shown by a read of its value and by a delete that found
//!   something. Otherwise, the operation behind it in a linearization changes the value whatever it
//!   was before, and shows nothing of it; so the linearization holds without it.
//! - An operation with unknown outcome happens only right before one that shows its effect, and
//!   only if the result of that one would be wrong otherwise. In a linearization it can always be
//!   moved there, as it has no end, or be left out. (This holds while no operation's effect depends
//!   on the value before; with counters, two in a row may be needed.)
//! - Equal operations with unknown outcome are only counted. A combination is left out if there is
//!   the same one with fewer of them used: those that are left may still happen, but need not.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Event, Operation, Value};

/// Stands for all values that no read returned.
const UNREAD: Value = Value::MAX;
/// Operations that ended before a contradiction and are shown with it.
const SHOWN_BEFORE: usize = 6;

/// The key's value; `None` while it is absent.
type State = Option<Value>;

/// The state after an operation, or `None` if its result contradicts the state before.
fn apply(operation: Operation, state: State) -> Option<State> {
    match operation {
        Operation::Put(value) => Some(Some(value)),
        Operation::Get(value) => (value == state).then_some(state),
        Operation::Delete(existed) => {
            existed.is_none_or(|existed| existed == state.is_some()).then_some(None)
        }
    }
}

/// Whether an operation with this result has changed nothing, whatever the state was.
fn never_changes(operation: Operation) -> bool {
    matches!(operation, Operation::Get(_) | Operation::Delete(Some(false)))
}

/// A way in which things may have gone so far.
#[derive(Clone)]
struct Configuration {
    state: State,
    /// Unfinished operations that have happened, in order of their indexes.
    done: Vec<usize>,
    used: Used,
}

/// How many operations with unknown outcome have happened, of each kind in [`Search::optional`].
type Used = Vec<u32>;

/// Configurations without those that others make needless.
#[derive(Default)]
struct Frontier(HashMap<(State, Vec<usize>), Vec<Used>>);

impl Frontier {
    /// Whether it is new, and not needless.
    fn insert(&mut self, configuration: Configuration) -> bool {
        let Configuration { state, done, used } = configuration;
        let others = self.0.entry((state, done)).or_default();
        if others.iter().any(|other| is_within(other, &used)) {
            return false;
        }
        others.retain(|other| !is_within(&used, other));
        others.push(used);
        true
    }

    fn drain(&mut self) -> Vec<Configuration> {
        let entries = self.0.drain();
        let all = entries.flat_map(|((state, done), ways)| {
            ways.into_iter().map(move |used| Configuration { state, done: done.clone(), used })
        });
        all.collect()
    }
}

/// Whether no kind of operation was used more often in the first way.
fn is_within(first: &Used, second: &Used) -> bool {
    first.iter().zip(second).all(|(first, second)| first <= second)
}

/// What happens to the search at a moment. At the same moment starts come first: operations that
/// touch overlap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Start,
    End,
    /// Nothing can show the effect of this operation any more. Its outcome is unknown.
    Retire,
}

/// An operation as the search sees it.
struct Call<'a> {
    event: &'a Event,
    operation: Operation,
    /// `u64::MAX` for an unknown outcome.
    end: u64,
}

/// Checks the events of one key that is absent at first. An error is a contradiction, for a person
/// to read.
pub fn search(events: &[Event]) -> Result<(), String> {
    let calls = calls(events);
    let mut search = Search {
        calls: &calls,
        pending: Vec::new(),
        optional: Vec::new(),
        frontier: Frontier::default(),
    };
    search.frontier.insert(Configuration { state: None, done: Vec::new(), used: Vec::new() });
    for (_, step, index) in steps(&calls) {
        match step {
            Step::Start => search.start(index),
            Step::End => search.end(index)?,
            Step::Retire => search.retire(index),
        }
    }
    Ok(())
}

/// The events that count, with values that nobody read made equal.
fn calls(events: &[Event]) -> Vec<Call<'_>> {
    let is_get_of = |event: &Event| match (event.operation, event.end()) {
        (Operation::Get(value), Some(_)) => value,
        _ => None,
    };
    let read: HashSet<Value> = events.iter().filter_map(is_get_of).collect();
    let call = |event| {
        let event: &Event = event;
        let operation = match event.operation {
            Operation::Put(value) if !read.contains(&value) => Operation::Put(UNREAD),
            Operation::Delete(_) if event.end().is_none() => Operation::Delete(None),
            operation => operation,
        };
        Call { event, operation, end: event.end().unwrap_or(u64::MAX) }
    };
    events.iter().filter(|event| event.counts()).map(call).collect()
}

/// All starts and ends, in order of time.
fn steps(calls: &[Call]) -> Vec<(u64, Step, usize)> {
    // When the last operation ended that saw this value, that saw none, and that saw any.
    let mut last_sight: HashMap<State, u64> = HashMap::new();
    let mut last_sight_of_any = 0;
    for call in calls.iter().filter(|call| call.end < u64::MAX) {
        let seen = match call.operation {
            Operation::Get(value) => value,
            Operation::Delete(Some(false)) => None,
            Operation::Delete(Some(true)) => {
                last_sight_of_any = call.end.max(last_sight_of_any);
                continue;
            }
            Operation::Put(_) | Operation::Delete(None) => continue,
        };
        let last = last_sight.entry(seen).or_default();
        *last = call.end.max(*last);
    }
    let mut steps = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let start = call.event.start;
        if call.end < u64::MAX {
            steps.push((start, Step::Start, index));
            steps.push((call.end, Step::End, index));
            continue;
        }
        let sight = |state| last_sight.get(&state).copied().unwrap_or_default();
        let needed_until = match call.operation {
            Operation::Put(value) => sight(Some(value)).max(last_sight_of_any),
            _ => sight(None),
        };
        if needed_until >= start {
            steps.push((start, Step::Start, index));
            steps.push((needed_until, Step::Retire, index));
        }
    }
    steps.sort_unstable();
    steps
}

struct Search<'a> {
    calls: &'a [Call<'a>],
    /// Operations that are under way and will end, the first to end first.
    pending: Vec<usize>,
    /// Operations with unknown outcome that have started, and how many are equal.
    optional: Vec<(Operation, u32)>,
    frontier: Frontier,
}

impl Search<'_> {
    fn start(&mut self, index: usize) {
        let call = &self.calls[index];
        if call.end < u64::MAX {
            let at = self.pending.partition_point(|other| self.calls[*other].end <= call.end);
            self.pending.insert(at, index);
            return;
        }
        if let Some(kind) = self.optional.iter_mut().find(|(kind, _)| *kind == call.operation) {
            kind.1 += 1;
            return;
        }
        self.optional.push((call.operation, 1));
        self.frontier.0.values_mut().flatten().for_each(|used| used.push(0));
    }

    /// Forgets all operations that are equal to this one: none makes a difference any more.
    fn retire(&mut self, index: usize) {
        let operation = self.calls[index].operation;
        let Some(at) = self.optional.iter().position(|(kind, _)| *kind == operation) else {
            return; // Forgotten already.
        };
        self.optional.remove(at);
        for mut configuration in self.frontier.drain() {
            configuration.used.remove(at);
            self.frontier.insert(configuration);
        }
    }

    /// This operation must have happened by now.
    fn end(&mut self, index: usize) -> Result<(), String> {
        let begun = self.frontier.drain();
        let states: HashSet<State> = begun.iter().map(|one| one.state).collect();
        // In order of length: fewer operations used are found before more.
        let mut queue = VecDeque::from(begun);
        let mut seen = Frontier::default();
        while let Some(mut configuration) = queue.pop_front() {
            if let Ok(at) = configuration.done.binary_search(&index) {
                configuration.done.remove(at);
                self.frontier.insert(configuration);
                continue;
            }
            for next in self.next(&configuration) {
                if seen.insert(next.clone()) {
                    queue.push_back(next);
                }
            }
        }
        if self.frontier.0.is_empty() {
            return Err(self.contradiction(index, states));
        }
        self.pending.retain(|other| *other != index);
        self.forget_what_all_used();
        Ok(())
    }

    /// The configurations one operation further.
    fn next(&self, from: &Configuration) -> Vec<Configuration> {
        let (mut tried, mut blocked, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for &index in self.pending.iter().filter(|index| !from.done.contains(index)) {
            let operation = self.calls[index].operation;
            if tried.contains(&operation) {
                continue;
            }
            tried.push(operation);
            let Some(state) = apply(operation, from.state) else {
                blocked.push(operation);
                continue;
            };
            let mut next = Configuration { state, ..from.clone() };
            next.done.insert(next.done.partition_point(|other| *other < index), index);
            if never_changes(operation) {
                return vec![next];
            }
            found.push(next);
        }
        for (kind, (operation, count)) in self.optional.iter().enumerate() {
            let state = apply(*operation, from.state).filter(|_| from.used[kind] < *count);
            let helps = |state| blocked.iter().any(|blocked| apply(*blocked, state).is_some());
            if let Some(state) = state.filter(|state| helps(*state)) {
                let mut next = Configuration { state, ..from.clone() };
                next.used[kind] += 1;
                found.push(next);
            }
        }
        found
    }

    /// What has happened in every configuration makes no difference between them.
    fn forget_what_all_used(&mut self) {
        for (kind, (_, count)) in self.optional.iter_mut().enumerate() {
            let all = || self.frontier.0.values().flatten();
            let common = all().map(|used| used[kind]).min().unwrap_or_default();
            *count -= common;
            self.frontier.0.values_mut().flatten().for_each(|used| used[kind] -= common);
        }
    }

    fn contradiction(&self, index: usize, states: HashSet<State>) -> String {
        let call = &self.calls[index];
        let mut text = format!("no order of the operations explains this one:\n  {}\n", call.event);
        let name = |state: State| match state {
            Some(UNREAD) => "a value that nobody read".to_string(),
            state => state.map_or("absent".to_string(), |value| value.to_string()),
        };
        let mut names: Vec<String> = states.into_iter().map(name).collect();
        names.sort();
        text +=
            &format!("before it and what overlaps it, the key could be: {}\n", names.join(", "));
        text += "operations that were under way when it ended:\n";
        for other in self.pending.iter().filter(|other| **other != index) {
            text += &format!("  {}\n", self.calls[*other].event);
        }
        for (operation, count) in &self.optional {
            text += &format!("  {count} with unknown outcome: {operation:?}\n");
        }
        let mut before: Vec<&Call> =
            self.calls.iter().filter(|other| other.end < call.end).collect();
        before.sort_by_key(|other| other.end);
        text += "the last that ended before:\n";
        for other in &before[before.len().saturating_sub(SHOWN_BEFORE)..] {
            text += &format!("  {}\n", other.event);
        }
        text
    }
}
